"""How long a leader waits for members that are usually late (pure).

A round that waits for a member gets its contribution and loses the time. Where a contribution of weight w is added to
those of weight W that are there after T seconds, the swarm learns as much a second if the rest comes w T / W seconds
later, and less if it comes later still. So that is how long a member which has often been later is waited for; the others
are waited for until `Timing.seal_s`, and one bad round changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import attrs

ROUNDS_MAX = 8
"""Rounds led that are remembered of each member: one that was slow for a while is waited for again after so many."""
LATE_MIN = 2
"""Of them so many have to be too late before the member counts as a straggler."""


@attrs.define
class Patience:
    """What one member has seen of the others' lateness, in the rounds that it led itself."""

    _late: dict[str, deque[tuple[int, bool]]] = attrs.Factory(dict)

    def learn(self, peer: str, round_: int, *, late: bool) -> None:
        """Note whether a member came to a round later than it was worth waiting for; the first word on a round counts."""
        seen = self._late.setdefault(peer, deque(maxlen=ROUNDS_MAX))
        if not seen or seen[-1][0] != round_:
            seen.append((round_, late))

    def are_stragglers(self, peers: Collection[str]) -> bool:
        """Tell whether each of these has often been too late."""
        return all(sum(late for _, late in self._late.get(peer, ())) >= LATE_MIN for peer in peers)

    def keep(self, peers: Collection[str]) -> None:
        """Forget those who are no members any more."""
        self._late = {peer: late for peer, late in self._late.items() if peer in peers}


def worth_s(period_s: float, here: float, late: float, *, least_s: float) -> float:
    """Return how long it pays to wait for contributions of weight `late`, where those of weight `here` took `period_s`.

    At least `least_s`: where rounds come quickly, their jitter is no lateness.
    """
    return max(period_s * late / here, least_s)
