"""The stateful machine: it drives real actors, finds planted bugs, shrinks them, and says what went wrong."""

from __future__ import annotations

import gc
import threading
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
from hypothesis.stateful import Bundle, RuleBasedStateMachine, precondition, run_state_machine_as_test

import prime
from prime import Actor, Ask, Ref, on
from prime.errors import ActorUsageError, RestartLimitError
from prime.testing import ActorMachine, initialize, invariant, rule


@prime.message
class Put:
    key: str
    value: int


@prime.message
class Get(Ask[int | None]):
    key: str


@prime.message
class Drop:
    key: str


@prime.message
class Count(Ask[int]):
    pass


@prime.message
class Boom:
    pass


class Store(Actor[Put | Get | Drop | Boom]):
    def __init__(self) -> None:
        self.data: dict[str, int] = {}

    @on(Put)
    def put(self, m: Put) -> None:
        self.data[m.key] = m.value

    @on(Get)
    async def get(self, m: Get) -> int | None:
        await trio.lowlevel.checkpoint()
        return self.data.get(m.key)

    @on(Drop)
    def drop(self, m: Drop) -> None:
        self.data.pop(m.key, None)

    @on(Boom)
    def boom(self, _: Boom) -> None:
        raise ValueError("boom")


class Forgetful(Store):
    """The planted bug: dropping the third key that was put drops them all."""

    @on(Drop)
    def drop(self, m: Drop) -> None:
        if len(self.data) >= 3 and m.key in self.data:
            self.data.clear()
        self.data.pop(m.key, None)


KEYS = st.sampled_from("abcd")


class StoreMachine(ActorMachine):
    actor: type[Store] = Store

    async def started(self) -> None:
        self.model: dict[str, int] = {}
        self.store = await self.supervisor.spawn(self.actor, "store")

    @rule(key=KEYS, value=st.integers(0, 9))
    async def put(self, key: str, value: int) -> None:
        await self.store.tell(Put(key, value))
        self.model[key] = value

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    async def drop(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        await self.store.tell(Drop(key))
        del self.model[key]

    @rule(key=KEYS)
    async def get(self, key: str) -> None:
        assert await self.store.ask(Get(key), timeout=1) == self.model.get(key)

    @invariant()
    async def holds_what_the_model_holds(self) -> None:
        held = {key: await self.store.ask(Get(key), timeout=1) for key in "abcd"}
        assert {key: value for key, value in held.items() if value is not None} == self.model


class ForgetfulMachine(StoreMachine):
    actor = Forgetful


QUICK = hypothesis.settings(max_examples=25, stateful_step_count=15, deadline=None, database=None, derandomize=True)
SHRUNK = hypothesis.settings(QUICK, max_examples=100, phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])
ONCE = hypothesis.settings(QUICK, max_examples=1, stateful_step_count=3, phases=[hypothesis.Phase.generate])

TestStore: Any = StoreMachine.TestCase
TestStore.settings = QUICK


def run(machine: type[RuleBasedStateMachine], settings: hypothesis.settings = QUICK) -> None:
    run_state_machine_as_test(machine, settings=settings)


def test_it_finds_a_planted_bug_and_shrinks_it_to_its_four_steps() -> None:
    with pytest.raises(AssertionError) as caught:
        run(ForgetfulMachine, SHRUNK)
    steps = [note for note in caught.value.__notes__ if note.startswith("state.") and "holds_what" not in note]
    told = "\n".join(caught.value.__notes__)
    assert told.count("state.put(") == 3, told
    assert told.count("state.drop(") == 1, told
    assert "state.get(" not in told, told
    assert len(steps) <= 5, steps


def test_a_deadlock_ends_at_once_and_names_the_rule() -> None:
    class Waiting(ActorMachine):
        @rule()
        async def wait_for_ever(self) -> None:
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match="wait_for_ever still waited after 86400 virtual seconds"):
        run(Waiting)


