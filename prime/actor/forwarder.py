"""A forwarder: an actor that takes each mailbox entry whole, to hand it on. Routers and process actors are built on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from prime.actor.actor import Actor

if TYPE_CHECKING:
    from prime.actor.cell import Cell

M_contra = TypeVar("M_contra", contravariant=True)


class Forwarder(Actor[M_contra]):
    """Hears every message itself, whatever its class, instead of through `@on`.

    Supervision, mailbox, watch and stop are those of any actor. The messages it hands on are another's to handle.
    """

    _cell: Cell

    def bind(self, cell: Cell) -> None:
        """Attach the context (called by the runtime before `started`)."""
        super().bind(cell)
        self._cell = cell
        if type(self).take_entry_now is not Forwarder.take_entry_now:
            cell.eager = self.take_entry_now

    @property
    def stands_for(self) -> str:
        """Return what introspection shows as its class: that of the actor behind it, if it is one."""
        return type(self).__qualname__

    def took(self, duration_s: float) -> None:
        """Tell introspection how long whoever is behind it took with a message, in seconds."""
        if self._cell.timing is not None:
            self._cell.timing.took(duration_s)

    async def take_entry(self, entry: Any) -> None:
        """Take one entry: a bare message, or an `Envelope` whose slot and deadline are the forwarder's from now on.

        A failure here fails the actor. Slots that were not handed on must be answered, at the latest in `stopping`.
        """
        raise NotImplementedError

    def take_entry_now(self, entry: Any) -> bool:  # noqa: ARG002 - nothing, unless a forwarder overrides it
        """Take one entry in the task of whoever sent it, while this forwarder is idle; `False` leaves it to `take_entry`.

        So an entry that need not wait is spared a task switch. It must not fail, and returning `False` it has done
        nothing.
        """
        return False

    @property
    def load(self) -> int:
        """Return how many of the entries it took are not done with, as far as it knows."""
        return 0

    def hold(self, *, held: bool) -> None:
        """Take no more entries while `held`: they wait in the mailbox, and its senders with them. Stops still come."""
        self._cell.hold(held=held)

    def put_back(self, entries: Sequence[Any]) -> None:
        """Return entries that nobody has handled to the front of the mailbox, in this order."""
        self._cell.put_back(entries)
