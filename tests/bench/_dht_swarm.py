"""`get`, `put` and `find` of a DHT of real nodes on loopback, each a process: Prime's against py-libp2p's own, in turns.

Both swarms live through all turns. One node of each puts; a client, which holds nothing itself, reads and looks up. Every
node is linked with all others before anything is measured, and each kind of call is made a few times before it counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _lines import heard
from _report import say

HERE = Path(__file__).resolve().parent
AGAINST = "py-libp2p 0.8's kad, in memory"
CASES = ("put", "get", "find")
START_S = 240.0
ANSWER_S = 240.0
WARM_UP = 5


class Swarm:
    """Servers and one client, of one make."""

    def __init__(self, name: str, servers: Sequence[subprocess.Popen[bytes]], client: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._servers = servers
        self._client = client
        self._prefix = ""

    def meet(self, told: Sequence[dict[str, str]]) -> None:
        """Have every node linked with all servers: each with those that came before it, so that no two dial each other."""
        self._prefix = f"{told[0]['peer']}/" if "peer" in told[0] else ""
        addresses = [each["address"] for each in told]
        everyone = [*self._servers, self._client]
        for index, node in enumerate(everyone):
            _order(node, "meet", addresses[: min(index, len(self._servers))])
        for node in everyone:
            heard(node, ANSWER_S)

    def measure(self, case: str, names: Sequence[str]) -> list[float]:
        """Return the seconds of each call but those of the warm-up."""
        node = self._servers[0] if case == "put" else self._client
        prefix = self._prefix if case == "get" else ""
        _order(node, case, [prefix + name for name in names])
        took: list[float] = heard(node, ANSWER_S)["answer"]
        return took[WARM_UP:]


def _order(node: subprocess.Popen[bytes], what: str, with_: Sequence[str]) -> None:
    assert node.stdin is not None
    node.stdin.write(json.dumps({"do": what, "with": list(with_)}).encode() + b"\n")


@contextlib.contextmanager
def prime_swarm(nodes: int, transport: str, store: str) -> Iterator[Swarm]:
    """Open ours: the first node is the bootstrap of all others."""
    with contextlib.ExitStack() as stack:

        def start(mode: str, *bootstrap: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(_process("_dht_prime.py", mode, transport, store, *bootstrap))

        first = start("server")
        told = [heard(first, START_S)]
        rest = [start("server", told[0]["address"]) for _ in range(nodes - 1)]
        client = start("client", told[0]["address"])
        told += [heard(node, START_S) for node in rest]
        heard(client, START_S)
        swarm = Swarm("prime", [first, *rest], client)
        swarm.meet(told)
        yield swarm


@contextlib.contextmanager
def py_libp2p_swarm(nodes: int) -> Iterator[Swarm]:
    """Open theirs."""
    with contextlib.ExitStack() as stack:
        modes = ["server"] * nodes + ["client"]
        processes = [stack.enter_context(_process("_dht_py_libp2p.py", mode)) for mode in modes]
        told = [heard(node, START_S) for node in processes]
        swarm = Swarm("py-libp2p", processes[:-1], processes[-1])
        swarm.meet(told[:-1])
        yield swarm


@contextlib.contextmanager
def _process(program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(HERE / program), *arguments]
    quiet = subprocess.DEVNULL if "py_libp2p" in program else None  # it logs what it could not read, line after line
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, bufsize=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def race(cases: Sequence[str], nodes: int, pairs: int, calls: int, transport: str, store: str) -> list[dict[str, Any]]:
    """Return a result a case: milliseconds, medians over all turns."""
    took: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        swarms = [stack.enter_context(prime_swarm(nodes, transport, store))]
        if importlib.util.find_spec("libp2p") is not None:
            swarms.append(stack.enter_context(py_libp2p_swarm(nodes)))
        for turn in range(pairs):
            names = [f"{turn}-{number}" for number in range(calls + WARM_UP)]
            for case in CASES:  # what is got was put
                for swarm in swarms:
                    found = swarm.measure(case, names)
                    took.setdefault((swarm.name, case), []).extend(found)
                    say(f"{swarm.name}: {case} {1000 * statistics.median(found):.1f} ms")
    return [_result(case, took, nodes) for case in CASES if case in cases]


def _result(case: str, took: dict[tuple[str, str], list[float]], nodes: int) -> dict[str, Any]:
    ours = 1000 * statistics.median(took["prime", case])
    result: dict[str, Any] = {
        "case": case, "value": ours, "unit": "ms", "ratio": None, "against": None, "nodes": nodes,
        "p90_ms": 1000 * statistics.quantiles(took["prime", case], n=10)[-1],
    }  # fmt: skip
    if ("py-libp2p", case) in took:
        theirs = 1000 * statistics.median(took["py-libp2p", case])
        result |= {"theirs": theirs, "ratio": theirs / ours, "against": AGAINST}
    return result
