"""What the properties found, one small test each: the shortest schedule that once went wrong."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from prime.actor import Actor, ActorFailed, Down, Mailbox, Restart, on
from prime.actor.cell import BURST
from prime.errors import ActorCrashedError, ActorUsageError, AskCycleError, RefusedError, RestartLimitError
from prime.node.system import open_system
from prime.wire import Ask


@attrs.frozen
class Do:
    """Run a function with the actor."""

    work: Callable[[Any], Any]


@attrs.frozen
class DoAsync:
    """Run a coroutine function with the actor."""

    work: Callable[[Any], Any]


@attrs.frozen
class Query(Ask[Any]):
    """Run a function with the actor and answer what it returns."""

    work: Callable[[Any], Any]


@attrs.frozen
class Note:
    number: int


class Doer(Actor[Do | DoAsync | Query | Note]):
    """Does what it is told, and keeps a log that outlives its incarnations."""

    def __init__(self, log: list[Any] | None = None) -> None:
        self.log = [] if log is None else log

    @on(Do)
    def do(self, m: Do) -> None:
        m.work(self)

    @on(DoAsync)
    async def do_async(self, m: DoAsync) -> None:
        await m.work(self)

    @on(Query)
    def query(self, m: Query) -> Any:
        return m.work(self)

    @on(Note)
    def note(self, m: Note) -> None:
        self.log.append(m.number)

    @on(Down)
    def down(self, m: Down) -> None:
        self.log.append(m.reason)


def raises(error: Exception) -> Callable[[Any], Any]:
    def work(_: Any) -> None:
        raise error

    return work


async def wait_long(_: Any) -> None:
    await trio.sleep(1000)


async def test_unstash_in_a_handler_that_the_asker_runs_wakes_the_actor(autojump_clock: trio.testing.MockClock) -> None:
    log: list[Any] = []
    async with open_system() as system, system.supervisor("s") as sup:
        doer = await sup.spawn(lambda: Doer(log), "d")

        def later(actor: Doer) -> None:
            log.append("seen")
            if log.count("seen") == 1:
                actor.ctx.stash()

        await doer.tell(Do(later))
        await trio.sleep(1)
        await doer.ask(Query(lambda actor: actor.ctx.unstash_all()), timeout=1)
        await trio.sleep(1)
        assert log == ["seen", "seen"]


async def test_unstash_in_a_side_task_wakes_the_actor(autojump_clock: trio.testing.MockClock) -> None:
    log: list[Any] = []
    async with open_system() as system, system.supervisor("s") as sup:
        doer = await sup.spawn(lambda: Doer(log), "d")

        def later(actor: Doer) -> None:
            log.append("seen")
            if log.count("seen") == 1:
                actor.ctx.stash()
                actor.ctx.start_soon(unstash, actor)

        async def unstash(actor: Doer) -> None:
            await trio.sleep(1)
            actor.ctx.unstash_all()

        await doer.tell(Do(later))
        await trio.sleep(2)
        assert log == ["seen", "seen"]


async def test_a_cycle_through_an_ask_that_was_put_off_in_the_askers_task(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        one, two = await sup.spawn(Doer, "one"), await sup.spawn(Doer, "two")
        caught: list[Exception] = []

        async def ask_back(_: Any) -> None:
            try:
                await one.ask(Query(lambda _: None), timeout=5)
            except AskCycleError as error:
                caught.append(error)
            kept[0].reply("late")

        kept: list[Any] = []

        async def ask_on(actor: Doer) -> None:
            actor.log.append(await two.ask(Query(lambda asked: kept.append(asked.ctx.defer())), timeout=9))

        await one.tell(DoAsync(ask_on))
        await trio.sleep(1)
        assert kept
        await two.tell(DoAsync(ask_back))
        await trio.sleep(1)
        assert "/s/two asks itself through /s/two -> /s/one -> /s/two" in str(caught[0])
        assert await one.ask(Query(lambda actor: actor.log), timeout=1) == ["late"]


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


async def test_an_actors_context_variables_are_the_same_wherever_its_handler_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system() as system, system.supervisor("s") as sup:

        class Named(Doer):
            async def started(self) -> None:
                VARIABLE.set("from started")

        for kind in (Named, Doer):
            doer = await sup.spawn(kind, kind.__name__)
            if kind is Doer:
                await doer.tell(Do(lambda _: VARIABLE.set("from a handler")))
                await trio.sleep(1)
            VARIABLE.set("the asker's")
            assert str(await doer.ask(Query(lambda _: VARIABLE.get()), timeout=1)).startswith("from")
            await doer.ask(Query(lambda _: VARIABLE.set("from the asker's task") and None), timeout=1)
            assert VARIABLE.get() == "the asker's"
            seen: list[str] = []
            await doer.tell(Do(lambda _, seen=seen: seen.append(VARIABLE.get())))
            await trio.sleep(1)
            assert seen == ["from the asker's task"]


@pytest.mark.parametrize("shutdown", [1, 30])
async def test_a_stop_whose_caller_is_cancelled_goes_on(
    shutdown: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        before = system.leftovers()
        doer = await sup.spawn(Doer, "d", shutdown=shutdown)
        await doer.tell(DoAsync(wait_long))
        ends: list[str] = []
        system.watch(doer, ends.append)
        await trio.sleep(1)
        with trio.move_on_after(0.5):
            await sup.stop(doer)
        assert not ends
        await trio.sleep(shutdown + 1)
        assert ends == ["it was stopped"]
        assert system.leftovers() == before


async def test_an_actor_that_stops_itself_through_its_supervisor_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        doer = await sup.spawn(Doer, "d", shutdown=1)
        ends: list[str] = []
        system.watch(doer, ends.append)
        await doer.tell(DoAsync(lambda actor: sup.stop(actor.ctx.self_ref)))
        await trio.sleep(3)
        assert ends == ["it was stopped"]


async def test_a_stop_of_a_nested_supervisor_whose_caller_is_cancelled_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        before = system.leftovers()

        class Slow(Doer):
            async def stopping(self) -> None:
                await trio.sleep(2)

        async def start(nested: Any) -> None:
            await nested.spawn(Slow, "d")

        await sup.spawn_supervisor("nested", start)
        with trio.move_on_after(0.5):
            await sup.stop_supervisor("nested")
        await trio.sleep(5)
        assert system.leftovers() == before
        await sup.spawn_supervisor("nested", start)


async def test_a_temporary_sibling_never_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s", strategy="one_for_all") as sup:
        starts: list[str] = []
        one = await sup.spawn(lambda: starts.append("one") or Doer(), "one")
        await sup.spawn(lambda: starts.append("temporary") or Doer(), "t", kind="temporary")
        await one.tell(Do(raises(ValueError("no"))))
        await trio.sleep(5)
        assert starts == ["one", "temporary", "one"]
        assert system.whereis("/s/t") is None


async def test_a_restart_of_some_waits_for_a_later_restart_of_all(autojump_clock: trio.testing.MockClock) -> None:
    restart = Restart(max=9, within=60, backoff=(4, 4))
    async with open_system(seed=0) as system, system.supervisor("s", strategy="rest_for_one", restart=restart) as sup:
        starts: list[str] = []
        refs = {n: await sup.spawn(lambda n=n: starts.append(n) or Doer(), n) for n in "abc"}
        await refs["b"].tell(Do(raises(ValueError("first"))))
        await trio.sleep(1)
        await refs["a"].tell(Do(raises(ValueError("second"))))
        await trio.sleep(20)
        assert starts == list("abcabc")


async def test_who_starts_after_a_sibling_waits_until_that_one_is_up(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s", strategy="rest_for_one") as sup:
        starts: list[str] = []

        def first() -> Doer:
            starts.append("a")
            if starts.count("a") == 2:
                raise OSError("not now")
            return Doer()

        a = await sup.spawn(first, "a")
        await sup.spawn(lambda: starts.append("b") or Doer(), "b")
        await a.tell(Do(raises(ValueError("no"))))
        await trio.sleep(20)
        assert starts == ["a", "b", "a", "a", "b"]


async def test_the_rest_come_back_though_the_first_is_stopped_before_it_could(
    autojump_clock: trio.testing.MockClock,
) -> None:
    restart = Restart(max=9, within=60, backoff=(4, 4))
    async with open_system(seed=0) as system, system.supervisor("s", strategy="one_for_all", restart=restart) as sup:
        starts: list[str] = []
        a = await sup.spawn(Doer, "a")
        await sup.spawn(lambda: starts.append("b") or Doer(), "b")
        await a.tell(Do(raises(ValueError("no"))))
        await trio.sleep(1)
        await sup.stop(a)
        await trio.sleep(20)
        assert starts == ["b", "b"]


async def test_a_spawn_under_way_when_the_supervisor_gives_up_adds_no_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Doer):
        async def started(self) -> None:
            await trio.sleep(1)

    async with open_system(seed=0) as system:
        with pytest.raises(RestartLimitError):
            async with system.supervisor("s", restart=Restart(max=0)) as sup:
                a = await sup.spawn(Doer, "a")
                await a.tell(Do(raises(ValueError("no"))))
                await sup.spawn(Slow, "slow")
                pytest.fail("it went on")


async def test_a_spawn_by_an_outsider_ends_when_the_supervisor_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, trio.open_nursery() as nursery:
        caught: list[Exception] = []

        async def outsider(sup: Any) -> None:
            with pytest.raises(ActorCrashedError, match="could not start: ValueError: no") as error:
                await sup.spawn(raises(ValueError("no")).__get__(0), "d")
            caught.append(error.value)

        with pytest.raises(RestartLimitError):
            async with system.supervisor("s", restart=Restart(max=1)) as sup:
                nursery.start_soon(outsider, sup)
                await trio.sleep_forever()
        await trio.sleep(1)
        assert caught


async def test_a_spawn_that_the_supervisors_end_overtakes_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, trio.open_nursery() as nursery:

        class Slow(Doer):
            async def started(self) -> None:
                await trio.sleep(10)

        async def outsider(sup: Any) -> None:
            with pytest.raises(ActorCrashedError, match="/s/d was stopped before it had started"):
                await sup.spawn(Slow, "d", shutdown=1)

        async with system.supervisor("s") as sup:
            nursery.start_soon(outsider, sup)
            await trio.sleep(2)


async def test_the_name_of_a_supervisor_that_waits_for_its_restart_is_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    restart = Restart(max=9, within=60, backoff=(4, 4))
    async with open_system(seed=0) as system, system.supervisor("s", restart=restart) as sup:
        refs: list[Any] = []

        async def start(nested: Any) -> None:
            refs.append(await nested.spawn(Doer, "d"))

        await sup.spawn_supervisor("n", start, restart=Restart(max=0))
        await refs[0].tell(Do(raises(ValueError("no"))))
        await trio.sleep(1)
        with pytest.raises(ActorUsageError, match="/s/n"):
            await sup.spawn(Doer, "n")
        with pytest.raises(ActorUsageError, match="/s/n"):
            await sup.spawn_supervisor("n", start)
        await trio.sleep(10)
        assert len(refs) == 2


async def test_a_supervisor_that_ends_takes_its_pending_restarts_along(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system:
        before = system.leftovers()
        async with system.supervisor("s", restart=Restart(backoff=(3600, 3600), within=1e6)) as sup:
            doer = await sup.spawn(Doer, "d")
            await doer.tell(Do(raises(ValueError("no"))))
            await trio.sleep(1)
        assert system.leftovers() == before


async def test_an_actor_that_was_busy_when_its_idle_time_ended_passivates_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        doer = await sup.spawn(Doer, "d", passivate=10)
        await doer.tell(Note(1))
        system.deadlines.at(trio.current_time() + 20, lambda: doer.tell_nowait(Note(2)))
        await trio.sleep(25)
        await trio.sleep(1000)
        assert system.tree()[0].children[0].state == "passive"


async def test_a_suspended_actor_does_not_passivate(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log: list[Any] = []
        doer = await sup.spawn(lambda: Doer(log), "d", passivate=10)
        sup.suspend(doer)
        await trio.sleep(100)
        await doer.tell(Note(1))
        await trio.sleep(1)
        assert log == []
        sup.resume(doer)
        await trio.sleep(1)
        assert log == [1]


async def test_a_stop_beside_the_end_of_the_idle_time_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        doer = await sup.spawn(Doer, "d", passivate=10, kind="transient")
        actors: list[Any] = []
        await doer.tell(Do(actors.append))
        await trio.sleep(1)
        handled = trio.current_time() + 19  # looked at after 10 s and 20 s
        system.deadlines.at(handled, lambda: system.deadlines.at(handled, actors[0].ctx.stop))
        await trio.sleep(100)
        assert system.whereis("/s/d") is None


async def test_watching_the_dead_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log: list[Any] = []
        doer, dead = await sup.spawn(lambda: Doer(log), "d"), await sup.spawn(Doer, "dead")
        await sup.stop(dead)
        owned: list[int] = []

        def watch(actor: Doer) -> None:
            actor.ctx.watch(dead)
            owned.append(actor.ctx._life.owned)

        for _ in range(3):
            await doer.tell(Do(watch))
        await trio.sleep(1)
        assert owned == [0, 0, 0]
        assert log == ["it was already dead"] * 3


async def test_an_actor_that_watches_the_dead_again_and_again_starves_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        dead = await sup.spawn(Doer, "dead")
        await sup.stop(dead)

        class Stubborn(Actor[Do]):
            heard = 0

            @on(Do)
            def do(self, m: Do) -> None:
                self.ctx.watch(dead)

            @on(Down)
            def down(self, m: Down) -> None:
                self.heard += 1
                if self.heard > 100_000:
                    raise RuntimeError("nobody else had a turn")
                self.ctx.watch(dead)

        stubborn = await sup.spawn(Stubborn, "stubborn", kind="temporary")
        await stubborn.tell(Do(id))
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        await sup.stop(stubborn)
        assert not [i.last_failure for i in system.tree()[0].children if i.last_failure]


@pytest.mark.parametrize("end", ["stop", "supervisor"])
async def test_a_failure_while_it_is_being_stopped_is_told(end: str, autojump_clock: trio.testing.MockClock) -> None:
    facts: list[Any] = []
    async with open_system(seed=0) as system:
        system.subscribe(facts.append)
        async with system.supervisor("s") as sup:

            async def fail_slowly(_: Any) -> None:
                await trio.sleep(1)
                raise ValueError("in the end")

            doer = await sup.spawn(Doer, "d")
            await doer.tell(DoAsync(fail_slowly))
            await trio.sleep(0.5)
            if end == "stop":
                await sup.stop(doer)
    assert ["ValueError: in the end" in str(f) for f in facts if isinstance(f, ActorFailed)] == [True]


async def test_a_crash_in_the_askers_task_is_told_though_a_stop_comes_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    facts: list[Any] = []
    async with open_system(seed=0) as system, system.supervisor("s") as sup, trio.open_nursery() as nursery:
        system.subscribe(facts.append)
        doer = await sup.spawn(Doer, "d")

        async def ask() -> None:
            with pytest.raises(ActorCrashedError, match="ValueError: no"):
                await doer.ask(Query(raises(ValueError("no"))), timeout=1)

        async def stop() -> None:
            while doer.cell.parked is not None:  # type: ignore[attr-defined]
                await trio.lowlevel.checkpoint()
            await sup.stop(doer)

        nursery.start_soon(stop)
        nursery.start_soon(ask)
    assert [f.path for f in facts if isinstance(f, ActorFailed)] == ["/s/d"]


async def test_a_refusal_counts_as_handled_wherever_it_was_made(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        doer = await sup.spawn(Doer, "d")
        for _ in range(3):
            with pytest.raises(RefusedError):
                await doer.ask(Query(raises(RefusedError("no"))), timeout=1)
        assert system.tree()[0].children[0].handled == 3


async def test_a_tell_that_is_cancelled_was_not_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log: list[Any] = []
        doer = await sup.spawn(lambda: Doer(log), "d", mailbox=Mailbox(1000))
        sent = 0
        with trio.CancelScope() as scope:
            scope.cancel()
            for number in range(200):
                await doer.tell(Note(number))
                sent += 1
        await trio.sleep(1)
        assert log == list(range(sent))


async def test_a_watch_whose_notice_fails_takes_no_other_notice_along(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        doer = await sup.spawn(Doer, "d")
        ends: list[str] = []
        system.watch(doer, raises(ValueError("a bad watcher")))
        system.watch(doer, ends.append)
        await sup.stop(doer)
        assert ends == ["it was stopped"]
        assert "a bad watcher" in capsys.readouterr().err


async def test_a_supervisor_opened_in_a_cancelled_scope_ends_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with system.supervisor("s"):
                raise AssertionError("the block was entered")  # pragma: no cover - what must not be
        assert scope.cancelled_caught
        assert not any(system.leftovers().values())


async def test_what_is_stashed_when_an_idle_actor_leaves_memory_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        log: list[str] = []

        def put_aside(actor: Doer) -> None:
            log.append("seen")
            if len(log) == 1:
                actor.ctx.stash()

        doer = await sup.spawn(Doer, "d", passivate=1)
        await doer.tell(Do(put_aside))
        await trio.sleep(10)
        assert log == ["seen", "seen"]


async def test_a_sender_to_many_starves_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup, trio.open_nursery() as nursery:
        refs = [await sup.spawn(Doer, f"d{number}") for number in range(500)]
        sent = 0
        passed: list[int] = []

        async def bystander() -> None:
            while sent < 5000:
                passed.append(sent)
                await trio.lowlevel.checkpoint()

        nursery.start_soon(bystander)
        await trio.lowlevel.checkpoint()
        for _ in range(10):
            for ref in refs:
                await ref.tell(Note(sent))
                sent += 1
        assert max(b - a for a, b in itertools.pairwise(passed)) <= 2 * BURST
