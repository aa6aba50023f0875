"""Rates: token buckets, one alone or one for each of many peers. Pure.

A bucket remembers one number, the time at which it will be full (the generic cell rate algorithm, ITU-T I.371), so it costs
nothing while nobody takes from it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, Generic, TypeVar

KEYS_MAX: Final = 4096
"""Keys of a `Book` that are remembered."""
ROUNDING_S: Final = 1e-6

K = TypeVar("K")


class Bucket:
    """A token bucket: `rate` tokens a second, of which what is not used for `burst_s` seconds is kept."""

    __slots__ = ("_full_at", "_per_token_s", "burst_s")

    def __init__(self, rate: float, burst_s: float) -> None:
        self._per_token_s = 1 / rate
        self.burst_s = burst_s
        self._full_at = -math.inf

    def take(self, now: float, tokens: float = 1) -> bool:
        """Take tokens if there are enough."""
        full_at = max(self._full_at, now) + tokens * self._per_token_s
        if full_at > now + max(self.burst_s, self._per_token_s) + ROUNDING_S:
            return False
        self._full_at = full_at
        return True

    def owe(self, now: float, tokens: float) -> float:
        """Take tokens also where there are not enough; return when there would have been."""
        self._full_at = max(self._full_at, now) + tokens * self._per_token_s
        return self._full_at - self.burst_s - ROUNDING_S

    def wait_s(self, now: float, tokens: float) -> float:
        """As `owe`; return for how many seconds there would not have been enough, 0 if there were."""
        return max(0.0, self.owe(now, tokens) - now)

    def full(self, now: float) -> bool:
        """Tell whether it is as if nothing had ever been taken."""
        return self._full_at <= now


class Book(Generic[K]):
    """One bucket for each of many keys. Full ones are forgotten, and where there are too many those used least lately."""

    def __init__(self, rate: float, burst_s: float, keys_max: int = KEYS_MAX) -> None:
        self._rate = rate
        self._burst_s = burst_s
        self._keys_max = keys_max
        self._buckets: OrderedDict[K, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K, now: float) -> bool:
        """Count a coming of `key`; tell whether it is within its rate."""
        if self._rate == math.inf:
            return True
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = Bucket(self._rate, self._burst_s)
        self._buckets.move_to_end(key)
        return bucket.take(now)

    def _make_room(self, now: float) -> None:
        while self._buckets:
            quietest = next(iter(self._buckets))
            if len(self._buckets) < self._keys_max and not self._buckets[quietest].full(now):
                return
            del self._buckets[quietest]
