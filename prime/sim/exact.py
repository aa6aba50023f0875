"""Exact numbers for a simulated training round: sums of named contributions with fractions as factors (pure).

A vector is a symbol instead of an array: "the aggregate is the exact one over C" and "applied at most once" are then
equalities. Its parts have real bytes, padded to one size, so hashes, chunks, journals and the wire are those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import attrs

from prime.errors import DecodeError, LocalProtocolError

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
    """`Numbers` whose vectors are `Sum`s; each part of one is its text with the part's number before it.

    `part_bytes_max` is the size of every part, and `chunk_bytes` how much of one travels in a message.
    """

    def __init__(self, part_bytes_max: int = 1024, chunk_bytes: int = 400) -> None:
        self._size_bytes = part_bytes_max
        self._chunk_bytes = chunk_bytes

    @property
    def chunk_bytes(self) -> int:
        """See `Numbers.chunk_bytes`."""
        return self._chunk_bytes

    def size_bytes(self, elements: int) -> int:
        """See `Numbers.size_bytes`: never so much that a thread would do it."""
        return elements

    def part_elements(self, elements: int, parts: int, part: int) -> int:
        """See `Numbers.part_elements`."""
        return elements // parts + (part < elements % parts)

    def part_bytes(self, elements: int, parts: int, part: int) -> int:  # noqa: ARG002 - all parts are of one size
        """See `Numbers.part_bytes`."""
        return self._size_bytes

    def encode(self, y: Sum, parts: int) -> list[memoryview]:
        """See `Numbers.encode`."""
        return [self._written(part, y) for part in range(parts)]

    def check(self, data: memoryview, elements: int) -> None:  # noqa: ARG002 - a sum has any number of elements
        """See `Numbers.check`."""
        self._read(data)

    def reduce(self, inputs: Sequence[memoryview], weights: Sequence[float], elements: int) -> memoryview:  # noqa: ARG002
        """See `Numbers.reduce`: exact."""
        total = sum(Fraction(weight) for weight in weights)
        read = [self._read(data) for data in inputs]
        parts = {part for part, _ in read}
        if len(parts) != 1:
            raise DecodeError(f"what is added up are parts {sorted(parts)}, not one part of each")
        mean = Sum()
        for (_, y), weight in zip(read, weights, strict=True):
            mean = mean + y * (Fraction(weight) / total)
        return self._written(read[0][0], mean)

    def join(self, encoded: Sequence[memoryview], elements: int) -> Sum:  # noqa: ARG002 - as above
        """See `Numbers.join`: each part says the whole sum, so they must agree."""
        read = [self._read(data) for data in encoded]
        if [part for part, _ in read] != list(range(len(encoded))) or len({y for _, y in read}) != 1:
            raise DecodeError(f"these are no parts of one vector: {read}")
        return read[0][1]

    def _written(self, part: int, y: Sum) -> memoryview:
        data = f"{part}:{y.text()}".encode()
        if len(data) > self._size_bytes:
            raise LocalProtocolError(
                f"a sum of {len(y.terms)} terms takes {len(data)} bytes, a part has {self._size_bytes}",
                hint="make part_bytes_max larger",
            )
        return memoryview(data.ljust(self._size_bytes, _PAD))

    def _read(self, data: memoryview) -> tuple[int, Sum]:
        try:
            part, _, text = bytes(data).rstrip(_PAD).decode().partition(":")
            return int(part), Sum.read(text)
        except ValueError as error:
            raise DecodeError(f"no part is written like this: {error}") from error
