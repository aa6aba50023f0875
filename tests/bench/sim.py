"""How fast simulated worlds go: virtual time of one node, for a second of one CPU core; and how many seeds a minute.

Run: python tests/bench/sim.py [--json] [--cases sim_cores] [--seconds 60] [--pairs 1]

The load of `sim_speed` (100 nodes of real actors) and `sim_cores` (1,000 nodes of the link's core): each node asks 3
others, chosen anew by chance, each second of virtual time; every message is really encoded and decoded; of each 100
writes one is lost, and its link with it, which is then dialled anew. CPU seconds are this process's own, garbage
collection included. `sim_search` is what `prime sim search` makes of the training round on all cores, in real time.
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
import trio
from _report import machine, say, show

from prime.actor import Actor, Ref, on
from prime.errors import PrimeError
from prime.sim import HeapWorld, NetworkFaults, Node, Outcome, Plan, World, run, scenario, search
from prime.sim.linked import LinkedProgram
from prime.sim.run import DEFAULT
from prime.wire import Ask, message

ASKS_PER_S = 3
ASK_TIMEOUT_S = 5.0
LOSS = 0.01
SEEDS_PER_S = 0.5
"""Seeds of `sim_search` for each of `--seconds`."""


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


class Doubling(Actor[Double]):
    """Answers who asks it."""

    @on(Double)
    async def double(self, message: Double) -> int:
        """Answer."""
        return message.number * 2


@attrs.define
class Swarm:
    """Nodes of real actors under the load."""

    answered: int = 0
    failed: int = 0

    async def live(self, node: Node) -> None:
        """Answer, and ask some others each second, until the world ends."""
        others = [other for other in node.world.nodes if other is not node]
        random = node.random("asks")
        async with node.system() as system, system.supervisor("app") as sup, trio.open_nursery() as nursery:
            await sup.spawn(Doubling, "double")
            await trio.sleep(random.random())
            while True:
                for other in random.sample(others, ASKS_PER_S):
                    nursery.start_soon(self._ask, system.ref(other.peer, "/app/double", Doubling))
                await trio.sleep(1)

    async def _ask(self, ref: Ref[Double]) -> None:
        try:
            await ref.ask(Double(1), timeout=ASK_TIMEOUT_S)
        except PrimeError:
            self.failed += 1
        else:
            self.answered += 1


def actors(nodes: int, seconds: float, seed: int) -> tuple[Outcome, Swarm]:
    """Run the load on real actors."""
    swarm = Swarm()

    @scenario(nodes=nodes, quiet_s=1)
    async def load(world: World) -> None:
        world.start(swarm.live)
        await trio.sleep(seconds)

    return run(seed, load, Plan(network=NetworkFaults(loss=LOSS), storm_s=seconds + 1)), swarm


def sim_speed(seconds: float) -> dict[str, Any]:
    """Measure 100 nodes of real actors."""
    nodes = 100
    gc.collect()
    started = time.process_time()
    outcome, swarm = actors(nodes, seconds, seed=1)
    cpu_s = time.process_time() - started
    if not outcome.ok:
        raise RuntimeError(outcome.error)
    shape = {
        "nodes": nodes,
        "virtual_s": seconds,
        "cpu_s": round(cpu_s, 2),
        "events": outcome.events,
        "asks_answered": swarm.answered,
        "asks_failed": swarm.failed,
        "trace": outcome.trace,
    }
    return {"value": nodes * seconds / cpu_s, "shape": shape}


def sim_search(seconds: float) -> dict[str, Any]:
    """Measure a search of the training round."""
    seeds = max(int(seconds * SEEDS_PER_S), 1)
    failed = 0

    async def look() -> float:
        nonlocal failed
        started = time.monotonic()
        async with search(DEFAULT, range(seeds)) as outcomes:
            async for outcome in outcomes:
                failed += not outcome.ok
        return time.monotonic() - started

    real_s = trio.run(look)
    return {"value": 60 * seeds / real_s, "shape": {"seeds": seeds, "failed": failed, "real_s": round(real_s, 1)}}


@attrs.frozen
class Case:
    """What is measured, what is wanted of it, and how."""

    unit: str
    reach: float | None
    measure: Callable[[float], dict[str, Any]]


CASES = {
    "sim_speed": Case("node-seconds/CPU-second", 400, sim_speed),
    "sim_cores": Case("node-seconds/CPU-second", 5000, sim_cores),
    "sim_search": Case("seeds/minute", None, sim_search),
}


def measured(name: str, case: Case, seconds: float, pairs: int) -> dict[str, Any]:
    """Measure one case some times, and take the median."""
    runs = [case.measure(seconds) for _ in range(pairs)]
    value = statistics.median(run["value"] for run in runs)
    wanted = "" if case.reach is None else f", wanted {case.reach:g}{'' if value >= case.reach else '  SHORT OF IT'}"
    say(f"{name:10}{value:>10,.0f} {case.unit}{wanted}  {runs[0]['shape']}")
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
