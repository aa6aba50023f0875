"""What a user subclasses: `Actor`, and the `Context` each running actor has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from prime.actor.down import Down
from prime.actor.handlers import Handled
from prime.actor.life import Order
from prime.actor.mailbox import Envelope
from prime.actor.ref import LocalRef, Ref
from prime.errors import ActorUsageError

if TYPE_CHECKING:
    from prime.actor.cell import Cell
    from prime.actor.contract import PeerId
    from prime.actor.deadlines import Timer
    from prime.actor.life import Life
    from prime.actor.slots import Later
    from prime.actor.system import System
    from prime.wire.signed import Signed

M_contra = TypeVar("M_contra", contravariant=True)


class Actor(Handled[M_contra]):
    """A piece of state that handles one message at a time. `Actor[A | B]` names its whole protocol.

    Override `started` and `stopping`; mark handlers with `@on`. A failure in `started` or in a handler ends this
    incarnation, and its supervisor decides what happens; the mailbox survives a restart.

    A sync handler may be run in the task of whoever asks, with this actor's own context variables, when the actor is
    idle: still one message at a time, since nothing else can run meanwhile.
    """

    ctx: Context

    def bind(self, cell: Cell) -> None:
        """Attach the context (called by the runtime before `started`)."""
        self.ctx = Context(cell)

    async def started(self) -> None:
        """Run before the first message; a failure here is the supervisor's to decide."""

    async def stopping(self) -> None:
        """Run after the last message, also after a failure; shielded, and bounded by the shutdown time."""


class Context:
    """An actor's view of the runtime: who it is, the clock, timers, watches, tasks beside it."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @property
    def _life(self) -> Life:
        return _living(self._cell)

    @property
    def path(self) -> str:
        """Return this actor's path."""
        return self._cell.path

    @property
    def system(self) -> System:
        """Return the system this actor lives in."""
        return self._cell.system

    @property
    def self_ref(self) -> Ref[Any]:
        """Return a ref to this actor, for others to keep."""
        return LocalRef(self._cell)

    @property
    def sender(self) -> PeerId | None:
        """Return the node that sent the message in hand, proved by its link; `None` for a local sender."""
        life = self._cell.life
        entry = life.now if life is not None else None
        sender = entry.sender if type(entry) is Envelope else ""
        return sender or None  # type: ignore[return-value]

    def signed(self, message: Any) -> Signed:
        """Return who signed a message, when, and the signed bytes; `message` is of a class with `signed=True`.

        Of one from another node it is what was verified before it came here, whoever handed it on. One that an actor of
        this node made carries no signature, and is signed by this node now.
        """
        return self._cell.system.signed(message)

    def now(self) -> float:
        """Return the system clock's monotonic seconds."""
        return trio.current_time()

    def after(self, delay: float, message: Any, *, overtake: bool = False) -> Once:
        """Send `message` to this actor once, in `delay` seconds; the timer dies with this incarnation.

        With `overtake` it comes before all that waits, and a full mailbox does not make it a dead letter.
        """
        return Once(self._cell, delay, message, overtake=overtake)

    def every(self, period: float, message: Any) -> Repeating:
        """Send `message` to this actor every `period` seconds; the timer dies with this incarnation."""
        if period <= 0:
            raise ActorUsageError(f"a timer every {period:g} s would never end", hint="give a period above 0")
        return Repeating(self._cell, period, message)

    def watch(self, ref: Ref[Any]) -> Callable[[], None]:
        """Receive one `Down` when the actor behind `ref` ends for good; returns a function that ends the watch."""
        cell, life = self._cell, self._life
        if Down not in type(life.actor).__prime_table__:
            raise ActorUsageError(f"{cell.path} watches but has no @on(Down) handler", hint="add one")
        path, peer = ref.path, ref.peer
        holder = object()

        ended = False

        def notify(reason: str) -> None:
            nonlocal ended
            ended = True
            life.disown(holder)
            cell.put_system(Down(path, peer, reason))

        unwatch = cell.system.watch(ref, notify)
        if not ended:
            life.own(holder, unwatch)

        def release() -> None:
            life.disown(holder)
            unwatch()

        return release

    def stash(self) -> None:
        """Put the message in hand aside, an ask with its asker; `unstash_all` brings it back.

        What the handler returns after that is no answer. A restart brings everything back. Raises `MailboxFullError`
        beyond `Mailbox(stash=...)`.
        """
        self._life.put_aside()

    def unstash_all(self) -> None:
        """Put all that is stashed at the front of the mailbox, in the order it came."""
        self._life.take_back()
        if self._cell.queue:
            self._cell.wake()  # it lies parked when an ask is answered in the asker's task

    def defer(self) -> Later:
        """Answer the ask in hand later: the handler's return value is no answer, `reply` of what is returned is."""
        return self._life.defer()

    def join(self, group: str) -> None:
        """Join a named group of this system, until `leave` or the end of this incarnation."""
        self._cell.system.groups.join(group, self._life.cell)

    def leave(self, group: str) -> None:
        """Leave a group; harmless if it is in none of that name."""
        self._cell.system.groups.leave(group, self._cell)

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run a task beside this actor; it ends with this incarnation, and its failure fails the actor."""
        self._life.start_side_task(function, args)

    def emit(self, fact: Any) -> None:
        """Tell observers a plain fact."""
        self._cell.system.emit(fact)

    def stop(self) -> None:
        """Stop this actor in order, after the message in hand."""
        self._cell.put_system(Order.STOP)


class Once:
    """A timer that fires once, unless it is cancelled first."""

    __slots__ = ("_life", "_timer")

    def __init__(self, cell: Cell, delay: float, message: Any, *, overtake: bool = False) -> None:
        life = self._life = _living(cell)

        def fire() -> None:
            life.disown(self)
            if overtake:
                cell.put_system(message)
            else:
                _post(cell, message)

        self._timer = cell.system.deadlines.at(trio.current_time() + delay, fire)
        life.own(self, self._timer.cancel)

    def cancel(self) -> None:
        """End it; harmless if it has fired."""
        self._life.disown(self)
        self._timer.cancel()


class Repeating:
    """A timer that fires until cancelled."""

    __slots__ = ("_cell", "_life", "_message", "_period", "_timer")

    def __init__(self, cell: Cell, period: float, message: Any) -> None:
        self._cell = cell
        self._life = _living(cell)
        self._period = period
        self._message = message
        self._timer = self._arm(trio.current_time() + period)
        self._life.own(self, self._end)

    def cancel(self) -> None:
        """End it."""
        self._life.disown(self)
        self._end()

    def _end(self) -> None:
        self._timer.cancel()

    def _arm(self, when: float) -> Timer:
        def fire() -> None:
            _post(self._cell, self._message)
            self._timer = self._arm(max(when + self._period, trio.current_time()))

        return self._cell.system.deadlines.at(when, fire)


def _living(cell: Cell) -> Life:
    if cell.life is None:
        raise ActorUsageError(
            f"this incarnation of {cell.path} has ended", hint="start timers, tasks and watches while it lives"
        )
    return cell.life


def _post(cell: Cell, message: Any) -> None:
    """Put a timer's message into the mailbox; one that finds it full is a dead letter, never a wait."""
    if (cell.mailbox.full == "reject" and len(cell.queue) >= cell.mailbox.capacity) or not cell.put_nowait(message):
        cell.bury(message, "the mailbox was full when the timer fired")
