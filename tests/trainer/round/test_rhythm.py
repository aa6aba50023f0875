"""The phi-accrual detector by itself."""

from __future__ import annotations

import random

import pytest

from prime.trainer.round.rhythm import INTERVALS_MIN, Rhythm

BEAT_S = 0.2


def beating(intervals: list[float]) -> Rhythm:
    rhythm, now = Rhythm(0.0), 0.0
    rhythm.beat(1, now)
    for interval in intervals:
        now += interval
        rhythm.beat(1, now)
    return rhythm


def suspected_after_s(rhythm: Rhythm, phi: float = 8.0) -> float:
    return next(s / 100 for s in range(1000) if rhythm.phi(s / 100, beat_s=BEAT_S) > phi)


def test_phi_is_how_many_nines_the_silence_is_strange() -> None:
    rhythm = beating([0.2] * 20)
    assert rhythm.phi(0.2, beat_s=BEAT_S) == pytest.approx(0.301, abs=1e-3)  # as likely as not
    assert rhythm.phi(0.2 + 2.326 * BEAT_S / 2, beat_s=BEAT_S) == pytest.approx(2, abs=1e-2)  # one in a hundred
    assert rhythm.phi(1e6, beat_s=BEAT_S) == float("inf")


def test_a_steady_peer_is_suspected_within_a_second_and_a_jittery_one_later() -> None:
    steady = suspected_after_s(beating([0.2] * 20))
    draw = random.Random(1)
    jittery = suspected_after_s(beating([draw.uniform(0, 1.2) for _ in range(64)]))
    assert steady < 0.8
    assert 2.0 < jittery < 4.0


def test_a_peer_that_is_hardly_known_is_given_more_time_than_a_steady_one() -> None:
    steady, new = suspected_after_s(beating([0.2] * 20)), suspected_after_s(beating([0.2] * (INTERVALS_MIN - 1)))
    assert steady + 0.4 < new < 1.5


def test_the_pause_between_rounds_is_no_interval() -> None:
    rhythm = beating([0.2] * 10)
    rhythm.beat(2, 1000.0)
    rhythm.beat(2, 1000.2)
    assert max(rhythm.intervals) < 0.3
