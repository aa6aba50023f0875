"""Nodes as processes on this machine: started, asked, killed and started again by one program, none left behind.

Each node is `prime node start` with its own folder, key and control socket. It ends when this program does, however
that happens: it watches its standard input, which closes with us.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from prime.config import set_value
from prime.errors import RunFailedError, WorldError
from prime.node.client import ASK_TIMEOUT_S, Connect, open_client
from prime.observe.messages import GetStatus, NodeStatus

READY_S = 120.0
"""How long a node may take from its start to its first line: imports on a busy machine."""
STOP_S = 10.0
LOG_LINES = 12

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@attrs.define(eq=False)
class LocalNode:
    """One node and the process that runs it now, if any."""

    name: str
    folder: Path
    peer: str = ""
    address: str = ""
    process: subprocess.Popen[bytes] | None = None
    status: NodeStatus | None = None
    starts: int = 0

    @property
    def socket(self) -> Path:
        """The node's control socket."""
        return self.folder / "control.sock"

    @property
    def log(self) -> Path:
        """The file that its standard error goes to."""
        return self.folder / "log.txt"

    @property
    def alive(self) -> bool:
        """Tell whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """Return the last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-LOG_LINES:])


class LocalSwarm:
    """Several nodes of one run on loopback. Make one with `open_swarm`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], count: int, connect: Connect) -> None:
        self.nodes = [LocalNode(f"n{i}", folder / f"n{i}") for i in range(count)]
        self._settings = settings
        self._connect = connect

    async def start(self, node: LocalNode, join: tuple[str, ...] = ()) -> None:
        """Start a node and wait until it listens. Raises `RunFailedError` with the end of its log."""
        node.folder.mkdir(mode=0o700, exist_ok=True)
        file = node.folder / "prime.toml"
        file.write_text(self._configuration(node, join), encoding="utf-8")
        command = [sys.executable, "-m", "prime", "node", "start", "--config", str(file), "--parent-eof", "--json"]
        with node.log.open("ab") as log:
            # Its standard input closes with this program, and then it ends (--parent-eof).
            node.process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own program; forking takes microseconds
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=node.folder,
                env=_environment(node.folder),
                start_new_session=True,  # Ctrl-C is this program's to handle: it stops its nodes in order
            )
        node.starts += 1
        ready = await self._first_line(node)
        node.peer, node.address = ready["peer"], ready["addresses"][0]

    def _configuration(self, node: LocalNode, join: tuple[str, ...]) -> str:
        own = {
            "node.name": node.name,
            "node.state_dir": str(node.folder),
            "node.control_socket": str(node.socket),
            "transport.join": ",".join(join),
        }
        text = ""
        for key, value in {**self._settings, **own}.items():
            if value != "" or key == "train.data":
                text = set_value(text, key, str(value), file=node.name)
        return text

    async def _first_line(self, node: LocalNode) -> Any:
        process = node.process
        assert process is not None and process.stdout is not None  # noqa: S101, PT018 - just started with a pipe
        data = b""
        with trio.move_on_after(READY_S):
            async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as stream:
                while b"\n" not in data and (more := await stream.receive_some(65536)):
                    data += more
        if b"\n" not in data:
            raise self.failure(node, "did not start")
        return json.loads(data.splitlines()[0])

    async def poll(self, node: LocalNode) -> None:
        """Ask a living node for its status; one that does not answer keeps its last one."""
        if not node.alive:
            return
        try:
            ref = await self._connect(node.socket)
            node.status = await ref.ask(GetStatus(), timeout=ASK_TIMEOUT_S)
        except WorldError:
            return

    async def poll_all(self) -> None:
        """Ask every living node at once."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(self.poll, node)

    def check_alive(self, expected_dead: LocalNode | None = None) -> None:
        """Raise `RunFailedError` for a node that ended on its own."""
        for node in self.nodes:
            if node is not expected_dead and node.process is not None and not node.alive:
                raise self.failure(node, f"ended with status {node.process.returncode}")

    async def kill(self, node: LocalNode) -> None:
        """Kill a node with SIGKILL, as a power failure would."""
        if node.process is not None:
            node.process.kill()
            await _reaped(node.process, STOP_S)

    async def stop_all(self) -> None:
        """End every node: asked first, killed after a while; returns when none is left."""
        with trio.CancelScope(shield=True):
            for node in self.nodes:
                if node.process is not None and node.alive:
                    node.process.send_signal(signal.SIGTERM)
            async with trio.open_nursery() as nursery:
                for node in self.nodes:
                    if node.process is not None:
                        nursery.start_soon(_ended, node.process)

    @staticmethod
    def failure(node: LocalNode, what: str) -> RunFailedError:
        """Return the error for a node that failed, with the end of its log."""
        return RunFailedError(f"{node.name} {what}; the end of its log:\n{node.last_words()}", hint="mend that first")


@asynccontextmanager
async def open_swarm(folder: Path, settings: Mapping[str, Any], count: int) -> AsyncIterator[LocalSwarm]:
    """Open a swarm of `count` nodes under `folder`; `settings` are configuration keys that all share."""
    async with open_client() as connect:
        swarm = LocalSwarm(folder, settings, count, connect)
        try:
            yield swarm
        finally:
            await swarm.stop_all()


async def _ended(process: subprocess.Popen[bytes]) -> None:
    if not await _reaped(process, STOP_S):
        process.kill()
        await _reaped(process, STOP_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


async def _reaped(process: subprocess.Popen[bytes], within_s: float) -> bool:
    with trio.move_on_after(within_s):
        while process.poll() is None:  # noqa: ASYNC110 - a process that was only started has no event
            await trio.sleep(0.02)
    return process.returncode is not None


def _environment(folder: Path) -> dict[str, str]:
    """Return what a node's process sees: none of the user's own configuration of Prime, one thread for each library."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PRIME_") or key == "PRIME_DEBUG"}
    return {**kept, **_ONE_THREAD, "PYTHONPATH": _python_path(), "XDG_CONFIG_HOME": str(folder)}


def _python_path() -> str:
    """Return where Python looks for modules, ours included: the nodes run in other folders than this program."""
    return os.pathsep.join(path for path in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if path)
