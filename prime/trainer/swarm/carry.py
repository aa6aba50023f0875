"""What a member owes the swarm: the residual of its codec and the contribution that missed a round (pure).

Generic over the kind of number: training uses float32 vectors, a simulation exact fractions.

A contribution is `y = (w * delta + w_c * carry) / (w + w_c) + e` with weight `w + w_c`, so its weighted mass is that of
the new delta plus that of the carried one. `y` is frozen until the outcome:

* committed with this member in C: `e <- y - decode(encode(y))` where error feedback is on; nothing is carried;
* committed without it: the new delta is carried with its weight, for one more round; what had been carried already is
  dropped and counted; `e` stays (it was not sent);
* aborted: everything stays as it was, and the delta goes on growing at the trainer, so `y` is forgotten.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import attrs

from prime.errors import PrimeInternalError, UsageError

V = TypeVar("V")


@attrs.frozen
class Frozen(Generic[V]):
    """A contribution as it goes out: `y` with its weight, and the fresh part of it in case it misses the round."""

    round: int
    y: V
    weight: float
    delta: V
    delta_weight: float


@attrs.define
class Ledger(Generic[V]):
    """Residual `e`, carry and the contribution in flight of one member."""

    residual: V | None = None
    carry: V | None = None
    carry_weight: float = 0.0
    dropped: int = 0
    dropped_weight: float = 0.0
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
        self.frozen = Frozen(round_, self._mixed(delta, weight, total), total, delta, weight)
        return self.frozen

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
        the carry inside it are dropped and counted, never sent twice.
        """  # noqa: D205
        frozen = self._take(round_)
        if frozen is not None:
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
