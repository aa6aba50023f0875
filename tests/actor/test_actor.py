"""Actors: messages, asks, deadlines, mailboxes, timers, watches."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import trio

from prime.actor import Actor, ActorFailed, DeadLetter, Down, Mailbox, Ref, Restart, System, on
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    DeadlineError,
    MailboxFullError,
    MessageError,
    NoSuchActorError,
    RefusedError,
)
from prime.node.system import open_system
from prime.wire import Ask


@attrs.frozen
class Put:
    key: str
    value: bytes


@attrs.frozen
class Get(Ask["bytes | None"]):
    key: str


@attrs.frozen
class Slow(Ask[float]):
    seconds: float


@attrs.frozen
class Crash(Ask[None]):
    pass


@attrs.frozen
class Refuse(Ask[None]):
    pass


class Store(Actor[Put | Get | Slow | Crash | Refuse]):
    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    @on(Put)
    def put(self, m: Put) -> None:
        self.data[m.key] = m.value

    @on(Get)
    def get(self, m: Get) -> bytes | None:
        return self.data.get(m.key)

    @on(Slow)
    async def slow(self, m: Slow) -> float:
        await trio.sleep(m.seconds)
        return self.ctx.now()

    @on(Crash)
    def crash(self, _: Crash) -> None:
        raise ValueError("boom")

    @on(Refuse)
    def refuse(self, _: Refuse) -> None:
        raise RefusedError("not today")


def facts_of(system: System) -> list[Any]:
    facts: list[Any] = []
    system.subscribe(facts.append)
    return facts


async def test_tell_then_ask_sees_the_message(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store = await sup.spawn(Store, "store")
        await store.tell(Put("a", b"1"))
        assert await store.ask(Get("a"), timeout=1) == b"1"
        assert await store.ask(Get("b"), timeout=1) is None
        assert system.whereis("/kv/store") == store


async def test_order_is_kept_over_many_bursts(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[str] = []

    class Log(Actor[Put | Get]):
        @on(Put)
        def put(self, m: Put) -> None:
            seen.append(m.key)

        @on(Get)
        def get(self, m: Get) -> bytes | None:
            return None

    async with open_system(seed=0) as system, system.supervisor("log") as sup:
        log = await sup.spawn(Log, "log", mailbox=Mailbox(7))
        for i in range(1000):
            await log.tell(Put(str(i), b""))
        await log.ask(Get(""), timeout=1)
    assert seen == [str(i) for i in range(1000)]


async def test_ask_past_its_deadline_fails_and_is_never_run(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        facts = facts_of(system)
        store = await sup.spawn(Store, "store")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: store.ask(Slow(5), timeout=10))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DeadlineError, match="no answer from /kv/store to Get within 2 s"):
                await store.ask(Get("a"), timeout=2)
        await store.ask(Get("b"), timeout=1)
        assert DeadLetter("/kv/store", "Get", "its deadline passed before it was run") in facts
        assert len(system.deadlines) == 0


async def test_crash_answers_the_asker_restarts_and_keeps_the_mailbox(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store = await sup.spawn(Store, "store")
        await store.tell(Put("a", b"1"))
        answers: list[Any] = []

        async def crash() -> None:
            with pytest.raises(ActorCrashedError, match="ValueError: boom") as caught:
                await store.ask(Crash(), timeout=5)
            assert "in crash" in caught.value.remote_traceback

        async def get() -> None:
            answers.append(await store.ask(Get("a"), timeout=5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(get)
        assert answers == [None]  # a fresh instance answered the ask that waited through the restart
        (info,) = system.tree()[0].children
        assert (info.restarts, info.last_failure) == (1, "ValueError: boom")


async def test_refusing_is_an_answer_and_no_crash(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store = await sup.spawn(Store, "store")
        with pytest.raises(RefusedError, match="not today"):
            await store.ask(Refuse(), timeout=1)
        assert system.tree()[0].children[0].restarts == 0


async def test_a_refusal_that_nobody_asked_for_is_a_dead_letter_and_no_crash(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        facts = facts_of(system)
        store = await sup.spawn(Store, "store")
        await store.tell(Refuse())
        await store.tell(Put("a", b"1"))
        assert await store.ask(Get("a"), timeout=1) == b"1"
        assert system.tree()[0].children[0].restarts == 0
        assert [f.kind for f in facts if isinstance(f, DeadLetter)] == ["Refuse"]


async def test_asking_oneself_fails_at_once(autojump_clock: trio.testing.MockClock) -> None:
    class Narcissus(Actor[Get]):
        @on(Get)
        async def get(self, m: Get) -> bytes | None:
            return await self.ctx.self_ref.ask(m, timeout=60)

    async with open_system(seed=0) as system, system.supervisor("n", restart=Restart(max=1)) as sup:
        ref = await sup.spawn(Narcissus, "n")
        with pytest.raises(ActorCrashedError, match="asks itself"):
            await ref.ask(Get("x"), timeout=60)
        assert trio.current_time() < 60


@pytest.mark.parametrize("policy", ["reject", "drop_oldest", "drop_newest", "wait"])
async def test_full_mailbox(policy: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        facts = facts_of(system)
        store = await sup.spawn(Store, "store", mailbox=Mailbox(2, full=policy))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: store.ask(Slow(5), timeout=10))
            await trio.testing.wait_all_tasks_blocked()
            store.tell_nowait(Put("a", b"1"))
            store.tell_nowait(Put("b", b"2"))
            if policy == "reject":
                with pytest.raises(MailboxFullError):
                    store.tell_nowait(Put("c", b"3"))
                with pytest.raises(MailboxFullError):
                    await store.tell(Put("c", b"3"))
            elif policy == "wait":
                with pytest.raises(MailboxFullError):
                    store.tell_nowait(Put("c", b"3"))
                started = trio.current_time()
                await store.tell(Put("c", b"3"))
                assert trio.current_time() >= started + 5
            else:
                await store.tell(Put("c", b"3"))
        kept = {key: await store.ask(Get(key), timeout=9) for key in "abc"}
    lost = {"reject": "c", "wait": "", "drop_oldest": "a", "drop_newest": "c"}[policy]
    assert {key for key, value in kept.items() if value is None} == set(lost)
    assert len([f for f in facts if isinstance(f, DeadLetter)]) == (policy.startswith("drop"))


async def test_a_cancelled_waiting_tell_leaves_no_trace(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store = await sup.spawn(Store, "store", mailbox=Mailbox(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: store.ask(Slow(5), timeout=10))
            await trio.testing.wait_all_tasks_blocked()
            await store.tell(Put("a", b"1"))
            with trio.move_on_after(1) as scope:
                await store.tell(Put("b", b"2"))
            assert scope.cancelled_caught
        assert await store.ask(Get("a"), timeout=1) == b"1"
        assert await store.ask(Get("b"), timeout=1) is None


async def test_timers_fire_and_die_with_their_incarnation(autojump_clock: trio.testing.MockClock) -> None:
    ticks: list[tuple[int, float]] = []
    born = 0

    class Ticker(Actor[Get | Crash]):
        async def started(self) -> None:
            nonlocal born
            born += 1
            self.ctx.every(10, Get(str(born)))
            self.ctx.after(5, Get("once"))

        @on(Get)
        def tick(self, m: Get) -> bytes | None:
            if m.key != "once":
                ticks.append((int(m.key), self.ctx.now()))
            return None

        @on(Crash)
        def crash(self, _: Crash) -> None:
            raise ValueError("boom")

    async with open_system(seed=0) as system, system.supervisor("t") as sup:
        ref = await sup.spawn(Ticker, "t")
        await trio.sleep(25)
        await ref.tell(Crash())
        await trio.sleep(25)
        await sup.stop(ref)
        assert len(system.deadlines) == 0
        await trio.sleep(100)
    assert [who for who, _ in ticks] == [1, 1, 2, 2]


async def test_watch_gives_exactly_one_down_and_only_at_the_end(autojump_clock: trio.testing.MockClock) -> None:
    downs: list[Down] = []

    class Watcher(Actor[Down]):
        def __init__(self, target: Ref[Any]) -> None:
            self.target = target

        async def started(self) -> None:
            self.ctx.watch(self.target)

        @on(Down)
        def down(self, m: Down) -> None:
            downs.append(m)

    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store = await sup.spawn(Store, "store")
        await sup.spawn(lambda: Watcher(store), "watcher")
        with pytest.raises(ActorCrashedError):
            await store.ask(Crash(), timeout=1)
        await trio.sleep(5)
        assert downs == []  # a restart is no end
        await sup.stop(store)
        await trio.sleep(5)
        await sup.spawn(lambda: Watcher(store), "late")
        await trio.sleep(5)
    assert downs == [Down("/kv/store", "", "it was stopped"), Down("/kv/store", "", "it was already dead")]


async def test_watching_without_a_handler_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    class Careless(Actor[Get]):
        @on(Get)
        def get(self, _: Get) -> bytes | None:
            self.ctx.watch(self.ctx.self_ref)
            return None

    async with open_system(seed=0) as system, system.supervisor("c") as sup:
        ref = await sup.spawn(Careless, "c")
        with pytest.raises(ActorCrashedError, match=r"no @on\(Down\) handler"):
            await ref.ask(Get(""), timeout=1)


async def test_the_dead_get_dead_letters_and_asks_to_them_fail(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        facts = facts_of(system)
        store = await sup.spawn(Store, "store")
        await sup.stop(store)
        await store.tell(Put("a", b"1"))
        with pytest.raises(NoSuchActorError):
            await store.ask(Get("a"), timeout=1)
        assert [f.kind for f in facts if isinstance(f, DeadLetter)] == ["Put", "Get"]
        with pytest.raises(NoSuchActorError):
            system.ref("", "/kv/store", Store)


async def test_a_side_task_that_fails_fails_its_actor_and_ends_with_it(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []

    class Host(Actor[Get]):
        async def started(self) -> None:
            self.ctx.start_soon(self.wait)

        async def wait(self) -> None:
            try:
                await trio.sleep(10)
                raise OSError("the side task broke")
            finally:
                ended.append("side")

        @on(Get)
        def get(self, _: Get) -> bytes | None:
            return b"here"

    async with open_system(seed=0) as system, system.supervisor("h") as sup:
        ref = await sup.spawn(Host, "h")
        await trio.sleep(11)
        assert await ref.ask(Get(""), timeout=5) == b"here"
        info = system.tree()[0].children[0]
        assert (info.restarts, info.last_failure) == (1, "OSError: the side task broke")
        assert ended == ["side"]
    assert ended == ["side", "side"]


def test_a_promise_without_a_handler_is_an_error_when_the_class_is_made() -> None:
    with pytest.raises(MessageError, match="promises Put"):

        class Half(Actor[Put | Get]):
            @on(Get)
            def get(self, _: Get) -> bytes | None:
                return None


def test_two_handlers_for_one_message_are_an_error() -> None:
    with pytest.raises(MessageError, match="handles Get twice"):

        class Double(Actor[Get]):
            @on(Get)
            def one(self, _: Get) -> bytes | None:
                return None

            @on(Get)
            def two(self, _: Get) -> bytes | None:
                return None


async def test_unknown_messages_are_dead_letters_and_their_asks_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store: Ref[Any] = await sup.spawn(Store, "store")
        await store.tell("nope")
        assert system.dead_letters == 0
        with pytest.raises(RefusedError, match="no handler for str"):
            await store.ask("nope", timeout=1)  # type: ignore[arg-type]
        assert system.dead_letters == 2


async def test_impossible_arguments_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ActorUsageError):
        Mailbox(0)
    with pytest.raises(ActorUsageError):
        Restart(within=0)
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        await sup.spawn(Store, "store")
        with pytest.raises(ActorUsageError, match="already runs"):
            await sup.spawn(Store, "store")
        with pytest.raises(ActorUsageError, match="cannot name"):
            await sup.spawn(Store, "a/b")
        with pytest.raises(ActorUsageError, match="unknown child kind"):
            await sup.spawn(Store, "other", kind="eternal")  # type: ignore[arg-type]
        with pytest.raises(ActorUsageError, match="without a network"):
            system.ref("12D3KooWx", "/kv/store", Store)
        with pytest.raises(ActorUsageError, match="makes no actor"):
            await sup.spawn(Store(), "other")  # type: ignore[arg-type]
        with pytest.raises(ActorUsageError, match="no mailbox"):
            await sup.spawn(Store, "other", mailbox=10)  # type: ignore[arg-type]
        with pytest.raises(ActorUsageError, match="cannot name"):
            await sup.spawn(Store, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("shutdown", [math.nan, -1, "5", None])
async def test_a_shutdown_time_that_is_none_is_refused_before_a_stop_hangs_on_it(
    shutdown: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        with pytest.raises(ActorUsageError, match="shutdown"):
            await sup.spawn(Store, "store", shutdown=shutdown)


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_a_restart_or_a_mailbox_of_no_number_is_refused(wrong: Any) -> None:
    for make in (
        lambda: Restart(max=wrong),
        lambda: Restart(within=wrong),
        lambda: Mailbox(wrong),
        lambda: Mailbox(stash=wrong),
    ):
        with pytest.raises(ActorUsageError, match="impossible"):
            make()


class Alarms(Store):
    async def started(self) -> None:
        for set_timer in (self.ctx.after, self.ctx.every):
            with pytest.raises(ActorUsageError, match="NaN"):
                set_timer(math.nan, Put("k", b""))


async def test_a_time_that_is_no_number_is_refused_and_every_other_timer_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        store = await sup.spawn(Alarms, "store")
        with pytest.raises(ActorUsageError, match="NaN"):
            await store.ask(Slow(1), timeout=math.nan)
        with pytest.raises(ActorUsageError, match="NaN"):
            await store.ask(Get("k"), timeout=math.nan)
        with pytest.raises(ActorUsageError, match="passivate"):
            await sup.spawn(Store, "idle", passivate=math.nan)
        with pytest.raises(DeadlineError):
            await store.ask(Slow(10), timeout=1)


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Mute(Actor[Crash | Get]):
    @on(Crash)
    async def crash(self, _: Crash) -> None:
        raise OSError("outer") from SpeechlessError()

    @on(Get)
    def get(self, _: Get) -> bytes | None:
        raise SpeechlessError


async def test_an_error_that_cannot_say_what_it_is_is_a_crash_like_any_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    facts: list[Any] = []
    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        system.subscribe(facts.append)
        mute = await sup.spawn(Mute, "mute")
        with pytest.raises(ActorCrashedError, match="SpeechlessError"):
            await mute.ask(Get("k"), timeout=1)
        with pytest.raises(ActorCrashedError, match="outer"):
            await mute.ask(Crash(), timeout=5)
        await trio.sleep(5)
        assert system.tree()[0].children[0].state == "running"
    assert [fact.error.partition(",")[0] for fact in facts if isinstance(fact, ActorFailed)] == [
        "SpeechlessError",
        "OSError: outer",
    ]


async def test_who_has_ended_joins_no_group(autojump_clock: trio.testing.MockClock) -> None:
    made: list[Store] = []

    def make() -> Store:
        made.append(Store())
        return made[-1]

    async with open_system(seed=0) as system, system.supervisor("kv") as sup:
        await sup.stop(await sup.spawn(make, "store"))
        with pytest.raises(ActorUsageError, match="has ended"):
            made[0].ctx.join("stores")
        assert system.group("stores") == ()


async def test_an_ask_in_hand_is_answered_when_its_actor_ends_under_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Fragile(Actor[Slow]):
        async def started(self) -> None:
            self.ctx.start_soon(self.break_soon)

        async def break_soon(self) -> None:
            await trio.sleep(1)
            raise OSError("the side task broke")

        @on(Slow)
        async def slow(self, m: Slow) -> float:
            await trio.sleep(m.seconds)
            return 0.0

    async with open_system(seed=0) as system, system.supervisor("f") as sup:
        fragile = await sup.spawn(Fragile, "f", shutdown=1)
        with pytest.raises(ActorCrashedError, match="the side task broke"):
            await fragile.ask(Slow(50), timeout=60)
        store = await sup.spawn(Store, "store", shutdown=1)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ActorCrashedError, match="it was stopped"):
                    await store.ask(Slow(50), timeout=60)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await sup.stop(store)
        assert trio.current_time() < 40


async def test_cancelled_timers_and_ended_watches_leave_nothing(autojump_clock: trio.testing.MockClock) -> None:
    counts: list[int] = []

    class Busy(Actor[Get | Down]):
        @on(Get)
        def get(self, _: Get) -> bytes | None:
            for _ in range(100):
                self.ctx.after(5, Get("")).cancel()
                self.ctx.every(5, Get("")).cancel()
                self.ctx.watch(self.ctx.self_ref)()
            counts.append(self.ctx._cell.life.owned)
            return None

        @on(Down)
        def down(self, _: Down) -> None: ...

    async with open_system(seed=0) as system, system.supervisor("b") as sup:
        ref = await sup.spawn(Busy, "b")
        await ref.ask(Get(""), timeout=1)
    assert counts == [0]
