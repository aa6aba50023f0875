"""What each IP group takes of a node's room, and who gives up first when it runs out. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any, Final, Generic, TypeVar

import attrs

OWN_GROUP: Final = ""
"""The group of this node itself: what it publishes is not pushed out by what others store."""

Place = TypeVar("Place", bound=tuple[Any, ...])


@attrs.define
class _Share(Generic[Place]):
    places: list[Place] = attrs.field(factory=list)
    size_bytes: int = 0


class Shares(Generic[Place]):
    """The places that each group has, in the order in which it would rather keep them."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share[Place]] = {}
        self.size_bytes = 0

    def add(self, group: str, place: Place, size_bytes: int) -> None:
        """Count a place and what it takes."""
        share = self._shares.setdefault(group, _Share())
        insort(share.places, place)
        self._grow(share, size_bytes)

    def remove(self, group: str, place: Place, size_bytes: int) -> None:
        """Count it no longer."""
        share = self._shares[group]
        take_out(share.places, place)
        self._grow(share, -size_bytes)
        if not share.places:
            del self._shares[group]

    def count(self, group: str) -> int:
        """Return how many places a group has."""
        return len(self._shares[group].places) if group in self._shares else 0

    def first_to_go(self) -> Place | None:
        """Return the last place of the group that takes the most; `None` if there is nobody's but this node's own."""
        others = [share for group, share in self._shares.items() if group != OWN_GROUP]
        return max(others, key=lambda share: share.size_bytes).places[-1] if others else None

    def __len__(self) -> int:
        """Return how many groups have something here."""
        return len(self._shares)

    def _grow(self, share: _Share[Place], size_bytes: int) -> None:
        share.size_bytes += size_bytes
        self.size_bytes += size_bytes


def take_out(places: list[Place], place: Place) -> None:
    """Remove an item from a sorted list, where it is once."""
    del places[bisect_left(places, place)]
