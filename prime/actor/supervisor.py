"""Supervisors: they own their children's tasks, restart them by a strategy, and stop them in reverse order.

Every child runs in its supervisor's nursery, so a task that outlives its supervisor cannot exist. A child may be a
supervisor itself: one that gives up fails, and its parent decides in turn.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import attrs
import trio

from prime.actor.cell import BURST, Cell, TracedCell
from prime.actor.child import ActorChild, BranchChild, Child
from prime.actor.contract import ProcessOptions
from prime.actor.facts import ActorStopped, SupervisorGaveUp, words_of
from prime.actor.groups import one_error
from prime.actor.life import Failure, Order
from prime.actor.mailbox import Mailbox
from prime.actor.pool import Pool
from prime.actor.ref import LocalRef, Ref
from prime.actor.restart import CHILD_KINDS, STRATEGIES, ChildKind, Restart, RestartWindow, Strategy, group_of
from prime.actor.restart import should_restart as comes_back
from prime.actor.routes import RoundRobin, Route
from prime.errors import ActorCrashedError, ActorUsageError, RestartLimitError

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.deadlines import Timer
    from prime.actor.system import System

M_contra = TypeVar("M_contra", contravariant=True)

_MAILBOX = Mailbox()
_RESTART = Restart()
_ROUTE = RoundRobin()


@attrs.frozen
class _Ended:
    child: Child
    failure: Failure | None


@attrs.frozen(eq=False)
class _RestartDue:
    """A restart that a child may wait for; the latest one is what counts (`Child.due`)."""

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
        self.variables = contextvars.copy_context()
        """The context variables that its children see: those of whoever opened it."""
        self._hopeless = restart.hopeless
        self.state: Literal["running", "stopping", "dead"] = "running"
        self._window = RestartWindow(restart, system.random)
        self._children: dict[str, Child] = {}
        self._events: deque[_Ended | _RestartDue | ActorUsageError] = deque()
        self._news = trio.Event()
        self._closed = trio.Event()
        self._dead = trio.Event()
        self._gave_up = False
        self._restarts_due: dict[Timer, None] = {}
        self._nursery: trio.Nursery | None = None
        self._spawned = 0
        self._pools: dict[str, Pool[Any]] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """Return the children in start order."""
        return tuple(self._children.values())

    @property
    def children_nursery(self) -> trio.Nursery:
        """Return where the children's tasks run."""
        if self._nursery is None:
            raise ActorUsageError(f"the supervisor {self.path} is {self.state}", hint="spawn while it is running")
        return self._nursery

    @property
    def restarts_left(self) -> int:
        """Return how many restarts the window has room for now."""
        return self._window.left(trio.current_time())

    async def spawn(
        self,
        factory: Callable[[], Actor[M_contra]],
        name: str,
        *,
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        passivate: float | None = None,
        remote: tuple[type, ...] | None = None,
    ) -> Ref[M_contra]:
        """Start a child and return its ref once its `started` has returned.

        `factory` makes a fresh actor for each incarnation. `kind`: permanent children always come back, transient
        ones after a failure, temporary ones never. `shutdown` bounds (in seconds) both the message in hand and
        `stopping` when it is stopped. After `passivate` idle seconds its incarnation ends in order, and the next
        message starts another. `remote` names the message classes that other nodes may send to its path: all that
        have a tag by default, none with `()`, also through a ref that another node names; one that was handed out by `Ref.narrow` allows what it names.
        Raises `ActorUsageError` (path taken, supervisor ending) and `ActorCrashedError` when it fails in `started`
        and is not restarted.
        """
        self._check_place(kind, name)
        _check_spawn(factory, mailbox, shutdown)
        if passivate is not None and not passivate > 0:
            raise ActorUsageError(f"cannot passivate after {passivate:g} s", hint="give a time above 0")
        allowed = None if remote is None else frozenset(remote)
        new_cell = Cell if self.system.tracer is None else TracedCell
        cell = new_cell(self.system, f"{self.path}/{_checked(name)}", mailbox, shutdown, allowed)
        cell.passivate_s = passivate
        self.system.register(cell)
        child = ActorChild(self, name, kind, cell, factory)
        await self._start(child)
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
        restart: Restart = _RESTART,
        shutdown: float = 5.0,
    ) -> Ref[M_contra]:
        """Start `size` workers (`NAME-workers/0` …) and a router `NAME` in front of them; returns the router's ref.

        A worker that fails restarts alone and keeps its mailbox; past `restart` all of them start anew, and that
        counts as one restart here. `mailbox` is the router's, `worker_mailbox` each worker's; `kind` is the workers'.
        `stop` with the returned ref stops all of it, `resize` changes its size. With `system.in_process(Worker)` as the
        factory each worker has a process of its own. Raises what `spawn` raises.
        """

        async def spawn_worker(branch: Supervisor, worker: str) -> Ref[M_contra]:
            return await branch.spawn(factory, worker, mailbox=worker_mailbox, kind=kind, shutdown=shutdown)

        pool = Pool(self, name, spawn_worker, size, shutdown)
        ref = await pool.open(route, restart, mailbox, shutdown)
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
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        **options: Unpack[ProcessOptions],
    ) -> Ref[M_contra]: ...

    @overload
    async def spawn_process(
        self,
        actor: str,
        name: str,
        *,
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        **options: Unpack[ProcessOptions],
    ) -> Ref[Any]: ...

    async def spawn_process(
        self,
        actor: str | Callable[..., Actor[Any]],
        name: str,
        *,
        mailbox: Mailbox = _MAILBOX,
        kind: ChildKind = "permanent",
        shutdown: float = 5.0,
        **options: Unpack[ProcessOptions],
    ) -> Ref[Any]:
        """As `spawn`, but the actor lives in a child process: short for `spawn(system.in_process(actor), ...)`.

        See `System.in_process` for `actor` and its options. Every incarnation is a new process; when one dies, its
        exit status or signal and its last output are in the reason. One that has not stopped in order within
        `shutdown` is killed. Raises what `spawn` and `System.in_process` raise.
        """
        factory: Callable[[], Actor[Any]] = self.system.in_process(actor, **options)
        return await self.spawn(factory, name, mailbox=mailbox, kind=kind, shutdown=shutdown)

    async def spawn_supervisor(
        self,
        name: str,
        start: Callable[[Supervisor], Awaitable[object]],
        *,
        strategy: Strategy = "one_for_one",
        restart: Restart = _RESTART,
        kind: ChildKind = "permanent",
    ) -> None:
        """Start a supervisor as a child; returns once `start` has.

        `start(supervisor)` spawns its children, anew for each incarnation: they are fresh then, and refs to the
        earlier ones are dead. Past its own restarts it fails, and this supervisor decides by its strategy. Raises
        as `spawn`.
        """
        self._check_place(kind, name)
        path = f"{self.path}/{_checked(name)}"
        self.system.check_path(path)

        def make() -> Supervisor:
            return Supervisor(self.system, path, strategy, restart)

        make()  # a wrong strategy is the caller's mistake, not a failure to restart from
        await self._start(BranchChild(self, name, kind, path, make, start))

    async def stop(self, ref: Ref[Any]) -> None:
        """Stop one child in order and for good; returns when it has ended. Unknown refs are ignored.

        Whoever is cancelled here waits no longer, but the stop goes on.
        """
        pool = self._pools.pop(ref.path, None)
        if pool is not None:
            await self._see_through(pool.close)
            return
        child = self._child_of(ref)
        if child is not None:
            await self._see_through(self._end, child, "it was stopped")

    async def stop_supervisor(self, name: str) -> None:
        """Stop a supervisor that is a child, and its children first; an unknown name is ignored."""
        child = self._children.get(name)
        if isinstance(child, BranchChild):
            await self._see_through(self._end, child, "it was stopped")

    async def _see_through(self, end: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Wait for an end; cancelled, leave it to the supervisor: a child half stopped would be nobody's."""
        try:
            await end(*args)
        except trio.Cancelled:
            if self._nursery is not None:
                self._nursery.start_soon(end, *args)
            raise

    async def _end(self, child: Child, reason: str) -> None:
        await self._halt(child)
        self._bury(child, reason)

    def suspend(self, ref: Ref[Any]) -> None:
        """Let a child finish the message in hand and handle only system messages from then on, until `resume`."""
        self._tell_system(ref, Order.SUSPEND)

    def resume(self, ref: Ref[Any]) -> None:
        """Let a suspended child go on."""
        self._tell_system(ref, Order.RESUME)

    def _tell_system(self, ref: Ref[Any], word: Order) -> None:
        child = self._child_of(ref)
        if child is None:
            raise ActorUsageError(f"{ref.path} is no child of {self.path}", hint="ask the supervisor that spawned it")
        child.cell.put_system(word)

    def _child_of(self, ref: Ref[Any]) -> ActorChild | None:
        child = self._children.get(ref.path.rpartition("/")[2])
        return child if isinstance(child, ActorChild) and LocalRef(child.cell) == ref else None

    # ---------------------------------------------------------------- starting

    def _check_place(self, kind: ChildKind, name: str) -> None:
        if self._nursery is None or self.state != "running":
            raise ActorUsageError(f"the supervisor {self.path} is {self.state}", hint="spawn while it is running")
        if kind not in CHILD_KINDS:
            raise ActorUsageError(f"unknown child kind {kind!r}", hint=f"one of {', '.join(CHILD_KINDS)}")
        if name in self._children:  # a supervisor that waits for its restart is registered nowhere else
            raise ActorUsageError(f"{self.path}/{name} already runs", hint="choose another name, or stop it first")

    async def _start(self, child: Child) -> None:
        """Start a child for the first time and wait until it is known whether it lives."""
        self._children[child.name] = child
        child.begin()
        if child.started_once:
            await self._breathe(child)
            return
        if child.settled is None:
            child.settled = trio.Event()
        await self._until_settled(child)
        if self._gave_up:
            await self._dead.wait()  # its error cancels its block, and says why
            await trio.lowlevel.checkpoint()
        if not child.started_once:
            raise _stillborn(child) from (child.failure.error if child.failure is not None else None)

    async def _breathe(self, child: Child) -> None:
        """Give others a turn every `BURST` spawns that needed none."""
        self._spawned += 1
        try:
            if self._spawned % BURST:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            await self._give_back(child)
            raise

    async def _until_settled(self, child: Child) -> None:
        assert child.settled is not None  # noqa: S101 - a pair with `_start`, which makes it
        try:
            await child.settled.wait()
        except trio.Cancelled:
            await self._give_back(child)
            raise

    async def _give_back(self, child: Child) -> None:
        """Undo a spawn that was cancelled."""
        with trio.CancelScope(shield=True):
            await self._halt(child)
        self._bury(child, "its spawn was cancelled")

    # ---------------------------------------------------------------- running

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Supervise for the length of the block; its children stop, last first, at the end.

        Raises `RestartLimitError` when they fail too often, and a hopeless failure as it is.
        """
        self.system.add_supervisor(self)
        try:
            async with one_error(), trio.open_nursery() as nursery:
                await nursery.start(self._run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.system.remove_supervisor(self)

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as outer:
                with trio.CancelScope(shield=True):  # it does not wait; cancelled half-way, it would wait for ever
                    self._nursery = await outer.start(self._host)
                task_status.started()
                try:
                    failed = await self._decide()
                    self._gave_up = True
                finally:
                    try:
                        with trio.CancelScope(shield=True):
                            await self.close()
                    finally:
                        self._closed.set()
        finally:
            self.state = "dead"
            self._nursery = None
            self._dead.set()
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
        for timer in self._restarts_due:
            timer.cancel()
        reason = f"its supervisor {self.path} stopped"
        for event in self._events:
            if isinstance(event, _Ended):
                self._report(event.child, event.failure, f"none: {reason}")
        for count, child in enumerate(reversed(self.children), 1):
            await self._end(child, reason)
            if count % BURST == 0:
                await trio.lowlevel.checkpoint()

    async def _decide(self) -> Exception:
        """Handle the ends of children, one at a time, until one is hopeless or the restarts are used up."""
        while True:
            event = await self._next_event()
            if isinstance(event, ActorUsageError):
                await trio.lowlevel.checkpoint_if_cancelled()  # a supervisor that is being cancelled ends in order
                return event
            if isinstance(event, _RestartDue):
                await self._restart(event)
                continue
            child, failure = event.child, event.failure
            if not self._owns(child) or child.due is not None or child.running:
                self._report(child, failure, "none: its stop, or its restart with others, came first")
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

    def _owns(self, child: Child) -> bool:
        return self._children.get(child.name) is child

    async def _next_event(self) -> _Ended | _RestartDue | ActorUsageError:
        while not self._events:
            self._news = trio.Event()
            await self._news.wait()
        return self._events.popleft()

    async def _schedule(self, child: Child, failure: Failure | None, delay_s: float) -> None:
        group = self._group(child)
        self._report(child, failure, f"restart in {delay_s:.2f} s ({self.strategy})")
        restart = _RestartDue(group)
        for member in reversed(group):
            if member is not child:
                await self._halt(member)
            if not comes_back(member.kind, failed=True):
                self._bury(member, f"it ended with {child.path}, and a temporary child never comes back")
            elif self._owns(member):  # a stop may have buried it while others were halted
                member.note_restarting(restart)
        self._restart_later(restart, delay_s)

    def _restart_later(self, restart: _RestartDue, delay_s: float) -> None:
        """Post the restart in `delay_s`, unless this supervisor ends first."""

        def due() -> None:
            self._restarts_due.pop(timer, None)
            self._post(restart)

        timer = self.system.deadlines.at(trio.current_time() + delay_s, due)
        self._restarts_due[timer] = None

    def _group(self, child: Child) -> tuple[Child, ...]:
        """Return who restarts with a child, in start order."""
        if self.strategy == "one_for_one":
            return (child,)
        children = self.children
        return tuple(children[i] for i in group_of(self.strategy, children.index(child), len(children)))

    async def _restart(self, restart: _RestartDue) -> None:
        """Start those who wait for this restart, each once the one before it is up."""
        for place, child in enumerate(restart.children, 1):
            if not self._owns(child) or child.due is not restart:
                continue  # stopped since, or a later restart takes it along
            child.note_restart()
            child.attempted = trio.Event()
            child.begin()
            await child.attempted.wait()
            if child.failure is not None:
                self._put_off(restart, restart.children[place:])
                return

    def _put_off(self, restart: _RestartDue, rest: tuple[Child, ...]) -> None:
        """Start the rest after the decision about the one before them; as a rule it takes them along."""
        later = _RestartDue(rest)
        for child in rest:
            if child.due is restart:
                child.due = later
        self._post(later)

    def _give_up(self, child: Child, failure: Failure | None) -> RestartLimitError:
        reason = _reason(failure)
        self._report(child, failure, "the supervisor gives up")
        self.system.emit(SupervisorGaveUp(self.path, f"{child.path}: {reason}"))
        return RestartLimitError(
            f"{self.path} gave up: {child.path} failed once more after {self.restarts_max} restarts. "
            f"Last failure: {reason}",
            hint="mend the cause, or allow more with restart=Restart(max=..., within=...)",
        )

    def outlive(self) -> None:
        """Hear that the system has ended while this supervisor runs: it stops its children and fails."""
        self._post(
            ActorUsageError(
                f"the system of {self.path} ended before it",
                hint="open supervisors inside the block of open_system, or in a nursery inside it",
            )
        )

    # --------------------------------------------------------------- children

    def child_ended(self, child: Child, failure: Failure | None) -> None:
        """See `Parent.child_ended`."""
        if child.expected or self.state != "running":
            self._report(child, failure, "none: it was being stopped")
        else:
            self._post(_Ended(child, failure))

    def _post(self, event: _Ended | _RestartDue | ActorUsageError) -> None:
        """Queue a decision: at most one end and one restart for each child."""
        self._events.append(event)
        self._news.set()

    async def _halt(self, child: Child) -> None:
        if not child.halt_nowait():
            await child.halt()

    def _bury(self, child: Child, reason: str) -> None:
        if not self._owns(child):
            return
        del self._children[child.name]
        child.die(reason)
        if child.settled is not None:
            child.settled.set()
        if self.system.observed:
            self.system.emit(ActorStopped(child.path, reason))

    def _report(self, child: Child, failure: Failure | None, decision: str) -> None:
        if failure is not None:
            self.system.report_failure(child.path, failure, decision)


def _reason(failure: Failure | None) -> str:
    return "it ended in order" if failure is None else words_of(failure.error)


def _stillborn(child: Child) -> ActorCrashedError:
    if child.failure is None:
        return ActorCrashedError(
            f"{child.path} was stopped before it had started", hint="its supervisor ended, or someone stopped it"
        )
    error = child.failure.error
    return ActorCrashedError(
        f"{child.path} could not start: {words_of(error)}",
        hint="the death notice has the traceback",
        remote_traceback=child.failure.traceback,
    )


def _check_spawn(factory: object, mailbox: object, shutdown_s: object) -> None:
    """Refuse what would only show when the actor is made, or is stopped: a stop without a bound would never end."""
    if not callable(factory):
        raise ActorUsageError(
            f"a {type(factory).__name__} makes no actor", hint="give its class, or a function that makes one each time"
        )
    if not isinstance(mailbox, Mailbox):
        raise ActorUsageError(f"{mailbox!r} is no mailbox", hint="Mailbox(capacity, full=...)")
    if not isinstance(shutdown_s, int | float) or not shutdown_s >= 0:
        raise ActorUsageError(f"cannot stop within shutdown={shutdown_s!r} s", hint="give a time of 0 or more")


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name or "/" in name or "!" in name or name != name.strip():  # type: ignore[redundant-expr]
        raise ActorUsageError(f"{name!r} cannot name an actor", hint="a non-empty name without '/' and '!'")
    return name
