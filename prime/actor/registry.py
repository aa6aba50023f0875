"""Named groups of a system's actors: an actor joins, others find it by the group's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prime.actor.cell import Cell


class Groups:
    """Which cells are in which group, in the order they joined."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Cell, None]] = {}
        self._watchers: dict[str, dict[object, Callable[[], None]]] = {}

    def watch(self, group: str, notify: Callable[[], None]) -> Callable[[], None]:
        """Call `notify` whenever somebody joins or leaves the group; returns the unwatch."""
        key = object()
        watchers = self._watchers.setdefault(group, {})
        watchers[key] = notify

        def unwatch() -> None:
            watchers.pop(key, None)
            if not watchers and self._watchers.get(group) is watchers:
                del self._watchers[group]

        return unwatch

    def _notify(self, group: str) -> None:
        for notify in tuple(self._watchers.get(group, {}).values()):
            notify()

    def join(self, group: str, cell: Cell) -> None:
        """Add a cell; joining twice is joining once."""
        self._members.setdefault(group, {})[cell] = None
        if cell.groups is None:
            cell.groups = {}
        cell.groups[group] = None
        self._notify(group)

    def leave(self, group: str, cell: Cell) -> None:
        """Take a cell out; harmless if it is not in."""
        members = self._members.get(group)
        if members is not None:
            members.pop(cell, None)
            if not members:
                del self._members[group]
        if cell.groups is not None:
            cell.groups.pop(group, None)
        self._notify(group)

    def members(self, group: str) -> Iterator[Cell]:
        """Yield the cells in a group."""
        yield from self._members.get(group, ())
