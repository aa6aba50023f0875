"""Refs: the only way to reach an actor, the same near and far."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from prime.actor.mailbox import Envelope
from prime.actor.slots import Slot
from prime.errors import ActorUsageError, DeadlineError, MailboxFullError

if TYPE_CHECKING:
    from prime.actor.cell import Cell
    from prime.actor.contract import Network, PeerId
    from prime.wire import Asked

M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")


class Ref(Protocol[M_contra]):
    """A typed handle on an actor. `Ref[A | B]` can be used where a `Ref[A]` is wanted: a narrower ref is a capability.

    Two refs are equal when they name the same actor: same node, same path.
    """

    @property
    def path(self) -> str:
        """Return the actor's path on its node, e.g. `/kv/store`."""
        ...

    @property
    def peer(self) -> str:
        """Return the id of the actor's node; empty for an actor of this system."""
        ...

    async def tell(self, message: M_contra) -> None:
        """Send without an answer; waits while the mailbox (`full="wait"`) or the far mailbox's credit has no room.

        A message to a local actor that is dead becomes a dead letter. Raises `MailboxFullError` (policy `reject`),
        and for far actors `UnreachableError`, `LinkLostError`, `LocalProtocolError`.
        """
        ...

    def tell_nowait(self, message: M_contra) -> None:
        """Send at once or raise `MailboxFullError`; local actors only."""
        ...

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """Send and wait for the reply, at most `timeout` seconds. An ask whose deadline passed is not run.

        Raises `DeadlineError`, `NoSuchActorError`, `ActorCrashedError` (it failed on this message), `RefusedError`,
        and what `tell` raises. Asking oneself is an `ActorUsageError` at once.
        """
        ...


class LocalRef(Generic[M_contra]):
    """A ref to an actor of this system."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @property
    def path(self) -> str:
        """Return the actor's path."""
        return self._cell.path

    @property
    def peer(self) -> str:
        """Return an empty string: the actor is here."""
        return ""

    async def tell(self, message: M_contra) -> None:
        """See `Ref.tell`."""
        await self._cell.put(message)

    def tell_nowait(self, message: M_contra) -> None:
        """See `Ref.tell_nowait`."""
        if not self._cell.put_nowait(message):
            raise MailboxFullError(
                f"the mailbox of {self._cell.path} is full", hint="use `await ref.tell(...)`, which waits for room"
            )

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """See `Ref.ask`."""
        cell = self._cell
        if cell.task is trio.lowlevel.current_task():
            raise ActorUsageError(f"{cell.path} asks itself: it would wait for ever", hint="call the method instead")
        deadline = trio.current_time() + timeout
        slot = Slot()
        slot.arm(cell.system.deadlines, deadline, DeadlineError(_late(cell.path, message, timeout)))
        entry = Envelope(message, slot, deadline)
        try:
            if not cell.put_nowait(entry):
                await self._put_before(entry, deadline, timeout)
            answer: R = await slot.wait()
        finally:
            slot.close()
        return answer

    async def _put_before(self, entry: Envelope, deadline: float, timeout_s: float) -> None:
        with trio.CancelScope(deadline=deadline) as scope:
            await self._cell.put(entry)
        if scope.cancelled_caught:
            raise DeadlineError(
                f"the mailbox of {self._cell.path} had no room within {timeout_s:g} s",
                hint="it handles messages slower than they come: `prime status` shows its depth",
            )

    # ------------------------------------- what routers and other relays hand on through

    def put_nowait(self, entry: Any) -> bool:
        """Put a whole mailbox entry, its reply slot included; `False` when a `wait` mailbox is full."""
        return self._cell.put_nowait(entry)

    async def put(self, entry: Any) -> None:
        """As `put_nowait`, but waits for room."""
        await self._cell.put(entry)

    @property
    def has_room(self) -> bool:
        """Tell whether the mailbox takes one more entry now, at the price of no other sender's wait."""
        return self._cell.has_room

    @property
    def load(self) -> int:
        """Return how many messages wait or are in hand."""
        return self._cell.load

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` once when the actor ends for good."""
        return self._cell.watch(notify)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalRef) and other._cell is self._cell

    def __hash__(self) -> int:
        return hash(self._cell.path)

    def __repr__(self) -> str:
        return f"<Ref {self._cell.path}>"


class FarRef(Generic[M_contra]):
    """A ref to an actor on another node."""

    __slots__ = ("_network", "_path", "_peer")

    def __init__(self, network: Network, peer: PeerId, path: str) -> None:
        self._network = network
        self._peer = peer
        self._path = path

    @property
    def path(self) -> str:
        """Return the actor's path on its node."""
        return self._path

    @property
    def peer(self) -> str:
        """Return the id of the actor's node."""
        return self._peer

    async def tell(self, message: M_contra) -> None:
        """See `Ref.tell`."""
        await self._network.tell(self._peer, self._path, message)

    def tell_nowait(self, message: M_contra) -> None:
        """Raise: whether a far mailbox has room cannot be known without waiting."""
        raise ActorUsageError(
            f"tell_nowait({type(message).__name__}) to {self._path}, which is on another node",
            hint="use `await ref.tell(...)`",
        )

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """See `Ref.ask`."""
        answer: R = await self._network.ask(self._peer, self._path, message, timeout_s=timeout)
        return answer

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` once when the actor ends or its link is lost."""
        return self._network.watch(self._peer, self._path, notify)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FarRef) and (other._peer, other._path) == (self._peer, self._path)

    def __hash__(self) -> int:
        return hash((self._peer, self._path))

    def __repr__(self) -> str:
        return f"<Ref {self._peer}{self._path}>"


def _late(path: str, message: Any, timeout_s: float) -> str:
    return f"no answer from {path} to {type(message).__name__} within {timeout_s:g} s"
