"""The rules on encoded chunks: the middle of each coordinate's values, and the inner products of every two chunks.

One chunk of each of R members at a time: the scratch is R chunks in float32, however long the vectors are. With the codec
on numba the loops are compiled ones; otherwise numpy does the same arithmetic, and both give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prime.trainer.codec import Vector, VectorCodec
from prime.trainer.codec.vectors import BytesLike
from prime.trainer.robust.lanes import LANES
from prime.trainer.robust.network import pairs

Rows = npt.NDArray[np.float32]
"""float32[R, D]: one chunk of each of R members, decoded."""
Square = npt.NDArray[np.float64]
"""float64[R, R]."""


def decoded(codec: VectorCodec, chunks: Sequence[BytesLike], elements: int) -> Rows:
    """Return the chunks' vectors as rows. Raises DecodeError for one that is no wire form of so many elements."""
    rows_RD = np.empty((len(chunks), elements), np.float32)  # noqa: N806 - shape suffix: R members, D elements
    for row, chunk in zip(rows_RD, chunks, strict=True):
        codec.decode(chunk, elements, row)
    return rows_RD


def middle(codec: VectorCodec, chunks: Sequence[BytesLike], elements: int, trim: int) -> Vector:
    """Return, by coordinate, the mean of the values that are left when `trim` are taken off each end (float32[elements]).

    Memory: `len(chunks)` times the chunk in float32. Raises DecodeError.
    """
    rows_RD = decoded(codec, chunks, elements)  # noqa: N806 - shape suffix
    first, last = trim, len(chunks) - trim
    return (_middle_numba if codec.engine.name == "numba" else middle_numpy)(rows_RD, first, last)


def middle_numpy(rows_RD: Rows, first: int, last: int) -> Vector:  # noqa: N803 - shape suffix
    """Return the mean of the sorted values from `first` to before `last`, added in that order."""
    ordered = np.sort(rows_RD, axis=0)
    total = np.zeros(rows_RD.shape[1], np.float32)
    for row in ordered[first:last]:
        total += row
    total /= np.float32(last - first)
    return total


def _middle_numba(rows_RD: Rows, first: int, last: int) -> Vector:  # noqa: N803 - shape suffix
    from prime.trainer.robust.loops import middle_mean

    into = np.empty(rows_RD.shape[1], np.float32)
    order = np.array(pairs(len(rows_RD), first, last), np.int32).reshape(-1, 2)
    middle_mean(rows_RD, order, first, last, into)
    return into


def add_gram(codec: VectorCodec, chunks: Sequence[BytesLike], elements: int, into_RR: Square) -> None:  # noqa: N803 - shape suffix
    """`into_RR += <x_i, x_j>` of every two chunks, in float64. Memory as `middle`. Raises DecodeError."""
    rows_RD = decoded(codec, chunks, elements)  # noqa: N806 - shape suffix
    if codec.engine.name == "numba":
        from prime.trainer.robust.loops import add_gram as add
    else:
        add = add_gram_numpy
    add(rows_RD, into_RR)


def add_gram_numpy(rows_RD: Rows, into_RR: Square) -> None:  # noqa: N803 - shape suffix
    """`into_RR += rows_RD rows_RD^T`, each of `LANES` places summed on its own, then these in order."""
    count, size = rows_RD.shape
    padded = np.zeros((count, -(-size // LANES) * LANES))
    padded[:, :size] = rows_RD
    for i in range(count):
        for j in range(i, count):
            lanes = (padded[i] * padded[j]).reshape(-1, LANES)
            total = np.cumsum(np.cumsum(lanes, axis=0)[-1])[-1] if size else 0.0
            into_RR[i, j] += total
            if i != j:
                into_RR[j, i] += total
