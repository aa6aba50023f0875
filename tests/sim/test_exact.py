"""Exact numbers: their algebra, and their one way of being written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DecodeError, LocalProtocolError
from prime.sim.exact import Exact, Sum

SUMS = st.dictionaries(
    st.from_regex(r"[a-z]\.[0-9]", fullmatch=True), st.fractions(-9, 9, max_denominator=7).filter(bool), max_size=5
).map(lambda terms: Sum(tuple(sorted(terms.items()))))


@given(SUMS, SUMS, st.fractions(-5, 5, max_denominator=5))
def test_sums_are_a_vector_space(a: Sum, b: Sum, factor: Fraction) -> None:
    assert (a + b) - b == a
    assert (a + b) * factor == b * factor + a * factor
    assert a - a == Sum()


@given(st.lists(st.tuples(SUMS, st.integers(1, 9)), min_size=1, max_size=4), st.integers(1, 5))
def test_a_weighted_mean_by_chunks_is_exact(given_: list[tuple[Sum, int]], count: int) -> None:
    numbers = Exact()
    weights = [float(weight) for _, weight in given_]
    room = numbers.room(count)
    for cut in (slice(index, index + 1) for index in range(count)):
        reduced = numbers.reduce([numbers.encode(y, cut) for y, _ in given_], weights, cut)
        numbers.check(reduced, cut)
        assert len(reduced) == 1024
        room.decode(reduced, cut)
    mean = Sum()
    for y, weight in given_:
        mean = mean + y * Fraction(weight, sum(weight for _, weight in given_))
    assert room.vector() == mean


@pytest.mark.parametrize("data", [b"", b"x:", b"0:a=2/4", b"0:b=1 a=1 ", b"0:a=1/0", b"0:a", b"\xff", b"0:a=1"])
def test_bytes_that_nobody_writes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Exact().check(memoryview(data), slice(0, 8))


def test_chunks_that_do_not_belong_together_are_refused() -> None:
    numbers, first, second = Exact(), slice(0, 8), slice(8, 16)
    a, b = (numbers.encode(Sum.of(name), first) for name in "ab")
    other = numbers.encode(Sum.of("b"), second)
    with pytest.raises(DecodeError):
        numbers.reduce([a, other], [1.0, 1.0], first)
    with pytest.raises(DecodeError):
        numbers.room(16).decode(other, first)
    room = numbers.room(16)
    with pytest.raises(DecodeError):
        room.vector()
    room.decode(b, first)
    room.decode(a, first)  # again, and otherwise: the last one counts
    room.decode(other, second)
    with pytest.raises(DecodeError):
        room.vector()
    with pytest.raises(LocalProtocolError, match="a chunk has 8"):
        Exact(8).encode(Sum.of("a long name"), first)
