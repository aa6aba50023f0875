"""The meter of a node's upload."""

from __future__ import annotations

from prime.trainer.swarm.meter import BYTES_MIN, ROUNDS, Meter


def test_overlapping_work_is_busy_once() -> None:
    meter = Meter()
    meter.begin(0.0)
    meter.begin(1.0)
    meter.sent(4 * BYTES_MIN)
    meter.end(2.0)
    meter.end(4.0)
    meter.begin(10.0)
    meter.sent(BYTES_MIN)
    meter.end(11.0)
    assert meter.next_round(20.0) == BYTES_MIN  # 5 MiB in 4 + 1 seconds


def test_little_says_nothing() -> None:
    meter = Meter()
    meter.begin(0.0)
    meter.sent(BYTES_MIN - 1)
    meter.end(1.0)
    assert meter.next_round(2.0) is None


def test_the_fastest_of_the_last_rounds_counts_and_is_forgotten_after_them() -> None:
    meter = Meter()
    rates = [3.0, *[1.0] * ROUNDS]
    found = []
    for now, rate in enumerate(rates):
        meter.begin(now)
        meter.sent(int(rate * BYTES_MIN))
        meter.end(now + 1.0)
        found.append(meter.next_round(now + 1.0))
    assert found == [3 * BYTES_MIN] * ROUNDS + [BYTES_MIN]


def test_work_over_the_end_of_a_round_counts_in_both() -> None:
    meter = Meter()
    meter.begin(0.0)
    meter.sent(BYTES_MIN)
    assert meter.next_round(2.0) == BYTES_MIN / 2
    meter.sent(2 * BYTES_MIN)
    meter.end(3.0)
    assert meter.next_round(5.0) == 2 * BYTES_MIN
