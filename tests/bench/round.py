"""A round between two nodes against gloo's all_reduce in float32, in the same minutes on the same machine.

Run: python tests/bench/round.py [--json] [--pairs 3] [--elements 25000000] [--cases round_tcp]

A round lasts from the contribution on both aggregators to the committed outcome on both, with its votes journalled by
fsync. `round_memory` has both nodes in one process; `round_tcp` and `round_libp2p` have two processes over loopback, and
so has gloo, whose time is that of summing and dividing by two. Ours and theirs take turns; values are medians.
`relative_error` is that of the aggregate against the exact mean in float64 (norm over norm, the worst of all rounds).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a fresh checkout needs no installation

import attrs  # noqa: E402
import numpy as np  # noqa: E402
import trio  # noqa: E402
from _report import machine, say, show  # noqa: E402

import prime  # noqa: E402
from prime.config import Config, TrainConfig  # noqa: E402
from prime.node.training import timing_of  # noqa: E402
from prime.store.journal import FileJournal  # noqa: E402
from prime.trainer import plans  # noqa: E402
from prime.trainer.aggregator import Aggregator, SwarmPlan  # noqa: E402
from prime.trainer.codec import Vector  # noqa: E402
from prime.trainer.float32 import Float32  # noqa: E402
from prime.trainer.view import Member  # noqa: E402

NODES = 2
CASES = ("round_memory", "round_tcp", "round_libp2p")
LISTEN = "/ip4/127.0.0.1/tcp/0"
AGAINST = "gloo all_reduce float32"
ANSWER_S = 300.0
"""How long a process may take for its start, or for one round, on a busy machine."""
CHECK_ELEMENTS = 1 << 20


def delta(index: int, round_: int, elements: int) -> Vector:
    """Return what node `index` contributes: float32[D] of a normal distribution."""
    return np.random.default_rng([index, round_]).standard_normal(elements, np.float32)


def error_of(mean: Vector, round_: int) -> float:
    """Return the relative error of a mean against the exact one."""
    exact = [delta(index, round_, mean.size) for index in range(NODES)]
    wrong = whole = 0.0
    for at in range(0, mean.size, CHECK_ELEMENTS):
        piece = slice(at, at + CHECK_ELEMENTS)
        true = sum(part[piece].astype(np.float64) for part in exact) / NODES
        wrong += float(np.sum((mean[piece] - true) ** 2))
        whole += float(np.sum(true**2))
    return (wrong / whole) ** 0.5


# ------------------------------------------------------------------------------------------------ a process with nodes


@attrs.define
class Node:
    """An aggregator with a stand-in for its trainer."""

    index: int
    elements: int
    aggregator: Any = None
    round: int = 0
    outcomes: dict[int, plans.RoundCommitted] = attrs.Factory(dict)
    entered: int = 0
    news: trio.Event = attrs.Factory(trio.Event)
    committed_at: float = 0.0

    def report(self, outcome: plans.Outcome) -> None:
        """Take an outcome from the aggregator."""
        match outcome:
            case plans.ViewEntered(round_, view) if len(view.members) == NODES:
                self.entered = round_
            case plans.RoundCommitted(value):
                self.committed_at = time.monotonic()
                self.outcomes[value.round] = outcome
            case plans.RoundAborted(value) if value.round > 0:
                raise SystemExit(f"round {value.round} was aborted")
        self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for news until `holds`."""
        while not holds():
            self.news = trio.Event()
            await self.news.wait()

    async def hold(self) -> None:
        """Say which state the next contribution starts from: here just its number."""
        await self.aggregator.tell(plans.StateHeld(self.round, hashlib.sha256(b"%d" % self.round).digest()))

    async def run_round(self, contribution: Vector) -> tuple[float, float]:
        """Contribute and wait for the outcome; return when it began and ended (monotonic seconds)."""
        self.round += 1
        started = time.monotonic()
        await self.aggregator.tell(plans.Contribute(self.round, contribution, 1.0))
        await self.until(lambda: self.round in self.outcomes)
        return started, self.committed_at


