"""Pools of process actors: real processes on the real clock, and each wait with a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import prime
from prime import LeastLoaded, Mailbox, Ref, Restart, Supervisor, System
from prime.actor import ActorFailed, DeadLetter, RoundRobin, Route
from prime.errors import ActorCrashedError, ActorUsageError
from prime.testing import virtual_clock

WAIT_S = 60
"""For a busy machine; what is meant is far below a second."""
OFTEN = Restart(max=20, within=60, backoff=(0.01, 0.05))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def actors() -> Any:
    """Return the module of the actors, as a child imports it."""
    import process_actors  # type: ignore[import-not-found]

    return process_actors


def children() -> list[int]:
    """Return this process's children, zombies included."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


class Bench:
    """A supervisor with one pool of processes, and what its system says."""

    def __init__(self, sup: Supervisor, ref: Ref[Any]) -> None:
        self.sup = sup
        self.system: System = sup.system
        self.ref = ref

    def worker(self, number: int) -> Any:
        """Return a worker's own ref."""
        return self.system.whereis(f"/p/w-workers/{number}")

    async def asked(self, question: Any) -> list[Any]:
        """Ask each of the two workers by its own ref, once the router has handed on all that came before."""
        router: Any = self.ref
        while router.load:  # noqa: ASYNC110 - a mailbox does not tell when it is empty
            await trio.sleep(0.01)
        return [await self.worker(number).ask(question, timeout=WAIT_S) for number in (0, 1)]

    async def pids(self) -> set[int]:
        """Ask often enough that every worker answers."""
        a, found = actors(), set[int]()
        async with trio.open_nursery() as nursery:
            for _ in range(2 * len(children())):
                nursery.start_soon(_collect, self.ref, a.GetPid(), found.add)
        return found


async def _collect(ref: Ref[Any], question: Any, hear: Callable[[Any], object]) -> None:
    hear(await ref.ask(question, timeout=WAIT_S))


@asynccontextmanager
async def process_pool(
    factory: Any,
    *args: Any,
    size: int = 2,
    window: int = 512,
    route: Route | None = None,
    facts: list[Any] | None = None,
) -> AsyncIterator[Bench]:
    """Yield a pool of processes, and see to it that none is left."""
    with trio.fail_after(WAIT_S):
        async with prime.open_system() as system, system.supervisor("p") as sup:
            system.subscribe((facts if facts is not None else []).append)
            make = system.in_process(factory, args=args, window=window)
            route = route if route is not None else RoundRobin()
            yield Bench(sup, await sup.spawn_pool(make, "w", size=size, route=route, restart=OFTEN, shutdown=10))
        assert children() == []


async def test_asks_at_once_are_shared_and_tells_keep_their_order() -> None:
    a = actors()
    async with process_pool(a.Counter) as bench:
        assert await bench.pids() == set(children())
        for number in range(1000):
            await bench.ref.tell(a.Add(number))
        totals = await bench.asked(a.Total())
        assert [list(total) for total in totals] == [sorted(total) for total in totals]
        assert sorted(totals[0] + totals[1]) == list(range(1000))
        assert all(totals)


class Traffic:
    """Asks and tells through a pool, and what became of them, until `over`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.answered = 0
        self.sent = 0
        self.over = trio.Event()

    async def ask(self) -> None:
        """Ask on and on; each ask ends."""
        while not self.over.is_set():
            with contextlib.suppress(ActorCrashedError):
                await self.bench.ref.ask(actors().Total(), timeout=WAIT_S)
                self.answered += 1

    async def tell(self) -> None:
        """Tell the numbers from 0."""
        while not self.over.is_set():
            await self.bench.ref.tell(actors().Add(self.sent))
            self.sent += 1

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what nobody tells: how processes fare."""
        while not holds():  # noqa: ASYNC110 - as it says
            await trio.sleep(0.01)


async def test_a_worker_is_killed_among_asks_and_tells_and_all_is_accounted_for(tmp_path: Path) -> None:
    a, facts, ledger = actors(), list[Any](), tmp_path / "ledger"
    async with process_pool(a.Ledger, str(ledger), window=32, facts=facts) as bench:
        traffic = Traffic(bench)
        async with trio.open_nursery() as nursery:
            for task in (traffic.ask, traffic.ask, traffic.tell):
                nursery.start_soon(task)
            for kills, victim in enumerate((0, 1, 0)):
                answers = traffic.answered + 5
                await traffic.until(lambda answers=answers: traffic.answered >= answers and len(children()) == 2)  # type: ignore[misc]
                os.kill(children()[victim], signal.SIGKILL)
                await traffic.until(lambda kills=kills: failures(facts) == kills + 1)  # type: ignore[misc]
            traffic.over.set()
        assert await bench.asked(a.Total()) == [(), ()]  # so all before it is handled
        handled = [int(line) for line in ledger.read_text().split()]
        lost = [fact for fact in facts if isinstance(fact, DeadLetter) and fact.kind == "Add"]
        assert len(handled) == len(set(handled))
        assert traffic.sent - len(handled) <= len(lost) <= 3 * 32


def failures(facts: list[Any]) -> int:
    """Count the failures among the facts."""
    return sum(isinstance(fact, ActorFailed) for fact in facts)


async def test_growing_and_shrinking_starts_and_ends_processes_and_loses_nothing() -> None:
    a = actors()
    facts: list[Any] = []
    async with process_pool(a.Counter, facts=facts) as bench:
        slept: list[float] = []
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_collect, bench.ref, a.Nap(0.3), slept.append)
            await trio.sleep(0.05)  # they are handed on; either way none may be lost
            await bench.sup.resize(bench.ref, 1)
            assert len(children()) == 1
        assert slept == [0.3] * 4
        await bench.sup.resize(bench.ref, 3)
        assert await bench.pids() == set(children())
        assert len(children()) == 3
        await bench.sup.stop(bench.ref)
        assert children() == []
        assert [fact for fact in facts if isinstance(fact, DeadLetter | ActorFailed)] == []


async def test_the_least_loaded_counts_what_is_in_the_processes() -> None:
    a = actors()
    async with process_pool(a.Counter, route=LeastLoaded()) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect, bench.worker(0), a.Nap(0.5), list[Any]().append)
            while bench.worker(0).load == 0:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert bench.worker(0).load == 1
            idle = {await bench.ref.ask(a.GetPid(), timeout=WAIT_S) for _ in range(5)}
        assert len(idle) == 1
        assert bench.worker(0).load == bench.worker(1).load == 0
        assert await bench.worker(1).ask(a.GetPid(), timeout=WAIT_S) in idle


async def test_a_virtual_clock_that_jumps_past_real_work_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    a = actors()
    async with prime.open_system() as system, system.supervisor("p") as sup:
        with pytest.raises(ActorUsageError, match=r"this clock jumps while they do"):
            await sup.spawn_process(a.Counter, "counter", mailbox=Mailbox(1))
        autojump_clock.autojump_threshold = virtual_clock(idle_s=5).autojump_threshold
        ref = await sup.spawn_process(a.Counter, "counter", args=(7,))
        assert await ref.ask(a.Total(), timeout=WAIT_S) == (7,)
