"""What the round takes its vectors to be: a contract, so that the aggregator runs with other numbers than float32 ones.

In training they are `float32.Float32` (numpy and the int8 codec). A simulation uses exact sums, whose bytes are just as
real: hashed, cut into chunks, sent, journalled. Everything here may run in a thread, so an implementation keeps no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

V = TypeVar("V")


class Numbers(Protocol[V]):
    """Vectors of one kind: how they become the bytes of parts, and how those are weighed and joined.

    A vector of `elements` is cut into `parts` parts. `V` also has `+` and `*` with a float (`carry.Ledger`).
    """

    @property
    def chunk_bytes(self) -> int:
        """Return how many bytes of a part travel in one message; the same on every node."""
        ...

    def size_bytes(self, elements: int) -> int:
        """Return how much work a vector of that many elements is: from a MiB on it is done in a thread."""
        ...

    def part_elements(self, elements: int, parts: int, part: int) -> int:
        """Return how many elements part number `part` has."""
        ...

    def part_bytes(self, elements: int, parts: int, part: int) -> int:
        """Return the size of the encoded part number `part`; the same whatever the values are."""
        ...

    def encode(self, y: V, parts: int) -> list[memoryview]:
        """Return the bytes of each part of `y`. Raises `LocalProtocolError` for values that have no bytes."""
        ...

    def check(self, data: memoryview, elements: int) -> None:
        """Raise `DecodeError` unless `data` is what `encode` writes for a part of that many elements."""
        ...

    def reduce(self, inputs: Sequence[memoryview], weights: Sequence[float], elements: int) -> memoryview:
        """Return the bytes of the weighted mean of one part, added in this order: the same wherever it is done.

        Raises `DecodeError` and `LocalProtocolError`.
        """
        ...

    def join(self, encoded: Sequence[memoryview], elements: int) -> V:
        """Return the vector of `elements` whose parts have these bytes. Raises `DecodeError`."""
        ...
