"""A life: one incarnation of an actor, from its making to the end of its `stopping`.

The receiving half of the hot path lives here: a dispatch dictionary, sync handlers called without a coroutine, and a
checkpoint every `BURST` messages, so that fairness is bounded and not lost. A life has a task only once it needs one:
an actor that has nothing to do in `started` lies dormant until its first message.
"""

from __future__ import annotations

import enum
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context as Variables
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import attrs
import trio

from prime.actor.cell import BURST, DORMANT, NO_HANDLERS, Cell, last_words
from prime.actor.facts import kind_of, words_of
from prime.actor.handlers import inherited
from prime.actor.mailbox import Envelope
from prime.actor.slots import Later, Slot, expired
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    MailboxFullError,
    NotFoundError,
    RefusedError,
)
from prime.wire import Ask

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.timing import Timing


class Order(enum.Enum):
    """What a supervisor says to an actor, ahead of all messages. `PASSIVATE` is also how such a life ended."""

    STOP = "stop"
    SUSPEND = "suspend"
    RESUME = "resume"
    PASSIVATE = "passivate"


STARTED: Final = "started()"

_IDLE: Final = object()
_TIMED_EVERY: Final = 5
"""One burst in so many is timed; odd, so that actors that hear two messages in turn are not misjudged."""

ANSWERS: Final = (RefusedError, NotFoundError)
"""Errors that a handler of an ask may raise as its answer; anything else is a crash."""


@attrs.define(slots=True)
class Failure:
    """Why an incarnation ended in a failure."""

    error: Exception
    last_message: str
    traceback: str

    @classmethod
    def plain(cls, error: Exception, during: str) -> Failure:
        """Make one of an error and what was going on."""
        return cls(error, during, "".join(traceback.format_exception(error)))

    @classmethod
    def of(cls, cell: Cell, error: Exception, during: str) -> Failure:
        """As `plain`, and keep the failure for introspection."""
        cell.note_failure(error)
        return cls.plain(error, during)


class Born(Protocol):
    """Who hears how a life goes: its place in its supervisor."""

    def has_come_up(self) -> None:
        """Hear that its `started` has returned."""

    def is_over(self, outcome: Failure | Order | None) -> None:
        """Hear how it ended: with a `Failure`, with `PASSIVATE`, or in order."""


