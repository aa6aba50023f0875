"""Streams: order, credit, leaving early, failures, leases, near and far; and that nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from prime.actor import Actor, DeadLetter, Ref, Restart, Stream, Streaming, System, on, open_stream, streams
from prime.actor.messages import StreamLeft, StreamPull
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    DeadlineError,
    LinkLostError,
    MessageError,
    NotFoundError,
    PrimeError,
    RefusedError,
)
from prime.node.system import open_system
from prime.transport.memory import Memory
from prime.wire import Ask, Payload, message, record

Clock = trio.testing.MockClock


@record
class Point:
    x: int
    blob: Payload


@message(tag=0x7A61)
class Count(Stream[int]):
    up_to: int
    fail_at: int = -1
    every_s: float = 0.0


@message(tag=0x7A62)
class Blobs(Stream[Payload]):
    count: int


@message(tag=0x7A63)
class Points(Stream[Point]):
    count: int


@message(tag=0x7A64)
class State(Ask[list[int]]):
    pass


@message(tag=0x7A65)
class Refusing(Stream[str]):
    pass


@message(tag=0x7A66)
class Lying(Stream[str]):
    """Its items are not what they are said to be."""


class Source(Streaming[Count | Blobs | Points | State | Refusing | Lying]):
    streams_max = 4

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0

    @streams(Count)
    async def count(self, m: Count) -> AsyncIterator[int]:
        try:
            for number in range(m.up_to):
                if number == m.fail_at:
                    raise ValueError("boom")
                if m.every_s:
                    await trio.sleep(m.every_s)
                self.made += 1
                yield number
        finally:
            self.closed += 1

    @streams(Blobs)
    async def blobs(self, m: Blobs) -> AsyncIterator[memoryview]:
        for number in range(m.count):
            yield memoryview(bytes([number]) * 700_000)

    @streams(Points)
    async def points(self, m: Points) -> AsyncIterator[Point]:
        for number in range(m.count):
            yield Point(number, memoryview(bytes([number]) * 3))

    @streams(Refusing)
    async def refuse(self, _: Refusing) -> AsyncIterator[str]:
        yield "one"
        raise RefusedError("no more for you")

    @streams(Lying)
    async def lie(self, _: Lying) -> AsyncIterator[Any]:
        yield "one"
        yield 2

    @on(State)
    def state(self, _: State) -> list[int]:
        return [self.made, self.closed, len(self._Streaming__sources or {})]  # type: ignore[attr-defined]


@asynccontextmanager
async def source(kind: str) -> AsyncIterator[tuple[System, Ref[Any], trio.CancelScope]]:
    """A streaming actor, near or on another node, and what ends its node."""
    hub = Memory()
    async with open_system(transport=hub, seed=0) as near, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def node(*, task_status: trio.TaskStatus[Ref[Any]] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                async with open_system(transport=hub, seed=1) as far:
                    home = near if kind == "near" else far
                    async with home.supervisor("s", restart=Restart(max=5, backoff=(0.1, 0.1))) as sup:
                        ref: Ref[Any] = await sup.spawn(Source, "source")
                        near.learn(far.peer, far.addresses)
                        task_status.started(ref if kind == "near" else near.ref(far.peer, "/s/source", Source))
                        await trio.sleep_forever()

        ref = await nursery.start(node)
        await ref.ask(State(), timeout=5)
        yield near, ref, scope
        scope.cancel()


async def settled(system: System, ref: Ref[Any], *, timers: int = 0) -> list[int]:
    """Return the actor's numbers once no stream is left of either side."""
    await trio.sleep(1)
    numbers: list[int] = await ref.ask(State(), timeout=5)
    assert numbers[2] == 0, "a stream is left at the producer"
    assert len(system.deadlines) == timers
    return numbers


both = pytest.mark.parametrize("kind", ["near", "far"])


