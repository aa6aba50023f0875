"""A cell: the lasting identity of one local actor (path, mailbox, watchers) across its incarnations.

The hot path lives here: a deque, one parked task rescheduled directly, a dispatch dictionary, sync handlers called
without a coroutine, and a checkpoint every `BURST` messages, so that fairness is bounded and not lost.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio

from prime.actor.facts import kind_of
from prime.actor.mailbox import Envelope, Mailbox
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    DeadlineError,
    MailboxFullError,
    NoSuchActorError,
    NotFoundError,
    RefusedError,
)

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.system import System

BURST = 64
"""Messages handled, or sent, between two checkpoints."""

State = Literal["starting", "running", "stopping", "restarting", "dead"]

ANSWERS = (RefusedError, NotFoundError)
"""Errors that a handler of an ask may raise as its answer; anything else is a crash."""


@attrs.define(slots=True)
class Failure:
    """Why an incarnation ended in a failure."""

    error: Exception
    last_message: str
    traceback: str


class Cell:
    """One local actor, from its spawn to its death."""

    def __init__(self, system: System, path: str, mailbox: Mailbox, shutdown_s: float) -> None:
        self.system = system
        self.path = path
        self.mailbox = mailbox
        self.shutdown_s = shutdown_s
        self.state: State = "starting"
        self.actor: Actor[Any] | None = None
        self.queue: deque[Any] = deque()
        self.system_queue: deque[Any] = deque()
        self.task: trio.lowlevel.Task | None = None
        self.handled = 0
        self.restarts = 0
        self.started_at = trio.current_time()
        self.last_failure = ""
        self._capacity = mailbox.capacity
        self._sends = 0
        self._parked: trio.lowlevel.Task | None = None
        self._waiting: deque[tuple[trio.lowlevel.Task, Any]] = deque()
        self._watchers: dict[int, Callable[[str], None]] = {}
        self._watch_count = 0
        self._now: Any = None
        self._side: _SideTasks | None = None
        self._scope: trio.CancelScope | None = None
        self._ended: trio.Event | None = None
        self._halted = False
        self._releases: dict[int, Callable[[], None]] = {}
        self._held = False

    # ---------------------------------------------------------------- sending

    def put_nowait(self, entry: Any) -> bool:
        """Queue a message or an envelope; `False` when a `wait` mailbox is full."""
        if self.state == "dead":
            self.bury(entry, "the actor is dead")
            return True
        if len(self.queue) >= self._capacity and not self._make_room(entry):
            return self.mailbox.full != "wait"
        self.queue.append(entry)
        if self._parked is not None:
            self._wake()
        return True

    async def put(self, entry: Any) -> None:
        """As `put_nowait`, but waits for room; senders get room in the order they came."""
        if self._waiting or not self.put_nowait(entry):
            await self._wait_for_room(entry)
            return
        self._sends += 1
        if self._sends >= BURST:
            self._sends = 0
            await trio.lowlevel.checkpoint()

    def put_system(self, entry: Any) -> None:
        """Queue a system message (`Down`, stop): it overtakes, and no policy drops it."""
        if self.state == "dead":
            return
        self.system_queue.append(entry)
        if self._parked is not None:
            self._wake()

    @property
    def has_room(self) -> bool:
        """Tell whether one more entry would be taken at once, and is nobody else's turn."""
        if self.mailbox.full.startswith("drop"):
            return True
        return len(self.queue) < self._capacity and not self._waiting

    @property
    def load(self) -> int:
        """Return how many messages wait or are in hand."""
        return len(self.queue) + len(self._waiting) + (self._now is not None)

    def _make_room(self, entry: Any) -> bool:
        match self.mailbox.full:
            case "reject":
                raise MailboxFullError(
                    f"the mailbox of {self.path} is full ({self._capacity} messages)",
                    hint="send slower, raise its capacity, or use full='wait'",
                )
            case "drop_oldest":
                self.bury(self.queue.popleft(), "the mailbox was full (drop_oldest)")
                return True
            case "drop_newest":
                self.bury(entry, "the mailbox was full (drop_newest)")
        return False

    async def _wait_for_room(self, entry: Any) -> None:
        waiting = (trio.lowlevel.current_task(), entry)
        self._waiting.append(waiting)

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._waiting.remove(waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _admit(self) -> None:
        while self._waiting and len(self.queue) < self._capacity:
            task, entry = self._waiting.popleft()
            self.queue.append(entry)
            trio.lowlevel.reschedule(task)

    def bury(self, entry: Any, reason: str) -> None:
        """Turn a queued entry into a dead letter; an ask among them fails."""
        message = entry
        if type(entry) is Envelope:
            message = entry.message
            if entry.slot is not None:
                entry.slot.fail(NoSuchActorError(f"{self.path}: {reason}", hint="watch the ref to hear when it ends"))
        self.system.dead_letter(self.path, message, reason)

    # --------------------------------------------------------------- watching

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` once, when this actor ends for good; returns the unwatch."""
        if self.state == "dead":
            notify("it was already dead")
            return _nothing
        self._watch_count += 1
        key = self._watch_count
        self._watchers[key] = notify

        def unwatch() -> None:
            self._watchers.pop(key, None)

        return unwatch

    # ----------------------------------------------------------------- living

    async def live(
        self, factory: Callable[[], Actor[Any]], nursery: trio.Nursery, started: Callable[[], None]
    ) -> Failure | None:
        """Run one incarnation to its end; `None` means it stopped in order. `nursery` is its supervisor's."""
        failure: Failure | None = None
        side: _SideTasks | None = None
        if self.state == "dead" or self._halted:
            return None
        self._now = _STARTED
        self._held = False
        self._ended = ended = trio.Event()
        try:
            with trio.CancelScope() as scope:
                self._side = side = _SideTasks(self, nursery, scope)
                self._scope = scope
                self.task = trio.lowlevel.current_task()
                actor = factory()
                self.actor = actor
                actor.bind(self)
                await actor.started()
                self._now = None
                self.state = "running"
                self.started_at = trio.current_time()
                started()
                await self._loop(actor)
        except Exception as error:  # noqa: BLE001 - the supervisor border: a child's failure becomes a decision
            failure = self._failed(error)
        finally:
            self._answer_unfinished(failure, side)
            await self._close()
            self._ended = None
            ended.set()
        if failure is None and side is not None:
            failure = side.failure
        return failure

    def may_live(self) -> None:
        """Forget a halt that meant an earlier incarnation."""
        self._halted = False

    async def halt(self) -> None:
        """Stop in order: the message in hand is finished, then `stopping` runs; past `shutdown_s` it is cancelled."""
        ended = self._ended
        if ended is None:
            self._halted = True  # its task has not begun: it must not
            return
        self.put_system(STOP)
        with trio.move_on_after(self.shutdown_s):
            await ended.wait()
        if not ended.is_set() and self._scope is not None:
            self._scope.cancel()
        await ended.wait()

    async def _relay(self, relay: Callable[[Any], Any]) -> None:
        """As `_loop`, for an actor that takes each entry whole."""
        while True:
            while self.system_queue:
                if self.system_queue.popleft() is STOP:
                    return
            if self._held or not self.queue:
                await self._park()
                continue
            entry = self.queue.popleft()
            if self._waiting:
                self._admit()
            await relay(entry)
            self.handled += 1
            if self.handled % BURST == 0:
                await trio.lowlevel.checkpoint()

    def hold(self, *, held: bool) -> None:
        """Give a relay no entries while it is held; a stop reaches it all the same."""
        self._held = held
        if not held and self._parked is not None:
            self._wake()

    def put_back(self, entries: Sequence[Any]) -> None:
        """Queue entries again, before all others: they were taken and nobody has handled them."""
        self.queue.extendleft(reversed(entries))

    async def _loop(self, actor: Actor[Any]) -> None:
        relay = getattr(actor, "relay", None)
        if relay is not None:
            await self._relay(relay)
            return
        queue, system_queue, table = self.queue, self.system_queue, type(actor).__prime_table__
        while True:
            while system_queue:
                entry = system_queue.popleft()
                if entry is STOP:
                    return
                await self._handle(actor, table, entry)
            if not queue:
                await self._park()
                continue
            budget = BURST
            while queue and budget and not system_queue:
                budget -= 1
                entry = queue.popleft()
                if self._waiting:
                    self._admit()
                handler = table.get(type(entry))
                if handler is not None:
                    self._now = entry
                    if handler[1]:
                        await handler[0](actor, entry)
                    else:
                        handler[0](actor, entry)
                    self._now = None
                    self.handled += 1
                else:
                    await self._handle(actor, table, entry)
            await trio.lowlevel.checkpoint()

    async def _handle(self, actor: Actor[Any], table: dict[type, Any], entry: Any) -> None:
        """Handle an envelope, or a message whose class has no handler of its own."""
        self._now = entry
        if type(entry) is not Envelope:
            handler = table.get(type(entry)) or _inherited(table, type(entry))
            if handler is None:
                self._now = None
                self.system.dead_letter(self.path, entry, "the actor has no handler for it")
                return
            await _call(handler, actor, entry)
        else:
            await self._answer(actor, table, entry)
        self._now = None
        self.handled += 1

    async def _answer(self, actor: Actor[Any], table: dict[type, Any], entry: Envelope) -> None:
        message, slot = entry.message, entry.slot
        if entry.deadline is not None and entry.deadline <= trio.current_time():
            self.system.dead_letter(self.path, message, "its deadline passed before it was run")
            if slot is not None:
                slot.fail(DeadlineError(f"the ask waited in the mailbox of {self.path} past its deadline"))
            return
        handler = table.get(type(message)) or _inherited(table, type(message))
        if handler is None:
            self._refuse(message, slot)
            return
        if slot is None:
            await _call(handler, actor, message)
            return
        try:
            value = await _call(handler, actor, message)
        except ANSWERS as answer:
            slot.fail(answer)
        else:
            slot.reply(value)

    def _refuse(self, message: Any, slot: Any) -> None:
        reason = f"the actor has no handler for {kind_of(message)}"
        self.system.dead_letter(self.path, message, reason)
        if slot is not None:
            slot.fail(RefusedError(f"{self.path}: {reason}", hint="check the actor class behind this path"))

    async def _park(self) -> None:
        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._unpark)

    def _unpark(self, _: Any) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        task, self._parked = self._parked, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    # ----------------------------------------------------------------- ending

    def _answer_unfinished(self, failure: Failure | None, side: _SideTasks | None) -> None:
        """Fail the ask in hand when this incarnation ends under it: by a side task, or by a stop that took too long."""
        entry, self._now = self._now, None
        if type(entry) is not Envelope or entry.slot is None:
            return
        cause = failure or (side.failure if side is not None else None)
        why = self.last_failure if cause is not None else "it was stopped"
        entry.slot.fail(ActorCrashedError(f"{self.path} ended while handling {kind_of(entry.message)}: {why}"))

    def _failed(self, error: Exception) -> Failure:
        entry = self._now
        message = entry.message if type(entry) is Envelope else entry
        last = message if message is _STARTED or message is None else kind_of(message)
        failure = self.note_failure(error, str(last or "no message"))
        if type(entry) is Envelope and entry.slot is not None:
            entry.slot.fail(
                ActorCrashedError(
                    f"{self.path} failed while handling {last}: {self.last_failure}",
                    hint="its supervisor decides about a restart; the death notice names it",
                    remote_traceback=failure.traceback,
                )
            )
        return failure

    def note_failure(self, error: Exception, during: str) -> Failure:
        """Keep the failure for introspection and make the supervisor's record of it."""
        self.last_failure = f"{type(error).__name__}: {error}"
        return Failure(error, during, "".join(traceback.format_exception(error)))

    async def _close(self) -> None:
        """Run `stopping` shielded and bounded, end the side tasks, and drop what belonged to this incarnation."""
        actor, side = self.actor, self._side
        if self.state != "dead":
            self.state = "stopping"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self.shutdown_s) as scope:
            if actor is not None:
                await self._say_goodbye(actor)
        if scope.cancelled_caught:
            self.last_failure = f"stopping() did not end within {self.shutdown_s:g} s"
        for release in list(self._releases.values()):
            release()
        self._releases.clear()
        self.system_queue.clear()  # a stop or a Down meant this incarnation: the next must not hear it
        if side is not None:
            with trio.CancelScope(shield=True):
                await side.end()
        self.actor = None
        self.task = None

    async def _say_goodbye(self, actor: Actor[Any]) -> None:
        try:
            await actor.stopping()
        except Exception as error:  # noqa: BLE001 - the supervisor border: a failing goodbye must not hide the reason
            failure = self.note_failure(error, "stopping()")
            self.system.report_failure(self, failure, "the stop goes on")

    def die(self, reason: str) -> None:
        """End for good: what is queued becomes dead letters, and each watcher hears once."""
        if self.state == "dead":
            return
        self.state = "dead"
        queued = list(self.queue)
        self.queue.clear()
        self.system_queue.clear()
        for entry in queued:
            self.bury(entry, f"the actor ended: {reason}")
        while self._waiting:
            task, entry = self._waiting.popleft()
            self.bury(entry, f"the actor ended: {reason}")
            trio.lowlevel.reschedule(task)
        watchers = list(self._watchers.values())
        self._watchers.clear()
        for notify in watchers:
            notify(reason)

    # ------------------------------------------------------ what a context uses

    @property
    def sender(self) -> str:
        """Return the far node whose message is being handled; empty for a local one."""
        return self._now.sender if type(self._now) is Envelope else ""

    def own(self, holder: object, release: Callable[[], None]) -> None:
        """Call `release` when this incarnation ends (timers, watches); `holder` names it."""
        self._releases[id(holder)] = release

    def disown(self, holder: object) -> None:
        """Forget the release of something that has ended by itself."""
        self._releases.pop(id(holder), None)

    def start_side_task(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a task beside the loop, for this incarnation only; its failure fails the actor."""
        if self._side is None or self.state in ("dead", "stopping"):
            raise ActorUsageError(f"{self.path} is ending: it cannot start tasks", hint="start them in started()")
        self._side.start(function, args)


class _SideTasks:
    """The tasks beside an actor's loop, in its supervisor's nursery; none outlives its incarnation."""

    def __init__(self, cell: Cell, nursery: trio.Nursery, loop_scope: trio.CancelScope) -> None:
        self._cell = cell
        self._nursery = nursery
        self._loop_scope = loop_scope
        self._scopes: set[trio.CancelScope] = set()
        self._last_left = trio.Event()
        self.failure: Failure | None = None

    def start(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._nursery.start_soon(self._run, scope, function, args, name=f"{self._cell.path}:{function.__qualname__}")

    async def _run(self, scope: trio.CancelScope, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            with scope:
                await function(*args)
        except Exception as error:  # noqa: BLE001 - the supervisor border: a side task's failure is its actor's
            if self.failure is None:
                self.failure = self._cell.note_failure(error, f"the side task {function.__qualname__}")
            self._loop_scope.cancel()
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._last_left.set()

    async def end(self) -> None:
        """Cancel the side tasks and wait for the last one."""
        while self._scopes:
            for scope in self._scopes:
                scope.cancel()
            self._last_left = trio.Event()
            await self._last_left.wait()


async def _call(handler: tuple[Callable[[Any, Any], Any], bool], actor: Any, message: Any) -> Any:
    return await handler[0](actor, message) if handler[1] else handler[0](actor, message)


def _inherited(table: dict[type, Any], kind: type) -> Any:
    """Find the handler of the nearest base class, and remember it."""
    for base in kind.__mro__[1:-1]:
        if base in table:
            table[kind] = table[base]
            return table[base]
    return None


def _nothing() -> None:
    pass


STOP = object()
_STARTED = "started()"