class Life:
    """One incarnation of the actor of `cell`; `nursery` and `variables` are its supervisor's."""

    __slots__ = (
        "_abandoned",
        "_asked",
        "_broken",
        "_closing",
        "_goodbye",
        "_last_left",
        "_nursery",
        "_releases",
        "_scope",
        "_sides",
        "_variables",
        "actor",
        "cell",
        "ended",
        "failure",
        "kept",
        "now",
        "over",
        "retired",
        "task",
        "tasked",
        "up",
    )

    def __init__(self, cell: Cell, actor: Actor[Any], nursery: trio.Nursery, variables: Variables) -> None:
        self.cell = cell
        self.actor = actor
        self._nursery = nursery
        self._variables = variables
        self.up = False
        """Whether its `started` has returned."""
        self.over = False
        self.retired = False
        """Whether it was stopped at once, so that the end of its task is no news."""
        self.task: trio.lowlevel.Task | None = None
        self.now: Any = None
        """The entry in hand."""
        self.kept = False
        """Whether the handler of the entry in hand put it aside, so that its return value is no answer."""
        self.ended: trio.Event | None = None
        """Set at the end, where someone waits for it."""
        self.tasked = False
        """Whether it has, or will have, a task."""
        self.failure: Failure | None = None
        self._abandoned = False
        self._asked = False
        self._broken: Exception | None = None
        self._closing = False
        self._goodbye = type(actor).__prime_stops__
        self._releases: dict[int, tuple[object, Callable[[], None]]] | None = None
        self._scope: trio.CancelScope | None = None
        self._sides: dict[trio.CancelScope, None] | None = None  # in the order in which they were started
        self._last_left: trio.Event | None = None
        cell.life = self
        actor.bind(cell)

    # ----------------------------------------------------------------- living

    def come_up(self) -> None:
        """Take messages from now on."""
        cell = self.cell
        self.up = True
        self.now = None
        cell.state = "running"
        cell.started_at = trio.current_time()
        if cell.system.tracer is None:
            cell.inline = type(self.actor).__prime_inline__
        if cell.passivate_s is not None:
            self._look_again(cell.passivate_s)

    def _look_again(self, passivate_s: float) -> None:
        """Look in a while whether it has been idle all along."""
        handled = self.cell.handled
        timer = self.cell.system.deadlines.at(trio.current_time() + passivate_s, lambda: self._end_idle(handled))
        self.own(_IDLE, timer.cancel)

    def _end_idle(self, handled: int) -> None:
        cell = self.cell
        busy = cell.handled != handled or cell.queue or cell.suspended or self.now is not None
        if (busy or self._sides or self._owes_answers()) and cell.passivate_s is not None:
            self._look_again(cell.passivate_s)
        else:
            cell.put_system(Order.PASSIVATE)

    def _owes_answers(self) -> bool:
        return any(type(holder) is Later for holder, _ in (self._releases or {}).values())

    @property
    def starts_plainly(self) -> bool:
        """Tell whether there is nothing to do in `started`, so that it needs no task yet."""
        return not type(self.actor).__prime_starts__

    def lie_dormant(self) -> None:
        """Wait for a message without a task."""
        self.cell.parked = DORMANT
        if self.cell.queue or self.cell.system_queue:
            self.cell.wake()

    def spawn(self, function: Callable[..., Any], *args: Any, name: str) -> None:
        """Start a task in the supervisor's nursery, with its context variables rather than those of whoever calls."""
        self._variables.copy().run(lambda: self._nursery.start_soon(function, *args, name=name))

    def start_task(self, born: Born) -> None:
        """Make its task, with the supervisor's context variables rather than those of whoever caused it."""
        self.tasked = True
        self.spawn(self._run, born, name=self.cell.path)

    async def _run(self, born: Born) -> None:
        """Live to the end and tell `born`, unless it was stopped at once, which is no news."""
        cell = self.cell
        outcome: Failure | Order | None = None
        self.task = task = trio.lowlevel.current_task()
        self._variables = task.context
        cell.system.running[task] = cell
        try:
            if not self.up or type(self.actor).__prime_awaited__ or hasattr(self.actor, "take_entry"):
                with trio.CancelScope() as self._scope:
                    if not self.up and not self._abandoned:
                        self.now = STARTED
                        await self.actor.started()
                        self.come_up()
                        born.has_come_up()
                    outcome = await self._loop()
            else:  # nothing of it can wait: no scope, which would be a fifth of its memory
                outcome = await self._loop()
        except Exception as error:  # noqa: BLE001 - the supervisor border: a child's failure becomes a decision
            outcome = self._failed(error)
        finally:
            if not self.over:
                await self.close(self.failure or outcome)
            del cell.system.running[task]
            if self.ended is not None:
                self.ended.set()
            if not self.retired:
                born.is_over(self.failure or outcome)

    async def _loop(self) -> Order | None:
        take_entry: Callable[[Any], Awaitable[None]] | None = getattr(self.actor, "take_entry", None)
        cell = self.cell
        while not self.over:
            self._raise_broken()
            if self._abandoned:
                break
            while cell.system_queue:
                entry = cell.system_queue.popleft()
                if entry is Order.STOP:
                    return None
                if entry is Order.PASSIVATE and not (cell.queue or cell.system_queue or cell.suspended):
                    return Order.PASSIVATE
                await self._hear(entry)
            if cell.suspended:
                cell.paused = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._unpause)
            elif not cell.queue or cell.held:
                cell.parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._unpark)
            elif take_entry is None:
                await self._burst()
                if cell.queue:  # an empty one parks, which is a checkpoint too
                    await trio.lowlevel.checkpoint()
            else:
                await self._hand_over(take_entry)
        return None

    def _raise_broken(self) -> None:
        """Fail with what failed in another task: a handler run by its asker, or a side task."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    async def _burst(self) -> None:
        """Handle up to `BURST` messages; a system message, or a suspension, comes between two."""
        cell = self.cell
        timing = cell.timing if cell.handled % _TIMED_EVERY == 0 else None
        begun = 0.0
        if timing is not None:
            begun = trio.current_time()
            timing.mark(cell.handled, len(cell.queue) - 1, begun)
        try:
            await self._handle_some(min(len(cell.queue), BURST), timing, begun)
        except ANSWERS as answer:
            message = self.now.message if type(self.now) is Envelope else self.now
            if not isinstance(message, Ask):
                raise
            cell.system.dead_letter(cell.path, message, f"answered with {type(answer).__name__}, and nobody asked")
            cell.handled += 1
        self.now = None

    async def _handle_some(self, count: int, timing: Timing | None, begun: float) -> None:
        cell, actor, queue = self.cell, self.actor, self.cell.queue
        take, handler_of, traced = queue.popleft, type(actor).__prime_inline__.get, cell.system.tracer is not None
        handled = 0
        try:
            for handled in range(count):  # noqa: B007 - what a crash in the middle leaves is the number before it
                if cell.system_queue or not queue:
                    break
                self.now = entry = take()
                if cell.waiting:
                    cell.admit()
                handler = handler_of(type(entry))
                if handler is not None:
                    value = handler(actor, entry)
                    if value is not None and type(value) is CoroutineType:
                        check_value(value, actor, entry)
                elif type(entry) is not Envelope:
                    await self._handle_other(entry)
                elif traced or (handler := handler_of(type(entry.message))) is None:
                    await self._answer(entry)
                else:
                    self._answer_plainly(entry, handler)
                if timing is not None:
                    timing.took(trio.current_time() - begun)
                    timing = None
            else:
                handled = count
        finally:
            cell.handled += handled

    async def _hand_over(self, take_entry: Callable[[Any], Awaitable[None]]) -> None:
        """Give one entry whole to a forwarder."""
        cell = self.cell
        self.now = entry = cell.queue.popleft()
        if cell.waiting:
            cell.admit()
        await take_entry(entry)
        self.now = None
        cell.handled += 1
        if cell.handled % BURST == 0:
            await trio.lowlevel.checkpoint()

    async def _hear(self, entry: Any) -> None:
        """Handle a system message."""
        cell = self.cell
        if entry is Order.SUSPEND:
            cell.suspended, cell.state = True, "suspended"
        elif entry is Order.RESUME:
            cell.suspended, cell.state = False, "running"
        elif entry is Order.PASSIVATE:
            if cell.passivate_s is not None:
                self._look_again(cell.passivate_s)  # a message came first
        else:
            self.now = entry
            await self._handle_other(entry)
            self.now = None
            cell.handled += 1
            if cell.handled % BURST == 0:
                await trio.lowlevel.checkpoint()

    async def _handle_other(self, message: Any) -> None:
        """Handle a bare message that takes a coroutine or has no handler of its own, or a system message."""
        awaited = type(self.actor).__prime_awaited__.get(type(message))
        if awaited is not None:
            await awaited(self.actor, message)
            return
        handler = self._handler(type(message))
        if handler is None:
            self.cell.system.dead_letter(self.cell.path, message, "the actor has no handler for it")
            return
        await self._call(handler, message)

    def _handler(self, kind: type) -> tuple[Callable[[Any, Any], Any], bool] | None:
        cls = type(self.actor)
        return cls.__prime_table__.get(kind) or inherited(cls, kind)

    async def _call(self, handler: tuple[Callable[[Any, Any], Any], bool], message: Any) -> Any:
        if handler[1]:
            return await handler[0](self.actor, message)
        value = handler[0](self.actor, message)
        if type(value) is CoroutineType:
            check_value(value, self.actor, message)
        return value

    async def _answer(self, entry: Envelope) -> None:
        """Handle an envelope whose handler waits, is traced, or is missing."""
        if self._came_too_late(entry):
            return
        message = entry.message
        handler = self._handler(type(message))
        if handler is None:
            self._refuse(message, entry.slot)
            return
        self.kept = False
        tracer = self.cell.system.tracer
        if tracer is not None:
            with tracer.handling(self.cell.path, kind_of(message), entry.trace):
                await self._settle(handler, message, entry.slot)
        else:
            await self._settle(handler, message, entry.slot)

    def _answer_plainly(self, entry: Envelope, handler: Callable[[Any, Any], Any]) -> None:
        """As `_answer`, for a plain handler and without a coroutine."""
        if self._came_too_late(entry):
            return
        message, slot = entry.message, entry.slot
        self.kept = False
        try:
            value = handler(self.actor, message)
            if type(value) is CoroutineType:
                check_value(value, self.actor, message)
        except ANSWERS as answer:
            if slot is None:
                raise
            slot.fail(answer)
        else:
            if slot is not None and not self.kept:
                slot.reply(value)

    def _came_too_late(self, entry: Envelope) -> bool:
        """Tell whether nobody waits for an ask any more; then it is not run."""
        cell, slot = self.cell, entry.slot
        if entry.deadline is not None and entry.deadline <= trio.current_time():
            cell.system.dead_letter(cell.path, entry.message, "its deadline passed before it was run")
            if slot is not None:
                slot.fail(expired(cell.path))
            return True
        if type(slot) is Slot and slot.done:
            cell.system.dead_letter(cell.path, entry.message, "whoever asked has given up")
            return True
        return False

    async def _settle(self, handler: tuple[Callable[[Any, Any], Any], bool], message: Any, slot: Any) -> None:
        if slot is None:
            await self._call(handler, message)
            return
        try:
            value = await self._call(handler, message)
        except ANSWERS as answer:
            slot.fail(answer)
        else:
            if not self.kept:
                slot.reply(value)

    def _refuse(self, message: Any, slot: Any) -> None:
        reason = f"the actor has no handler for {kind_of(message)}"
        self.cell.system.dead_letter(self.cell.path, message, reason)
        if slot is not None:
            slot.fail(RefusedError(f"{self.cell.path}: {reason}", hint="check the actor class behind this path"))

    def _unpark(self, _: Any) -> trio.lowlevel.Abort:
        self.cell.parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _unpause(self, _: Any) -> trio.lowlevel.Abort:
        self.cell.paused = None
        return trio.lowlevel.Abort.SUCCEEDED

    # --------------------------------------------------- asked in the asker's task

    def answer_inline(self, handler: Callable[[Any, Any], Any], message: Any) -> Any:
        """Run a sync handler while the actor is parked, in the task of whoever asks; return the answer.

        Nothing else can run meanwhile, so the actor still handles one message at a time. Where there is no answer yet
        (the handler put the ask aside, or crashed) the `Slot` in which it will come is returned.
        """
        cell = self.cell
        self.now = message
        self.kept = False
        self._asked = True
        try:
            value = self._variables.run(handler, self.actor, message)
            if type(value) is CoroutineType:
                check_value(value, self.actor, message)
        except ANSWERS as answer:
            cell.handled += 1
            entry, self.now = self.now, None
            if type(entry) is Envelope:  # it is stashed, too: nobody waits for what comes of that
                entry.slot.fail(answer)
            raise
        except Exception as error:  # noqa: BLE001 - the supervisor border: the actor's own task reports it
            return self._crash_inline(error, message)
        finally:
            self._asked = False
        cell.handled += 1
        slot = self.now.slot if self.kept else None
        self.now = None
        return value if slot is None else slot

    def _crash_inline(self, error: Exception, message: Any) -> Slot:
        if type(self.now) is not Envelope:
            self.now = Envelope(message, Slot())
        slot: Slot = self.now.slot
        self._broken = error
        self.cell.wake()
        return slot

    # ------------------------------------------------------ what a context uses

    def own(self, holder: object, release: Callable[[], None]) -> None:
        """Call `release` when this incarnation ends (timers, watches, late answers); `holder` names it."""
        if self._releases is None:
            self._releases = {}
        self._releases[id(holder)] = (holder, release)

    def disown(self, holder: object) -> None:
        """Forget the release of something that has ended by itself."""
        if self._releases is not None:
            self._releases.pop(id(holder), None)

    @property
    def owned(self) -> int:
        """Return how many timers, watches and late answers this incarnation owns."""
        return len(self._releases or ())

    def _in_hand(self, verb: str) -> Envelope:
        """Return the message in hand in an envelope; only a handler has one."""
        if self.now is None or self.now is STARTED:
            raise ActorUsageError(f"{self.cell.path} has no message in hand to {verb}", hint="call it in a handler")
        if type(self.now) is not Envelope:
            asker = self.cell.system.running.get(trio.lowlevel.current_task()) if self._asked else None
            self.now = Envelope(self.now, Slot() if self._asked else None, None, "", None, asker)
        envelope: Envelope = self.now
        return envelope

    def defer(self) -> Later:
        """Take over the answer to the ask in hand."""
        entry = self._in_hand("answer later")
        if entry.slot is None:
            raise ActorUsageError(
                f"nobody waits for an answer to {kind_of(entry.message)}", hint="defer an ask, not a tell"
            )
        self.kept = True
        later = Later(entry.slot)
        later.bind(self.disown)
        path, kind = self.cell.path, kind_of(entry.message)
        unanswered = f"{path} ended before it answered {kind}"
        hint = "its handler put the answer off with ctx.defer(), and nobody gave it: ask again"
        self.own(later, lambda: later.fail(ActorCrashedError(unanswered, hint=hint)))
        return later

    def put_aside(self) -> None:
        """Stash the message in hand."""
        cell = self.cell
        entry = self._in_hand("stash")
        if cell.stash is None:
            cell.stash = deque()
        if len(cell.stash) >= cell.mailbox.stash:
            raise MailboxFullError(
                f"{cell.path} stashed {len(cell.stash)} messages, the most it may",
                hint="raise Mailbox(stash=...), or refuse what cannot be handled yet",
            )
        self.kept = True
        cell.stash.append(entry)

    def take_back(self) -> None:
        """Put everything stashed at the front of the mailbox, in the order it came."""
        stash, self.cell.stash = self.cell.stash, None
        if stash:
            self.cell.queue.extendleft(reversed(stash))
            if self.cell.parked is not None and not self.over:
                self.cell.wake()

    def start_side_task(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Run a task beside the loop, for this incarnation only; its failure fails the actor."""
        if self._closing or self.over:
            raise ActorUsageError(f"{self.cell.path} is ending: it cannot start tasks", hint="start them in started()")
        scope = trio.CancelScope()
        if self._sides is None:
            self._sides = {}
        self._sides[scope] = None
        name = f"{self.cell.path}:{getattr(function, '__qualname__', 'task')}"
        self.spawn(self._run_side, scope, function, args, name=name)

    async def _run_side(self, scope: trio.CancelScope, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        sides = self._sides
        assert sides is not None  # noqa: S101 - a pair with `start_side_task`
        try:
            with scope:
                await function(*args)
        except Exception as error:  # noqa: BLE001 - the supervisor border: a side task's failure is its actor's
            self._fail_beside(error, f"the side task {getattr(function, '__qualname__', '')}")
        finally:
            sides.pop(scope, None)
            if not sides and self._last_left is not None:
                self._last_left.set()

    def _fail_beside(self, error: Exception, during: str) -> None:
        if self.failure is None:
            in_hand = error.last_message if isinstance(error, ActorCrashedError) else ""
            self.failure = Failure.of(self.cell, error, in_hand or during)
        if self._scope is not None:
            self._scope.cancel()
        elif not self._closing:  # it has no task yet: one is made, to fail
            self._broken = error
            self.cell.wake()
            self.cell.wake_paused()

    # ----------------------------------------------------------------- ending

    def retire(self) -> bool:
        """Stop at once if nothing of the actor's own has to run for it; `False` if something has."""
        cell = self.cell
        if cell.parked is None or self._goodbye or self._sides or self._closing:
            return False
        cell.state = "stopping"
        self.retired = True
        self._let_go(None)
        task, cell.parked = cell.parked, None
        if task is not DORMANT:
            trio.lowlevel.reschedule(task)  # type: ignore[arg-type]
        return True

    async def halt(self) -> None:
        """Stop in order: the message in hand is finished, then `stopping` runs; past `shutdown_s` it is cancelled."""
        if self.over or self.retire():
            return
        first = self.ended is None
        if self.ended is None:
            self.ended = trio.Event()
        if not self.tasked and first:  # dormant: whoever stops it first runs its goodbye
            try:
                await self.close(None)
            finally:
                self.ended.set()
            return
        if self.task is None:
            self._abandoned = True  # its task has not begun
        self.cell.put_system(Order.STOP)
        with trio.move_on_after(self.cell.shutdown_s):
            await self.ended.wait()
        if not self.ended.is_set() and self._scope is not None:
            self._scope.cancel()
        await self.ended.wait()

    async def close(self, outcome: Failure | Order | None) -> None:
        """Run `stopping` shielded and bounded, end the side tasks, and drop what belonged to this incarnation."""
        cell = self.cell
        self._answer_unfinished(outcome)
        self._closing = True
        cell.inline = NO_HANDLERS
        cell.parked = cell.paused = None
        if cell.state != "dead":
            cell.state = "stopping"
        if self._goodbye:
            await self._say_goodbye()
        if self._sides:
            with trio.CancelScope(shield=True):
                await self._end_sides()
        self._let_go(outcome)

    def _let_go(self, outcome: Failure | Order | None) -> None:
        """Drop what belonged to this incarnation; what is stashed goes back to the mailbox."""
        cell = self.cell
        self.over = True
        self._closing = True
        cell.inline = NO_HANDLERS
        releases, self._releases = self._releases, None
        for _, release in list(releases.values()) if releases else ():
            release()
        if cell.system_queue:
            cell.system_queue.clear()  # a stop or a Down meant this incarnation: the next must not hear it
        cell.suspended = cell.held = False
        cell.eager = None
        if outcome is not Order.PASSIVATE:
            cell.leave_groups()
        self.take_back()
        cell.life = None

    async def _end_sides(self) -> None:
        sides = self._sides
        while sides:
            for scope in sides:
                scope.cancel()
            self._last_left = trio.Event()
            await self._last_left.wait()

    async def _say_goodbye(self) -> None:
        cell = self.cell
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + cell.shutdown_s) as scope:
                await self.actor.stopping()
            if scope.cancelled_caught:
                cell.last_failure = f"stopping() did not end within {cell.shutdown_s:g} s"
        except Exception as error:  # noqa: BLE001 - the supervisor border: a failing goodbye must not hide the reason
            # outside the scope, which takes the cancellations out of a group of them and of failures
            cell.system.report_failure(cell.path, Failure.of(cell, error, "stopping()"), "the stop goes on")

    def _answer_unfinished(self, outcome: Failure | Order | None) -> None:
        """Fail the ask in hand when this incarnation ends under it: by a side task, or by a stop that took too long."""
        entry, self.now = self.now, None
        if type(entry) is not Envelope or entry.slot is None or self._is_stashed(entry):
            return
        why = self.cell.last_failure if isinstance(outcome, Failure) else "it was stopped"
        entry.slot.fail(
            ActorCrashedError(
                f"{self.cell.path} ended while handling {kind_of(entry.message)}: {why}",
                hint="it may have been handled in part: ask again only where that does no harm",
            )
        )

    def _is_stashed(self, entry: Envelope) -> bool:
        return self.cell.stash is not None and any(entry is stashed for stashed in self.cell.stash)

    def _failed(self, error: Exception) -> Failure:
        entry = self.now
        last = STARTED if entry is STARTED else "no message" if entry is None else last_words(entry)
        failure = Failure.of(self.cell, error, last)
        if type(entry) is Envelope:
            if self._is_stashed(entry) and self.cell.stash is not None:
                self.cell.stash.remove(entry)  # it was in hand: run again, it would crash the next one too
            if entry.slot is not None:
                entry.slot.fail(crash_of(self.cell.path, last, failure))
        return failure


def crash_of(path: str, last: str, failure: Failure) -> ActorCrashedError:
    """Return what whoever asked hears of a crash."""
    error = failure.error
    return ActorCrashedError(
        f"{path} failed while handling {last}: {words_of(error)}",
        hint="its supervisor decides about a restart; the death notice names it",
        remote_traceback=failure.traceback,
    )


def check_value(value: CoroutineType[Any, Any, Any], actor: Any, message: Any) -> NoReturn:
    """Raise `ActorUsageError` for a coroutine that a sync handler returned: nobody would ever await it."""
    value.close()
    raise ActorUsageError(
        f"the handler of {kind_of(message)} in {type(actor).__qualname__} is no coroutine function "
        "and returned a coroutine, which nobody awaits",
        hint="write `async def`, and await it there",
    )
