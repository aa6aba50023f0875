"""When a silent peer counts as dead: ping after an interval without bytes, give up after a timeout. Pure.

Any received byte is a sign of life, so a link busy with a big payload needs no ping. A tick that comes too late means
that this process itself stood still (a suspended machine, a stopped process): that time is not the peer's silence, since
its bytes may lie unread in the socket. After a long stall it gets a fresh timeout.

While nothing depends on the peer the detector rests: it pings after a much longer silence, so that a thousand links
that are up and unused cost next to nothing. What comes to depend on the peer wakes it.
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
    """The detector of one link; `due` is when it wants its next tick, on the clock of `now`.

    `rest_s` is the silence after which a resting one pings: never sooner than after `interval_s`.
    """

    __slots__ = ("_interval_s", "_rest_s", "_step_s", "_timeout_s", "asked", "due", "heard_at", "rests")

    def __init__(self, interval_s: float, timeout_s: float, now: float, rest_s: float = math.inf) -> None:
        self._interval_s = interval_s
        self._step_s = interval_s / STEPS
        self._timeout_s = timeout_s
        self._rest_s = max(rest_s, interval_s)
        self.heard_at = now
        self.asked = False
        self.rests = False
        self.due = self._step(now + interval_s)

    def begin(self, now: float) -> None:
        """Begin anew, at rest."""
        self.heard_at = now
        self.asked = self.rests = False
        if self._rest_s > self._interval_s:
            self.rests = True
            self.due = self._step(now + self._rest_s)
        else:
            self.due = self._step(now + self._interval_s)

    def heard(self, now: float) -> None:
        """Note that bytes came."""
        self.heard_at = now
        self.asked = False

    def rest(self) -> None:
        """Rest from now on: nothing depends on the peer any more."""
        if not self.asked and self._rest_s > self._interval_s:
            self.rests = True
            self.due = self._step(self.heard_at + self._rest_s)

    def wake(self, now: float) -> None:
        """Rest no longer: from now on the peer is to be heard again."""
        if self.rests:
            self.rests = False
            self.heard(now)
            self.due = self._step(now + self._interval_s)

    def tick(self, now: float, *, needed: bool = True) -> Pulse:
        """Judge at `now`: `SILENT` means send a PING, `DEAD` means close. Early ticks are harmless.

        `needed` says whether anything depends on the peer.
        """
        if now < self.due:
            return Pulse.ALIVE
        if now > self.due + self._timeout_s:  # we stood still, not the peer
            self.heard(now)
        else:
            self.heard_at = min(self.heard_at + (now - self.due), now)
        if not self.asked and not needed and now < self.heard_at + self._rest_s:
            self.rests = True
            self.due = self._step(self.heard_at + self._rest_s)
            return Pulse.ALIVE
        if now < self.heard_at + self._interval_s:
            self.rests = False
            self.due = self._step(self.heard_at + self._interval_s)
            return Pulse.ALIVE
        return self._judge(now)

    def _judge(self, now: float) -> Pulse:
        if self.rests:  # the long silence counts as one interval of it
            self.rests = False
            self.heard_at = now - self._interval_s
        if self.asked and now >= self.heard_at + self._timeout_s:
            return Pulse.DEAD
        self.due = self._step(now + self._interval_s)
        if now < self.heard_at + self._timeout_s < self.due:
            self.due = self.heard_at + self._timeout_s
        self.asked = True
        return Pulse.SILENT

    def _step(self, when: float) -> float:
        """Return the first step at or after `when`."""
        return math.ceil(when / self._step_s) * self._step_s
