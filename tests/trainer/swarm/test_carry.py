"""The ledger by its algebra, with exact fractions: nothing is lost, nothing is sent twice."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import PrimeInternalError, UsageError
from prime.trainer.swarm.carry import Ledger

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


@given(st.lists(st.tuples(st.booleans(), st.integers(-1000, 1000)), max_size=12))
def test_the_residual_moves_only_when_the_contribution_was_applied(rounds: list[tuple[bool, int]]) -> None:
    """A codec that keeps multiples of 8: what it leaves out comes back in the next contribution."""
    ledger: Ledger[int] = Ledger()
    produced = received = 0
    for number, (included, delta) in enumerate(rounds):
        if ledger.carry is not None:  # weights are 1 here; a carry would halve, so let it go out first
            ledger.carry = None
            continue
        before = ledger.residual or 0
        frozen = ledger.freeze(number, delta, 1.0)
        assert frozen.y == delta + before
        sent = round(frozen.y / 8) * 8
        ledger.commit(number, included=included, residual=frozen.y - sent if included else None)
        if included:
            produced, received = produced + delta, received + sent
            assert produced == received + (ledger.residual or 0)
        else:
            assert (ledger.residual or 0) == before
            assert ledger.carry == delta


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
