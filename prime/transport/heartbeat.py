"""When a silent peer counts as dead: ping after an interval without bytes, give up after a timeout. Pure.

Any received byte is a sign of life, so a link busy with a big payload needs no ping. So is a write that had to wait and
went on: the other side's machine has acknowledged something, and it may be busy with one long frame, inside which it
cannot answer, or the answer be at the end of a long queue on the way. Where nothing gets through any more such writes
end at once, as what the stream takes without an acknowledgement it takes without a wait. A tick that comes too late means
that this process itself stood still (a suspended machine, a stopped process): that time is not the peer's silence, since
its bytes may lie unread in the socket. After a long stall it gets a fresh timeout.

While an answer is awaited the peer is asked after half the interval, and a PING that is not answered within another half
makes the link doubtful: long before the peer counts as dead it is worth trying whether a new link is heard, as a stream
that lost packets for a while may go on long after the way is free again (its retransmissions back off, RFC 6298 5.5).

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
    DOUBTFUL = "doubtful"
    DEAD = "dead"


STEPS = 16
"""The steps of an interval at which ticks are wanted, so that the links of a node share their wakes."""


class Heartbeat:
    """The detector of one link; `due` is when it wants its next tick, on the clock of `now`.

    `rest_s` is the silence after which a resting one pings: never sooner than after `interval_s`.
    """

    __slots__ = (
        "_asked_at",
        "_doubted",
        "_interval_s",
        "_rest_s",
        "_step_s",
        "_timeout_s",
        "asked",
        "due",
        "heard_at",
        "rests",
    )

    def __init__(self, interval_s: float, timeout_s: float, now: float, rest_s: float = math.inf) -> None:
        self._interval_s = interval_s
        self._step_s = interval_s / STEPS
        self._timeout_s = timeout_s
        self._rest_s = max(rest_s, interval_s)
        self._asked_at = -math.inf
        self._doubted = False
        self.heard_at = now
        self.asked = False
        self.rests = False
        self.due = self._step(now + interval_s)

    @property
    def doubtful(self) -> bool:
        """Tell whether a PING was not answered for so long that the link is in doubt."""
        return self.asked and self._doubted

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

    def flowed(self, now: float) -> None:
        """Note that the stream, which was full, went on taking bytes: what came before them has arrived."""
        self.heard(now)

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
            self.due = self._step(now + self._interval_s / 2)

    def tick(self, now: float, *, needed: bool = True, awaited: bool = False) -> Pulse:
        """Judge at `now`: `SILENT` means send a PING, `DEAD` means close. Early ticks are harmless.

        `DOUBTFUL` means try a new link, once for each silence. `needed` says whether anything depends on the peer,
        `awaited` whether something was sent to it that it is to answer.
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
        patience_s = self._interval_s / 2 if awaited and not self.doubtful else self._interval_s
        if now < self.heard_at + patience_s:
            self.rests = False
            self.due = self._step(self.heard_at + patience_s)
            return Pulse.ALIVE
        return self._judge(now, patience_s, awaited=awaited)

    def _judge(self, now: float, patience_s: float, *, awaited: bool) -> Pulse:
        if self.rests:  # the long silence counts as one interval of it
            self.rests = False
            self.heard_at = now - self._interval_s
        if self.asked and now >= self.heard_at + self._timeout_s:
            return Pulse.DEAD
        self.due = self._step(now + patience_s)
        if now < self.heard_at + self._timeout_s < self.due:
            self.due = self.heard_at + self._timeout_s
        if not self.asked:
            self.asked, self._asked_at, self._doubted = True, now, False
        elif awaited and not self._doubted and now >= self._asked_at + patience_s:
            self._doubted = True
            self.due = min(self._step(now + self._interval_s), self.heard_at + self._timeout_s)
            return Pulse.DOUBTFUL
        return Pulse.SILENT

    def _step(self, when: float) -> float:
        """Return the first step at or after `when`."""
        return math.ceil(when / self._step_s) * self._step_s
