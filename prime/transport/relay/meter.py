"""A rate as a time: when the next bytes may pass. Pure.

The generic cell rate algorithm (ITU-T I.371): each use moves a theoretical time on by size / rate, and who is ahead of the
clock by more than the burst waits. It remembers one number, and is fair to who asks in turn.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.25


class Meter:
    """Lets `rate` units a second pass, after a pause as many as `burst_s` seconds bring at once."""

    __slots__ = ("_burst_s", "_rate", "_until")

    def __init__(self, rate: float, burst_s: float = BURST_S) -> None:
        self._rate = rate
        self._burst_s = burst_s
        self._until = float("-inf")

    def use(self, units: float, now: float) -> float:
        """Count a use, and return how many seconds its user has to wait before the next; 0 if not at all."""
        self._until = max(self._until, now - self._burst_s) + units / self._rate
        return max(0.0, self._until - now)

    def allows(self, units: float, now: float) -> bool:
        """Count a use if it need not wait; `False`, and nothing is counted, if it would have to."""
        until = max(self._until, now - self._burst_s) + units / self._rate
        if until > now:
            return False
        self._until = until
        return True

    def is_full(self, now: float) -> bool:
        """Tell whether nothing of the past counts any more."""
        return self._until <= now - self._burst_s
