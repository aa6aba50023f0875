"""What an actor may do beyond handling: lanes, stash, late answers, groups, threads, idleness, suspension, tracing."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

from prime.actor import Actor, ActorFailed, ActorPassivated, DeadLetter, Mailbox, Ref, Restart, System, on
from prime.actor.contract import ReplySlot
from prime.actor.slots import Later
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    AskCycleError,
    DeadlineError,
    MailboxFullError,
    MessageError,
    NoSuchActorError,
    RefusedError,
    RestartLimitError,
)
from prime.node.system import open_system
from prime.wire import Ask

Clock = trio.testing.MockClock


@attrs.frozen
class Note:
    text: str


@attrs.frozen
class Urgent:
    text: str


@attrs.frozen
class Nap:
    seconds: float


@attrs.frozen
class Get(Ask["list[str]"]):
    pass


@attrs.frozen
class Boom:
    pass


class Log(Actor[Note | Urgent | Nap | Get | Boom]):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @on(Note)
    def note(self, m: Note) -> None:
        self.seen.append(m.text)

    @on(Urgent)
    def urgent(self, m: Urgent) -> None:
        self.seen.append(m.text.upper())

    @on(Nap)
    async def nap(self, m: Nap) -> None:
        await trio.sleep(m.seconds)

    @on(Get)
    def get(self, _: Get) -> list[str]:
        return list(self.seen)

    @on(Boom)
    def boom(self, _: Boom) -> None:
        raise ValueError("boom") from OSError("the disk is gone")


def facts_of(system: System) -> list[Any]:
    facts: list[Any] = []
    system.subscribe(facts.append)
    return facts


# ------------------------------------------------------------------------------------------------------------- lanes


async def test_a_lane_overtakes_and_each_lane_keeps_its_order(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log", mailbox=Mailbox(lanes=((Urgent,), (Get,))))
        await log.tell(Nap(1))
        await trio.testing.wait_all_tasks_blocked()
        for text in "ab":
            await log.tell(Note(text))
        for text in "xy":
            await log.tell(Urgent(text))
        assert await log.ask(Get(), timeout=5) == ["X", "Y"]  # asked last, answered before the notes
        await trio.lowlevel.checkpoint()
        assert await log.ask(Get(), timeout=5) == ["X", "Y", "a", "b"]


async def test_drop_oldest_gives_up_the_lowest_lane_first(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        log = await sup.spawn(Log, "log", mailbox=Mailbox(2, full="drop_oldest", lanes=((Urgent,),)))
        await log.tell(Nap(1))
        await trio.testing.wait_all_tasks_blocked()
        await log.tell(Urgent("u"))
        await log.tell(Note("a"))
        await log.tell(Note("b"))
        await trio.sleep(2)
        assert await log.ask(Get(), timeout=5) == ["U", "b"]
        assert [f.kind for f in facts if isinstance(f, DeadLetter)] == ["Note"]
        assert system.tree()[0].children[0].dropped == 1


def test_a_class_in_two_lanes_is_refused() -> None:
    with pytest.raises(ActorUsageError, match="impossible mailbox"):
        Mailbox(lanes=((Note,), (Urgent, Note)))


# ------------------------------------------------------------------------------------------------------------- stash


@attrs.frozen
class Open:
    pass


@attrs.frozen
class Name(Ask[str]):
    pass


class Door(Actor[Open | Name | Note | Boom]):
    """Answers nobody before it is open."""

    def __init__(self) -> None:
        self.open = False
        self.notes: list[str] = []

    @on(Open)
    def unlock(self, _: Open) -> None:
        self.open = True
        self.ctx.unstash_all()

    @on(Name)
    def name(self, _: Name) -> str:
        if not self.open:
            self.ctx.stash()
            return "nobody hears this"
        return f"door after {''.join(self.notes)}"

    @on(Note)
    def note(self, m: Note) -> None:
        if not self.open:
            self.ctx.stash()
        else:
            self.notes.append(m.text)

    @on(Boom)
    def boom(self, _: Boom) -> None:
        raise ValueError("boom")


async def test_what_is_stashed_comes_back_first_and_in_order(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        door = await sup.spawn(Door, "door")
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await door.ask(Name(), timeout=100))

        async with trio.open_nursery() as nursery:
            await door.tell(Note("a"))
            await door.tell(Note("b"))
            nursery.start_soon(ask)  # to an idle actor: answered in this task, if it were not stashed
            await trio.sleep(50)
            assert answers == []
            await door.tell(Open())
            await door.tell(Note("c"))
        assert answers == ["door after ab"]
        assert len(system.deadlines) == 0


async def test_a_stashed_ask_fails_at_its_deadline_and_is_not_run_later(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        door = await sup.spawn(Door, "door")
        with pytest.raises(DeadlineError):
            await door.ask(Name(), timeout=3)
        await door.tell(Open())
        await trio.sleep(1)
        assert [f.kind for f in facts if isinstance(f, DeadLetter)] == ["Name"]


@pytest.mark.parametrize("on_restart", ["keep", "clear"])
async def test_a_restart_keeps_or_clears_mailbox_and_stash(on_restart: Any, autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        door = await sup.spawn(Door, "door", mailbox=Mailbox(on_restart=on_restart))
        await door.tell(Note("a"))
        await trio.testing.wait_all_tasks_blocked()
        await door.tell(Boom())
        await door.tell(Note("b"))
        await trio.sleep(10)
        await door.tell(Open())
        kept = await door.ask(Name(), timeout=1)
        assert kept == ("door after ab" if on_restart == "keep" else "door after ")
        assert len([f for f in facts if isinstance(f, DeadLetter)]) == (0 if on_restart == "keep" else 2)


async def test_a_stash_has_a_bound(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        door = await sup.spawn(Door, "door", mailbox=Mailbox(stash=1))
        await door.tell(Note("a"))
        await door.tell(Note("b"))
        await trio.testing.wait_all_tasks_blocked()
        (failed,) = [f for f in facts if isinstance(f, ActorFailed)]
        assert MailboxFullError.__name__ in failed.error
        assert "stashed 1" in failed.error


async def test_stash_outside_a_handler_is_refused(autojump_clock: Clock) -> None:
    class Early(Actor[Open]):
        async def started(self) -> None:
            self.ctx.stash()

        @on(Open)
        def open(self, _: Open) -> None: ...

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        with pytest.raises(ActorCrashedError, match="no message in hand"):
            await sup.spawn(Early, "early", kind="temporary")


# ------------------------------------------------------------------------------------------------------ late answers


class Clerk(Actor[Name | Open | Note]):
    def __init__(self) -> None:
        self.owed: list[Later] = []

    @on(Name)
    def name(self, _: Name) -> ReplySlot:
        later = self.ctx.defer()
        self.owed.append(later)
        return later

    @on(Note)
    def note(self, m: Note) -> None:
        self.owed.pop(0).fail(RefusedError(m.text))

    @on(Open)
    def open(self, _: Open) -> None:
        for number, later in enumerate(self.owed):
            later.reply(f"late {number}")
        self.owed.clear()


async def test_an_answer_may_come_after_the_handler_returned(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        clerk = await sup.spawn(Clerk, "clerk")
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await clerk.ask(Name(), timeout=100))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.sleep(10)
            assert answers == []
            await clerk.tell(Open())
        assert sorted(answers) == ["late 0", "late 1", "late 2"]


async def test_a_late_answer_may_be_a_failure_and_an_end_without_one_fails(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        clerk = await sup.spawn(Clerk, "clerk")

        async def refused() -> None:
            with pytest.raises(RefusedError, match="not you"):
                await clerk.ask(Name(), timeout=100)

        async def abandoned() -> None:
            with pytest.raises(ActorCrashedError, match="ended before it answered Name"):
                await clerk.ask(Name(), timeout=100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(abandoned)
            await trio.testing.wait_all_tasks_blocked()
            await clerk.tell(Note("not you"))
            await trio.testing.wait_all_tasks_blocked()
            await sup.stop(clerk)
        assert system.leftovers()["asks"] == 0


async def test_a_tell_cannot_be_answered_later(autojump_clock: Clock) -> None:
    class Wrong(Actor[Note]):
        @on(Note)
        def note(self, _: Note) -> None:
            self.ctx.defer()

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        await (await sup.spawn(Wrong, "wrong")).tell(Note("x"))
        await trio.testing.wait_all_tasks_blocked()
        assert "nobody waits" in next(f for f in facts if isinstance(f, ActorFailed)).error


# ------------------------------------------------------------------------------------------------------------ groups


async def test_groups_follow_lives(autojump_clock: Clock) -> None:
    class Member(Log):
        async def started(self) -> None:
            self.ctx.join("choir")

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        refs = [await sup.spawn(Member, name) for name in "abc"]
        assert system.group("choir") == tuple(refs)
        await refs[0].tell(Boom())
        await trio.testing.wait_all_tasks_blocked()
        assert system.group("choir") == tuple(refs[1:])  # it is down
        await trio.sleep(5)
        assert set(system.group("choir")) == set(refs)  # it is back
        await sup.stop(refs[1])
        assert refs[1] not in system.group("choir")
    assert system.group("choir") == ()
    assert system.group("nobody") == ()


# ----------------------------------------------------------------------------------------------------------- threads


async def test_a_blocking_handler_runs_in_a_thread_by_declaration() -> None:
    class Blocking(Actor[Name]):
        @on(Name, thread=True)
        def name(self, _: Name) -> str:
            return threading.current_thread().name

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        blocking = await sup.spawn(Blocking, "b")
        assert await blocking.ask(Name(), timeout=5) != threading.current_thread().name


def test_a_coroutine_function_cannot_run_in_a_thread() -> None:
    with pytest.raises(MessageError, match="cannot run in a thread"):

        class Wrong(Actor[Note]):
            @on(Note, thread=True)
            async def note(self, _: Note) -> None: ...


@pytest.mark.parametrize("asked", [False, True])
async def test_a_coroutine_that_nobody_awaits_is_a_crash(asked: bool, autojump_clock: Clock) -> None:
    class Forgetful(Actor[Note | Name]):
        async def work(self) -> str:
            return "never"

        @on(Note)
        def note(self, _: Note) -> Any:
            return self.work()

        @on(Name)
        def name(self, _: Name) -> Any:
            return self.work()

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        ref: Ref[Any] = await sup.spawn(Forgetful, "f")
        if asked:
            with pytest.raises(ActorCrashedError, match="returned a coroutine, which nobody awaits"):
                await ref.ask(Name(), timeout=1)
        else:
            await ref.tell(Note(""))
        await trio.testing.wait_all_tasks_blocked()
        (failed,) = [f for f in facts if isinstance(f, ActorFailed)]
        assert "ActorUsageError" in failed.error


# ------------------------------------------------------------------------------------------------- idle and suspended


async def test_an_idle_actor_is_passivated_and_comes_back_for_a_message(autojump_clock: Clock) -> None:
    lives: list[str] = []

    class Sleepy(Log):
        async def started(self) -> None:
            lives.append("+")

        async def stopping(self) -> None:
            lives.append("-")

    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=0)) as sup:
        facts = facts_of(system)
        ref = await sup.spawn(Sleepy, "sleepy", passivate=10)
        await ref.tell(Note("a"))
        await trio.sleep(9)
        assert await ref.ask(Get(), timeout=1) == ["a"]
        await trio.sleep(25)
        assert lives == ["+", "-"]
        assert system.tree()[0].children[0].state == "passive"
        assert system.leftovers()["tasks"] == 0
        assert await ref.ask(Get(), timeout=1) == []  # a fresh one
        assert lives == ["+", "-", "+"]
        await trio.sleep(25)
        await sup.stop(ref)
        assert lives == ["+", "-"] * 2
        assert facts.count(ActorPassivated("/s/sleepy")) == 2
        assert system.whereis("/s/sleepy") is None
        assert len(system.deadlines) == 0


async def test_a_busy_actor_is_not_passivated(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        facts = facts_of(system)
        log = await sup.spawn(Log, "log", passivate=10)
        await log.tell(Nap(100))
        await log.tell(Note("after"))
        await trio.sleep(95)
        assert await log.ask(Get(), timeout=20) == ["after"]
        assert not [f for f in facts if isinstance(f, ActorPassivated)]


async def test_a_suspended_actor_hears_only_its_supervisor(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log")
        sup.suspend(log)
        await trio.testing.wait_all_tasks_blocked()
        await log.tell(Note("a"))
        with pytest.raises(DeadlineError):
            await log.ask(Get(), timeout=5)
        assert system.tree()[0].children[0].state == "suspended"
        sup.resume(log)
        assert await log.ask(Get(), timeout=5) == ["a"]
        sup.suspend(log)
        await trio.testing.wait_all_tasks_blocked()
        await sup.stop(log)
        assert system.whereis("/s/log") is None
        with pytest.raises(ActorUsageError, match="no child of /s"):
            sup.suspend(log)


async def test_a_suspended_actor_fails_with_its_side_task_at_once(autojump_clock: Clock) -> None:
    class Sided(Actor[Boom]):
        @on(Boom)
        def boom(self, _: Boom) -> None:
            self.ctx.start_soon(self.fail_soon)

        async def fail_soon(self) -> None:
            await trio.sleep(5)
            raise OSError("the side task broke")

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        ref = await sup.spawn(Sided, "sided")
        await ref.tell(Boom())
        await trio.sleep(1)
        sup.suspend(ref)
        await trio.sleep(10)
        assert system.tree()[0].children[0].restarts == 1


# -------------------------------------------------------------------------------------------------------- ask cycles


@attrs.frozen
class Through(Ask[str]):
    """Ask the next one of the list, and so on."""

    refs: tuple[Any, ...]


class Link(Actor[Through]):
    @on(Through)
    async def through(self, m: Through) -> str:
        if not m.refs:
            return "end"
        answer: str = await m.refs[0].ask(Through(m.refs[1:]), timeout=1000)
        return answer


class Slow(Actor[Through]):
    @on(Through)
    async def through(self, _: Through) -> str:
        await trio.sleep(9)
        return ""


async def test_a_cycle_of_asks_fails_at_once_and_names_its_path(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=10)) as sup:
        a, b, c = [await sup.spawn(Link, name) for name in "abc"]
        assert await a.ask(Through((b, c)), timeout=5) == "end"
        with pytest.raises(ActorCrashedError, match="/s/c asks itself through /s/c -> /s/a -> /s/b -> /s/c"):
            await a.ask(Through((b, c, a)), timeout=5)
        with pytest.raises(ActorCrashedError, match=r"/s/a asks itself: it would"):
            await a.ask(Through((a,)), timeout=5)
        assert trio.current_time() < 20
        assert all(child.cell.asking is None for child in sup.children)  # type: ignore[attr-defined]


async def test_introspection_shows_whom_an_actor_waits_for(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        link = await sup.spawn(Link, "link")
        slow = await sup.spawn(Slow, "slow")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: link.ask(Through((slow,)), timeout=50))
            await trio.testing.wait_all_tasks_blocked()
            assert [info.waits_for for info in system.tree()[0].children] == ["/s/slow", ""]
        assert [info.waits_for for info in system.tree()[0].children] == ["", ""]


async def test_waiting_for_room_in_a_circle_fails_too(autojump_clock: Clock) -> None:
    class Pusher(Actor[Through]):
        @on(Through)
        async def push(self, m: Through) -> str:
            for _ in range(9):
                await m.refs[0].tell(m)
            return ""

    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=0)) as sup:
        facts = facts_of(system)
        one = await sup.spawn(Pusher, "one", mailbox=Mailbox(1), kind="temporary")
        with pytest.raises(ActorCrashedError, match="asks itself"):
            await one.ask(Through((one,)), timeout=5)
        await trio.testing.wait_all_tasks_blocked()
        assert AskCycleError.__name__ in next(f for f in facts if isinstance(f, ActorFailed)).error


# ------------------------------------------------------------------------------------------------ supervisors in trees


async def test_a_branch_that_gives_up_is_restarted_whole_by_its_parent(autojump_clock: Clock) -> None:
    starts: list[str] = []

    async def branch(sup: Any) -> None:
        starts.append("branch")
        await sup.spawn(Log, "a")
        await sup.spawn(Log, "b")

    async with open_system(seed=0) as system, system.supervisor("root", restart=Restart(max=1)) as root:
        facts = facts_of(system)
        await root.spawn_supervisor("branch", branch, restart=Restart(max=1, within=60))
        assert {info.path for info in system.tree()} == {"/root", "/root/branch"}
        old = system.whereis("/root/branch/a")
        assert old is not None
        for _ in range(2):
            await old.tell(Boom())
            await trio.sleep(10)
        assert starts == ["branch"] * 2
        new = system.whereis("/root/branch/a")
        assert new is not None
        assert new != old  # the branch died, and its children with it
        assert await new.ask(Get(), timeout=1) == []
        with pytest.raises(NoSuchActorError):
            await old.ask(Get(), timeout=1)
        notices = [f for f in facts if isinstance(f, ActorFailed)]
        assert [n.path for n in notices] == ["/root/branch/a", "/root/branch/a", "/root/branch"]
        assert notices[0].causes == ("OSError: the disk is gone",)
        assert "caused by OSError: the disk is gone" in str(notices[0])
        assert "RestartLimitError" in notices[2].error


async def test_escalation_ends_at_the_root(autojump_clock: Clock) -> None:
    async def branch(sup: Any) -> None:
        await sup.spawn(Log, "a")

    with pytest.raises(RestartLimitError, match="/root gave up: /root/branch failed once more after 0 restarts"):
        async with open_system(seed=0) as system, system.supervisor("root", restart=Restart(max=0)) as root:
            await root.spawn_supervisor("branch", branch, restart=Restart(max=0))
            await system.whereis("/root/branch/a").tell(Boom())  # type: ignore[union-attr]
            await trio.sleep_forever()


async def test_a_branch_stops_before_what_was_started_earlier_and_in_reverse(autojump_clock: Clock) -> None:
    ends: list[str] = []

    class Ending(Log):
        async def stopping(self) -> None:
            await trio.sleep(0.1)
            ends.append(self.ctx.path)

    async def branch(sup: Any) -> None:
        for name in "ab":
            await sup.spawn(Ending, name)

    async with open_system(seed=0) as system:
        async with system.supervisor("root") as root:
            await root.spawn(Ending, "first")
            await root.spawn_supervisor("branch", branch)
            await root.spawn(Ending, "last")
            await root.stop_supervisor("nobody")
        assert ends == ["/root/last", "/root/branch/b", "/root/branch/a", "/root/first"]
        async with system.supervisor("root") as root:
            await root.spawn_supervisor("branch", branch)
            with pytest.raises(ActorUsageError, match="already runs"):
                await root.spawn(Log, "branch")
            await root.stop_supervisor("branch")
            assert system.whereis("/root/branch/a") is None
        assert system.leftovers()["supervisors"] == 0


async def test_a_branch_that_cannot_start_is_the_parents_to_decide(autojump_clock: Clock) -> None:
    async def branch(_: Any) -> None:
        raise OSError("no such disk")

    async with open_system(seed=0) as system, system.supervisor("root", restart=Restart(max=2)) as root:
        with pytest.raises(ActorCrashedError, match="no such disk"):
            await root.spawn_supervisor("branch", branch, kind="temporary")
        assert system.leftovers()["supervisors"] == 1


# ------------------------------------------------------------------------------------------------ tracing, statistics


class Recorder:
    """A tracer that counts messages and keeps what surrounded what."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.handled: list[tuple[str, str | None]] = []

    def sending(self, path: str, kind: str) -> str | None:
        self.sent.append(f"{kind} to {path}")
        return f"trace-{len(self.sent)}"

    @contextlib.contextmanager
    def handling(self, path: str, kind: str, trace: str | None) -> Iterator[None]:
        yield
        self.handled.append((f"{kind} at {path}", trace))


