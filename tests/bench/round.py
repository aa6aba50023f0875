"""A round between two nodes against gloo's all_reduce in float32 and hivemind's averaging in 8 bits, on one machine.

Run: python tests/bench/round.py [--json] [--pairs 3] [--elements 25000000] [--cases round_tcp]

A round lasts from the contribution on both aggregators to the committed outcome on both, with its votes journalled by
fsync. `round_memory` has both nodes in one process; `round_tcp` and `round_libp2p` have two processes over loopback, and
so has gloo, whose time is that of summing and dividing by two. `round_hivemind` and `round_hivemind_8bit` are
`round_libp2p` against hivemind 1.1.12, whose time is that of the averaging alone, without finding the group: it runs in the
environment whose Python is `--hivemind-python` or the variable HIVEMIND_PYTHON. `round_100mbit*` are two or four nodes over
TLS, each in a network namespace (root) behind a link of 100 Mbit/s, against gloo on the same links; `_int4` scatters in
4 bits and gathers in 8. `gradients` is how many contributions of a million elements in 8 bits an owner aggregates in a
second, on one core and in memory, against the most that reading them from memory allows.
Ours and theirs take turns; values are medians.
`relative_error` is that of the aggregate against the exact mean in float64 (norm over norm, the worst of all rounds).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
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
from _contribution import NODES, answer, delta, digest, error_of  # noqa: E402
from _lines import heard, tell  # noqa: E402
from _report import machine, say, show  # noqa: E402

import prime  # noqa: E402
from prime.config import Config, TrainConfig  # noqa: E402
from prime.node.training import timing_of  # noqa: E402
from prime.store.journal import FileJournal  # noqa: E402
from prime.trainer.codec import Vector  # noqa: E402
from prime.trainer.round.view import Member  # noqa: E402
from prime.trainer.swarm import plans  # noqa: E402
from prime.trainer.swarm.aggregator import Aggregator  # noqa: E402
from prime.trainer.swarm.float32 import Float32  # noqa: E402
from prime.trainer.swarm.membership import SwarmPlan  # noqa: E402
from prime.trainer.swarm.parts import chunks  # noqa: E402

HIVEMIND_CASES = {
    "round_hivemind": ("hivemind 1.1.12 without compression", 6.0),
    "round_hivemind_8bit": ("hivemind 1.1.12 Uniform8BitQuantization", 5.0),
}


@attrs.frozen
class Shaped:
    """A race over links of 100 Mbit/s: how many nodes, the codec to the owners, and what the ratio shall reach."""

    nodes: int
    codec: str
    reach: float
    limit: float


SHAPED = {
    "round_100mbit": Shaped(2, "int8", 3.5, 3.94),
    "round_100mbit_int4": Shaped(2, "int4", 4.3, 5.07),
    "round_100mbit_4": Shaped(4, "int8", 3.5, 3.94),
    "round_100mbit_4_int4": Shaped(4, "int4", 4.3, 5.07),
}
GRADIENTS = "gradients"
CASES = ("round_memory", "round_tcp", "round_libp2p", *HIVEMIND_CASES, *SHAPED, GRADIENTS)
LISTEN = "/ip4/127.0.0.1/tcp/0"
GLOO = "gloo all_reduce float32"
HERE = Path(__file__).resolve().parent
NETSIM = HERE.parent / "netsim" / "netsim.sh"
SHAPED_S = 600.0
SHAPED_PAIRS_MAX = 3
"""A round of gloo in float32 takes about 9 s over such a link, among four 13 s."""
GRADIENT_ELEMENTS = 1_000_000
GRADIENTS_IN_ROUND = 64
GRADIENT_TIMES = 9
END_S = 10.0
ANSWER_S = 300.0
"""How long a process may take for its start, or for one round, on a busy machine."""

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

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.processes = processes
        self.hashes: set[str] = set()
        self.identical = True
        self.errors: list[float] = []
        self.times: list[float] = []

    def run_round(self, *, counts: bool) -> float:
        """Run one round (its contributions are made first, outside the time) and return how long it took."""
        for _ in range(2):
            for process in self.processes:
                tell(process)
            answers = [heard(process, ANSWER_S) for process in self.processes]
        took: float = max(a["end"] for a in answers) - min(a["start"] for a in answers)
        self.identical = self.identical and len({hash_ for a in answers for hash_ in a["hashes"]}) == 1
        if counts:
            self.times.append(took)
            self.errors.append(max(a["error"] for a in answers))
        return took


@contextlib.contextmanager
def started(case: str, folder: Path, elements: int, hivemind: str = "") -> Any:
    """Run a contestant's processes for the length of the block."""
    program = [hivemind, str(Path(__file__).with_name("_hivemind_round.py"))]
    if not hivemind:
        program = [sys.executable, __file__, "--folder", str(folder)]
    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        join = ""
        for index in range(1 if case == "round_memory" else NODES):
            arguments = ["--child", case, "--index", str(index), "--join", join, "--elements", str(elements)]
            process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # hivemind has processes of its own, which end with it
            )
            stack.callback(end, process)
            processes.append(process)
            join = heard(process, ANSWER_S)["address"]
        yield Group(processes)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, which the end of its input asks for, and leave nothing of it."""
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def compare(case: str, pairs: int, elements: int, hivemind: str) -> dict[str, Any]:
    """Measure one case, in turns with its peer."""
    name, reach = HIVEMIND_CASES.get(case, (GLOO, None))
    peer = "hivemind" if case in HIVEMIND_CASES else "gloo"
    with tempfile.TemporaryDirectory(prefix="prime-bench-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        ours = stack.enter_context(started("round_libp2p" if peer == "hivemind" else case, place, elements))
        theirs = None
        if peer == "hivemind":
            theirs = stack.enter_context(started(case, place, elements, hivemind))
        elif has("torch"):
            theirs = stack.enter_context(started("gloo", place, elements))
        for pair in range(-1, pairs):  # the first pair warms up: engines compile, memory is touched
            took = ours.run_round(counts=pair >= 0)
            other = f", {peer} {theirs.run_round(counts=pair >= 0):.3f} s" if theirs is not None else ""
            say(f"{case} {'warm-up' if pair < 0 else pair + 1}: {took:.3f} s{other}")
    value = statistics.median(ours.times)
    against = statistics.median(theirs.times) if theirs is not None else None
    return {
        "case": case,
        "value": round(value, 4),
        "unit": "s",
        "against": name if against is not None else None,
        "ratio": round(against / value, 3) if against is not None else None,
        "reach": reach,
        "against_value": round(against, 4) if against is not None else None,
        "relative_error": max(ours.errors),
        "against_relative_error": max(theirs.errors) if theirs is not None else None,
        "identical": ours.identical,
        "against_identical": theirs.identical if theirs is not None else None,
        "elements": elements,
        "pairs": pairs,
    }


def shaped(case: str, pairs: int, elements: int) -> dict[str, Any]:
    """Measure one case over links of a rate, in turns with gloo in the same processes."""
    plan = SHAPED[case]
    program = [sys.executable, str(HERE / "_round_shaped.py"), "--codec", plan.codec, "--elements", str(elements)]
    ended = subprocess.run(
        [str(NETSIM), str(plan.nodes), "100mbit", "0", "--", *program, "--pairs", str(pairs)],
        stdout=subprocess.PIPE, text=True, timeout=SHAPED_S, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NETSIM_PYTHON": sys.executable},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    say(f"{case}: {found['seconds']:.3f} s, gloo {found['gloo_seconds']:.3f} s")
    return {
        "case": case,
        "value": round(found["seconds"], 4),
        "unit": "s",
        "against": GLOO,
        "ratio": round(found["gloo_seconds"] / found["seconds"], 3),
        "reach": plan.reach,
        "limit": plan.limit,
        "against_value": round(found["gloo_seconds"], 4),
        "relative_error": found["relative_error"],
        "identical": found["identical"],
        "elements": elements,
        "pairs": pairs,
    }


def gradients() -> dict[str, Any]:
    """Measure how many contributions of `GRADIENT_ELEMENTS` in 8 bits an owner aggregates in a second, on this thread."""
    numbers, cuts = Float32(), chunks(slice(0, GRADIENT_ELEMENTS))
    vectors = [delta(index, 1, GRADIENT_ELEMENTS) for index in range(GRADIENTS_IN_ROUND)]
    encoded = [[numbers.encode(vector, cut) for vector in vectors] for cut in cuts]
    weights = [1.0] * len(vectors)
    flat = np.frombuffer(b"".join(data for row in encoded for data in row), np.uint8).view(np.uint64)
    reducing, reading = [], []
    for _ in range(GRADIENT_TIMES + 1):
        began = time.perf_counter()
        for row, cut in zip(encoded, cuts, strict=True):
            for data in row:
                numbers.check(data, cut)
            numbers.reduce(row, weights, cut)
        reducing.append(time.perf_counter() - began)
        began = time.perf_counter()
        np.bitwise_or.reduce(flat)
        reading.append(time.perf_counter() - began)
    value, bound = (len(vectors) / statistics.median(times[1:]) for times in (reducing, reading))
    return {
        "case": GRADIENTS,
        "value": round(value),
        "unit": "contributions a second",
        "against": "reading their bytes from memory",
        "ratio": round(value / bound, 3),
        "reach": None,
        "limit": 1.0,
        "against_value": round(bound),
        "elements": GRADIENT_ELEMENTS,
        "pairs": GRADIENT_TIMES,
    }


def missing_for(case: str, hivemind: str) -> str:
    """Return what a case lacks on this machine, in words."""
    if case in {"round_libp2p", *HIVEMIND_CASES} and not has("libp2p"):
        return "libp2p is not installed (pip install 'prime-actors[libp2p]')"
    if case in SHAPED and (sys.platform != "linux" or os.geteuid() != 0 or not has("torch")):
        return "links of a rate need network namespaces, hence Linux and root, and gloo needs torch"
    if case in HIVEMIND_CASES and shutil.which(hivemind or "") is None:
        return "no Python with hivemind was named (--hivemind-python; tests/bench/README.md says how to make one)"
    return ""


def has(library: str) -> bool:
    """Tell whether a library is installed."""
    return importlib.util.find_spec(library) is not None


def main() -> None:
    """Run the bench, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=3, help="rounds of each, after one to warm up (default 3)")
    parser.add_argument("--elements", type=int, default=25_000_000, help="size of the vector (default 25 million)")
    parser.add_argument("--cases", "--case", nargs="*", choices=CASES, default=CASES)
    parser.add_argument(
        "--hivemind-python",
        default=os.environ.get("HIVEMIND_PYTHON", ""),
        help="the Python of an environment with hivemind (default: the variable HIVEMIND_PYTHON)",
    )
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
        if missing := missing_for(case, options.hivemind_python):
            say(f"{case}: left out, {missing}")
            continue
        if case == GRADIENTS:
            results.append(gradients())
        elif case in SHAPED:
            results.append(shaped(case, min(options.pairs, SHAPED_PAIRS_MAX), options.elements))
        else:
            results.append(compare(case, options.pairs, options.elements, options.hivemind_python))
    show("round", results, before, as_json=options.json)


if __name__ == "__main__":
    main()
