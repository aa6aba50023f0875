"""How long an actor's messages take and wait: a few integers for each actor, cheap enough to be always on. Pure.

Durations fall into buckets that double, so a percentile is right within a factor of two. One message of each burst is
timed, which is every message of an actor that is not flooded.
"""

from __future__ import annotations

from collections import deque

_FINEST_S = 1e-6
_BUCKETS = 40
_MARK_APART_S = 0.05
_NONE = bytearray()


class Timing:
    """The statistics of one actor across its incarnations."""

    __slots__ = ("_buckets", "_marks", "_rate_at", "_rate_from", "_rate_per_s", "_samples")

    def __init__(self) -> None:
        self._buckets = _NONE
        self._samples = 0
        self._marks: deque[tuple[int, float]] | None = None
        self._rate_from = 0
        self._rate_at = 0.0
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
        """Note that these messages wait now: what is still there later has waited at least since."""
        marks = self._marks
        if marks is None:
            marks = self._marks = deque()
        while marks and marks[0][0] <= handled:
            marks.popleft()
        end = handled + waiting
        if not marks or (marks[-1][0] < end and marks[-1][1] < now - _MARK_APART_S):
            marks.append((end, now))

    def oldest_s(self, handled: int, waiting: int, now: float) -> float:
        """Return how long the oldest waiting message has been seen waiting, in seconds: never more than the truth."""
        if not waiting:
            return 0.0
        self.mark(handled, waiting, now)
        return now - self._marks[0][1] if self._marks else 0.0

    def rate_per_s(self, handled: int, now: float) -> float:
        """Return the messages handled per second since the last look, or over the last second if that is longer."""
        if now - self._rate_at >= 1.0:
            self._rate_per_s = (handled - self._rate_from) / (now - self._rate_at)
            self._rate_at, self._rate_from = now, handled
        return self._rate_per_s
