"""How many requests a peer may make over time: a bucket of tokens for each, in a table of bounded size. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

PEERS_MAX: Final = 4096
BURST_S: Final = 2.0
"""A peer that was silent may make the requests of so many seconds at once."""


class Rates:
    """Tokens by who asks: each has `per_s` a second, and at most those of `burst_s`; one request takes one.

    ::

        rates = Rates(settings.requests_per_s)
        if not rates.take(sender, now):
            raise RefusedError(...)

    Of more than `peers_max` askers the one that was silent longest is forgotten. Were that one short of tokens, it would
    have them anew; so who comes while the table is full of busier ones begins with a single token.
    """

    def __init__(self, per_s: float, *, burst_s: float = BURST_S, peers_max: int = PEERS_MAX) -> None:
        self._per_s = per_s
        self._most = max(per_s * burst_s, 1.0)
        self._peers_max = peers_max
        self._tokens: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def take(self, who: Hashable, now: float) -> bool:
        """Take a token of `who`, and tell whether there was one."""
        tokens = self._left(who, now)
        allowed = tokens >= 1.0
        self._tokens[who] = (tokens - allowed, now)
        return allowed

    def owe(self, who: Hashable, now: float) -> float:
        """Take a token of `who` also where there is none; return in how many seconds there would have been one."""
        left = self._left(who, now) - 1.0
        self._tokens[who] = (left, now)
        return max(0.0, -left / self._per_s)

    def _left(self, who: Hashable, now: float) -> float:
        tokens, since = self._tokens.pop(who) if who in self._tokens else (self._first(now), now)
        return min(tokens + (now - since) * self._per_s, self._most)

    def _first(self, now: float) -> float:
        """Return the tokens of a newcomer, for whom room is made."""
        if len(self._tokens) < self._peers_max:
            return self._most
        _, (tokens, since) = self._tokens.popitem(last=False)
        return self._most if tokens + (now - since) * self._per_s >= self._most else 1.0
