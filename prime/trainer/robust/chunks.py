"""The rules on encoded chunks: the middle of each coordinate's values, and the inner products of every two chunks.

A slab of each of R members at a time: the scratch is R slabs in float32, however long the vectors are, and stays in the
caches. With the codec on numba the loops are compiled ones; otherwise numpy does the same arithmetic, and both give the
same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from prime.trainer.codec import Codec, Vector, VectorCodec
from prime.trainer.codec.engine import Encoded
from prime.trainer.codec.vectors import BytesLike
from prime.trainer.robust.lanes import LANES, SLAB_ELEMENTS
from prime.trainer.robust.network import pairs

Rows = npt.NDArray[np.float32]
"""float32[R, D]: the same elements of each of R members, decoded."""
Square = npt.NDArray[np.float64]
"""float64[R, R]."""


def slabs(codec: VectorCodec, chunks: Sequence[BytesLike], elements: int) -> Iterator[tuple[slice, Rows]]:
    """Yield the chunks' vectors as rows, slab by slab, in one place. Raises DecodeError for one that is no wire form of so many elements."""
    if not isinstance(codec, Codec) or not codec.form.scale_bytes or elements <= SLAB_ELEMENTS:
        yield slice(0, elements), _whole(codec, chunks, elements)
        return
    for chunk in chunks:
        codec.check(chunk, elements)
    flats = [np.frombuffer(chunk, np.uint8) for chunk in chunks]
    scratch = np.empty(len(chunks) * SLAB_ELEMENTS, np.float32)
    for at in range(0, elements, SLAB_ELEMENTS):
        cut = slice(at, min(at + SLAB_ELEMENTS, elements))
        rows_RD = scratch[: len(chunks) * (cut.stop - at)].reshape(len(chunks), -1)  # noqa: N806 - R members, D elements
        for row, flat in zip(rows_RD, flats, strict=True):
            codec.engine.decode(codec.form, _slab_of(codec, flat, elements, cut), row)
        yield cut, rows_RD


def _slab_of(codec: Codec, flat: Encoded, elements: int, cut: slice) -> Encoded:
    """Return the wire form of some of the elements: their codes and their scales, out of those of all."""
    form, split = codec.form, codec.form.codes_bytes(elements)
    codes = flat[form.codes_bytes(cut.start) : form.codes_bytes(cut.stop)]
    size = form.scale_bytes
    return np.concatenate([codes, flat[split + size * form.blocks(cut.start) : split + size * form.blocks(cut.stop)]])


def _whole(codec: VectorCodec, chunks: Sequence[BytesLike], elements: int) -> Rows:
    rows_RD = np.empty((len(chunks), elements), np.float32)  # noqa: N806 - as above
    for row, chunk in zip(rows_RD, chunks, strict=True):
        codec.decode(chunk, elements, row)
    return rows_RD


def middle(codec: VectorCodec, chunks: Sequence[BytesLike], elements: int, trim: int) -> Vector:
    """Return, by coordinate, the mean of the values that are left when `trim` are taken off each end (float32[elements]).

    Raises DecodeError.
    """
    into, (first, last) = np.empty(elements, np.float32), (trim, len(chunks) - trim)
    middle_of = _middle_numba if codec.engine.name == "numba" else middle_numpy
    for cut, rows_RD in slabs(codec, chunks, elements):  # noqa: N806 - as above
        into[cut] = middle_of(rows_RD, first, last)
    return into


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
    """`into_RR += <x_i, x_j>` of every two chunks, in float64, slab by slab. Raises DecodeError."""
    if codec.engine.name == "numba":
        from prime.trainer.robust.loops import add_gram as add
    else:
        add = add_gram_numpy
    for _, rows_RD in slabs(codec, chunks, elements):  # noqa: N806 - as above
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
