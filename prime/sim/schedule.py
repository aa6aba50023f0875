"""Trio's scheduler, made repeatable: the one file that touches Trio's private parts.

A run is repeatable only if Trio's scheduler draws from a seeded generator *and* sorts each batch before it shuffles it;
the second is a flag that Trio has for Hypothesis alone. Holding a task back (a node that stands still) needs the run
queue. So the versions of Trio on which this was tried are named here, and others are refused when a simulation runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

import trio
from trio._core import _run as trio_run
from trio._core._run import CancelStatus
from trio.abc import Instrument
from trio.testing import MockClock

from prime.errors import UsageError

TRIO_FROM = (0, 31)
TRIO_BELOW = (0, 36)
"""The versions of Trio on which the simulator's own tests pass."""
PASSES_MAX = 50_000
"""Scheduler passes at one moment of virtual time, after which the simulated program is taken to spin for ever."""


_ONE = threading.Lock()
"""Held while a simulation runs: Trio's generator is the process's, so another would change what it draws."""


def check_trio(version: str) -> None:
    """Refuse a Trio that the simulator was not tried on; raises `UsageError`."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not TRIO_FROM <= numbers < TRIO_BELOW:
        low, high = (".".join(map(str, bound)) for bound in (TRIO_FROM, TRIO_BELOW))
        raise UsageError(
            f"the simulator needs Trio >= {low} and < {high}; this is Trio {version}",
            hint=f"pip install 'trio>={low},<{high}': it steers the scheduler, which other versions may have changed",
        )


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Make every choice of Trio's scheduler follow from the seed, for runs that begin inside the block."""
    check_trio(trio.__version__)
    if trio.lowlevel.in_trio_run():
        raise UsageError(
            "a simulation runs Trio by itself", hint="inside a Trio program: await sim.run_apart(seed, name)"
        )
    if not _ONE.acquire(blocking=False):
        raise UsageError(
            "a simulation runs in this process already", hint="run them one after the other, or sim.run_apart"
        )
    state, flag = trio_run._r.getstate(), trio_run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001 - see above
    trio_run._r.seed(seed)  # noqa: SLF001
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    try:
        yield
    finally:
        trio_run._r.setstate(state)  # noqa: SLF001
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = flag  # type: ignore[misc]  # noqa: SLF001
        _ONE.release()


def virtual_clock() -> MockClock:
    """Return virtual seconds from 0, which pass only when every task waits; the real clock is never read."""
    clock = MockClock(autojump_threshold=0.0)
    clock.current_time = lambda: clock._virtual_base  # type: ignore[method-assign]  # noqa: SLF001 - half the price
    return clock


