"""A stateful test of actors: Hypothesis' state machine, whose rules are async and run inside one Trio run.

::

    class Counting(ActorMachine):
        async def started(self):
            self.count = 0  # the model
            self.counter = await self.supervisor.spawn(Counter, "counter")

        @rule(by=st.integers(0, 9))
        async def add(self, by):
            await self.counter.tell(Add(by))
            self.count += by

        @invariant()
        async def counts(self):
            assert await self.counter.ask(Get(), timeout=1) == self.count

    TestCounting = Counting.TestCase

How it works: Trio runs as a guest of the thread that runs Hypothesis. Its loop is turned only while a rule waits, and
stands still between two, so a rule may draw data, one seed gives one order of events, and a failure shrinks. Each
example has a system and a virtual clock of its own. Needs Hypothesis.
"""

from __future__ import annotations

import functools
import inspect
import queue
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import outcome
import trio

from prime.actor import ActorFailed, Restart, Supervisor, System
from prime.errors import ActorUsageError, PrimeInternalError
from prime.node.system import open_system
from prime.testing.clock import settle, virtual_clock
from prime.testing.extras import needed_by
from prime.testing.leaks import check_nothing_left
from prime.testing.recorder import Facts

with needed_by(__name__):
    import hypothesis
    from hypothesis import stateful

F = TypeVar("F", bound=Callable[..., Any])

STALL_S = 60.0
"""Real seconds without any news of the event loop before a rule is given up: a net under a hang, not a deadline."""

__all__ = ["ActorMachine", "initialize", "invariant", "rule"]


def rule(**parameters: Any) -> Callable[[F], F]:
    """As `hypothesis.stateful.rule`, for an async or sync method of an `ActorMachine`."""
    return _marked(stateful.rule, parameters)


def initialize(**parameters: Any) -> Callable[[F], F]:
    """As `hypothesis.stateful.initialize`: a rule that runs once, before the others."""
    return _marked(stateful.initialize, parameters)


def invariant(*, check_during_init: bool = False) -> Callable[[F], F]:
    """As `hypothesis.stateful.invariant`: what must hold after each rule. It may ask actors."""
    return _marked(stateful.invariant, {"check_during_init": check_during_init})


def _marked(mark: Callable[..., Any], parameters: dict[str, Any]) -> Callable[[F], F]:
    def decorate(method: F) -> F:
        marked: F = mark(**parameters)(_in_trio(method))
        return marked

    return decorate


