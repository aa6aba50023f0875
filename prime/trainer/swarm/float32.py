"""The numbers of training: flat float32 vectors (numpy), whose chunks travel in a codec's wire form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from prime.trainer.codec import Vector, VectorCodec, codec, topk
from prime.trainer.codec.sparse import SUMS, gather_name
from prime.trainer.codec.sparse_vectors import Sums
from prime.trainer.metadata import TrainingConfig
from prime.trainer.robust import chunks
from prime.trainer.robust.rules import MEAN, Rule
from prime.trainer.swarm.buffers import Buffers
from prime.trainer.swarm.parts import CHUNK_ELEMENTS, GRAIN_ELEMENTS

VECTORS_KEPT: Final = 2
"""Of the memory of aggregates: one is being decoded to while the trainer still looks at the last one."""


class Float32:
    """`Numbers` of training: vectors are float32[D], a chunk is float32[cut].

    `scatter` is the codec of what members send to the owners, `gather` that of what owners send back (both int8 where not
    given).
    """

    grain = GRAIN_ELEMENTS
    chunk_elements = CHUNK_ELEMENTS

    def __init__(
        self, scatter: VectorCodec | None = None, gather: VectorCodec | Sums | None = None, *, feeds_back: bool = False
    ) -> None:
        self._scatter = scatter if scatter is not None else codec("int8")
        self._gather = gather if gather is not None else codec("int8")
        self._buffers = Buffers(VECTORS_KEPT)
        self.feeds_back = feeds_back

    @classmethod
    def of(cls, config: TrainingConfig) -> Float32:
        """Return the numbers of a run: equal on all its nodes, as its configuration is."""
        scatter = topk() if config.codec == "topk" else codec(config.codec)
        return cls(scatter, _gather_of(config), feeds_back=config.feeds_back)

    def size_bytes(self, elements: int) -> int:
        """See `Numbers.size_bytes`: the float32 vector's own size."""
        return 4 * elements

    def encode(self, y: Vector, cut: slice) -> memoryview:
        """See `Numbers.encode`."""
        return self._scatter.encode(y[cut]).data

    def residual(self, y: Vector, encoded: Sequence[tuple[slice, memoryview]]) -> Vector:
        """See `Numbers.residual`: the difference is exact."""
        y = y if y.flags.writeable else y.copy()
        for cut, data in encoded:
            self._scatter.decode_add(data, y[cut], -1.0)
        return y

    def check(self, data: memoryview, cut: slice) -> None:
        """See `Numbers.check`."""
        self._scatter.check(data, _elements(cut))

    def reduce(
        self, inputs: Sequence[memoryview], weights: Sequence[float], cut: slice, rule: Rule = MEAN
    ) -> memoryview:
        """See `Numbers.reduce`: summed in float32, encoded once."""
        if rule.by_order:
            values = chunks.middle(self._scatter, inputs, _elements(cut), rule.trim(len(inputs)))
            return self._sum_encoded(values, len(inputs))
        total = sum(weights)
        sum_ = np.zeros(_elements(cut), np.float32)
        for data, weight in zip(inputs, weights, strict=True):
            self._scatter.decode_add(data, sum_, weight / total)
        return self._sum_encoded(sum_, len(inputs))

    def _sum_encoded(self, values: Vector, contributions: int) -> memoryview:
        gather = self._gather
        return (gather.encode(values, contributions) if isinstance(gather, Sums) else gather.encode(values)).data

    def multiply(self, inputs: Sequence[memoryview], cut: slice) -> list[float]:
        """See `Numbers.multiply`."""
        gram = np.zeros((len(inputs), len(inputs)))
        chunks.add_gram(self._scatter, inputs, _elements(cut), gram)
        return [float(product) for product in gram[np.triu_indices(len(inputs))]]

    def room(self, elements: int) -> _Room:
        """See `Numbers.room`."""
        return _Room(self._gather, self._buffers.vector(elements))


class _Room:
    """A float32[D] in the making."""

    def __init__(self, gather: VectorCodec | Sums, whole: Vector) -> None:
        self._gather = gather
        self._whole = whole

    def check(self, data: memoryview, cut: slice) -> None:
        """See `Room.check`."""
        self._gather.check(data, _elements(cut))

    def decode(self, data: memoryview, cut: slice) -> None:
        """See `Room.decode`."""
        self._gather.decode(data, _elements(cut), self._whole[cut])

    def vector(self) -> Vector:
        """See `Room.vector`."""
        return self._whole


def _gather_of(config: TrainingConfig) -> VectorCodec | Sums:
    name = gather_name(config.codec, config.gather_codec)
    return Sums() if name == SUMS else codec(name)


def _elements(cut: slice) -> int:
    elements: int = cut.stop - cut.start
    return elements