async def test_a_tracer_sees_each_message_go_and_come(autojump_clock: Clock) -> None:
    tracer = Recorder()
    async with open_system(seed=0, tracer=tracer) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log", mailbox=Mailbox(1))
        for text in "ab":
            await log.tell(Note(text))
        assert await log.ask(Get(), timeout=1) == ["a", "b"]
    assert tracer.sent == ["Note to /s/log", "Note to /s/log", "Get to /s/log"]
    assert tracer.handled == [
        ("Note at /s/log", "trace-1"),
        ("Note at /s/log", "trace-2"),
        ("Get at /s/log", "trace-3"),
    ]


async def test_the_first_look_counts_from_the_actors_beginning_and_not_the_clocks(autojump_clock: Clock) -> None:
    autojump_clock.jump(1_000_000)  # as Trio's own clock, which begins anywhere
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log")
        for _ in range(8):
            await log.tell(Note("x"))
        await trio.sleep(2)
        (info,) = system.tree()[0].children
        assert info.rate_per_s == pytest.approx(4)


async def test_introspection_shows_depth_age_rate_and_times(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log")
        await log.tell(Nap(4))
        for _ in range(3):
            await log.tell(Note("x"))
        await trio.testing.wait_all_tasks_blocked()
        system.tree()
        await trio.sleep(2)
        (info,) = system.tree()[0].children
        assert (info.mailbox, info.oldest_s) == (3, 2.0)
        await trio.sleep(10)
        (info,) = system.tree()[0].children
        assert (info.mailbox, info.oldest_s, info.handled) == (0, 0.0, 4)
        assert 4 <= info.p99_s <= 8
        assert info.rate_per_s == pytest.approx(4 / 10)
        assert system.tree()[0].restarts_left == 5
    async with open_system(seed=0, statistics=False) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log")
        await log.tell(Nap(4))
        await trio.sleep(9)
        assert system.tree()[0].children[0].p99_s == 0


# ---------------------------------------------------------------------------------------- asked in the asker's task

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


class Painter(Actor[Name | Note]):
    @on(Name)
    def name(self, _: Name) -> str:
        return colour.get()

    @on(Note)
    def note(self, m: Note) -> None:
        colour.set(m.text)


async def test_a_handler_sees_its_actors_context_variables_and_not_the_askers(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        painter = await sup.spawn(Painter, "p")
        colour.set("red")
        assert await painter.ask(Name(), timeout=1) == "none"
        await painter.tell(Note("blue"))
        await trio.testing.wait_all_tasks_blocked()
        assert colour.get() == "red"
        assert await painter.ask(Name(), timeout=1) == "blue"


async def test_an_actor_without_started_has_no_task_until_it_needs_one(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        refs = [await sup.spawn(Log, str(i)) for i in range(100)]
        assert system.leftovers()["tasks"] == 0
        assert await refs[7].ask(Get(), timeout=1) == []  # answered in this task
        assert system.leftovers()["tasks"] == 0
        await refs[7].tell(Note("a"))
        await trio.testing.wait_all_tasks_blocked()
        assert system.leftovers()["tasks"] == 1
        assert await refs[7].ask(Get(), timeout=1) == ["a"]


async def test_a_timeout_of_nothing_runs_nothing(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log = await sup.spawn(Log, "log")
        with pytest.raises(DeadlineError):
            await log.ask(Get(), timeout=0)
        assert system.tree()[0].children[0].handled <= 1
        assert len(system.deadlines) == 0
