"""How fast this node can send, seen by what it sends anyway (pure): its part of the vector is cut after it.

A round's rate is its bulk bytes by the time in which some of them were on their way, to whomever. What receives may be
slower than the link here, and so may be what encodes, but little makes a link look faster than it is: only what waits in
buffers, which a slow line has few bytes of. So the highest rate of the last rounds is the best guess.
Source: the bandwidth filter of Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016.
"""

from __future__ import annotations

from collections import deque

import attrs

ROUNDS = 8
"""Rounds of which the fastest counts."""
BYTES_MIN = 1 << 20
"""With less than this a round says nothing: it was in some buffer before the link saw it."""
BUSY_MIN_S = 0.01


@attrs.define
class Meter:
    """Counts what is sent, from `begin` to `end` of each piece of work; several may overlap."""

    _works: int = 0
    _since: float = 0.0
    _busy_s: float = 0.0
    _bytes: int = 0
    _rates: deque[float] = attrs.Factory(lambda: deque(maxlen=ROUNDS))

    def begin(self, now: float) -> None:
        """Note that some bulk is on its way from now on."""
        if self._works == 0:
            self._since = now
        self._works += 1

    def sent(self, size_bytes: int) -> None:
        """Note that so much of it has left."""
        self._bytes += size_bytes

    def end(self, now: float) -> None:
        """Note that one piece of work is over."""
        self._works -= 1
        if self._works == 0:
            self._busy_s += now - self._since

    def next_round(self, now: float) -> float | None:
        """End a round; return the best guess in bytes a second, or `None` as long as there is none."""
        if self._works:
            self._busy_s += now - self._since
            self._since = now
        if self._bytes >= BYTES_MIN and self._busy_s >= BUSY_MIN_S:
            self._rates.append(self._bytes / self._busy_s)
        self._bytes, self._busy_s = 0, 0.0
        return max(self._rates, default=None)
