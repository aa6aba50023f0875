"""Pools: a crash of one, resizing under load, and stopping as one."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
import trio

from prime.actor import Actor, ConsistentHash, DeadLetter, Mailbox, Ref, Restart, System, on
from prime.errors import ActorCrashedError, ActorUsageError, NoSuchActorError
from prime.node.system import open_system
from prime.wire import Ask, message

Clock = trio.testing.MockClock


@message
class Work(Ask[str]):
    seconds: float = 0.0
    key: str = ""


@message
class Crash(Ask[None]):
    pass


class Worker(Actor[Work | Crash]):
    def __init__(self) -> None:
        self.done = 0

    @on(Work)
    async def work(self, m: Work) -> str:
        await trio.sleep(m.seconds)
        self.done += 1
        return f"{self.ctx.path}#{self.done}"

    @on(Crash)
    def crash(self, _: Crash) -> None:
        raise ValueError("boom")


def restarts(system: System) -> dict[str, int]:
    """Return how often each actor was restarted."""
    return {child.path: child.restarts for supervisor in system.tree() for child in supervisor.children}


async def ask_many(ref: Ref[Work | Crash], count: int, seconds: float = 0.0) -> Counter[str]:
    """Ask at once; returns how often each worker answered."""
    answers: Counter[str] = Counter()

    async def one() -> None:
        answer = await ref.ask(Work(seconds), timeout=100)
        answers[answer.partition("#")[0]] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return answers


async def test_a_pool_shares_the_work(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=4)
        assert pool.path == "/p/workers"
        started = trio.current_time()
        assert await ask_many(pool, 8, seconds=1) == {f"/p/workers-workers/{i}": 2 for i in range(4)}
        assert trio.current_time() - started < 2.5  # 8 s of work


async def test_a_crashing_worker_restarts_alone_and_keeps_what_waited(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5)) as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=2)
        with pytest.raises(ActorCrashedError, match="/p/workers-workers/0 failed while handling Crash"):
            await pool.ask(Crash(), timeout=1)
        assert await ask_many(pool, 4) == {"/p/workers-workers/0": 2, "/p/workers-workers/1": 2}
        assert restarts(system) == {"/p/workers": 0, "/p/workers-workers/0": 1, "/p/workers-workers/1": 0}


async def test_a_worker_restarts_alone_whatever_the_strategy_around_the_pool(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p", strategy="one_for_all") as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=2)
        await sup.spawn(Worker, "sibling")
        await pool.tell(Crash())
        await trio.sleep(3)
        assert {path for path, count in restarts(system).items() if count} == {"/p/workers-workers/0"}


async def test_workers_that_fail_too_often_all_start_anew_behind_the_same_ref(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5, backoff=(0.1, 1))) as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=2, restart=Restart(max=1, backoff=(0.1, 1)))
        await sup.resize(pool, 3)
        for _ in range(6):
            await pool.tell(Crash())
        await trio.sleep(10)
        assert await ask_many(pool, 6) == {f"/p/workers-workers/{i}": 2 for i in range(3)}
        assert len(system.deadlines) == 0


@pytest.mark.parametrize("size", [1, 5])
async def test_a_resize_while_all_workers_wait_for_their_restart_counts_when_they_come(
    size: int, autojump_clock: Clock
) -> None:
    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5, backoff=(4, 4))) as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=2, restart=Restart(max=0))
        await pool.tell(Crash())
        await trio.sleep(1)
        assert len(restarts(system)) == 1  # the router alone
        with trio.fail_after(0.5):
            await sup.resize(pool, 3)
            await sup.resize(pool, size)
        await trio.sleep(5)
        assert await ask_many(pool, 10) == {f"/p/workers-workers/{i}": 10 // size for i in range(size)}


async def test_workers_that_fail_during_a_resize_come_back_as_many_as_were_asked_for(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5, backoff=(1, 1))) as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=4, restart=Restart(max=0), shutdown=60)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_ask_perhaps_in_vain, pool, Work(30))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sup.resize, pool, 2)
            await trio.sleep(1)  # it waits for two of them to finish
            worker = system.whereis("/p/workers-workers/0")
            assert worker is not None
            worker.cell.life.actor.ctx.start_soon(_fail)  # type: ignore[attr-defined]
        await trio.sleep(5)
        assert await ask_many(pool, 4) == {f"/p/workers-workers/{i}": 2 for i in range(2)}


async def _ask_perhaps_in_vain(ref: Ref[Work | Crash], message: Work) -> None:
    with contextlib.suppress(ActorCrashedError):
        await ref.ask(message, timeout=100)


async def test_growing_and_shrinking_under_load_loses_nothing(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        lost: list[Any] = []
        system.subscribe(lambda fact: lost.append(fact) if isinstance(fact, DeadLetter) else None)
        pool = await sup.spawn_pool(Worker, "workers", size=3, shutdown=60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_many, pool, 30, 1.0)
            await trio.testing.wait_all_tasks_blocked()
            await sup.resize(pool, 1)
            assert trio.current_time() >= 10  # each of the two had ten seconds of work
        assert await ask_many(pool, 3) == {"/p/workers-workers/0": 3}
        await sup.resize(pool, 4)
        assert await ask_many(pool, 4) == {f"/p/workers-workers/{i}": 1 for i in range(4)}
        assert lost == []
        assert len(system.deadlines) == 0
        assert len(restarts(system)) == 5


async def test_a_worker_that_does_not_finish_in_time_is_stopped(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=2, shutdown=2)
        failed: list[str] = []

        async def ask() -> None:
            try:
                await pool.ask(Work(100), timeout=300)
            except ActorCrashedError as error:
                failed.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await sup.resize(pool, 1)
            assert trio.current_time() < 5
            await trio.testing.wait_all_tasks_blocked()
        assert failed == ["/p/workers-workers/1 ended while handling Work: it was stopped"]


async def test_stopping_a_pool_stops_all_of_it_and_frees_the_names(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        for _ in range(2):
            pool = await sup.spawn_pool(Worker, "workers", size=3)
            await sup.stop(pool)
            assert sup.children == ()
            with pytest.raises(NoSuchActorError):
                await pool.ask(Work(), timeout=1)


async def test_a_worker_that_ends_for_good_is_replaced_by_a_resize(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=2, kind="temporary")
        with pytest.raises(ActorCrashedError):
            await pool.ask(Crash(), timeout=1)
        assert await ask_many(pool, 2) == {"/p/workers-workers/1": 2}
        await sup.resize(pool, 2)
        assert await ask_many(pool, 2) == {"/p/workers-workers/0": 1, "/p/workers-workers/1": 1}


async def test_a_router_that_comes_back_knows_the_workers_of_now(autojump_clock: Clock) -> None:
    def key(m: Any) -> str:
        return "" if isinstance(m, Work) else m.key

    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5)) as sup:
        pool = await sup.spawn_pool(Worker, "workers", size=1, route=ConsistentHash(key=key))
        await sup.resize(pool, 3)
        (router,) = (child for child in sup.children if child.name == "workers")
        assert router.cell.life is not None
        router.cell.life.actor.ctx.start_soon(_fail)
        await trio.sleep(5)
        assert restarts(system)["/p/workers"] == 1
        assert len(router.cell.life.actor.routees) == 3
        assert await pool.ask(Work(), timeout=1)


async def _fail() -> None:
    raise ValueError("boom")


async def test_a_pool_whose_workers_cannot_start_leaves_nothing(autojump_clock: Clock) -> None:
    class Stillborn(Worker):
        async def started(self) -> None:
            if self.ctx.path.endswith("/2"):
                raise ValueError("no")

    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        with pytest.raises(ActorCrashedError, match="could not start"):
            await sup.spawn_pool(Stillborn, "workers", size=4, kind="temporary")
        assert sup.children == ()


async def test_impossible_pools_are_refused(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        with pytest.raises(ActorUsageError, match="a pool of 0"):
            await sup.spawn_pool(Worker, "workers", size=0)
        single = await sup.spawn(Worker, "single", mailbox=Mailbox(1))
        with pytest.raises(ActorUsageError, match="/p/single is no pool of /p"):
            await sup.resize(single, 2)
        pool = await sup.spawn_pool(Worker, "workers", size=1)
        with pytest.raises(ActorUsageError, match="a pool of -1"):
            await sup.resize(pool, -1)
