"""Whose aggregator is watched, and to whom there is a link: what a node knows of its neighbours (pure)."""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs

from prime.transport.facts import LinkDown, LinkUp


@attrs.frozen
class _Watch:
    """Since when an aggregator is watched, and what ends that."""

    since: float
    end: Callable[[], None]


class Watches:
    """A node's watches. `watch` begins one of a peer's aggregator, and returns what ends it. Times in seconds."""

    def __init__(self, watch: Callable[[str], Callable[[], None]]) -> None:
        self._watch = watch
        self._watched: dict[str, _Watch] = {}
        self._linked: set[str] = set()
        self._looks: set[str] = set()

    @property
    def peers(self) -> frozenset[str]:
        """Return who is watched."""
        return frozenset(self._watched)

    def begin(self, peer: str, now: float) -> None:
        """Watch a peer, unless it is watched already."""
        if peer not in self._watched:
            self._watched[peer] = _Watch(now, self._watch(peer))

    def lost(self, peer: str) -> None:
        """Note that a watch ended by itself: the peer is down."""
        self._watched.pop(peer, None)

    def keep(self, peers: Collection[str]) -> None:
        """Watch nobody but these any more."""
        for peer in self._watched.keys() - set(peers):
            self._watched.pop(peer).end()

    def observe(self, fact: object) -> None:
        """Note that a link came, or went."""
        if isinstance(fact, LinkUp):
            self._linked.add(fact.peer)
        elif isinstance(fact, LinkDown):
            self._linked.discard(fact.peer)

    def is_steady(self, peer: str, now: float, for_s: float) -> bool:
        """Tell whether a peer is linked, and the watch of its aggregator has stood for so long."""
        watch = self._watched.get(peer)
        return watch is not None and peer in self._linked and now - watch.since >= for_s

    def want_look(self, peer: str) -> bool:
        """Tell whether a look at a peer that is down has to be set up: one is enough at a time."""
        if peer in self._looks:
            return False
        self._looks.add(peer)
        return True

    def looked(self, peer: str) -> None:
        """Note that the look at a peer came."""
        self._looks.discard(peer)