class ActorMachine(stateful.RuleBasedStateMachine):
    """Rules about actors. Override `started` to spawn them and to make the model; `stopping` to look once more.

    Every method marked with this module's `rule`, `initialize` or `invariant` runs inside Trio, with `self.system`,
    `self.supervisor` and `self.facts`. A rule that waits for more than `rule_s` virtual seconds fails, so a deadlock
    ends at once. An actor that fails fails the rule, unless `failures_expected`. At the end no actor, timer, ask or
    watch may be left.
    """

    seed: ClassVar[int] = 0
    """Seeds the system's randomness."""
    restart: ClassVar[Restart] = Restart(max=1_000_000)
    """How often the supervisor restarts its children before it gives up, which fails the rule."""
    rule_s: ClassVar[float] = 86_400.0
    idle_s: ClassVar[float] = 0.0
    """Real seconds without news before the clock jumps; above 0 where actors use threads."""
    failures_expected: ClassVar[bool] = False

    system: System
    supervisor: Supervisor
    facts: Facts

    def __init__(self) -> None:
        super().__init__()
        _make_order_repeatable()
        self._guest = _Guest(self._live, self.idle_s)
        self._spoilt = False
        try:
            self._in_guest(self.started)
        except BaseException:
            self._guest.end(quietly=True)
            raise

    async def started(self) -> None:
        """Run first in each example: spawn the actors, make the model."""

    async def stopping(self) -> None:
        """Run last in each example, if no rule has failed."""

    def teardown(self) -> None:
        """End the example: stop the actors in order, and see that nothing is left."""
        try:
            if not self._spoilt:
                self._in_guest(self.stopping)
        finally:
            self._guest.end(quietly=self._spoilt)

    # -------------------------------------------------------------- inside Trio

    async def _live(self, guest: _Guest) -> None:
        """Hold one system and its supervisor open for the length of an example."""
        async with open_system(seed=self.seed) as self.system:
            self.facts = Facts(self.system)
            async with self.system.supervisor("machine", restart=self.restart) as self.supervisor:
                await guest.serve()
            await settle()
            if not self._spoilt:
                check_nothing_left(self.system)

    async def _checked(self, method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        failed_before = len(self.facts.of(ActorFailed))
        with trio.move_on_after(self.rule_s) as scope:
            result = method(*arguments, **named)
            if inspect.isawaitable(result):
                result = await result
        if scope.cancelled_caught:
            raise AssertionError(f"{method.__name__} still waited after {self.rule_s:g} virtual seconds: a deadlock?")
        failures = self.facts.of(ActorFailed)[failed_before:]
        if failures and not self.failures_expected:
            raise AssertionError(f"an actor failed: {failures[0]}\n{failures[0].traceback}")
        return result

    # ----------------------------------------------------------------- outside

    def _in_guest(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a method inside Trio to its end, and return or raise what it does."""
        try:
            return self._guest.call(functools.partial(self._checked, method, arguments, named))
        except BaseException:
            self._spoilt = True
            raise


class _Guest:
    """A Trio run whose loop is turned by hand, in the caller's own thread.

    Between two calls its main task is always about to run, so the loop never finds every task waiting: the clock
    cannot jump then, and no thread is started to wait for I/O.
    """

    def __init__(self, live: Callable[[_Guest], Any], idle_s: float) -> None:
        self._ticks: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._call: Callable[[], Any] | None = None
        self._answers: list[outcome.Outcome[Any]] = []
        self._ended: outcome.Outcome[None] | None = None
        self._closing = False
        self._start(live, idle_s)

    def _start(self, live: Callable[[_Guest], Any], idle_s: float) -> None:
        try:
            trio.lowlevel.start_guest_run(
                live,
                self,
                run_sync_soon_threadsafe=self._ticks.put,
                done_callback=self._done,
                clock=virtual_clock(idle_s=idle_s),
            )
        except RuntimeError as error:
            raise ActorUsageError(
                "an ActorMachine has its own Trio run, and one is already running in this thread",
                hint="use `TestX = Machine.TestCase` or run_state_machine_as_test from a plain `def`",
            ) from error

    def call(self, function: Callable[[], Any]) -> Any:
        """Run an async function in the Trio run, turning the loop until it has ended; return or raise what it does.

        If the run itself ends under it, as when the supervisor gave up, that is raised.
        """
        self._call = function
        self._turn_until(lambda: bool(self._answers) or self._ended is not None)
        if self._answers:
            return self._answers.pop().unwrap()
        self._unwrap_end()
        raise PrimeInternalError("the machine's Trio run ended before its rule")

    def end(self, *, quietly: bool) -> None:
        """Leave the run in order and turn the loop until it is over; unless `quietly`, its failure is raised."""
        self._closing = True
        self._turn_until(lambda: self._ended is not None)
        if not quietly:
            self._unwrap_end()

    async def serve(self) -> None:
        """Run what is called, one after another, until the end."""
        while not self._closing:
            call, self._call = self._call, None
            if call is None:
                await trio.lowlevel.checkpoint()
            else:
                self._answers.append(await _captured(call))

    def _turn_until(self, done: Callable[[], bool]) -> None:
        while not done():
            try:
                tick = self._ticks.get(timeout=STALL_S)
            except queue.Empty:
                raise PrimeInternalError(f"the machine's event loop had no news for {STALL_S:g} s") from None
            tick()

    def _done(self, ended: outcome.Outcome[None]) -> None:
        self._ended = ended

    def _unwrap_end(self) -> None:
        if isinstance(self._ended, outcome.Error):
            raise self._ended.error


async def _captured(function: Callable[[], Any]) -> outcome.Outcome[Any]:
    """Return what a rule returned or raised, Hypothesis' own signals too; only a cancellation is Trio's."""
    try:
        return outcome.Value(await function())
    except trio.Cancelled:
        raise
    except BaseException as error:  # noqa: BLE001 - handed to the thread that called, whatever it is
        return outcome.Error(error)


def _in_trio(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: ActorMachine, *arguments: Any, **named: Any) -> Any:
        return self._in_guest(method, self, *arguments, **named)

    return run


def _make_order_repeatable() -> None:
    """Make Trio's order of tasks a matter of Hypothesis' seed. pytest-trio does the same, where it is installed."""
    hypothesis.register_random(trio._core._run._r)  # noqa: SLF001 - Trio offers it to Hypothesis by this name alone
    vars(trio._core._run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True  # noqa: SLF001 - the same
