"""How long an actor's messages take and wait: a few integers for each actor, cheap enough to be always on. Pure.

Durations fall into buckets that double, so a percentile is right within a factor of two. One message of some bursts is
timed, so that the times cost next to nothing.
"""

from __future__ import annotations

_FINEST_S = 1e-6
_BUCKETS = 40
_NONE = bytearray()
_NO_MARK = (0, 0.0)


class Timing:
    """The statistics of one actor across its incarnations, from `now` on."""

    __slots__ = ("_buckets", "_marked", "_marking", "_rate_at", "_rate_from", "_rate_per_s", "_samples")

    def __init__(self, now: float) -> None:
        self._buckets = _NONE
        self._samples = 0
        self._marked = self._marking = _NO_MARK
        self._rate_from = 0
        self._rate_at = now
        self._rate_per_s = 0.0

    def took(self, duration_s: float) -> None:
        """Count a message that took that long. When a bucket is full all are halved: recent ones weigh more."""
        if not self._buckets:
            self._buckets = bytearray(_BUCKETS)
        bucket = min(int(duration_s / _FINEST_S).bit_length(), _BUCKETS - 1)
        self._samples += 1
        if self._buckets[bucket] == 255:
            self._buckets = bytearray(count // 2 for count in self._buckets)
        self._buckets[bucket] += 1

    def percentile_s(self, share: float) -> float:
        """Return the duration in seconds that this share of the messages stayed under; 0 with no message yet."""
        total = sum(self._buckets)
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= share * total:
                return float(_FINEST_S * 2**bucket)
        return 0.0

    def mark(self, handled: int, waiting: int, now: float) -> None:
        """Note that so many messages wait now behind those handled: what is still there later has waited since.

        Two marks are kept: the one that the oldest message is known by, and one to follow it.
        """
        if waiting <= 0:
            return
        end = handled + waiting
        if self._marked[0] <= handled:
            self._marked = self._marking if self._marking[0] > handled else (end, now)
            self._marking = (end, now)
        elif self._marking[0] <= self._marked[0]:
            self._marking = (end, now)

    def oldest_s(self, handled: int, waiting: int, now: float) -> float:
        """Return how long the oldest waiting message has been seen waiting, in seconds: never more than the truth."""
        if not waiting:
            return 0.0
        self.mark(handled, waiting, now)
        return now - self._marked[1]

    def rate_per_s(self, handled: int, now: float) -> float:
        """Return the messages handled per second since the last look, or over the last second if that is longer."""
        if now - self._rate_at >= 1.0:
            self._rate_per_s = (handled - self._rate_from) / (now - self._rate_at)
            self._rate_at, self._rate_from = now, handled
        return self._rate_per_s