@contextlib.asynccontextmanager
async def open_node(node: Node, transport: Any, join: str, folder: Path) -> AsyncIterator[str]:
    """Run a node; yields its address. The first one founds the run, the other joins it."""
    timing = timing_of(Config(train=TrainConfig(round_deadline_s=ANSWER_S)))
    journal = await FileJournal.open(folder / f"{node.index}.journal")
    async with prime.open_system(transport=transport) as system, system.supervisor("train") as sup:
        assert system.network is not None
        contacts = (await system.network.dial(join),) if join else ()
        member = Member(system.peer, system.addresses, 1.0, 0)
        plan = SwarmPlan("bench", member, not contacts, contacts, NODES, timing)
        node.aggregator = await sup.spawn(lambda: Aggregator(plan, journal, node.report, Float32()), "aggregator")
        await node.aggregator.tell(plans.Begin(node.elements))
        yield system.addresses[0]


async def serve_nodes(case: str, index: int, join: str, folder: Path, elements: int) -> None:
    """Run the nodes of this process, and one round for each line on standard input."""
    if case == "round_memory":
        nodes, hub = [Node(i, elements) for i in range(NODES)], prime.Memory()
        transports: list[Any] = [hub] * NODES
    else:
        nodes = [Node(index, elements)]
        transports = [prime.Tcp(LISTEN) if case == "round_tcp" else prime.Libp2p(LISTEN)]
    async with contextlib.AsyncExitStack() as stack:
        for node, transport in zip(nodes, transports, strict=True):
            address = await stack.enter_async_context(open_node(node, transport, join, folder))
            join = join or address
        answer(address=join)
        for node in nodes:
            await node.until(lambda node=node: node.entered == 1)
            await node.hold()
        async for _ in questions():
            await measure(nodes, elements)


async def measure(nodes: list[Node], elements: int) -> None:
    """Run one round on all nodes of this process and answer how it went."""
    round_ = nodes[0].round + 1
    contributions = [delta(node.index, round_, elements) for node in nodes]
    answer(ready=True)
    await one_question()
    times: list[tuple[float, float]] = []

    async def run(node: Node, contribution: Vector) -> None:
        times.append(await node.run_round(contribution))

    async with trio.open_nursery() as nursery:
        for node, contribution in zip(nodes, contributions, strict=True):
            nursery.start_soon(run, node, contribution)
    means = [node.outcomes.pop(round_).aggregate for node in nodes]
    spans = {"start": min(t[0] for t in times), "end": max(t[1] for t in times)}
    for node in nodes:
        await node.hold()
    answer(**spans, hashes=[digest(mean) for mean in means], error=error_of(means[0], round_))


def serve_gloo(index: int, folder: Path, elements: int) -> None:
    """Run one all_reduce for each line on standard input."""
    import torch
    from torch import distributed

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    answer(address="none")
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=index, world_size=NODES)
    for round_, _ in enumerate(sys.stdin, 1):
        mean = delta(index, round_, elements)
        tensor = torch.from_numpy(mean)
        answer(ready=True)
        sys.stdin.readline()
        started = time.monotonic()
        distributed.all_reduce(tensor)
        tensor /= NODES
        ended = time.monotonic()
        answer(start=started, end=ended, hashes=[digest(mean)], error=error_of(mean, round_))
    distributed.destroy_process_group()


def digest(vector: Vector) -> str:
    """Return a hash of a vector's bits."""
    return hashlib.sha256(vector.view(np.uint8).data).hexdigest()


def answer(**fields: Any) -> None:
    """Tell the bench something, in one line."""
    print(json.dumps(fields), flush=True)


async def one_question() -> str:
    """Return the next line of standard input; empty at its end. Lines are awaited, so no byte is read ahead."""
    line = b""
    while not line.endswith(b"\n"):
        await trio.lowlevel.wait_readable(0)
        byte = os.read(0, 1)
        if not byte:
            return ""
        line += byte
    return line.decode()


async def questions() -> AsyncIterator[str]:
    """Yield lines until standard input ends, which is also how this process learns that the bench is gone."""
    while line := await one_question():
        yield line


# ------------------------------------------------------------------------------------------------------------ the bench


