"""Supervisors: they own their children's tasks, restart them by a strategy, and stop them in reverse order.

Every child runs in its supervisor's nursery, so a task that outlives its supervisor cannot exist.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import attrs
import trio

from prime.actor.cell import Cell, Failure
from prime.actor.contract import ProcessOutput, ProcessSettings
from prime.actor.facts import ActorStarted, ActorStopped, SupervisorGaveUp
from prime.actor.mailbox import Mailbox
from prime.actor.pool import Pool
from prime.actor.ref import LocalRef, Ref
from prime.actor.restart import CHILD_KINDS, STRATEGIES, ChildKind, Restart, RestartWindow, Strategy, group_of
from prime.actor.restart import should_restart as comes_back
from prime.actor.routes import RoundRobin, Route
from prime.errors import ActorCrashedError, ActorUsageError, RestartLimitError

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.system import System

M_contra = TypeVar("M_contra", contravariant=True)

_MAILBOX = Mailbox()
_ROUTE = RoundRobin()


@attrs.define(slots=True, eq=False)
class Child:
    """One child as its supervisor sees it."""

    name: str
    cell: Cell
    factory: Callable[[], Actor[Any]]
    kind: ChildKind
    settled: trio.Event = attrs.field(factory=trio.Event)
    """Set once it has started for the first time, or is known never to."""
    attempted: trio.Event = attrs.field(factory=trio.Event)
    """Set when the present incarnation has started or ended."""
    failure: Failure | None = None
    running: bool = False
    expected: bool = False
    """Whether its supervisor asked it to end, so that the end is no event to decide on."""


@attrs.frozen
class _Ended:
    child: Child
    failure: Failure | None


@attrs.frozen
class _RestartDue:
    children: tuple[Child, ...]


class Supervisor:
    """Starts children, restarts them by its strategy, stops them in reverse order.

    Get one from `System.supervisor`. When children fail more often than `restart` allows, it stops them all and
    fails with `RestartLimitError`, which cancels the body of its `async with` block; on a failure that `restart`
    calls hopeless it fails with that.
    """

    def __init__(self, system: System, path: str, strategy: Strategy, restart: Restart) -> None:
        if strategy not in STRATEGIES:
            raise ActorUsageError(f"unknown strategy {strategy!r}", hint=f"one of {', '.join(STRATEGIES)}")
        self.system = system
        self.path = path
        self.strategy: Strategy = strategy
        self.restarts_max = restart.max
        self._hopeless = restart.hopeless
        self.state: Literal["running", "stopping", "dead"] = "running"
        self._window = RestartWindow(restart, system.random)
        self._children: list[Child] = []
        self._events: deque[_Ended | _RestartDue] = deque()
        self._news = trio.Event()
        self._closed = trio.Event()
        self._gave_up = False
        self._nursery: trio.Nursery | None = None
        self._pools: dict[str, Pool[Any]] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """Return the children in start order."""
        return tuple(self._children)

    async def spawn(
        self,
        factory: Callable[[], Actor[M_contra]],
        name: str,
        *,
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
    ) -> Ref[M_contra]:
        """Start a child and return its ref once its `started` has returned.

        `factory` makes a fresh actor for each incarnation. `kind`: permanent children always come back, transient
        ones after a failure, temporary ones never. `shutdown` bounds (in seconds) both the message in hand and
        `stopping` when it is stopped. Raises `ActorUsageError` (path taken, supervisor ending) and
        `ActorCrashedError` when it fails in `started` and is not restarted.
        """
        nursery = self._nursery
        if nursery is None or self.state != "running":
            raise ActorUsageError(f"the supervisor {self.path} is {self.state}", hint="spawn while it is running")
        if kind not in CHILD_KINDS:
            raise ActorUsageError(f"unknown child kind {kind!r}", hint=f"one of {', '.join(CHILD_KINDS)}")
        cell = Cell(self.system, f"{self.path}/{_checked(name)}", mailbox, shutdown)
        self.system.register(cell)
        child = Child(name, cell, factory, kind)
        self._children.append(child)
        self._begin(child)
        await self._until_settled(child)
        if self._gave_up and child.failure is not None:
            await trio.sleep_forever()  # the supervisor gave up: its error cancels this block, and says why
        if cell.state == "dead" and child.failure is not None:
            error = child.failure.error
            raise ActorCrashedError(
                f"{cell.path} could not start: {type(error).__name__}: {error}",
                hint="the death notice has the traceback",
                remote_traceback=child.failure.traceback,
            ) from error
        return LocalRef(cell)

    async def spawn_pool(
        self,
        factory: Callable[[], Actor[M_contra]],
        name: str,
        *,
        size: int,
        route: Route = _ROUTE,
        mailbox: Mailbox = _MAILBOX,
        worker_mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
    ) -> Ref[M_contra]:
        """Start `size` workers (`NAME-0` …) and a router `NAME` in front of them; returns the router's ref.

        A worker that fails restarts by this supervisor's strategy (alone, with `one_for_one`) and keeps its mailbox.
        `mailbox` is the router's, `worker_mailbox` each worker's; `kind` is the workers'. `stop` with the returned ref
        stops all of it, `resize` changes its size. Raises what `spawn` raises.
        """

        async def spawn_worker(worker: str) -> Ref[M_contra]:
            return await self.spawn(factory, worker, mailbox=worker_mailbox, kind=kind, shutdown=shutdown)

        pool = Pool(self, name, spawn_worker, shutdown)
        ref = await pool.open(size, route, mailbox, shutdown)
        self._pools[ref.path] = pool
        return ref

    async def resize(self, ref: Ref[Any], size: int) -> None:
        """Give a pool of this supervisor another size; who must leave first handles what it has, within `shutdown`.

        Raises `ActorUsageError` for a ref that is no pool's, or an impossible size.
        """
        pool = self._pools.get(ref.path)
        if pool is None:
            raise ActorUsageError(f"{ref.path} is no pool of {self.path}", hint="give the ref that spawn_pool returned")
        await pool.resize(size)

    @overload
    async def spawn_process(
        self,
        actor: Callable[..., Actor[M_contra]],
        name: str,
        *,
        args: Sequence[Any] = (),
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        starting: float = 60.0,
        silent: float = 30.0,
        output: ProcessOutput = "show",
        environment: Mapping[str, str] | None = None,
    ) -> Ref[M_contra]: ...

    @overload
    async def spawn_process(
        self,
        actor: str,
        name: str,
        *,
        args: Sequence[Any] = (),
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        starting: float = 60.0,
        silent: float = 30.0,
        output: ProcessOutput = "show",
        environment: Mapping[str, str] | None = None,
    ) -> Ref[Any]: ...

    async def spawn_process(
        self,
        actor: str | Callable[..., Actor[Any]],
        name: str,
        *,
        args: Sequence[Any] = (),
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        starting: float = 60.0,
        silent: float = 30.0,
        output: ProcessOutput = "show",
        environment: Mapping[str, str] | None = None,
    ) -> Ref[Any]:
        """As `spawn`, but the actor lives in a child process of its own, with its own interpreter and core.

        `actor` is a class or a function at the top of a module, or its name, `"module:factory"`; the child imports
        it and calls it with `args`: plain values and messages that have a tag. `starting` bounds the import and
        `started`; a process that gives no sign of life for `silent` seconds (a handler that computes longer on its
        event loop) is killed, as is one that has not stopped after `shutdown`. Every incarnation is a new process;
        when one dies its exit status, signal and last output are in the reason. `output="facts"` keeps what it
        prints from standard error. Raises what `spawn` raises, and `ActorUsageError` where the child could not
        import the factory or be sent the arguments.
        """
        host = self.system.process_host
        if host is None:
            raise ActorUsageError(
                "this system cannot start processes", hint="make it with prime.open_system, which can"
            )
        settings = ProcessSettings(shutdown, starting, silent, output, dict(environment or {}))
        factory = host.factory(actor, args, settings)
        return await self.spawn(factory, name, mailbox=mailbox, kind=kind, shutdown=shutdown)

    async def _until_settled(self, child: Child) -> None:
        try:
            await child.settled.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._halt(child)
            self._bury(child, "its spawn was cancelled")
            raise

    async def stop(self, ref: Ref[Any]) -> None:
        """Stop one child in order and for good; returns when it has ended. Unknown refs are ignored."""
        pool = self._pools.pop(ref.path, None)
        if pool is not None:
            await pool.close()
            return
        for child in self._children:
            if LocalRef(child.cell) == ref:
                await self._halt(child)
                self._bury(child, "it was stopped")
                return

    # ---------------------------------------------------------------- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled or out of restarts. `System.supervisor` calls it."""
        try:
            async with trio.open_nursery() as outer:
                self._nursery = await outer.start(self._host)
                task_status.started()
                try:
                    failed = await self._decide()
                    self._gave_up = True
                finally:
                    with trio.CancelScope(shield=True):
                        await self.close()
                    self._closed.set()
        finally:
            self.state = "dead"
            self._nursery = None
        raise failed

    async def _host(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Hold the children's nursery, shielded: a cancelled supervisor stops them in order, not all at once."""
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True
            task_status.started(nursery)
            await self._closed.wait()

    async def close(self) -> None:
        """Stop the children, last started first; each within its own shutdown time."""
        if self.state != "running":
            return
        self.state = "stopping"
        for child in reversed(self._children[:]):
            await self._halt(child)
            self._bury(child, f"its supervisor {self.path} stopped")

    async def _decide(self) -> Exception:
        """Handle the ends of children, one at a time, until one is hopeless or the restarts are used up."""
        while True:
            event = await self._next_event()
            if isinstance(event, _RestartDue):
                await self._restart(event.children)
                continue
            child, failure = event.child, event.failure
            if child not in self._children or child.cell.state == "restarting":
                continue
            if not comes_back(child.kind, failed=failure is not None):
                self._report(child, failure, "not restarted")
                self._bury(child, _reason(failure))
                continue
            if failure is not None and isinstance(failure.error, self._hopeless):
                self._report(child, failure, "a restart would not mend that: the supervisor gives up")
                return failure.error
            delay_s = self._window.next_delay_s(trio.current_time())
            if delay_s is None:
                return self._give_up(child, failure)
            await self._schedule(child, failure, delay_s)

    async def _next_event(self) -> _Ended | _RestartDue:
        while not self._events:
            self._news = trio.Event()
            await self._news.wait()
        return self._events.popleft()

    async def _schedule(self, child: Child, failure: Failure | None, delay_s: float) -> None:
        index = self._children.index(child)
        group = tuple(self._children[i] for i in group_of(self.strategy, index, len(self._children)))
        self._report(child, failure, f"restart in {delay_s:.2f} s ({self.strategy})")
        for member in reversed(group):
            if member is not child:
                await self._halt(member)
            if member in self._children:  # a stop may have buried it while others were halted
                member.cell.state = "restarting"
        self.system.deadlines.at(trio.current_time() + delay_s, lambda: self._post(_RestartDue(group)))

    async def _restart(self, group: tuple[Child, ...]) -> None:
        for child in group:
            if child in self._children and not child.running:
                child.cell.restarts += 1
                self._begin(child)
                await child.attempted.wait()

    def _give_up(self, child: Child, failure: Failure | None) -> RestartLimitError:
        reason = _reason(failure)
        self._report(child, failure, "the supervisor gives up")
        self.system.emit(SupervisorGaveUp(self.path, f"{child.cell.path}: {reason}"))
        return RestartLimitError(
            f"{self.path} gave up: {child.cell.path} failed once more after {self.restarts_max} restarts. "
            f"Last failure: {reason}",
            hint="mend the cause, or allow more with restart=Restart(max=..., within=...)",
        )

    # --------------------------------------------------------------- children

    def _begin(self, child: Child) -> None:
        assert self._nursery is not None  # noqa: S101 - a pair with `spawn`, which refuses before this
        child.running = True
        child.expected = False
        child.attempted = trio.Event()
        child.cell.may_live()
        child.cell.state = "starting"
        self._nursery.start_soon(self._live, child, self._nursery, name=child.cell.path)

    async def _live(self, child: Child, nursery: trio.Nursery) -> None:
        def started() -> None:
            child.failure = None
            self.system.emit(ActorStarted(child.cell.path, child.cell.restarts))
            child.settled.set()
            child.attempted.set()

        failure = None
        try:
            failure = await child.cell.live(child.factory, nursery, started)
        finally:
            child.running = False
            child.failure = failure
            child.attempted.set()
            if not child.expected and self.state == "running":
                self._post(_Ended(child, failure))

    def _post(self, event: _Ended | _RestartDue) -> None:
        """Queue a decision: at most one end and one restart for each child."""
        self._events.append(event)
        self._news.set()

    async def _halt(self, child: Child) -> None:
        child.expected = True
        if child.running:
            await child.cell.halt()

    def _bury(self, child: Child, reason: str) -> None:
        if child not in self._children:
            return
        self._children.remove(child)
        child.cell.die(reason)
        child.settled.set()
        self.system.unregister(child.cell)
        self.system.emit(ActorStopped(child.cell.path, reason))

    def _report(self, child: Child, failure: Failure | None, decision: str) -> None:
        if failure is not None:
            self.system.report_failure(child.cell, failure, decision)


def _reason(failure: Failure | None) -> str:
    return "it ended in order" if failure is None else f"{type(failure.error).__name__}: {failure.error}"


def _checked(name: str) -> str:
    if not name or "/" in name or name != name.strip():
        raise ActorUsageError(f"{name!r} cannot name an actor", hint="a non-empty name without '/'")
    return name
