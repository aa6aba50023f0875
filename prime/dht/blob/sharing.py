"""Whom to ask for which of many pieces, where several have them all. Pure.

Whoever answers quickly is asked for more at a time, and who is slow for less. A source that leaves takes nothing with it:
what it had not delivered is asked of the others; one that sent a wrong piece is dropped for good. At the end, what only
slow sources have still to bring is asked of an idle one too. It keeps no time: who uses it says how long an answer took.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import attrs

P = TypeVar("P", bound=Hashable)

WINDOW: Final = 2
"""Requests that a source has in flight at first."""
WINDOW_MAX: Final = 16
"""And at most: sources refuse more."""
QUICK_S: Final = 1.0
"""An answer within this lets the source have one request more in flight; a later one takes one away."""


@attrs.define
class _Source(Generic[P]):
    window: int = WINDOW
    asked: dict[P, None] = attrs.Factory(dict)
    """In the order in which it was asked, and answers."""


class Sharing(Generic[P]):
    """Spreads pieces over sources. `rank` orders pieces that come back from a source that left: the smallest go first."""

    def __init__(self, rank: Callable[[P], Any]) -> None:
        self.refused: set[str] = set()
        """Sources that sent a wrong piece."""
        self._rank = rank
        self._sources: dict[str, _Source[P]] = {}
        self._waiting: deque[P] = deque()

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources in use."""
        return tuple(self._sources)

    @property
    def waiting(self) -> int:
        """Return how many pieces nobody was asked for yet."""
        return len(self._waiting)

    def add(self, source: str) -> None:
        """Use a source, unless it sent a wrong piece before."""
        if source not in self.refused:
            self._sources.setdefault(source, _Source())

    def want(self, pieces: Iterable[P]) -> None:
        """Ask for these pieces, after those that wait already."""
        self._waiting.extend(pieces)

    def want_first(self, pieces: Iterable[P]) -> None:
        """Ask for these pieces before those that wait already."""
        self._waiting.extendleft(reversed(list(pieces)))

    def was_asked(self, source: str, piece: P) -> bool:
        """Tell whether an answer of this source to a request for this piece is awaited."""
        return source in self._sources and piece in self._sources[source].asked

    def answered(self, source: str, piece: P, seconds: float) -> None:
        """Take note of a right answer."""
        found = self._sources[source]
        found.asked.pop(piece, None)
        quick = seconds <= QUICK_S
        found.window = min(found.window + 1, WINDOW_MAX) if quick else max(found.window - 1, 1)

    def drop(self, source: str, *, for_good: bool) -> None:
        """Ask a source for nothing more; what it alone was asked for is asked of others."""
        left = set(self._sources.pop(source).asked)
        elsewhere = {piece for other in self._sources.values() for piece in other.asked}
        self.want_first(sorted(left - elsewhere, key=self._rank))
        if for_good:
            self.refused.add(source)

    def requests(self, has: Callable[[P], bool]) -> list[tuple[str, P]]:
        """Return whom to ask for what now; `has` tells which pieces are here."""
        found: list[tuple[str, P]] = []
        while self._waiting and (source := self._least_busy()) is not None:
            piece = self._waiting.popleft()
            if not has(piece):
                self._ask(source, piece, found)
        if not self._waiting:
            self._hurry(has, found)
        return found

    def _ask(self, source: str, piece: P, found: list[tuple[str, P]]) -> None:
        self._sources[source].asked[piece] = None
        found.append((source, piece))

    def _hurry(self, has: Callable[[P], bool], found: list[tuple[str, P]]) -> None:
        """Ask idle sources too for half of what others have still to bring, the last of it: no slow one holds up the end."""
        for name, source in self._sources.items():
            if source.asked:
                continue
            queues = [[piece for piece in other.asked if not has(piece)] for other in self._sources.values()]
            often = Counter(piece for queue in queues for piece in queue)
            alone = [(at, piece) for queue in queues for at, piece in enumerate(queue) if often[piece] == 1]
            alone.sort(key=lambda place: -place[0])
            for _, piece in alone[: min(source.window, (len(alone) + 1) // 2)]:
                self._ask(name, piece, found)

    def _least_busy(self) -> str | None:
        free = [name for name, source in self._sources.items() if len(source.asked) < source.window]
        return min(free, key=lambda name: len(self._sources[name].asked), default=None)
