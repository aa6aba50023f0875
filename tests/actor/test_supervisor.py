"""Supervision: strategies, intensity, backoff, order of start and stop, cancellation."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prime.actor import Actor, ActorFailed, Restart, on
from prime.actor.restart import RestartWindow, group_of, should_restart
from prime.errors import ActorCrashedError, ActorUsageError, RestartLimitError
from prime.node.system import open_system
from prime.wire import Ask


@attrs.frozen
class Boom:
    pass


@attrs.frozen
class Leave:
    pass


@attrs.frozen
class Ping(Ask[int]):
    pass


class Part(Actor[Boom | Leave | Ping]):
    """Logs its life into a list that the test owns."""

    def __init__(self, name: str, log: list[str], *, fail_starts: int = 0) -> None:
        self.name, self.log, self.fail_starts = name, log, fail_starts

    async def started(self) -> None:
        self.log.append(f"+{self.name}")
        if self.log.count(f"+{self.name}") <= self.fail_starts:
            raise OSError("cannot start")

    async def stopping(self) -> None:
        await trio.sleep(0.5)
        self.log.append(f"-{self.name}")

    @on(Boom)
    def boom(self, _: Boom) -> None:
        raise ValueError("boom")

    @on(Leave)
    def leave(self, _: Leave) -> None:
        self.ctx.stop()

    @on(Ping)
    def ping(self, _: Ping) -> int:
        return 1


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["-b", "+b"]),
        ("one_for_all", ["-b", "-c", "-a", "+a", "+b", "+c"]),
        ("rest_for_one", ["-b", "-c", "+b", "+c"]),
    ],
)
async def test_strategy(strategy: Any, expected: list[str], autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_system(seed=0) as system, system.supervisor("s", strategy=strategy) as sup:
        refs = {name: await sup.spawn(lambda name=name: Part(name, log), name) for name in "abc"}
        assert log == ["+a", "+b", "+c"]
        log.clear()
        await refs["b"].tell(Boom())
        await trio.sleep(10)
        assert log == expected
        for ref in refs.values():
            assert await ref.ask(Ping(), timeout=1) == 1
        log.clear()
    assert log == ["-c", "-b", "-a"]


async def test_intensity_exceeded_stops_the_rest_and_cancels_the_body(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    facts: list[Any] = []
    with pytest.raises(RestartLimitError, match="/s gave up: /s/a failed once more after 2 restarts") as caught:
        async with open_system(seed=0) as system:
            system.subscribe(facts.append)
            async with system.supervisor("s", restart=Restart(max=2, within=60)) as sup:
                part = await sup.spawn(lambda: Part("a", log), "a")
                await sup.spawn(lambda: Part("b", log), "b")
                for _ in range(9):
                    await part.tell(Boom())
                await trio.sleep_forever()
    assert caught.value.hint
    assert log.count("+a") == 3
    assert log[-1] == "-b"
    notices = [fact for fact in facts if isinstance(fact, ActorFailed)]
    assert [n.decision.split()[0] for n in notices] == ["restart", "restart", "the"]
    assert "/s/a failed while handling Boom: ValueError: boom" in str(notices[0])


async def test_a_hopeless_failure_ends_the_supervisor_at_once_with_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log: list[str] = []
    facts: list[Any] = []
    with pytest.raises(ValueError, match="^boom$"):
        async with open_system(seed=0) as system:
            system.subscribe(facts.append)
            async with system.supervisor("s", restart=Restart(max=5, within=60, hopeless=(ValueError,))) as sup:
                part = await sup.spawn(lambda: Part("a", log, fail_starts=1), "a")  # an OSError: not hopeless
                await part.tell(Boom())
                await trio.sleep_forever()
    assert log.count("+a") == 2
    assert [f.decision.split()[0] for f in facts if isinstance(f, ActorFailed)] == ["restart", "a"]


async def test_failures_far_apart_never_exhaust_the_window(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=2, within=10)) as sup:
        part = await sup.spawn(lambda: Part("a", log), "a")
        for _ in range(20):
            await part.tell(Boom())
            await trio.sleep(11)
        assert await part.ask(Ping(), timeout=1) == 1


async def test_a_failure_in_started_is_the_supervisors_to_decide(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        part = await sup.spawn(lambda: Part("a", log, fail_starts=2), "a")
        assert await part.ask(Ping(), timeout=1) == 1
        assert log.count("+a") == 3
        with pytest.raises(ActorCrashedError, match="could not start: OSError: cannot start"):
            await sup.spawn(lambda: Part("b", log, fail_starts=9), "b", kind="temporary")
        assert system.whereis("/s/b") is None


async def test_a_factory_that_raises_is_a_failure_too(autojump_clock: trio.testing.MockClock) -> None:
    def factory() -> Part:
        raise OSError("no such disk")

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        with pytest.raises(ActorCrashedError, match="no such disk"):
            await sup.spawn(factory, "a", kind="temporary")


@pytest.mark.parametrize(
    ("kind", "after_leave", "after_boom"),
    [("permanent", 2, 2), ("transient", 1, 2), ("temporary", 1, 1)],
)
async def test_child_kinds(
    kind: Any, after_leave: int, after_boom: int, autojump_clock: trio.testing.MockClock
) -> None:
    for message, expected in ((Leave(), after_leave), (Boom(), after_boom)):
        log: list[str] = []
        async with open_system(seed=0) as system, system.supervisor("s") as sup:
            part = await sup.spawn(lambda log=log: Part("a", log), "a", kind=kind)
            await part.tell(message)
            await trio.sleep(10)
            assert log.count("+a") == expected
            assert (system.whereis("/s/a") is None) == (expected == 1)


async def test_two_crashing_at_once_under_one_for_all_restart_once(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_system(seed=0) as system, system.supervisor("s", strategy="one_for_all") as sup:
        a = await sup.spawn(lambda: Part("a", log), "a")
        b = await sup.spawn(lambda: Part("b", log), "b")
        a.tell_nowait(Boom())
        b.tell_nowait(Boom())
        await trio.sleep(10)
        assert (log.count("+a"), log.count("+b")) == (2, 2)


async def test_a_stop_is_bounded_by_the_shutdown_time(autojump_clock: trio.testing.MockClock) -> None:
    class Stubborn(Actor[Boom]):
        async def stopping(self) -> None:
            await trio.sleep_forever()

        @on(Boom)
        async def boom(self, _: Boom) -> None:
            await trio.sleep_forever()

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        ref = await sup.spawn(Stubborn, "a", shutdown=2)
        await ref.tell(Boom())
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await sup.stop(ref)
        assert trio.current_time() - started == pytest.approx(4)


async def test_cancelling_the_block_stops_in_reverse_order(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_system(seed=0) as system:
        with trio.move_on_after(1):
            async with system.supervisor("s") as sup:
                for name in "abc":
                    await sup.spawn(lambda name=name: Part(name, log), name)
                await trio.sleep_forever()
        assert log[3:] == ["-c", "-b", "-a"]
        assert system.whereis("/s/a") is None
        async with system.supervisor("s"):
            pass


async def test_a_cancelled_spawn_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    class Forever(Actor[Boom]):
        async def started(self) -> None:
            await trio.sleep_forever()

        @on(Boom)
        def boom(self, _: Boom) -> None: ...

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        with trio.move_on_after(1) as scope:
            await sup.spawn(Forever, "a", shutdown=1)
        assert scope.cancelled_caught
        assert sup.children == ()
        assert system.whereis("/s/a") is None


async def test_the_bodys_own_error_comes_out_unwrapped(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system:
        with pytest.raises(ZeroDivisionError):
            async with system.supervisor("s") as sup:
                await sup.spawn(lambda: Part("a", []), "a")
                raise ZeroDivisionError
        with pytest.raises(ActorUsageError, match="is dead"):
            await sup.spawn(lambda: Part("a", []), "a")


@given(
    max_restarts=st.integers(0, 5),
    gaps=st.lists(st.floats(0, 20, allow_nan=False), max_size=40),
    seed=st.integers(0, 9),
)
def test_the_window_equals_its_reference(max_restarts: int, gaps: list[float], seed: int) -> None:
    restart = Restart(max=max_restarts, within=10, backoff=(0.5, 4))
    window = RestartWindow(restart, Random(seed))
    now, granted = 0.0, list[float]()
    for gap in gaps:
        now += gap
        recent = [time for time in granted if time > now - 10]
        delay = window.next_delay_s(now)
        if len(recent) >= max_restarts:
            assert delay is None
        else:
            assert delay is not None
            longest = min(0.5 * 2 ** len(recent), 4)
            assert longest / 2 <= delay <= longest
            granted.append(now)


@given(st.integers(0, 5), st.integers(1, 6))
def test_groups_hold_the_failed_child(index: int, count: int) -> None:
    index = min(index, count - 1)
    assert list(group_of("one_for_one", index, count)) == [index]
    assert list(group_of("one_for_all", index, count)) == list(range(count))
    assert list(group_of("rest_for_one", index, count)) == list(range(index, count))
    assert should_restart("transient", failed=True)
    assert not should_restart("transient", failed=False)


async def test_a_child_cancelled_at_its_stop_lives_again_after_the_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stuck(Actor[Boom | Ping]):
        @on(Boom)
        async def boom(self, _: Boom) -> None:
            await trio.sleep_forever()

        @on(Ping)
        def ping(self, _: Ping) -> int:
            return 2

    log: list[str] = []
    async with open_system(seed=0) as system, system.supervisor("s", strategy="one_for_all") as sup:
        stuck = await sup.spawn(Stuck, "stuck", shutdown=1)
        part = await sup.spawn(lambda: Part("a", log), "a")
        await stuck.tell(Boom())
        await trio.testing.wait_all_tasks_blocked()
        await part.tell(Boom())
        await trio.sleep(10)
        assert await stuck.ask(Ping(), timeout=1) == 2
        assert system.tree()[0].children[0].restarts == 1  # the stop it never heard was not meant for this life


async def test_a_spawn_cancelled_at_once_leaves_no_zombie(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_system(seed=0) as system, system.supervisor("s") as sup:
            for _ in range(50):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await sup.spawn(lambda: Part("a", []), "a", shutdown=1)
                assert scope.cancelled_caught
                assert sup.children == ()
                assert system.whereis("/s/a") is None


async def test_giving_up_while_a_spawn_waits_is_one_error(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(RestartLimitError, match="/s gave up"):
        async with open_system(seed=0) as system, system.supervisor("s", restart=Restart(max=1)) as sup:
            await sup.spawn(lambda: Part("a", [], fail_starts=9), "a")


async def test_a_stopped_child_stays_dead_when_its_group_restarts(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []
    async with open_system(seed=0) as system, system.supervisor("s", strategy="one_for_all") as sup:
        a = await sup.spawn(lambda: Part("a", log), "a")
        b = await sup.spawn(lambda: Part("b", log), "b")
        await b.tell(Boom())
        await trio.sleep(0.7)  # b is down, a is being halted or waits for its restart
        await sup.stop(a)
        await trio.sleep(10)
        assert system.whereis("/s/a") is None
        assert await b.ask(Ping(), timeout=1) == 1


async def test_an_observer_that_raises_is_dropped_and_nothing_else(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Any) -> None:
        raise OSError("disk full")

    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        unsubscribe = system.subscribe(broken)
        part = await sup.spawn(lambda: Part("a", []), "a")
        assert await part.ask(Ping(), timeout=1) == 1
        unsubscribe()
    assert capsys.readouterr().err.count("disk full") == 1


async def test_a_restart_that_is_due_ends_with_its_supervisor(autojump_clock: trio.testing.MockClock) -> None:
    async with open_system(seed=0) as system:
        async with system.supervisor("s", restart=Restart(backoff=(60, 60))) as sup:
            await (await sup.spawn(lambda: Part("a", []), "a")).tell(Boom())
            await trio.sleep(1)
            assert len(system.deadlines) == 1
        assert len(system.deadlines) == 0


class Untidy(Actor[Ping]):
    """Its goodbye takes too long, and fails in a task of its own when it is cut off."""

    @on(Ping)
    def ping(self, _: Ping) -> int:
        return 1

    async def stopping(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(self.fail_late)

    async def fail_late(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("too late")


async def test_a_goodbye_that_fails_when_it_is_cut_off_takes_nothing_along(
    autojump_clock: trio.testing.MockClock,
) -> None:
    facts: list[Any] = []
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        system.subscribe(facts.append)
        sibling = await sup.spawn(lambda: Part("a", []), "a")
        untidy = await sup.spawn(Untidy, "untidy", shutdown=1)
        assert await untidy.ask(Ping(), timeout=1) == 1
        await sup.stop(untidy)
        assert await sibling.ask(Ping(), timeout=1) == 1
        assert system.leftovers()["actors"] == 1
    assert [(f.path, f.last_message) for f in facts if isinstance(f, ActorFailed)] == [("/s/untidy", "stopping()")]


@pytest.mark.parametrize("made", [None, Ping()])
async def test_a_factory_that_makes_no_actor_is_named(made: Any, autojump_clock: trio.testing.MockClock) -> None:
    restart = Restart(max=0)
    with pytest.raises(RestartLimitError, match=f"returned a {type(made).__name__}, which is no actor"):
        async with open_system(seed=0) as system, system.supervisor("s", restart=restart) as sup:
            await sup.spawn(lambda: made, "made")
