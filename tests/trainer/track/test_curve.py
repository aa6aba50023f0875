"""A curve with a bound on its points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.track.curve import Curve


def test_a_short_curve_keeps_each_point() -> None:
    curve = Curve()
    for step in (1, 2, 5):
        curve.add(step, step * 1.5)
    assert list(curve) == [(1, 1.5), (2, 3.0), (5, 7.5)]
    assert (curve.first, curve.last) == (1.5, 7.5)


@given(st.integers(2, 40), st.integers(1, 1000))
def test_a_long_curve_stays_bounded_and_keeps_its_mean(points_max: int, steps: int) -> None:
    curve = Curve(points_max)
    for step in range(1, steps + 1):
        curve.add(step, float(step))
        assert len(curve) <= points_max
    first = next(iter(curve))[0]
    assert first == 1
    assert (curve.first, curve.last) == (1.0, float(steps))
    whole = list(curve)
    widths = [after - before for (before, _), (after, _) in zip(whole, [*whole[1:], (steps + 1, 0.0)], strict=True)]
    total = math.fsum(width * mean for width, (_, mean) in zip(widths, whole, strict=True))
    assert total == pytest.approx(steps * (steps + 1) / 2)


def test_what_is_no_number_is_left_out() -> None:
    curve = Curve()
    for value in (math.nan, math.inf, None):
        curve.add(1, value)
    assert len(curve) == 0
    assert curve.first is curve.last is None


def test_going_back_forgets_what_comes_again() -> None:
    curve = Curve()
    for step in range(1, 11):
        curve.add(step, float(step))
    curve.rewind(4)
    assert [step for step, _ in curve] == [1, 2, 3, 4]
    assert curve.last == 4.0
    curve.rewind(0)
    assert len(curve) == 0
    assert curve.first is curve.last is None


def test_a_curve_in_few_values_keeps_its_ends_and_no_more_than_asked() -> None:
    curve = Curve()
    for step in range(100):
        curve.add(step, float(step))
    assert curve.resampled(4) == [12.0, 37.0, 62.0, 87.0]
    assert curve.resampled(1000) == [float(step) for step in range(100)]
    assert Curve().resampled(10) == []
