"""The rhythm of one peer's heartbeats, and how strange its silence is (pure).

A phi-accrual detector: from the intervals between heartbeats it says how unlikely a silence of this length is from a
member that lives, as `phi = -log10 P(silence)`. A link with much jitter is given more time by itself, a steady one less.
Source: Hayashibara et al., "The phi Accrual Failure Detector", 2004 (with a normal distribution of the intervals).
"""

from __future__ import annotations

import math
from collections import deque

import attrs

INTERVALS_MAX = 64
"""Intervals that are remembered: the last dozen seconds of activity."""
INTERVALS_MIN = 5
"""With fewer than these their statistics say nothing."""


@attrs.define
class Rhythm:
    """What is known of one peer: its last sign of life, and the intervals between heartbeats within a round."""

    heard_at: float
    intervals: deque[float] = attrs.Factory(lambda: deque(maxlen=INTERVALS_MAX))
    _beat: tuple[int, float] | None = None

    def beat(self, round_: int, now: float) -> None:
        """Note a heartbeat; between rounds there are none, so only those of one round make an interval."""
        if self._beat is not None and self._beat[0] == round_:
            self.intervals.append(now - self._beat[1])
        self._beat = (round_, now)
        self.heard_at = now

    def phi(self, silence_s: float, beat_s: float) -> float:
        """Return how strange a silence is: 1 is one in ten, 8 one in a hundred million.

        `beat_s` is how often heartbeats are sent: half of it is the least deviation, so that a very steady peer is not
        held to its steadiness; one that is hardly known is taken to vary by as much as it.
        """
        mean, deviation = beat_s, beat_s
        if len(self.intervals) >= INTERVALS_MIN:
            mean = sum(self.intervals) / len(self.intervals)
            variance = sum((interval - mean) ** 2 for interval in self.intervals) / len(self.intervals)
            deviation = max(math.sqrt(variance), beat_s / 2)
        tail = 0.5 * math.erfc((silence_s - mean) / (deviation * math.sqrt(2)))
        return -math.log10(tail) if tail > 0 else math.inf
