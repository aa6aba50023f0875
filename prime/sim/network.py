"""The network's model: what becomes of each message, for both engines (pure).

A link from one node to another has latency, jitter and bandwidth (bytes go one after the other), may be cut one way,
and is judged by chance for each datagram or write. Who moves the bytes asks `datagram` or `segment` what becomes of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

import attrs

from prime.sim.plan import NetworkFaults
from prime.sim.streams import Streams


@attrs.frozen
class Arrival:
    """One copy of a datagram comes at `at` seconds, changed or not."""

    at: float
    corrupted: bool = False


@attrs.define(slots=True, eq=False)
class Way:
    """One direction between two nodes."""

    random: Random
    free_at: float = -math.inf
    """When the last byte that was given to it has left."""
    cuts: int = 0


class Network:
    """Every link of a world. `faults` may be replaced at any time, and holds from then on.

    Each link has a random stream of its own; with `by_source` all from one node share one, as a world of thousands of
    nodes has too many links for that.
    """

    def __init__(self, streams: Streams, faults: NetworkFaults, *, by_source: bool = False) -> None:
        self.faults = faults
        self._by_source = by_source
        self._streams = streams
        self._sources: dict[str, Random] = {}
        self._ways: dict[tuple[str, str], Way] = {}

    @property
    def faults(self) -> NetworkFaults:
        """What goes wrong from now on."""
        return self._faults

    @faults.setter
    def faults(self, faults: NetworkFaults) -> None:
        self._faults = faults
        self._broken = faults.loss + (faults.corruption if faults.sealed else 0.0)
        self._latency_s, self._jitter_s = faults.latency_s, faults.jitter_s
        self._bandwidth_bytes_per_s = faults.bandwidth_bytes_per_s

    def datagram(self, source: str, target: str, size_bytes: int, now: float) -> tuple[Arrival, ...]:
        """Return when each copy of a datagram arrives: none for one that is lost."""
        way, faults = self.way(source, target), self.faults
        random = way.random
        leaves = self._leaves(way, size_bytes, now)
        if way.cuts or (faults.loss and random.random() < faults.loss):
            return ()
        copies = 2 if faults.duplication and random.random() < faults.duplication else 1
        return tuple(self._arrival(random, leaves) for _ in range(copies))

    def segment(self, source: str, target: str, size_bytes: int, now: float) -> float | None:
        """Return when the bytes of one write on a stream arrive, or `None` if the stream dies of it.

        The caller keeps the order of a stream: bytes arrive no sooner than those before them.
        """
        return self.segment_on(self.way(source, target), size_bytes, now)

    def segment_on(self, way: Way, size_bytes: int, now: float) -> float | None:
        """As `segment`, for who has looked the way up."""
        if self._broken and way.random.random() < self._broken:
            return None
        free_at = way.free_at
        leaves = way.free_at = (free_at if free_at > now else now) + size_bytes / self._bandwidth_bytes_per_s  # noqa: FURB136 - half the price
        return leaves + self._latency_s + (way.random.random() * self._jitter_s if self._jitter_s else 0.0)

    def flipped_bit(self, source: str, target: str, size_bytes: int) -> int | None:
        """Return which bit of a write on an unsealed stream arrives changed, if any does."""
        faults, random = self.faults, self.way(source, target).random
        if faults.sealed or not faults.corruption or random.random() >= faults.corruption:
            return None
        return random.randrange(8 * size_bytes)

    def is_open(self, source: str, target: str) -> bool:
        """Tell whether anything goes from `source` to `target` now."""
        way = self._ways.get((source, target))
        return way is None or way.cuts == 0

    def cut(self, source: str, target: str) -> None:
        """Let nothing more go from `source` to `target`; cuts add up."""
        self.way(source, target).cuts += 1

    def mend(self, source: str, target: str) -> None:
        """Undo one cut."""
        way = self.way(source, target)
        way.cuts = max(way.cuts - 1, 0)

    def mend_all(self) -> None:
        """Undo every cut, and every queue of bytes."""
        for way in self._ways.values():
            way.cuts = 0
            way.free_at = -math.inf  # what is sent from now on waits for none of it

    def across(self, side: Iterable[str], nodes: Iterable[str]) -> list[tuple[str, str]]:
        """Return both directions of each pair that a partition of `nodes` into `side` and the others parts."""
        inside = set(side)
        one, two = [n for n in nodes if n in inside], [n for n in nodes if n not in inside]
        return [pair for a in one for b in two for pair in ((a, b), (b, a))]

    def way(self, source: str, target: str) -> Way:
        """Return one direction between two nodes, which stays the same as long as the network."""
        way = self._ways.get((source, target))
        if way is None:
            way = self._ways[source, target] = Way(self._random(source, target))
        return way

    def _random(self, source: str, target: str) -> Random:
        if not self._by_source:
            return self._streams.stream("network", source, target)
        found = self._sources.get(source)
        if found is None:
            found = self._sources[source] = self._streams.stream("network", source)
        return found

    def _leaves(self, way: Way, size_bytes: int, now: float) -> float:
        way.free_at = max(way.free_at, now) + size_bytes / self.faults.bandwidth_bytes_per_s
        return way.free_at

    def _arrival(self, random: Random, leaves: float) -> Arrival:
        faults = self.faults
        at = leaves + faults.latency_s + (random.random() * faults.jitter_s if faults.jitter_s else 0.0)
        if faults.reordering and random.random() < faults.reordering:
            at += random.random() * 4 * (faults.latency_s + faults.jitter_s)
        return Arrival(at, bool(faults.corruption and random.random() < faults.corruption))
