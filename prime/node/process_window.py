"""What a process actor's parent has handed on and does not know to be handled: bounded, in order. Pure.

The child takes messages in the order they were handed on, and says how many tells it took and up to which ask. So when
it fails in order, the parent knows which messages it never began: they go back to the mailbox, and none is lost or run
twice. When it is killed, what is beyond its last word is in doubt and never sent again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from prime.node.process_messages import Taken

WINDOW = 512
"""Messages handed on and not known to be taken, at most."""
ASKS_MAX = 4096
"""Asks taken and not answered, as with `ctx.defer`."""


@attrs.define(eq=False)
class Flight:
    """One entry on its way. A tell has an `index` counted from 1, an ask the link's `token`."""

    entry: Any
    index: int = 0
    token: int = 0
    over: bool = False
    """Whether it was answered, or is known never to have left."""


class Window:
    """The flights of one incarnation, at most `size` of them."""

    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._flights: deque[Flight] = deque()
        self._asked: set[Flight] = set()
        self._tells = 0

    @property
    def full(self) -> bool:
        """Tell whether no more may be handed on now."""
        return len(self._flights) >= self._size or len(self._asked) >= ASKS_MAX

    def add_tell(self, entry: Any) -> Flight:
        """Note a tell that is handed on now."""
        self._tells += 1
        flight = Flight(entry, index=self._tells)
        self._flights.append(flight)
        return flight

    def add_ask(self, entry: Any) -> Flight:
        """Note an ask that is handed on now; the caller sets its token."""
        flight = Flight(entry)
        self._flights.append(flight)
        return flight

    def recall(self, flight: Flight) -> None:
        """Forget the tell handed on last: it has not left."""
        self._flights.pop()
        self._tells -= 1
        flight.over = True

    def answered(self, flight: Flight) -> None:
        """Note that an ask is over."""
        flight.over = True
        self._asked.discard(flight)
        self._sweep()

    def took(self, taken: Taken) -> None:
        """Note how far the child says it is."""
        while self._flights and _is_taken(self._flights[0], taken):
            flight = self._flights.popleft()
            if flight.token and not flight.over:
                self._asked.add(flight)
        self._sweep()

    def end(self) -> tuple[list[Any], list[Any]]:
        """Return the entries that were never taken as far as is known, and the asks taken without an answer."""
        untaken = [flight.entry for flight in self._flights if not flight.over]
        asked = [flight.entry for flight in self._asked]
        self._flights.clear()
        self._asked.clear()
        return untaken, asked

    def _sweep(self) -> None:
        while self._flights and self._flights[0].over:
            self._flights.popleft()


def _is_taken(flight: Flight, taken: Taken) -> bool:
    return flight.over or (flight.index <= taken.tells if flight.index else flight.token <= taken.ask)
