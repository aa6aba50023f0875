"""Rates: what a bucket gives, and what a book of them remembers."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from prime.transport.rates import Book, Bucket


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 3)), max_size=60), st.floats(0.5, 50), st.floats(0.5, 5))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(
    comings: list[tuple[float, float]], rate: float, burst_s: float
) -> None:
    bucket, now, given_ = Bucket(rate, burst_s), 0.0, 0.0
    for waits, tokens in comings:
        now += waits
        if bucket.take(now, tokens):
            given_ += tokens
    assert given_ <= rate * (now + max(burst_s, 1 / rate)) * (1 + 1e-9) + 1e-6


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(2.0, 2.0)
    assert [bucket.take(0.0) for _ in range(5)] == [True] * 4 + [False]
    assert not bucket.take(0.4)
    assert bucket.take(0.5)


def test_a_book_is_bounded_and_forgets_the_quietest() -> None:
    book: Book[int] = Book(1.0, 1.0, keys_max=10)
    for key in range(100):
        assert book.take(key, 0.0)
    assert len(book) == 10
    assert not book.take(99, 0.0)
    assert book.take(100, 60.0)
    assert len(book) == 1  # all others are full again, and as good as new
    assert Book[int](math.inf, 1.0).take(1, 0.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5000)), max_size=50), st.integers(100, 10_000))
def test_who_waits_as_long_as_it_owes_gets_no_more_than_its_rate_and_burst(
    uses: list[tuple[float, int]], rate: int
) -> None:
    bucket, now, through = Bucket(rate, 0.5), 0.0, 0
    for gap_s, size in uses:
        now += gap_s
        through += size
        now += bucket.wait_s(now, size)
        assert through <= rate * (now + 0.5) + 1e-6 * (through + rate * len(uses))
