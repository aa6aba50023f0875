"""The numbers of training: flat float32 vectors (numpy), whose parts travel in the int8 codec's wire form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prime.trainer.codec import Codec, Vector, codec
from prime.trainer.swarm.parts import CHUNK_BYTES, cuts, expected_bytes, part_elements


class Float32:
    """`Numbers` of training: shapes are float32[D], one part float32[part_elements]."""

    chunk_bytes = CHUNK_BYTES

    def __init__(self, int8: Codec | None = None) -> None:
        self._codec = int8 if int8 is not None else codec("int8")

    def size_bytes(self, elements: int) -> int:
        """See `Numbers.size_bytes`: the float32 vector's own size."""
        return 4 * elements

    def part_elements(self, elements: int, parts: int, part: int) -> int:
        """See `Numbers.part_elements`: a whole number of codec blocks."""
        return part_elements(elements, parts, part)

    def part_bytes(self, elements: int, parts: int, part: int) -> int:
        """See `Numbers.part_bytes`."""
        return expected_bytes(elements, parts, part)

    def encode(self, y: Vector, parts: int) -> list[memoryview]:
        """See `Numbers.encode`."""
        return [self._codec.encode(y[cut]).data for cut in cuts(y.size, parts)]

    def check(self, data: memoryview, elements: int) -> None:
        """See `Numbers.check`."""
        self._codec.check(data, elements)

    def reduce(self, inputs: Sequence[memoryview], weights: Sequence[float], elements: int) -> memoryview:
        """See `Numbers.reduce`: summed in float32, encoded once."""
        total = sum(weights)
        sum_ = np.zeros(elements, np.float32)
        for data, weight in zip(inputs, weights, strict=True):
            self._codec.decode_add(data, sum_, weight / total)
        return self._codec.encode(sum_).data

    def join(self, encoded: Sequence[memoryview], elements: int) -> Vector:
        """See `Numbers.join`: each part is decoded into its place."""
        whole = np.empty(elements, np.float32)
        for data, cut in zip(encoded, cuts(elements, len(encoded)), strict=True):
            self._codec.decode(data, cut.stop - cut.start, whole[cut])
        return whole
