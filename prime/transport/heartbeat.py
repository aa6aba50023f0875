"""When a silent peer counts as dead: ping after an interval without bytes, give up after a timeout. Pure.

Any received byte is a sign of life, so a link busy with a big payload needs no ping. A tick that comes too late means
that this process itself stood still (a suspended machine, a stopped process): that time is not the peer's silence, since
its bytes may lie unread in the socket. After a long stall it gets a fresh timeout.
"""

from __future__ import annotations

import math
from enum import Enum


class Pulse(Enum):
    """What a tick found."""

    ALIVE = "alive"
    SILENT = "silent"
    DEAD = "dead"


STEPS = 16
"""The steps of an interval at which ticks are wanted, so that the links of a node share their wakes."""


class Heartbeat:
    """The detector of one link; `due` is when it wants its next tick, on the clock of `now`."""

    __slots__ = ("_asked", "_heard_at", "_interval_s", "_step_s", "_timeout_s", "due")

    def __init__(self, interval_s: float, timeout_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._step_s = interval_s / STEPS
        self._timeout_s = timeout_s
        self._heard_at = now
        self._asked = False
        self.due = self._step(now + interval_s)

    def heard(self, now: float) -> None:
        """Note that bytes came."""
        self._heard_at = now
        self._asked = False

    def tick(self, now: float) -> Pulse:
        """Judge at `now`: `SILENT` means send a PING, `DEAD` means close. Early ticks are harmless."""
        if now < self.due:
            return Pulse.ALIVE
        if now > self.due + self._timeout_s:  # we stood still, not the peer
            self.heard(now)
        else:
            self._heard_at = min(self._heard_at + (now - self.due), now)
        if now < self._heard_at + self._interval_s:
            self.due = self._step(self._heard_at + self._interval_s)
            return Pulse.ALIVE
        if self._asked and now >= self._heard_at + self._timeout_s:
            return Pulse.DEAD
        self.due = self._step(now + self._interval_s)
        if now < self._heard_at + self._timeout_s < self.due:
            self.due = self._heard_at + self._timeout_s
        self._asked = True
        return Pulse.SILENT

    def _step(self, when: float) -> float:
        """Return the first step at or after `when`."""
        return math.ceil(when / self._step_s) * self._step_s
