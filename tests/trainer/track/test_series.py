"""A curve with a bound on its points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.track.series import Series


def test_a_short_curve_keeps_each_point() -> None:
    series = Series()
    for step in (1, 2, 5):
        series.add(step, step * 1.5)
    assert list(series) == [(1, 1.5), (2, 3.0), (5, 7.5)]
    assert (series.first, series.last) == (1.5, 7.5)


@given(st.integers(2, 40), st.integers(1, 1000))
def test_a_long_curve_stays_bounded_and_keeps_its_mean(points_max: int, steps: int) -> None:
    series = Series(points_max)
    for step in range(1, steps + 1):
        series.add(step, float(step))
        assert len(series) <= points_max
    first = next(iter(series))[0]
    assert first == 1
    assert (series.first, series.last) == (1.0, float(steps))
    whole = list(series)
    widths = [after - before for (before, _), (after, _) in zip(whole, [*whole[1:], (steps + 1, 0.0)], strict=True)]
    total = math.fsum(width * mean for width, (_, mean) in zip(widths, whole, strict=True))
    assert total == pytest.approx(steps * (steps + 1) / 2)


def test_what_is_no_number_is_left_out() -> None:
    series = Series()
    for value in (math.nan, math.inf, None):
        series.add(1, value)
    assert len(series) == 0
    assert series.first is series.last is None


def test_going_back_forgets_what_comes_again() -> None:
    series = Series()
    for step in range(1, 11):
        series.add(step, float(step))
    series.rewind(4)
    assert [step for step, _ in series] == [1, 2, 3, 4]
    assert series.last == 4.0
    series.rewind(0)
    assert len(series) == 0
    assert series.first is series.last is None


def test_a_curve_in_few_values_keeps_its_ends_and_no_more_than_asked() -> None:
    series = Series()
    for step in range(100):
        series.add(step, float(step))
    assert series.resampled(4) == [12.0, 37.0, 62.0, 87.0]
    assert series.resampled(1000) == [float(step) for step in range(100)]
    assert Series().resampled(10) == []
