"""Changes that are tried and taken back, so that each is planned upon those before it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Change = TypeVar("Change")


class Draft(Generic[Change]):
    """A plan in the making. `put` makes a change where it belongs, and returns the one that undoes it."""

    def __init__(self, put: Callable[[Change], Change]) -> None:
        self.changes: list[Change] = []
        self._put = put
        self._undo: list[Change] = []

    def make(self, change: Change) -> None:
        """Try one more change."""
        self._undo.append(self._put(change))
        self.changes.append(change)

    def undo(self, down_to: int) -> None:
        """Take changes back, the last one first, down to so many: they are no longer part of the plan."""
        self._take_back(down_to)
        del self.changes[down_to:]

    def end(self) -> tuple[Change, ...]:
        """Leave all as it was before, and return what is planned."""
        self._take_back(0)
        return tuple(self.changes)

    def _take_back(self, down_to: int) -> None:
        while len(self._undo) > down_to:
            self._put(self._undo.pop())
