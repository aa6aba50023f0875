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
def test_a_weighted_mean_by_parts_is_exact(given_: list[tuple[Sum, int]], parts: int) -> None:
    numbers = Exact()
    encoded = [numbers.encode(y, parts) for y, _ in given_]
    weights = [float(weight) for _, weight in given_]
    reduced = [numbers.reduce([e[part] for e in encoded], weights, 0) for part in range(parts)]
    assert {len(data) for data in reduced} == {numbers.part_bytes(0, parts, 0)}
    mean = Sum()
    for y, weight in given_:
        mean = mean + y * Fraction(weight, sum(weight for _, weight in given_))
    assert numbers.join(reduced, 0) == mean


@pytest.mark.parametrize("data", [b"", b"x:", b"0:a=2/4", b"0:b=1 a=1 ", b"0:a=1/0", b"0:a", b"\xff"])
def test_bytes_that_nobody_writes_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Exact().check(memoryview(data), 0)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    numbers = Exact()
    a, b = (numbers.encode(Sum.of(name), 2) for name in "ab")
    with pytest.raises(DecodeError):
        numbers.reduce([a[0], b[1]], [1.0, 1.0], 0)
    with pytest.raises(DecodeError):
        numbers.join([a[0], b[1]], 0)
    with pytest.raises(DecodeError):
        numbers.join([a[1], a[0]], 0)
    with pytest.raises(LocalProtocolError, match="a part has 8"):
        Exact(8).encode(Sum.of("a long name"), 1)