class Group:
    """The processes of one contestant, between which rounds are measured."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self.processes = processes
        self.hashes: set[str] = set()
        self.identical = True
        self.errors: list[float] = []
        self.times: list[float] = []

    def run_round(self, *, counts: bool) -> float:
        """Run one round (its contributions are made first, outside the time) and return how long it took."""
        for _ in range(2):
            for process in self.processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [heard(process) for process in self.processes]
        took: float = max(a["end"] for a in answers) - min(a["start"] for a in answers)
        self.identical = self.identical and len({hash_ for a in answers for hash_ in a["hashes"]}) == 1
        if counts:
            self.times.append(took)
            self.errors.append(max(a["error"] for a in answers))
        return took


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return a process's next line: it says one for each that it hears, so none is buffered while this waits."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], ANSWER_S)[0]:
        raise SystemExit(f"a process of the bench said nothing for {ANSWER_S:g} s")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the bench ended with status {process.wait()}: its error stands above")
    found: dict[str, Any] = json.loads(line)
    return found


@contextlib.contextmanager
def started(case: str, folder: Path, elements: int) -> Any:
    """Run a contestant's processes for the length of the block."""
    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        join = ""
        for index in range(1 if case == "round_memory" else NODES):
            arguments = ["--child", case, "--index", str(index), "--join", join, "--folder", str(folder)]
            process = subprocess.Popen(
                [sys.executable, __file__, *arguments, "--elements", str(elements)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            processes.append(process)
            join = heard(process)["address"]
        yield Group(processes)


def end(process: subprocess.Popen[str]) -> None:
    """End a process and leave nothing of it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def compare(case: str, pairs: int, elements: int) -> dict[str, Any]:
    """Measure one case, in turns with gloo."""
    with tempfile.TemporaryDirectory(prefix="prime-bench-") as name, contextlib.ExitStack() as stack:
        ours = stack.enter_context(started(case, Path(name), elements))
        theirs = stack.enter_context(started("gloo", Path(name), elements)) if has("torch") else None
        for pair in range(-1, pairs):  # the first pair warms up: engines compile, memory is touched
            took = ours.run_round(counts=pair >= 0)
            say(f"{case} {'warm-up' if pair < 0 else pair + 1}: {took:.3f} s" + against(theirs, counts=pair >= 0))
    value = statistics.median(ours.times)
    peer = statistics.median(theirs.times) if theirs is not None else None
    return {
        "case": case,
        "value": round(value, 4),
        "unit": "s",
        "against": AGAINST if peer is not None else None,
        "ratio": round(peer / value, 3) if peer is not None else None,
        "against_value": round(peer, 4) if peer is not None else None,
        "relative_error": max(ours.errors),
        "against_relative_error": max(theirs.errors) if theirs is not None else None,
        "identical": ours.identical,
        "elements": elements,
        "pairs": pairs,
    }


def against(theirs: Group | None, *, counts: bool) -> str:
    """Run the peer's turn and return it in words."""
    return f", gloo {theirs.run_round(counts=counts):.3f} s" if theirs is not None else ""


def has(library: str) -> bool:
    """Tell whether a library is installed."""
    return importlib.util.find_spec(library) is not None


def main() -> None:
    """Run the bench, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=3, help="rounds of each, after one to warm up (default 3)")
    parser.add_argument("--elements", type=int, default=25_000_000, help="size of the vector (default 25 million)")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES)
    for hidden in ("--child", "--join", "--folder"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "gloo":
        serve_gloo(options.index, Path(options.folder), options.elements)
    elif options.child:
        folder = Path(options.folder)
        trio.run(partial(serve_nodes, options.child, options.index, options.join, folder, options.elements))
    else:
        bench(options)


def bench(options: argparse.Namespace) -> None:
    """Measure all cases that can run here."""
    before = machine()
    results = []
    for case in options.cases:
        if case == "round_libp2p" and not has("libp2p"):
            say("round_libp2p: left out, libp2p is not installed (pip install 'prime-actors[libp2p]')")
            continue
        results.append(compare(case, options.pairs, options.elements))
    show("round", results, before, as_json=options.json)


if __name__ == "__main__":
    main()
