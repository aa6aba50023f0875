"""The ledger by its algebra, with exact fractions: nothing is lost, nothing is sent twice."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import PrimeInternalError, UsageError
from prime.sim.exact import Sum
from prime.trainer.swarm.carry import Frozen, Ledger, Ledgers

FRACTIONS = st.fractions(-100, 100, max_denominator=9)
WEIGHTS: Any = st.fractions(Fraction(1, 9), 100, max_denominator=9)


@given(st.lists(st.tuples(st.sampled_from(["in", "out", "abort"]), FRACTIONS, WEIGHTS), max_size=12))
def test_mass_is_applied_or_carried_or_dropped_and_counted(rounds: list[tuple[str, Fraction, Any]]) -> None:
    ledger: Ledger[Fraction] = Ledger()
    produced = applied = dropped = Fraction(0)
    for number, (outcome, delta, weight) in enumerate(rounds):
        carried = (ledger.carry or Fraction(0)) * Fraction(ledger.carry_weight)
        frozen = ledger.freeze(number, delta, weight)
        assert frozen.y * Fraction(frozen.weight) == delta * weight + carried
        if outcome == "abort":
            ledger.abort(number)  # the trainer keeps the delta: nothing was produced
            continue
        produced += delta * weight
        if outcome == "in":
            applied += frozen.y * Fraction(frozen.weight)
        else:
            dropped += carried
        ledger.commit(number, included=outcome == "in")
    carried = (ledger.carry or Fraction(0)) * Fraction(ledger.carry_weight)
    assert produced == applied + carried + dropped
    assert (dropped == 0) or ledger.dropped > 0


def test_a_contribution_that_came_too_late_goes_out_with_the_next_one() -> None:
    ledger: Ledger[Fraction] = Ledger()
    ledger.miss(Fraction(6), 1.0)
    frozen = ledger.freeze(2, Fraction(2), 3.0)
    assert frozen.y * Fraction(frozen.weight) == 6 + 3 * 2
    ledger.commit(2, included=False)
    ledger.miss(Fraction(5), 1.0)
    assert (ledger.carry, ledger.dropped, ledger.dropped_weight) == (5, 2, 4.0)


# ------------------------------------------------------------------------------------ the laws, over any history


def coded(y: Sum) -> Sum:
    """What arrives of a contribution: half of each delta, and all of it once little is left."""
    return Sum(tuple((name, f if abs(f) <= Fraction(1, 8) else f / 2) for name, f in y.terms))


@attrs.define
class History:
    """One member's rounds and what became of each delta, by name; a vector of `fragments`, which rounds carry in turn."""

    fragments: int
    feeds_back: bool = True
    ledger_type: type[Ledger[Sum]] = Ledger
    produced: dict[str, Fraction] = attrs.Factory(dict)
    """By delta: its weight."""
    applied: dict[str, Fraction] = attrs.Factory(dict)
    """By delta: the mass that committed rounds mixed in."""
    dropped: dict[str, Fraction] = attrs.Factory(dict)
    mixed: dict[int, Sum] = attrs.Factory(dict)
    """By fragment: the sum of what was mixed, and of what arrived of it."""
    arrived: dict[int, Sum] = attrs.Factory(dict)
    lost: dict[int, Sum] = attrs.Factory(dict)
    ledgers: Ledgers[Sum] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ledgers = Ledgers(lambda round_: round_ % self.fragments)
        for fragment in range(self.fragments):
            self.ledgers._ledgers[fragment] = self.ledger_type()

    def play(self, number: int, outcome: str, weight: Any) -> None:
        ledger, delta, name = self.ledgers.of(number), Sum.of(f"d{number}"), f"d{number}"
        if outcome == "late":
            self._note_dropped(ledger.carry, ledger.carry_weight)
            self.produced[name] = Fraction(weight)
            ledger.miss(delta, weight)
            return
        carried, weight_carried, residual = ledger.carry, ledger.carry_weight, ledger.residual
        frozen = ledger.freeze(number, delta, weight)
        assert self.ledgers.in_flight() is frozen
        if self.feeds_back:
            ledger.encoded(number, coded(frozen.y))
        if outcome == "abort":
            ledger.abort(number)
            return
        self.produced[name] = Fraction(weight)
        mixed = frozen.y if residual is None else frozen.y - residual
        fragment = number % self.fragments
        if outcome == "in":
            self._mix(fragment, mixed, Fraction(frozen.weight), coded(frozen.y) if self.feeds_back else frozen.y)
            ledger.commit(number, included=True, residual=self._left_out(frozen))
        elif outcome == "out":
            self._note_dropped(carried, weight_carried)
            ledger.commit(number, included=False, residual=self._left_out(frozen))
        else:
            self._note_dropped(mixed, frozen.weight)
            self.lost[fragment] = self.lost.get(fragment, Sum()) + (residual or Sum())
            ledger.lose(number)
        assert self.ledgers.in_flight() is None

    def _left_out(self, frozen: Frozen[Sum]) -> Sum | None:
        return frozen.y - coded(frozen.y) if self.feeds_back else None

    def _mix(self, fragment: int, mixed: Sum, weight: Fraction, arrives: Sum) -> None:
        for name, factor in mixed.terms:
            assert name not in self.applied, f"once: {name} is mixed into a second round"
            self.applied[name] = factor * weight
        self.mixed[fragment] = self.mixed.get(fragment, Sum()) + mixed
        self.arrived[fragment] = self.arrived.get(fragment, Sum()) + arrives

    def _note_dropped(self, what: Sum | None, weight: float) -> None:
        for name, factor in what.terms if what is not None else ():
            self.dropped[name] = factor * Fraction(weight)

    def check(self) -> None:
        carried = {
            name: factor * Fraction(ledger.carry_weight)
            for ledger in self.ledgers.all()
            for name, factor in (ledger.carry.terms if ledger.carry is not None else ())
        }
        assert {**self.applied, **carried, **self.dropped} == self.produced, "conserved: the mass of a delta"
        assert not self.applied.keys() & carried.keys(), "once: what was mixed in is carried still"
        for fragment in range(self.fragments):
            ledger = self.ledgers.of(fragment)
            total = self.arrived.get(fragment, Sum()) + self.lost.get(fragment, Sum())
            total = total + (ledger.residual or Sum())
            assert total == self.mixed.get(fragment, Sum()), "conserved: what the codec left out"
        counted = sum((Fraction(ledger.dropped_weight) for ledger in self.ledgers.all()), Fraction(0))
        assert counted == sum(self.dropped.values()), "counted: what was dropped"


