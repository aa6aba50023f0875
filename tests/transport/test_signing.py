"""Who signs for a node: numbers that rise, over restarts too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prime import KeyPair
from prime.transport.peer import verify
from prime.transport.signing import KeySignatory

KEY = KeyPair.from_seed(bytes([3]) * 32)


def test_it_signs_as_its_key() -> None:
    signatory = KeySignatory(KEY)
    assert (signatory.signer, signatory.scheme) == (KEY.peer, 1)
    assert verify(KEY.peer, b"data", signatory.sign(b"data"))


def test_numbers_rise_by_one_from_the_microseconds_of_its_start_and_times_are_the_clocks() -> None:
    now = [1_700_000_000.25]
    signatory = KeySignatory(KEY, lambda: now[0])
    assert signatory.stamp() == (1_700_000_000_250_000, 1_700_000_000_250)
    now[0] += 2.5
    assert signatory.stamp() == (1_700_000_000_250_001, 1_700_000_002_750)
    now[0] -= 100  # the clock is set back: numbers rise all the same
    assert signatory.stamp() == (1_700_000_000_250_002, 1_699_999_902_750)


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0.0005, 1e6)), min_size=2, max_size=6))
def test_they_rise_over_restarts_as_long_as_time_does(runs: list[tuple[int, float]]) -> None:
    now, last = 1_700_000_000.0, 0
    for count, down_s in runs:
        signatory = KeySignatory(KEY, lambda at=now: at)  # type: ignore[misc]
        for _ in range(count):
            seq, _ = signatory.stamp()
            assert seq > last
            last = seq
        now += count * 1e-6 + down_s


def test_numbers_are_exact_where_numbers_are_floats() -> None:
    """JavaScript's are exact below 2^53, which the microseconds reach in the year 2255."""
    assert KeySignatory(KEY).stamp()[0] < 2**53
