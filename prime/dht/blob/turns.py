"""Requests of many peers, served in turns: one of each, so that who asks for much waits for himself. Pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What waits, by peer: at most `waiting_max` of each of at most `peers_max`."""

    def __init__(self, waiting_max: int, peers_max: int) -> None:
        self._waiting_max = waiting_max
        self._peers_max = peers_max
        self._waiting: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def has_room(self, peer: str) -> bool:
        """Tell whether one more of this peer may wait."""
        waiting = self._waiting.get(peer)
        return len(self._waiting) < self._peers_max if waiting is None else len(waiting) < self._waiting_max

    def add(self, peer: str, wish: T) -> None:
        """Let this wait behind the peer's others."""
        self._waiting.setdefault(peer, deque()).append(wish)

    def next(self) -> T | None:
        """Take the first of the peer whose turn it is; the peer's next comes after one of each other."""
        if not self._waiting:
            return None
        peer = next(iter(self._waiting))
        wishes = self._waiting.pop(peer)
        wish = wishes.popleft()
        if wishes:
            self._waiting[peer] = wishes
        return wish
