"""What the round takes its vectors to be: a contract, so that the aggregator runs with other numbers than float32 ones.

In training they are `float32.Float32` (numpy and a codec each for what goes to the owners and what comes back). A
simulation uses exact sums, whose bytes are just as real: hashed, cut into chunks, sent, journalled.

All is done chunk by chunk, each alone, so that a chunk can be on its way while the next one is being encoded. Everything
here may run in several threads at once, so an implementation keeps no state; two calls never share a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from prime.trainer.robust.rules import MEAN, Rule

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Room(Protocol[V_co]):
    """Where the chunks of one vector are decoded to, in any order and each perhaps again."""

    def check(self, data: memoryview, cut: slice) -> None:
        """Raise `DecodeError` unless `data` is what `Numbers.reduce` writes for this chunk of some vector."""
        ...

    def decode(self, data: memoryview, cut: slice) -> None:
        """Put a reduced chunk into its place. Raises what `check` raises, and then leaves the place as it was."""
        ...

    def vector(self) -> V_co:
        """Return the vector, once every chunk was decoded. Raises `DecodeError` where they are not of one vector."""
        ...


class Numbers(Protocol[V]):
    """Vectors of one kind: how a chunk of one becomes bytes, and how chunks are weighed and joined.

    A chunk is the slice `cut` of a vector, whose ends lie on multiples of `grain` (or at the vector's end). `V` also has
    `+` and `*` with a float (`carry.Ledger`).
    """

    @property
    def grain(self) -> int:
        """Return of how many elements every cut is a multiple; the same on every node."""
        ...

    @property
    def chunk_elements(self) -> int:
        """Return how many elements travel in one message: a multiple of `grain`, the same on every node."""
        ...

    def size_bytes(self, elements: int) -> int:
        """Return how much work a vector of that many elements is: much is done in a thread."""
        ...

    def encode(self, y: V, cut: slice) -> memoryview:
        """Return the bytes of one chunk of a contribution. Raises `LocalProtocolError` for values that have no bytes."""
        ...

    @property
    def feeds_back(self) -> bool:
        """Return whether what the bytes of a contribution leave out goes with the next one; the same on every node."""
        ...

    def residual(self, y: V, encoded: Sequence[tuple[slice, memoryview]]) -> V:
        """Return what the bytes of all chunks leave out of a contribution; `y` may be used up for it."""
        ...

    def check(self, data: memoryview, cut: slice) -> None:
        """Raise `DecodeError` unless `data` is what `encode` writes for this chunk of some vector."""
        ...

    def reduce(
        self, inputs: Sequence[memoryview], weights: Sequence[float], cut: slice, rule: Rule = MEAN
    ) -> memoryview:
        """Return the bytes of one chunk of the aggregate, added in this order: the same wherever it is done.

        `inputs` are the contributions' bytes of the chunk. A rule by order looks at no weight; by any other it is the
        weighted mean. Raises `DecodeError` and `LocalProtocolError`.
        """
        ...

    def multiply(self, inputs: Sequence[memoryview], cut: slice) -> list[float]:
        """Return the inner products of every two contributions over this chunk, in float64.

        They are the upper triangle of the chunk's Gram matrix, row by row. Raises `DecodeError`.
        """
        ...

    def room(self, elements: int) -> Room[V]:
        """Return the place for an aggregate of that many elements."""
        ...
