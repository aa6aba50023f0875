"""How fast simulated worlds go: virtual time of one node, for a second of one CPU core.

Run: python tests/bench/sim.py [--json] [--cases sim_cores] [--seconds 60] [--pairs 1]

The load: each node asks 3 others, chosen anew by chance, each second of virtual time; every message is really encoded
and decoded; of each 100 writes one is lost, and its link with it, which is then dialled anew. CPU seconds are this
process's own, garbage collection included.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import attrs
from _report import machine, say, show

from prime.errors import PrimeError
from prime.sim import HeapWorld, NetworkFaults, Plan
from prime.sim.linked import LinkedProgram
from prime.wire import Ask, message

ASKS_PER_S = 3
LOSS = 0.01


@message(tag=0x2AE0)
class Double(Ask[int]):
    """Wants twice a number."""

    number: int


class Asking(LinkedProgram):
    """Asks some others each second, one after the other, and answers who asks it."""

    names: tuple[str, ...] = ()

    def begun(self) -> None:
        """Begin at a moment of its own."""
        self.right = self.wrong = 0
        self._random = self.node.random("asks")
        self._number = 0
        self.alarm_at(self.node.now + self._random.random() / ASKS_PER_S)

    def alarmed(self, now: float) -> None:
        """Ask one other."""
        names = self.names
        peer = names[int(self._random.random() * len(names))]
        if peer != self.node.name:
            self._number += 1
            self.ask(peer, "/app/double", Double(self._number), 5.0)
        self.alarm_at(now + 1 / ASKS_PER_S)

    def asked(self, source: str, path: str, message: Double) -> int:
        """Answer."""
        return message.number * 2

    def answered(self, token: int, value: int) -> None:
        """Count an answer."""
        self.right += 1

    def failed(self, token: int, error: PrimeError) -> None:
        """Count a failure."""
        self.wrong += 1


def cores(nodes: int, seconds: float, seed: int) -> HeapWorld:
    """Run the load on the link's core, on the plain heap of events."""
    world = HeapWorld(seed, Plan(network=NetworkFaults(loss=LOSS), storm_s=seconds))
    names = tuple(f"n{number}" for number in range(nodes))

    class Mine(Asking):
        """These nodes."""

    Mine.names = names
    for name in names:
        world.add(name, Mine)
    world.run_until(seconds)
    return world


def sim_cores(seconds: float) -> dict[str, Any]:
    """Measure 1,000 nodes on the heap."""
    nodes = 1000
    gc.collect()
    started = time.process_time()
    world = cores(nodes, seconds, seed=1)
    cpu_s = time.process_time() - started
    programs = [node.program for node in world.nodes.values() if isinstance(node.program, Asking)]
    shape = {
        "nodes": nodes,
        "virtual_s": seconds,
        "cpu_s": round(cpu_s, 2),
        "events": world.events,
        "asks_answered": sum(program.right for program in programs),
        "asks_failed": sum(program.wrong for program in programs),
        "links_made": sum(program.links_made for program in programs) // 2,
        "trace": world.trace,
    }
    return {"value": nodes * seconds / cpu_s, "shape": shape}


@attrs.frozen
class Case:
    """What is measured, what is wanted of it, and how."""

    unit: str
    reach: float
    measure: Callable[[float], dict[str, Any]]


CASES = {
    "sim_cores": Case("node-seconds/CPU-second", 5000, sim_cores),
}


def measured(name: str, case: Case, seconds: float, pairs: int) -> dict[str, Any]:
    """Measure one case some times, and take the median."""
    runs = [case.measure(seconds) for _ in range(pairs)]
    value = statistics.median(run["value"] for run in runs)
    short = "" if value >= case.reach else "  SHORT OF IT"
    say(f"{name:10}{value:>10,.0f} {case.unit}, wanted {case.reach:g}{short}  {runs[0]['shape']}")
    return {
        "case": name,
        "value": float(f"{value:.4g}"),
        "unit": case.unit,
        "against": None,
        "ratio": None,
        "reach": case.reach,
        "shape": runs[0]["shape"],
        "runs": pairs,
    }


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--cases", default="", help="names, with commas between them (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual seconds (default 60)")
    parser.add_argument("--pairs", type=int, default=1, help="runs of each (default 1)")
    options = parser.parse_args()
    wanted = options.cases.split(",") if options.cases else list(CASES)
    if unknown := set(wanted) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    before = machine()
    results = [measured(name, CASES[name], options.seconds, options.pairs) for name in wanted]
    show("sim", results, before, as_json=options.json)


if __name__ == "__main__":
    main()
