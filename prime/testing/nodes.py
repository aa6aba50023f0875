"""Nodes as processes under test: started from a configuration, asked over their control sockets, watched to their end."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from prime.config import set_value
from prime.errors import WorldError
from prime.node.client import ask_status
from prime.observe.messages import NodeStatus, RunStatus

TINY: Mapping[str, Any] = {
    "transport.kind": "tcp",
    "transport.ping_interval_s": 0.2,
    "transport.dead_after_s": 1.5,
    "train.rounds": 2,
    "train.nodes_min": 2,
    "train.inner_steps": 2,
    "train.batch_size": 2,
    "train.context": 16,
    "train.round_deadline_s": 20,
}
"""A run of seconds: two nodes, two rounds, two small steps each."""
POLL_S = 0.05

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "NO_COLOR": "1"}


def environment() -> dict[str, str]:
    """Return the environment of a program under test: this one's, with one thread and without colours."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def write_text(file: Path, size_bytes: int = 40_000) -> Path:
    """Write a small text to train on."""
    lines = "".join(f"def word_{i % 97}(x):\n    return x + {i}\n" for i in range(size_bytes // 20))
    file.write_text(lines[:size_bytes], encoding="utf-8")
    return file


def until(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """Poll until the condition is true and return its value; `TimeoutError` names what was awaited."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)
    return found


def lives(process: int) -> bool:
    """Tell whether a process runs; one that has ended and is not waited for yet does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children_of(process: int) -> list[int]:
    """Return the living child processes of a process."""
    found: list[int] = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(child) for child in file.read_text(encoding="utf-8").split()]
        except OSError:
            continue
    return [child for child in found if lives(child)]


class NodeProcess:
    """One `prime node start`. Its folder outlives the process, so that it may be started again as the same node."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder / name
        self.folder.mkdir(mode=0o700)
        self.file = self.folder / "prime.toml"
        self.socket = self.folder / "c.sock"
        own = {
            "node.name": name,
            "node.state_dir": str(self.folder),
            "node.control_socket": str(self.socket),
            "node.memory_free_bytes_min": 0,
        }
        text = ""
        for key, value in {**TINY, **settings, **own}.items():
            text = set_value(text, key, str(value), file=name)
        self.file.write_text(text, encoding="utf-8")
        self.process: subprocess.Popen[str] | None = None
        self.address = self.peer = ""

    @property
    def running(self) -> subprocess.Popen[str]:
        """The process, which must have been started."""
        if self.process is None:
            raise RuntimeError("not started")
        return self.process

    @property
    def log(self) -> str:
        """What it wrote on standard error."""
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")

    @property
    def workers(self) -> list[int]:
        """Its child processes."""
        return children_of(self.running.pid)

    def start(self, *join: str, flags: tuple[str, ...] = ()) -> None:
        """Start the process, once more if need be, and return at once."""
        self.close()
        command = [sys.executable, "-m", "prime", "node", "start", "--config", str(self.file), "--parent-eof", "--json"]
        command += [word for address in join for word in ("--join", address)] + list(flags)
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
                cwd=self.folder,
                start_new_session=True,
            )

    def ready(self, within_s: float = 40) -> None:
        """Wait until it listens."""
        stdout = self.running.stdout
        if stdout is None:
            raise RuntimeError("its output is no pipe")
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            line = stdout.readline() if selector.select(within_s) else ""
        if not line:
            raise RuntimeError(f"the node did not start:\n{self.log}")
        told = json.loads(line)
        self.peer, self.address = told["peer"], told["addresses"][0]

    def status(self) -> NodeStatus | None:
        """Ask it over its control socket; None if nothing answers."""
        try:
            return trio.run(ask_status, self.socket)
        except WorldError:
            return None

    def run(self) -> RunStatus | None:
        """Return its run, if it answers and has one."""
        status = self.status()
        return status.run if status is not None else None

    def until_run(self, condition: Callable[[RunStatus], Any], what: str, within_s: float = 40) -> RunStatus:
        """Poll its run until the condition holds, and return it. The error names what was awaited and has the log."""

        def holds() -> RunStatus | None:
            if self.running.poll() is not None:
                raise RuntimeError(f"the node ended with status {self.running.returncode}:\n{self.log}")
            run = self.run()
            return run if run is not None and condition(run) else None

        try:
            found: RunStatus = until(holds, within_s, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its run is {self.run()}; its log:\n{self.log}") from None
        return found

    def ended(self, within_s: float = 40) -> int:
        """Wait for its end and return the exit status."""
        return self.running.wait(within_s)

    def close(self) -> None:
        """End it if it still runs, whatever it does."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def start_all(nodes: Sequence[NodeProcess]) -> None:
    """Start the first, and the others through it; all listen when this returns."""
    nodes[0].start()
    nodes[0].ready()
    for node in nodes[1:]:
        node.start(nodes[0].address)
    for node in nodes[1:]:
        node.ready()


def agree(nodes: Sequence[NodeProcess], after: int, within_s: float = 120) -> int:
    """Wait until all hold the state after one and the same round later than `after`; return the last such round."""
    seen: list[dict[int, str]] = [{} for _ in nodes]

    def common() -> set[int]:
        for node, rounds in zip(nodes, seen, strict=True):
            run = node.run()
            if run is not None and run.state_hash:
                rounds[run.round] = run.state_hash
        return {r for r in set.intersection(*map(set, seen)) if r > after}

    found = until(common, within_s, f"a round after {after} that all hold")
    for round_ in found:
        if len({rounds[round_] for rounds in seen}) != 1:
            raise AssertionError(f"the nodes hold different states after round {round_}: {seen}")
    return int(max(found))