@both
@pytest.mark.parametrize("credit", [1, 2, 32, 1000])
async def test_all_items_come_once_and_in_order(kind: str, credit: int, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        started = trio.current_time()
        async with open_stream(ref, Count(500), timeout=5, credit=credit) as items:
            assert [item async for item in items] == list(range(500))
            assert [item async for item in items] == []  # it stays ended
        assert trio.current_time() - started < 0.1  # nobody waited for a timeout on the way
        assert await settled(system, ref) == [500, 1, 0]
        async with open_stream(ref, Count(0), timeout=5) as items:
            assert [item async for item in items] == []


@both
async def test_the_producer_is_never_further_ahead_than_the_credit(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        async with open_stream(ref, Count(100), timeout=5, credit=8) as items:
            for taken in range(1, 41):
                await anext(items)
                await trio.sleep(1)  # time enough to make as many as it may
                made, _, _ = await ref.ask(State(), timeout=5)
                assert taken <= made <= taken + 8
        assert (await settled(system, ref))[1] == 1


@both
async def test_other_messages_are_handled_between_items(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (_, ref, _scope), open_stream(ref, Count(10, every_s=1.0), timeout=5) as items:
        assert await anext(items) == 0
        started = trio.current_time()
        made, *_ = await ref.ask(State(), timeout=5)
        assert trio.current_time() - started < 0.5
        assert made == 1


@both
async def test_leaving_early_ends_the_producer(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        for how in ("break", "error", "cancel"):
            try:
                with trio.move_on_after(2.5 if how == "cancel" else 1000):
                    async with open_stream(ref, Count(10**9, every_s=0.5), timeout=5) as items:
                        async for item in items:
                            if item == 3 and how == "break":
                                break
                            if item == 3 and how == "error":
                                raise ZeroDivisionError
            except ZeroDivisionError:
                assert how == "error"
        made, closed, _ = await settled(system, ref)
        assert closed == 3
        assert made < 20


@both
async def test_a_failing_producer_fails_its_consumer_after_what_came_before(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        taken: list[int] = []
        with pytest.raises(
            ActorCrashedError, match="/s/source failed while streaming Count: ValueError: boom"
        ) as caught:
            async with open_stream(ref, Count(10, fail_at=5), timeout=5) as items:
                async for item in items:
                    taken.append(item)  # noqa: PERF401 - what came before the failure is looked at
        assert taken == list(range(5))
        assert 'raise ValueError("boom")' in caught.value.remote_traceback
        assert await settled(system, ref) == [0, 0, 0]  # a fresh actor: the failure was its own too


@both
async def test_an_answer_among_the_failures_ends_the_stream_and_not_the_actor(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        await take_all(ref, Count(3))
        with pytest.raises(RefusedError, match="no more for you"):
            await take_all(ref, Refusing())
        assert (await settled(system, ref))[0] == 3


async def take_all(ref: Ref[Any], m: Any, **options: Any) -> list[Any]:
    async with open_stream(ref, m, **{"timeout": 5, **options}) as items:
        return [item async for item in items]


@both
async def test_other_streams_of_an_actor_that_crashed_end_with_an_error(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        errors: list[PrimeError] = []

        async def read() -> None:
            try:
                await take_all(ref, Count(10**9, every_s=0.3))
            except (ActorCrashedError, NotFoundError) as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(2)
            with pytest.raises(ActorCrashedError):
                await take_all(ref, Count(3, fail_at=0))
        assert len(errors) == 1
        await settled(system, ref)


@both
async def test_payloads_and_records_pass(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        blobs = await take_all(ref, Blobs(5))
        assert [(type(blob), bytes(blob)) for blob in blobs] == [(memoryview, bytes([n]) * 700_000) for n in range(5)]
        points = await take_all(ref, Points(40))
        assert [(point.x, bytes(point.blob)) for point in points] == [(n, bytes([n]) * 3) for n in range(40)]
        await settled(system, ref)


async def test_near_items_are_the_very_objects_and_far_ones_are_checked(autojump_clock: Clock) -> None:
    async with source("near") as (_, ref, _scope):
        assert await take_all(ref, Lying()) == ["one", 2]
    async with source("far") as (system, ref, _scope):
        with pytest.raises(PrimeError):
            await take_all(ref, Lying())
        await trio.sleep(60)
        await settled(system, ref)


@both
async def test_silence_ends_it_at_the_consumer(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (system, ref, _):
        with pytest.raises(DeadlineError, match="no item from /s/source within 2 s"):
            await take_all(ref, Count(10, every_s=30.0), timeout=2)
        assert (await settled(system, ref))[1] == 1


@both
async def test_a_consumer_may_take_its_time_and_one_that_vanished_costs_nothing_for_long(
    kind: str, autojump_clock: Clock
) -> None:
    async with source(kind) as (system, ref, _):
        taken = []
        async with open_stream(ref, Count(12), timeout=1, credit=4) as items:
            async for item in items:
                taken.append(item)
                await trio.sleep(20 if item == 5 else 0.7)
        assert taken == list(range(12))
        await ref.ask(Count(5), timeout=5)  # opened, and never pulled
        assert (await ref.ask(State(), timeout=5))[2] == 1
        await trio.sleep(40)
        await settled(system, ref)


async def test_the_far_node_s_end_ends_it(autojump_clock: Clock) -> None:
    async with source("far") as (system, ref, scope):
        with pytest.raises((LinkLostError, ActorCrashedError, NotFoundError, DeadlineError)):
            async with open_stream(ref, Count(10**9, every_s=1.0), timeout=5) as items:
                async for item in items:
                    if item == 2:
                        scope.cancel()
        assert trio.current_time() < 30
        await trio.sleep(10)
        assert len(system.deadlines) == 0


async def test_the_consumer_s_node_s_end_ends_the_producer(autojump_clock: Clock) -> None:
    hub = Memory()
    async with open_system(transport=hub, seed=0) as home, home.supervisor("s") as sup:
        ref: Ref[Any] = await sup.spawn(Source, "source")
        async with open_system(transport=hub, seed=1) as visitor:
            visitor.learn(home.peer, home.addresses)
            far: Ref[Any] = visitor.ref(home.peer, "/s/source", Source)
            opened = await far.ask(Count(10**9), timeout=5)  # no block that would say goodbye
            assert opened.stream
            assert (await ref.ask(State(), timeout=5))[2] == 1
        await trio.sleep(60)
        assert (await ref.ask(State(), timeout=5))[2] == 0


async def test_no_other_node_can_pull_or_end_a_stream(autojump_clock: Clock) -> None:

    async with source("far") as (_, ref, _scope):
        opened = await ref.ask(Count(10), timeout=5)
        other = StreamPull(opened.stream ^ 1, 5, 5.0)
        with pytest.raises(NotFoundError, match="no such stream"):
            await ref.ask(other, timeout=5)
        await ref.tell(StreamLeft(opened.stream ^ 1))
        assert (await ref.ask(State(), timeout=5))[2] == 1

    hub = Memory()
    async with (
        open_system(transport=hub, seed=0) as home,
        open_system(transport=hub, seed=1) as thief,
        home.supervisor("s") as sup,
    ):
        near: Ref[Any] = await sup.spawn(Source, "source")
        thief.learn(home.peer, home.addresses)
        far: Ref[Any] = thief.ref(home.peer, "/s/source", Source)
        opened = await near.ask(Count(10), timeout=5)
        with pytest.raises(NotFoundError, match="no such stream"):
            await far.ask(StreamPull(opened.stream, 5, 5.0), timeout=5)  # it knows the id, and is someone else
        await far.tell(StreamLeft(opened.stream))
        await trio.sleep(1)
        assert (await near.ask(State(), timeout=5))[2] == 1


@both
async def test_streams_of_one_actor_are_bounded(kind: str, autojump_clock: Clock) -> None:
    async with source(kind) as (_system, ref, _), trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take_all, ref, Count(10**9, every_s=1.0))
        await trio.sleep(0.5)
        with pytest.raises(RefusedError, match="has 4 streams open"):
            await take_all(ref, Count(1))
        nursery.cancel_scope.cancel()


async def test_a_stop_ends_the_streams(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        letters: list[Any] = []
        system.subscribe(lambda fact: letters.append(fact) if isinstance(fact, DeadLetter) else None)
        ref: Ref[Any] = await sup.spawn(Source, "source")
        with pytest.raises((ActorCrashedError, NotFoundError)):
            async with open_stream(ref, Count(10**9, every_s=1.0), timeout=5) as items:
                await anext(items)
                await sup.stop(ref)
                async for _ in items:
                    pass
        assert len(system.deadlines) == 0


async def test_mistakes_are_named(autojump_clock: Clock) -> None:
    async with source("near") as (_, ref, _scope):
        with pytest.raises(ActorUsageError, match="credit of 0"):
            await take_all(ref, Count(1), credit=0)
    with pytest.raises(MessageError, match="State is no Stream"):
        streams(State)  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="is no async generator"):

        class Plain(Streaming[Count]):
            @streams(Count)  # type: ignore[arg-type]
            def count(self, _: Count) -> list[int]:
                return []

    class Bare(Actor[Count]):
        @streams(Count)
        async def count(self, _: Count) -> AsyncIterator[int]:
            yield 1

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        bare: Ref[Any] = await sup.spawn(Bare, "bare")
        with pytest.raises(ActorCrashedError, match="Bare streams"):
            await take_all(bare, Count(1))
