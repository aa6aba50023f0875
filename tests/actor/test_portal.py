"""Portals: other threads tell and ask. Threads live on the real clock, so these tests do too; none of them sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest
import trio

from prime.actor import Actor, Mailbox, Portal, Ref, on
from prime.errors import ActorCrashedError, ActorUsageError, DeadlineError, RefusedError
from prime.node.system import open_system
from prime.wire import Ask, message


@message
class Add:
    amount: int


@message
class Total(Ask[int]):
    pass


@message
class Hang(Ask[None]):
    pass


@message
class Crash(Ask[None]):
    pass


class Counter(Actor[Add | Total | Hang | Crash]):
    def __init__(self) -> None:
        self.total = 0

    @on(Add)
    def add(self, m: Add) -> None:
        self.total += m.amount

    @on(Total)
    def tell_total(self, _: Total) -> int:
        return self.total

    @on(Hang)
    async def hang(self, _: Hang) -> None:
        await trio.sleep_forever()

    @on(Crash)
    def crash(self, m: Crash) -> None:
        if self.total == 0:
            raise RefusedError("nothing to lose")
        raise ValueError("boom")


async def in_threads(count: int, function: Callable[[], Any]) -> list[Any]:
    """Run a function in plain threads that Trio knows nothing of; returns what each returned or raised."""
    outcomes: list[Any] = []

    def body() -> None:
        try:
            outcomes.append(function())
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            outcomes.append(error)

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await trio.to_thread.run_sync(thread.join)
    return outcomes


async def test_threads_tell_and_ask() -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")
        portal = system.portal()
        assert system.portal() is portal

        def work() -> int:
            for _ in range(20):
                portal.tell(counter, Add(1))
            return portal.ask(counter, Total(), timeout=20)

        totals = await in_threads(4, work)
        assert all(20 <= total <= 80 for total in totals), totals
        assert await counter.ask(Total(), timeout=5) == 80
        assert len(system.deadlines) == 0


async def test_errors_reach_the_thread() -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")
        portal = system.portal()
        (refused,) = await in_threads(1, lambda: portal.ask(counter, Crash(), timeout=5))
        assert isinstance(refused, RefusedError)
        await counter.tell(Add(1))
        (crashed,) = await in_threads(1, lambda: portal.ask(counter, Crash(), timeout=5))
        assert isinstance(crashed, ActorCrashedError)
        assert "ValueError: boom" in str(crashed)


async def test_deadlines_end_a_thread_s_wait() -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter", mailbox=Mailbox(1), shutdown=0.1)
        portal = system.portal()
        asked, told = await in_threads(1, lambda: portal.ask(counter, Hang(), timeout=0.05)), None
        assert isinstance(asked[0], DeadlineError)
        await counter.tell(Add(1))  # fills the mailbox
        (told,) = await in_threads(1, lambda: portal.tell(counter, Add(1), timeout=0.05))
        assert isinstance(told, DeadlineError)
        assert "telling /s/counter: not within 0.05 s" in str(told)
        assert not portal._scopes


async def test_a_blocked_event_loop_does_not_block_a_thread_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.actor.portal.GRACE_S", 0.05)
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")
        portal = system.portal()
        outcomes: list[Any] = []

        def body() -> None:
            try:
                portal.ask(counter, Total(), timeout=0.05)
            except DeadlineError as error:
                outcomes.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join(20)  # blocks Trio's thread: just what is not allowed
        assert "the event loop said nothing" in str(outcomes[0])


async def test_in_trio_s_own_thread_it_says_to_await() -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")
        portal = system.portal()
        with pytest.raises(ActorUsageError, match="in Trio's own thread") as caught:
            portal.ask(counter, Total(), timeout=1)
        assert "await" in caught.value.hint
        with pytest.raises(ActorUsageError, match="telling /s/counter"):
            portal.tell(counter, Add(1))


async def test_a_system_that_ends_ends_the_calls_in_progress_and_refuses_new_ones() -> None:
    outcomes: list[Any] = []
    async with open_system() as system:
        portal = system.portal()
        waiting = threading.Event()

        class Deaf:
            """A ref whose tell never ends, as one to a far node may for long."""

            path, peer = "/far", "peer"

            async def tell(self, _: Any) -> None:
                waiting.set()
                await trio.sleep_forever()

        deaf: Any = Deaf()

        def body() -> None:
            try:
                portal.tell(deaf, Add(1), timeout=30)
            except Exception as error:  # noqa: BLE001 - it is what is looked at
                outcomes.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        await trio.to_thread.run_sync(waiting.wait)
    await trio.to_thread.run_sync(thread.join)
    (late,) = await in_threads(1, lambda: portal.tell(deaf, Add(1)))
    for error in (*outcomes, late):
        assert isinstance(error, ActorUsageError)
        assert "the system has ended" in str(error)
    assert len(outcomes) == 1


def test_after_trio_has_ended_it_is_refused() -> None:
    kept: list[tuple[Portal, Ref[Any]]] = []

    async def main() -> None:
        async with open_system() as system, system.supervisor("s") as sup:
            kept.append((system.portal(), await sup.spawn(Counter, "counter")))

    trio.run(main)
    portal, counter = kept[0]
    thread_errors: list[str] = []

    def body(portal: Portal) -> None:
        try:
            portal.ask(counter, Total(), timeout=1)
        except ActorUsageError as error:
            thread_errors.append(str(error))

    threads = [threading.Thread(target=body, args=(portal,))]

    async def orphan() -> Portal:
        return Portal()

    threads.append(threading.Thread(target=body, args=(trio.run(orphan),)))  # no system ever closed this one
    for thread in threads:
        thread.start()
        thread.join(20)
    assert thread_errors == ["asking /s/counter: the system has ended"] * 2


async def test_anyio_worker_threads_need_no_portal() -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")

        def blocking() -> int:
            anyio.from_thread.run(counter.tell, Add(3))
            trio.from_thread.run(counter.tell, Add(4))
            return anyio.from_thread.run(lambda: counter.ask(Total(), timeout=5))

        assert await anyio.to_thread.run_sync(blocking) == 7
        assert await trio.to_thread.run_sync(lambda: system_total(system.portal, counter)) == 7


def system_total(make: Callable[[], Portal], counter: Ref[Counter | Any]) -> int:
    portal = trio.from_thread.run_sync(make)
    return portal.ask(counter, Total(), timeout=5)


@pytest.mark.parametrize("timeout", [float("nan"), "1", None])
async def test_a_timeout_that_is_none_is_refused_in_the_thread_and_hurts_nobody(timeout: Any) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")
        portal = system.portal()
        with pytest.raises(ActorUsageError, match="timeout"):
            await trio.to_thread.run_sync(lambda: portal.ask(counter, Total(), timeout=timeout))
        with pytest.raises(ActorUsageError, match="timeout"):
            await trio.to_thread.run_sync(lambda: portal.tell(counter, Add(1), timeout=timeout))
        assert await counter.ask(Total(), timeout=1) == 0


async def test_a_thread_may_wait_without_a_limit() -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        counter = await sup.spawn(Counter, "counter")
        portal = system.portal()
        await trio.to_thread.run_sync(lambda: portal.tell(counter, Add(2), timeout=float("inf")))
        assert await trio.to_thread.run_sync(lambda: portal.ask(counter, Total(), timeout=float("inf"))) == 2
