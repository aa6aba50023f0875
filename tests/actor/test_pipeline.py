"""Pipelines: order, bounds, failures, leaving early, near and far."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from prime.actor import Actor, Mailbox, Ref, Restart, System, ask_all, on, pipeline
from prime.errors import ActorCrashedError, ActorUsageError, DeadlineError, MailboxFullError, NoSuchActorError
from prime.node.system import open_system
from prime.transport.memory import Memory
from prime.wire import Ask, message

Clock = trio.testing.MockClock


@message(tag=0x7A11)
class Double(Ask[int]):
    number: int


class Doubler(Actor[Double]):
    def __init__(self) -> None:
        self.seen: list[int] = []

    @on(Double)
    async def double(self, m: Double) -> int:
        self.seen.append(m.number)
        await trio.sleep(0.01)
        if m.number < 0:
            raise ValueError("negative")
        return 2 * m.number


@asynccontextmanager
async def doubler(kind: str, mailbox: Mailbox | None = None) -> AsyncIterator[tuple[System, Ref[Double], Doubler]]:
    """The same actor, near or on another node."""
    made: list[Doubler] = []

    def make() -> Doubler:
        made.append(Doubler())
        return made[-1]

    hub = Memory()
    async with (
        open_system(transport=hub, seed=0) as near,
        open_system(transport=hub, seed=1) as far,
        (near if kind == "near" else far).supervisor("s", restart=Restart(max=5)) as sup,
    ):
        ref = await sup.spawn(make, "doubler", mailbox=mailbox or Mailbox())
        near.learn(far.peer, far.addresses)
        if kind == "far":
            ref = near.ref(far.peer, "/s/doubler", Doubler)
            await ref.ask(Double(0), timeout=5)
            made[0].seen.clear()
        yield near, ref, made[0]


both = pytest.mark.parametrize("kind", ["near", "far"])


@both
async def test_answers_come_in_order_and_so_do_the_messages(kind: str, autojump_clock: Clock) -> None:
    async with doubler(kind) as (system, ref, actor):
        assert await ask_all(ref, [Double(n) for n in range(300)], timeout=10) == [2 * n for n in range(300)]
        assert actor.seen == list(range(300))
        assert len(system.deadlines) == 0


@both
async def test_no_more_are_in_flight_than_allowed_and_a_slow_consumer_slows_the_asking(
    kind: str, autojump_clock: Clock
) -> None:
    drawn = 0

    def messages() -> Iterator[Double]:
        nonlocal drawn
        for n in range(100):
            drawn = n + 1
            yield Double(n)

    async with doubler(kind) as (_, ref, _actor), pipeline(ref, messages(), timeout=100, in_flight=8) as answers:
        taken = 0
        async for answer in answers:
            assert answer == 2 * taken
            taken += 1
            await trio.sleep(1)  # all eight have been answered by now
            assert drawn <= taken + 8 + 1  # one more is drawn, and waits
    assert taken == 100


@both
async def test_an_async_source_may_be_endless_and_the_block_may_be_left(kind: str, autojump_clock: Clock) -> None:
    closed = trio.Event()

    async def forever() -> AsyncIterator[Double]:
        n = 0
        try:
            while True:
                yield Double(n)
                n += 1
                await trio.sleep(0.001)
        finally:
            closed.set()

    async with doubler(kind) as (system, ref, actor):
        taken = []
        async with pipeline(ref, forever(), timeout=5, in_flight=4) as answers:
            async for answer in answers:
                taken.append(answer)
                if len(taken) == 10:
                    break
        assert taken == [2 * n for n in range(10)]
        sent = len(actor.seen)
        await trio.sleep(5)
        assert len(actor.seen) <= sent + 5  # what was on its way
        assert await ref.ask(Double(7), timeout=5) == 14
        assert len(system.deadlines) == 0


@both
async def test_the_first_failure_comes_in_its_turn_and_ends_it(kind: str, autojump_clock: Clock) -> None:
    async with doubler(kind) as (system, ref, _):
        messages = [Double(1), Double(2), Double(-1), Double(3)]
        with pytest.raises(ActorCrashedError, match="ValueError: negative"):
            async with pipeline(ref, messages, timeout=5, in_flight=2) as answers:
                assert [await anext(answers), await anext(answers)] == [2, 4]
                await anext(answers)
        async with pipeline(ref, messages[2:], timeout=5) as answers:
            with pytest.raises(ActorCrashedError):
                await anext(answers)
            assert [answer async for answer in answers] == []  # it stays ended
        with pytest.raises(ActorCrashedError):
            await ask_all(ref, messages, timeout=5)
        assert await ref.ask(Double(1), timeout=9) == 2  # a fresh one: its supervisor's timer has fired
        assert len(system.deadlines) == 0


@both
async def test_each_ask_has_its_own_deadline(kind: str, autojump_clock: Clock) -> None:
    async with doubler(kind) as (_, ref, _actor):
        assert len(await ask_all(ref, [Double(1)] * 50, timeout=0.1, in_flight=4)) == 50  # 0.5 s in all
        with pytest.raises(DeadlineError):
            await ask_all(ref, [Double(1)] * 50, timeout=0.1, in_flight=50)  # the last ones wait too long


async def test_a_full_mailbox_is_waited_for_or_refused_as_it_says(autojump_clock: Clock) -> None:
    async with doubler("near", Mailbox(2)) as (_, ref, _actor):
        assert len(await ask_all(ref, [Double(1)] * 20, timeout=5)) == 20
    async with doubler("near", Mailbox(2)) as (_, ref, _actor):
        with pytest.raises(DeadlineError):
            await ask_all(ref, [Double(1)] * 20, timeout=0.015)
    async with doubler("near", Mailbox(2, full="reject")) as (_, ref, _actor):
        with pytest.raises(MailboxFullError):
            await ask_all(ref, [Double(1)] * 20, timeout=5)


async def test_a_source_that_fails_fails_in_its_turn(autojump_clock: Clock) -> None:
    def broken() -> Iterator[Double]:
        yield Double(1)
        raise ZeroDivisionError

    async with doubler("near") as (_, ref, _actor):
        with pytest.raises(ZeroDivisionError):
            async with pipeline(ref, broken(), timeout=5) as answers:
                assert await anext(answers) == 2
                await anext(answers)


async def test_an_actor_that_ends_ends_it(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup, trio.open_nursery() as nursery:
        ref = await sup.spawn(Doubler, "d")

        async def stop() -> None:
            await trio.sleep(0.1)
            await sup.stop(ref)

        nursery.start_soon(stop)
        with pytest.raises((NoSuchActorError, ActorCrashedError)):
            await ask_all(ref, [Double(1)] * 1000, timeout=50)
        assert trio.current_time() < 1


async def test_cancelling_it_leaves_nothing(autojump_clock: Clock) -> None:
    async with doubler("near") as (system, ref, actor):
        with trio.move_on_after(0.055):
            await ask_all(ref, [Double(n) for n in range(1000)], timeout=50, in_flight=4)
        await trio.sleep(1)
        assert len(actor.seen) <= 10
        assert await ref.ask(Double(1), timeout=1) == 2
        assert len(system.deadlines) == 0


async def test_an_impossible_pipeline_is_refused_and_an_empty_one_is_empty(autojump_clock: Clock) -> None:
    async with doubler("near") as (_, ref, _actor):
        with pytest.raises(ActorUsageError, match="0 asks in flight"):
            await ask_all(ref, [], timeout=1, in_flight=0)
        assert await ask_all(ref, [], timeout=1) == []


async def test_it_hides_the_way_there_and_back(autojump_clock: Clock) -> None:
    """An actor that answers at once, 50 ms away: by twenties it takes a twentieth of the time."""

    class Away:
        path, peer = "/away", "peer"

        async def ask(self, m: Double, *, timeout: float) -> int:
            await trio.sleep(0.05)
            return 2 * m.number

    away: Ref[Double] = Away()  # type: ignore[assignment]
    for in_flight, takes_s in ((1, 5.0), (20, 0.25)):
        started = trio.current_time()
        await ask_all(away, [Double(n) for n in range(100)], timeout=5, in_flight=in_flight)
        assert trio.current_time() - started == pytest.approx(takes_s, rel=0.05)
