"""What a process actor's parent has handed on and does not know to be handled: bounded, in order. Pure.

The child says what has come to its actor and what of that was not begun. So when it fails in order, the parent knows
which messages go back to the mailbox, and none is lost or run twice. When it is killed, what is beyond its last word is
in doubt and never sent again.
"""

from __future__ import annotations

from typing import Any

import attrs

from prime.process.messages import Arrived

WINDOW = 512
"""Messages handed on and not known to be begun, at most."""
ASKS_MAX = 4096
"""Asks begun and not answered, as with `ctx.defer`."""


@attrs.define(eq=False)
class Flight:
    """One entry on its way, since `begun_s`. A tell has an `index` counted from 1, an ask the link's `token`."""

    entry: Any
    index: int = 0
    token: int = 0
    begun_s: float = 0.0


class Window:
    """The flights of one incarnation, at most `size` of them."""

    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._flights: dict[Flight, None] = {}
        self._asked: set[Flight] = set()
        self._aside = 0
        self._tells = 0

    @property
    def full(self) -> bool:
        """Tell whether no more may be handed on now; what the actor has stashed is not in the way."""
        return len(self._flights) - self._aside >= self._size or len(self._asked) >= ASKS_MAX

    @property
    def load(self) -> int:
        """Return how many entries were handed on and are not over as far as is known: tells not begun, asks not answered."""
        return len(self._flights) + len(self._asked)

    def add_tell(self, entry: Any) -> Flight:
        """Note a tell that is handed on now."""
        self._tells += 1
        flight = Flight(entry, index=self._tells)
        self._flights[flight] = None
        return flight

    def add_ask(self, entry: Any, now_s: float = 0.0) -> Flight:
        """Note an ask that is handed on now; the caller sets its token."""
        flight = Flight(entry, begun_s=now_s)
        self._flights[flight] = None
        return flight

    def recall(self, flight: Flight) -> None:
        """Forget the tell handed on last: it has not left."""
        del self._flights[flight]
        self._tells -= 1

    @property
    def first(self) -> Any:
        """Return the entry that has been on its way the longest, or `None`."""
        return next((flight.entry for flight in (*self._asked, *self._flights)), None)

    def answered(self, flight: Flight) -> None:
        """Note that an ask is over."""
        self._flights.pop(flight, None)
        self._asked.discard(flight)

    def hear(self, arrived: Arrived) -> None:
        """Note how far the child says it is."""
        waiting_tells, waiting_asks = set(arrived.waiting_tells), set(arrived.waiting_asks)
        begun: list[Flight] = []
        for flight in self._flights:  # in the order in which they arrive
            if flight.index > arrived.tells or flight.token > arrived.ask:
                break
            if flight.index not in waiting_tells and flight.token not in waiting_asks:
                begun.append(flight)
        for flight in begun:
            del self._flights[flight]
        self._asked.update(flight for flight in begun if flight.token)
        self._aside = arrived.aside

    def end(self) -> tuple[list[Any], list[Any]]:
        """Return the entries that were not begun as far as is known, and the asks begun without an answer."""
        waiting = [flight.entry for flight in self._flights]
        asked = [flight.entry for flight in self._asked]
        self._flights.clear()
        self._asked.clear()
        return waiting, asked
