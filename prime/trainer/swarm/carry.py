"""What a member owes the swarm: the residual of its codec and the contribution that missed a round (pure).

Generic over the kind of number: training uses float32 vectors, a simulation exact fractions.

A contribution is `y = mixed + e` with `mixed = (w * delta + w_c * carry) / (w + w_c)` and weight `w + w_c`, so the weighted
mass of `mixed` is that of the new delta plus that of the carried one. `e` is the *residual*, what the codec left out of
earlier contributions. `y` is frozen until the outcome:

* committed with this member in C: `e <- y - decode(encode(y))` where error feedback is on; nothing is carried;
* committed without it: the new delta is carried with its weight, for one more round; what had been carried already is
  dropped and counted; `e` stays (it was not sent);
* aborted: everything stays as it was, and the delta goes on growing at the trainer, so `y` is forgotten;
* unknown for good: `y`, and `e` with it, may have been applied, so they are dropped and counted.

So of a living member the sum of `mixed` over the rounds that took it is the sum of what its bytes decoded to, plus `e`, plus
what was lost and counted. A ledger lives as long as its aggregator: what a member owes is not on its disk, and a node
that is started again owes nothing (`docs/explanation/codec.md` says why).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs

from prime.errors import PrimeInternalError, UsageError

V = TypeVar("V")


@attrs.frozen
class Frozen(Generic[V]):
    """A contribution as it goes out: `y` with its weight, and the fresh part of it in case it misses the round.

    `residual` is the one in `y`; with error feedback `encoded` is what `y` travels as, once that is known.
    """

    round: int
    y: V
    weight: float
    delta: V
    delta_weight: float
    residual: V | None = None
    encoded: Any = None


@attrs.define
class Ledger(Generic[V]):
    """Residual `e`, carry and the contribution in flight of one member, for one fragment of the vector."""

    residual: V | None = None
    carry: V | None = None
    carry_weight: float = 0.0
    dropped: int = 0
    dropped_weight: float = 0.0
    residuals_lost: int = 0
    frozen: Frozen[V] | None = None

    def freeze(self, round_: int, delta: V, weight: float) -> Frozen[V]:
        """Return what this member contributes to `round_`; the same answer until `settle`.

        Raises `UsageError` for a weight that is not positive.
        """
        if not weight > 0:
            raise UsageError(f"a contribution's weight must be positive, not {weight}", hint="count tokens or samples")
        if self.frozen is not None and self.frozen.round == round_:
            return self.frozen
        total = weight if self.carry is None else weight + self.carry_weight
        self.frozen = Frozen(round_, self._mixed(delta, weight, total), total, delta, weight, self.residual)
        return self.frozen

    def encoded(self, round_: int, encoded: Any) -> None:
        """Note what the contribution in flight travels as: if the round takes it, the rest of `y` is the next residual."""
        if self.frozen is not None and self.frozen.round == round_:
            self.frozen = attrs.evolve(self.frozen, encoded=encoded)

    def commit(self, round_: int, *, included: bool, residual: V | None = None) -> None:
        """Settle a committed round: `residual` is `y - decode(encode(y))` where error feedback is on."""
        frozen = self._take(round_)
        if frozen is None:
            return
        if included:
            self.residual, self.carry, self.carry_weight = residual, None, 0.0
            return
        self._drop_carry()
        self.carry, self.carry_weight = frozen.delta, frozen.delta_weight

    def miss(self, delta: V, weight: float) -> None:
        """Take a contribution that came after its round had committed, as if it had been left out of it."""
        self._drop_carry()
        self.carry, self.carry_weight = delta, weight

    def abort(self, round_: int) -> None:
        """Settle ⊥: the trainer still has the delta, so only the frozen copy goes."""
        self._take(round_)

    def lose(self, round_: int) -> None:
        """Settle a round whose outcome can no longer be known: what was in flight may have been applied, so it and
        the carry and the residual inside it are dropped and counted, never sent twice.
        """  # noqa: D205
        frozen = self._take(round_)
        if frozen is not None:
            self.residuals_lost += frozen.residual is not None or frozen.encoded is not None
            self.residual, self.carry, self.carry_weight = None, None, 0.0
            self.dropped, self.dropped_weight = self.dropped + 1, self.dropped_weight + frozen.weight

    def _mixed(self, delta: V, weight: float, total: float) -> V:
        mixed: Any = delta
        if self.carry is not None:
            carry: Any = self.carry
            mixed = mixed * (weight / total) + carry * (self.carry_weight / total)
        return mixed if self.residual is None else mixed + self.residual

    def _drop_carry(self) -> None:
        if self.carry is not None:
            self.dropped, self.dropped_weight = self.dropped + 1, self.dropped_weight + self.carry_weight

    def _take(self, round_: int) -> Frozen[V] | None:
        frozen, self.frozen = self.frozen, None
        if frozen is not None and frozen.round != round_:
            raise PrimeInternalError(f"round {round_} is settled while round {frozen.round} is in flight")
        return frozen


class Ledgers(Generic[V]):
    """A member's ledgers, one for each fragment: what a round left out or missed goes with a round of the same fragment."""

    def __init__(self, fragment_of: Callable[[int], int] = lambda _: 0) -> None:
        self._fragment_of = fragment_of
        self._ledgers: dict[int, Ledger[V]] = {}

    def of(self, round_: int) -> Ledger[V]:
        """Return the ledger of the fragment that a round carries."""
        return self._ledgers.setdefault(self._fragment_of(round_), Ledger())

    def all(self) -> tuple[Ledger[V], ...]:
        """Return the ledger of each fragment that was ever contributed to."""
        return tuple(self._ledgers.values())

    def in_flight(self) -> Frozen[V] | None:
        """Return the contribution whose outcome is not settled yet: there is one at most."""
        return next((ledger.frozen for ledger in self.all() if ledger.frozen is not None), None)