OUTCOMES = st.sampled_from(["in", "in", "out", "abort", "lose", "late"])
ROUNDS = st.lists(st.tuples(OUTCOMES, st.integers(1, 9)), max_size=14)


def played(history: History, rounds: list[tuple[str, int]]) -> History:
    for number, (outcome, weight) in enumerate(rounds):
        history.play(number, outcome, Fraction(weight))
        history.check()
    return history


@given(ROUNDS, st.integers(1, 3), st.booleans())
def test_residual_and_carried_mass_are_conserved_and_nothing_is_mixed_in_twice(
    rounds: list[tuple[str, int]], fragments: int, feeds_back: bool
) -> None:
    history = played(History(fragments, feeds_back), rounds)
    lost = [ledger.residuals_lost for ledger in history.ledgers.all()]
    loses = sum(outcome == "lose" for outcome, _ in rounds)
    assert sum(lost) == (loses if feeds_back else 0)


class SettlesAnyway(Ledger[Sum]):
    """Takes the new residual though the round left the contribution out."""

    def commit(self, round_: int, *, included: bool, residual: Sum | None = None) -> None:
        super().commit(round_, included=included, residual=residual)
        self.residual = residual


class CarriesAnyway(Ledger[Sum]):
    """Carries what was taken, too."""

    def commit(self, round_: int, *, included: bool, residual: Sum | None = None) -> None:
        frozen = self.frozen
        super().commit(round_, included=included, residual=residual)
        if frozen is not None and included:
            self.carry, self.carry_weight = frozen.delta, frozen.delta_weight


class ForgetsInAborts(Ledger[Sum]):
    """Loses its residual in an abort."""

    def abort(self, round_: int) -> None:
        super().abort(round_)
        self.residual = None


class SendsAgain(Ledger[Sum]):
    """Keeps a residual whose round may have applied it."""

    def lose(self, round_: int) -> None:
        residual = self.residual
        super().lose(round_)
        self.residual = residual


class LosesSilently(Ledger[Sum]):
    """Drops without counting."""

    def _drop_carry(self) -> None:
        self.carry = None


@pytest.mark.parametrize(
    ("ledger_type", "rounds"),
    [
        (SettlesAnyway, ["in", "out"]),
        (CarriesAnyway, ["in"]),
        (ForgetsInAborts, ["in", "abort"]),
        (SendsAgain, ["in", "lose"]),
        (LosesSilently, ["out", "out"]),
    ],
)
def test_the_laws_can_be_broken(ledger_type: type[Ledger[Sum]], rounds: list[str]) -> None:
    with pytest.raises(AssertionError, match="conserved|once|counted"):
        played(History(1, ledger_type=ledger_type), [(outcome, 3) for outcome in rounds])


def test_each_fragment_has_its_own_residual_and_carry() -> None:
    ledgers: Ledgers[float] = Ledgers(lambda round_: round_ % 2)
    for round_, value in ((0, 8.0), (1, 3.0)):
        ledgers.of(round_).freeze(round_, value, 1.0)
        ledgers.of(round_).commit(round_, included=True, residual=value / 4)
    assert [ledgers.of(round_).freeze(round_, 1.0, 1.0).y for round_ in (2, 5)] == [3.0, 1.75]


def test_a_contribution_is_frozen_until_its_outcome() -> None:
    ledger: Ledger[float] = Ledger()
    first = ledger.freeze(4, 1.5, 2.0)
    assert ledger.freeze(4, 99.0, 7.0) is first
    with pytest.raises(PrimeInternalError, match="round 5 is settled while round 4 is in flight"):
        ledger.commit(5, included=True)


def test_what_missed_two_rounds_is_dropped_and_counted() -> None:
    ledger: Ledger[float] = Ledger()
    ledger.freeze(1, 8.0, 2.0)
    ledger.commit(1, included=False)
    assert (ledger.carry, ledger.carry_weight) == (8.0, 2.0)
    second = ledger.freeze(2, 2.0, 6.0)
    assert (second.y, second.weight) == (3.5, 8.0)
    ledger.commit(2, included=False)
    assert (ledger.carry, ledger.carry_weight) == (2.0, 6.0)
    assert (ledger.dropped, ledger.dropped_weight) == (1, 2.0)


def test_an_unknown_outcome_is_never_sent_again() -> None:
    ledger: Ledger[float] = Ledger()
    ledger.freeze(1, 8.0, 2.0)
    ledger.lose(1)
    assert (ledger.carry, ledger.residual, ledger.dropped) == (None, None, 1)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_must_be_positive(weight: float) -> None:
    with pytest.raises(UsageError, match="weight must be positive"):
        Ledger[float]().freeze(1, 1.0, weight)