class Scheduler(Instrument):
    """Steers the tasks of nodes. A node is the task that all its tasks descend from (`own`).

    Make it inside the run; `close` gives every task back.
    """

    def __init__(self, stuck: Callable[[], None]) -> None:
        self._runner = trio_run.GLOBAL_RUN_CONTEXT.runner
        self._stuck = stuck
        self._roots: dict[trio.lowlevel.Task, str] = {}
        self._held: dict[str, deque[trio.lowlevel.Task]] = {}
        self._alarms: dict[str, list[tuple[int, Callable[[], None]]]] = {}
        self._passes = 0
        self._pass_at = -1.0
        self._watch = _Watch(self)
        self._holder = _Holder(self)
        self._counter = _Counter(self)
        self._checker: _Checker | None = None
        trio.lowlevel.add_instrument(self._watch)

    def own(self, node: str) -> None:
        """Make the running task, and all that descend from it, the tasks of a node."""
        self._roots[trio.lowlevel.current_task()] = node

    def disown(self) -> None:
        """Make the running task no node any more."""
        self._roots.pop(trio.lowlevel.current_task(), None)

    def node_of(self, task: trio.lowlevel.Task | None) -> str | None:
        """Return the node that a task belongs to; `None` for the world's own."""
        while task is not None:
            node = self._roots.get(task)
            if node is not None:
                return node
            nursery = task.parent_nursery
            task = nursery.parent_task if nursery is not None else None
        return None

    # ---- standing still

    def hold(self, node: str) -> None:
        """Let no task of a node run until `release`."""
        if node in self._held:
            return
        if not self._held:
            trio.lowlevel.add_instrument(self._holder)
        held = self._held[node] = deque()
        ready = self._runner.runq
        for task in [task for task in ready if self.node_of(task) == node]:
            ready.remove(task)
            held.append(task)

    def release(self, node: str) -> None:
        """Let the tasks of a node run again, in the order in which they became ready."""
        held = self._held.pop(node, None)
        if held is None:
            return
        if not self._held:
            trio.lowlevel.remove_instrument(self._holder)
        self._runner.runq.extend(held)

    def scheduled(self, task: trio.lowlevel.Task) -> None:
        """Hold a task back that has just become ready, if its node stands still."""
        held = self._held.get(self.node_of(task) or "")
        if held is not None:
            self._runner.runq.remove(task)
            held.append(task)

    # ---- counting steps

    def after_steps(self, node: str, steps: int, act: Callable[[], None]) -> None:
        """Call `act` when the tasks of a node have run so many more steps from one await to the next; each call counts."""
        if not self._alarms:
            trio.lowlevel.add_instrument(self._counter)
        self._alarms.setdefault(node, []).append((max(steps, 1), act))

    def forget_steps(self, node: str) -> None:
        """Undo `after_steps`."""
        if self._alarms.pop(node, None) is not None and not self._alarms:
            trio.lowlevel.remove_instrument(self._counter)

    def stepped(self, task: trio.lowlevel.Task) -> None:
        """Count a step."""
        node = self.node_of(task)
        alarms = self._alarms.get(node) if node is not None else None
        if node is None or alarms is None:
            return
        self._alarms[node] = [(steps - 1, act) for steps, act in alarms if steps > 1]
        if not self._alarms[node]:
            self.forget_steps(node)
        for steps, act in alarms:
            if steps == 1:
                act()

    # ---- watching

    def each_step(self, check: Callable[[], None]) -> None:
        """Call `check` after every step of every task; a second call replaces the first."""
        if self._checker is not None:
            trio.lowlevel.remove_instrument(self._checker)
        self._checker = _Checker(check)
        trio.lowlevel.add_instrument(self._checker)

    def passed(self) -> None:
        """Count a scheduler pass, and say so when time does not go on."""
        now = self._runner.clock.current_time()
        if now != self._pass_at:
            self._pass_at, self._passes = now, 0
            return
        self._passes += 1
        if self._passes == PASSES_MAX:
            self._stuck()
        elif self._passes == 2 * PASSES_MAX:  # it was cancelled, and goes on under a shield
            self._break_shields()
        elif self._passes == 4 * PASSES_MAX:  # it takes no cancellation
            self._runner.clock.current_time = _hang  # type: ignore[method-assign]

    def _break_shields(self) -> None:
        for task in sorted(self._runner.tasks, key=lambda task: task._counter):  # noqa: SLF001 - see the module's text
            status: CancelStatus | None = task._cancel_status  # noqa: SLF001
            while status is not None:
                status._scope.shield = False  # noqa: SLF001
                status = status._parent  # noqa: SLF001

    def close(self) -> None:
        """Let every task run again and steer no more; that time goes on is watched to the end of the run."""
        for node in tuple(self._held):
            self.release(node)
        for node in tuple(self._alarms):
            self.forget_steps(node)
        if self._checker is not None:
            trio.lowlevel.remove_instrument(self._checker)
            self._checker = None


class HangError(Exception):
    """A simulated program that neither goes on nor takes a cancellation; Trio's run ends with it, in pieces."""


def _hang() -> float:
    raise HangError


class _Watch(Instrument):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        self._scheduler.passed()


class _Holder(Instrument):
    def __init__(self, scheduler: Scheduler) -> None:
        self.task_scheduled = scheduler.scheduled  # type: ignore[method-assign]


class _Counter(Instrument):
    def __init__(self, scheduler: Scheduler) -> None:
        self.after_task_step = scheduler.stepped  # type: ignore[method-assign]


class _Checker(Instrument):
    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's signature
        self._check()
