"""Exact numbers for a simulated training round: sums of named contributions with fractions as factors (pure).

A vector is a symbol instead of an array: "the aggregate is the exact one over C" and "applied at most once" are then
equalities. Its chunks have real bytes, padded to one size, so hashes, chunks, journals and the wire are those of training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import attrs

from prime.errors import DecodeError, LocalProtocolError
from prime.trainer.robust.rules import MEAN, Rule

_PAD = b"\0"


@attrs.frozen
class Sum:
    """A linear combination of named deltas, sorted by name; no factor is 0."""

    terms: tuple[tuple[str, Fraction], ...] = ()

    @classmethod
    def of(cls, name: str) -> Sum:
        """Return one delta alone."""
        return cls(((name, Fraction(1)),))

    def __add__(self, other: Sum) -> Sum:
        total = dict(self.terms)
        for name, factor in other.terms:
            total[name] = total.get(name, Fraction(0)) + factor
        return Sum(tuple(sorted((name, factor) for name, factor in total.items() if factor)))

    def __mul__(self, factor: float | Fraction) -> Sum:
        exact = Fraction(factor)
        return Sum(tuple((name, value * exact) for name, value in self.terms) if exact else ())

    def __sub__(self, other: Sum) -> Sum:
        return self + other * -1

    def names(self) -> frozenset[str]:
        """Return which deltas are in it, whatever their factors."""
        return frozenset(name for name, _ in self.terms)

    def text(self) -> str:
        """Return it in one way of writing; `read` takes it back."""
        return " ".join(f"{name}={factor}" for name, factor in self.terms)

    @classmethod
    def read(cls, text: str) -> Sum:
        """Return what `text` wrote. Raises `DecodeError`."""
        try:
            pairs = [word.split("=") for word in text.split()]
            found = cls(tuple((name, Fraction(factor)) for name, factor in pairs))
        except (ValueError, ZeroDivisionError) as error:
            raise DecodeError(f"no sum is written like this: {error}") from error
        if found.text() != text:
            raise DecodeError("a sum is written in one way only")
        return found


class Exact:
    """`Numbers` whose vectors are `Sum`s; each chunk of one is its text with the chunk's place before it.

    `chunk_bytes` is the size of every chunk, `chunk_elements` how many elements one has.
    """

    grain = 1
    feeds_back = False

    def __init__(self, chunk_bytes: int = 1024, chunk_elements: int = 8) -> None:
        self._size_bytes = chunk_bytes
        self.chunk_elements = chunk_elements

    def size_bytes(self, elements: int) -> int:
        """See `Numbers.size_bytes`: never so much that a thread would do it."""
        return elements

    def encode(self, y: Sum, cut: slice) -> memoryview:
        """See `Numbers.encode`."""
        return self._written(cut, self.coded(y))

    def coded(self, y: Sum) -> Sum:
        """Return what arrives of a contribution."""
        return y

    def residual(self, y: Sum, encoded: Sequence[tuple[slice, memoryview]]) -> Sum:
        """See `Numbers.residual`: each chunk says the whole sum."""
        return y - self._read(encoded[0][1], encoded[0][0])

    def check(self, data: memoryview, cut: slice) -> None:
        """See `Numbers.check`."""
        self._read(data, cut)

    def reduce(
        self, inputs: Sequence[memoryview], weights: Sequence[float], cut: slice, rule: Rule = MEAN
    ) -> memoryview:
        """See `Numbers.reduce`: the weighted mean, exact. Names have no order, so there is no rule by order."""
        if rule.by_order:
            raise LocalProtocolError(f"sums of names have no {rule.name}", hint="simulate mean, krum or multi-krum")
        total = sum(Fraction(weight) for weight in weights)
        mean = Sum()
        for data, weight in zip(inputs, weights, strict=True):
            mean = mean + self._read(data, cut) * (Fraction(weight) / total)
        return self._written(cut, mean)

    def multiply(self, inputs: Sequence[memoryview], cut: slice) -> list[float]:
        """See `Numbers.multiply`: each name is a direction of its own, of the chunk's length."""
        read = [dict(self._read(data, cut).terms) for data in inputs]
        pairs = itertools.combinations_with_replacement(read, 2)
        return [(cut.stop - cut.start) * float(sum(f * b.get(name, 0) for name, f in a.items())) for a, b in pairs]

    def room(self, elements: int) -> ExactRoom:  # noqa: ARG002 - a sum has any number of elements
        """See `Numbers.room`."""
        return ExactRoom(self._read)

    def _written(self, cut: slice, y: Sum) -> memoryview:
        data = f"{cut.start}:{y.text()}".encode()
        if len(data) > self._size_bytes:
            raise LocalProtocolError(
                f"a sum of {len(y.terms)} terms takes {len(data)} bytes, a chunk has {self._size_bytes}",
                hint="make chunk_bytes larger",
            )
        return memoryview(data.ljust(self._size_bytes, _PAD))

    def _read(self, data: memoryview, cut: slice) -> Sum:
        try:
            start, _, text = bytes(data).rstrip(_PAD).decode().partition(":")
            found = int(start), Sum.read(text)
        except ValueError as error:
            raise DecodeError(f"no chunk is written like this: {error}") from error
        if found[0] != cut.start or len(data) != self._size_bytes:
            raise DecodeError(f"these {len(data)} bytes are of the chunk at {found[0]}, not of the one at {cut.start}")
        return found[1]


class Halved(Exact):
    """`Exact` with a codec that loses much: half of each delta arrives, and all of it once little is left.

    So a delta takes four rounds to get through, and residuals are there to go wrong.
    """

    feeds_back = True
    LITTLE = Fraction(1, 8)

    def coded(self, y: Sum) -> Sum:
        """See `Exact.coded`."""
        return Sum(tuple((name, f if abs(f) <= self.LITTLE else f / 2) for name, f in y.terms))


class ExactRoom:
    """Each chunk says the whole sum, so they must agree."""

    def __init__(self, read: Callable[[memoryview, slice], Sum]) -> None:
        self._read = read
        self._found: dict[int, Sum] = {}

    def check(self, data: memoryview, cut: slice) -> None:
        """See `Room.check`."""
        self._read(data, cut)

    def decode(self, data: memoryview, cut: slice) -> None:
        """See `Room.decode`."""
        self._found[cut.start] = self._read(data, cut)

    def vector(self) -> Sum:
        """See `Room.vector`."""
        found = set(self._found.values())
        if len(found) != 1:
            raise DecodeError(f"these are no chunks of one vector: {self._found}")
        return found.pop()