def test_no_time_passes_between_rules_and_a_wait_takes_virtual_time() -> None:
    class Clocked(ActorMachine):
        async def started(self) -> None:
            self.expected = 0.0
            self.fired: list[float] = []
            fired = self.fired

            class Ticking(Actor[Boom]):
                async def started(self) -> None:
                    self.ctx.every(100, Boom())

                @on(Boom)
                def tick(self, _: Boom) -> None:
                    fired.append(self.ctx.now())

            await self.supervisor.spawn(Ticking, "ticking")

        @rule()
        async def nothing(self) -> None:
            await trio.lowlevel.checkpoint()

        @rule(seconds=st.integers(1, 90))
        async def sleep(self, seconds: int) -> None:
            await trio.sleep(seconds)
            self.expected += seconds

        @invariant()
        def time_is_what_was_slept(self) -> None:
            assert trio.current_time() == self.expected
            assert self.fired == [100.0 * i for i in range(1, len(self.fired) + 1)]
            assert len(self.fired) in (int(self.expected // 100), int(self.expected // 100) - 1)

    run(Clocked)


def test_an_actor_that_fails_fails_the_rule_with_its_death_notice() -> None:
    class Failing(ActorMachine):
        async def started(self) -> None:
            self.store = await self.supervisor.spawn(Store, "store")

        @rule()
        async def boom(self) -> None:
            await self.store.tell(Boom())
            await trio.sleep(1)

    with pytest.raises(AssertionError, match="/machine/store failed while handling Boom: ValueError: boom"):
        run(Failing)

    class Expecting(Failing):
        failures_expected = True

    run(Expecting)


def test_a_supervisor_that_gives_up_fails_the_rule() -> None:
    class GivingUp(ActorMachine):
        restart = prime.Restart(max=0)
        failures_expected = True

        async def started(self) -> None:
            self.store = await self.supervisor.spawn(Store, "store")

        @rule()
        async def boom(self) -> None:
            await self.store.tell(Boom())
            await trio.sleep(1)

    with pytest.raises(RestartLimitError, match="/machine gave up"):
        run(GivingUp)


def test_what_outlives_the_supervisor_is_a_leak() -> None:
    class Leaking(ActorMachine):
        @rule()
        async def set_a_timer_that_no_actor_owns(self) -> None:
            self.system.deadlines.at(trio.current_time() + 1e6, lambda: None)
            await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="leaves behind: 1 timers"):
        run(Leaking)


def test_a_failure_in_started_is_raised_and_nothing_goes_on() -> None:
    class Stillborn(ActorMachine):
        async def started(self) -> None:
            raise OSError("no room")

        @rule()
        async def nothing(self) -> None: ...

    with pytest.raises(OSError, match="no room"):
        run(Stillborn)


def test_bundles_initialisers_and_sync_rules_work_and_stopping_runs_last() -> None:
    log: list[str] = []

    class Bundled(ActorMachine):
        refs: Bundle[Ref[Any]] = Bundle("refs")

        async def started(self) -> None:
            log.append("started")
            self.count = 0

        @initialize(target=refs)
        async def first(self) -> Any:
            log.append("initialize")
            return await self.supervisor.spawn(Store, "first")

        @rule(target=refs)
        async def another(self) -> Any:
            self.count += 1
            return await self.supervisor.spawn(Store, f"store-{self.count}")

        @rule(ref=refs)
        def look(self, ref: Ref[Any]) -> None:
            assert self.system.whereis(ref.path) == ref

        async def stopping(self) -> None:
            assert len(self.system.tree()[0].children) == self.count + 1
            log.append("stopping")

    run(Bundled, ONCE)
    assert log == ["started", "initialize", "stopping"]


def test_one_seed_gives_one_order_of_events() -> None:
    orders: list[list[int]] = []

    class Racing(ActorMachine):
        @rule()
        async def race(self) -> None:
            order: list[int] = []

            async def run(number: int) -> None:
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
                    order.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(run, number)
            orders.append(order)

    run(Racing, ONCE)
    first = list(orders)
    orders.clear()
    run(Racing, ONCE)
    assert orders == first
    assert len({tuple(order) for order in orders}) > 1  # and it is an order among several


def test_no_threads_are_started_and_no_run_is_left() -> None:
    before = threading.active_count()
    run(StoreMachine, ONCE)
    assert threading.active_count() == before
    gc.collect()  # a run left half-way would warn here, which is an error in this suite
    with pytest.raises(RuntimeError, match="must be called from async context"):
        trio.lowlevel.current_task()


async def test_inside_another_trio_run_it_says_what_to_do() -> None:
    with pytest.raises(ActorUsageError, match="has its own Trio run"):
        StoreMachine()


def test_actors_that_use_threads_take_a_clock_that_waits_for_them() -> None:
    class Blocking(Actor[Count]):
        @on(Count, thread=True)
        def count(self, _: Count) -> int:
            return threading.get_ident()

    class Threaded(ActorMachine):
        idle_s = 1.0  # a loaded machine may take long to start a thread

        async def started(self) -> None:
            self.blocking = await self.supervisor.spawn(Blocking, "blocking")

        @rule()
        async def ask(self) -> None:
            assert await self.blocking.ask(Count(), timeout=5) != threading.get_ident()

    run(Threaded, ONCE)
