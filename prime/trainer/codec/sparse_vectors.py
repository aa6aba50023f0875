"""Numpy vectors there and back in the sparse forms, checked as those of `vectors.py` are."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from prime.errors import DecodeError, LocalProtocolError
from prime.trainer.codec.cpu import EngineName, codec_engine
from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.form import NON_FINITE, SCALE_MIN
from prime.trainer.codec.sparse import BLOCK, DENSE_FROM, SCALE_MAX, TOPK, SparseForm, gather_form
from prime.trainer.codec.sparse_numpy import (
    NumpySparse,
    Places,
    SparseEngine,
    codes_of,
    levels_of,
    places_of,
    scales_of,
)
from prime.trainer.codec.vectors import BytesLike, codec, non_finite, require_vectors, room

_BFLOAT16_MAX: Final = float.fromhex("0x1.fep+127")


def topk(engine: SparseEngine | EngineName = "auto") -> Sparse:
    """Return the codec of `topk` on that engine. Raises as `codec` does."""
    return Sparse(TOPK, sparse_engine(engine) if isinstance(engine, str) else engine)


def gather(contributions: int, engine: SparseEngine) -> Sparse | None:
    """Return the codec of a sum of that many contributions in `topk`; None where dense `int8` is smaller."""
    form = gather_form(contributions)
    return None if form is None else Sparse(form, engine)


def sparse_engine(name: EngineName = "auto") -> SparseEngine:
    """Return the engine of sparse forms of that name; `auto` is numba where it loads, else numpy. Raises as `codec_engine`."""
    chosen = codec_engine(name).name
    if chosen == "numba":
        from prime.trainer.codec.sparse_numba import NumbaSparse

        return NumbaSparse()
    if chosen == "torch":
        from prime.trainer.codec.sparse_torch import TorchSparse

        return TorchSparse()
    return NumpySparse()


class Sums:
    """The codec of sums of `topk` contributions: `gather C` for C of them, or `int8` of whole blocks where that is smaller.

    The bytes' size says which, because no two forms take as many bytes for a block.
    """

    def __init__(self, engine: SparseEngine | None = None) -> None:
        self._engine = sparse_engine() if engine is None else engine
        self._dense = codec("int8")

    def encode(self, total: Vector, contributions: int) -> Encoded:
        """Return the wire form of a sum of so many contributions. Raises as `Sparse.encode`."""
        ours = gather(contributions, self._engine)
        if ours is not None:
            return ours.encode(total)
        whole = np.zeros(TOPK.blocks(total.size) * BLOCK, np.float32)
        whole[: total.size] = total
        return self._dense.encode(whole)

    def check(self, encoded: BytesLike, elements: int) -> None:
        """Raise DecodeError unless `encoded` is the wire form of some sum over that many elements."""
        blocks = TOPK.blocks(elements)
        ours = gather(contributions_of(np.frombuffer(encoded, np.uint8).size, blocks), self._engine)
        if ours is not None:
            ours.check(encoded, elements)
        else:
            self._dense.check(encoded, blocks * BLOCK)

    def decode(self, encoded: BytesLike, elements: int, into: Vector | None = None) -> Vector:
        """Return the sum that `encoded` stands for, fresh or `into`. Raises DecodeError."""
        blocks = TOPK.blocks(elements)
        ours = gather(contributions_of(np.frombuffer(encoded, np.uint8).size, blocks), self._engine)
        if ours is not None:
            return ours.decode(encoded, elements, into)
        into = np.empty(elements, np.float32) if into is None else into
        into[:] = self._dense.decode(encoded, blocks * BLOCK)[:elements]
        return into


def contributions_of(size_bytes: int, blocks: int) -> int:
    """Return of how many contributions a sum of so many bytes is: `DENSE_FROM` for as many or more, or for no size of ours."""
    forms = ((count, gather_form(count)) for count in range(1, DENSE_FROM))
    return next((count for count, form in forms if form and form.record_bytes * blocks == size_bytes), DENSE_FROM)


class Sparse:
    """Encode and decode flat float32 vectors in a sparse form; the verbs, and what they raise, are those of `Codec`."""

    def __init__(self, form: SparseForm, engine: SparseEngine) -> None:
        self.form = form
        self.engine = engine

    def encode(
        self,
        x: Vector,
        out: Encoded | None = None,
        residual: Vector | None = None,
        residual_out: Vector | None = None,
    ) -> Encoded:
        """See `Codec.encode`. In `gather`, LocalProtocolError also for a block with more elements than have room."""
        residual_out = residual if residual_out is None else residual_out
        require_vectors(x.size, x, residual, residual_out)
        out = room(self.form.encoded_size_bytes(x.size), x.size, out)
        if not x.size:
            return out
        flags = self.engine.encode(self.form, x, out, residual, residual_out)
        if flags & NON_FINITE:
            raise non_finite(x)
        if flags:
            raise LocalProtocolError(
                f"a block of {BLOCK} elements has more than the {self.form.kept} that {self.form.name} has room for",
                hint="give the vector another codec: only sums of topk contributions are so sparse",
            )
        return out

    def check(self, encoded: BytesLike, elements: int) -> None:
        """Raise DecodeError unless `encoded` is the wire form of some vector of that many elements.

        Done by the decoders too: a place that is named twice, out of order or beyond the vector, padding that is not
        zero, and a level or scale that is not finite, are what no encoder writes.
        """
        self._open(encoded, elements)

    def decode(self, encoded: BytesLike, elements: int, into: Vector | None = None) -> Vector:
        """See `Codec.decode`."""
        into = np.empty(elements, np.float32) if into is None else into
        require_vectors(elements, into)
        flat = self._open(encoded, elements)
        if elements:
            self.engine.decode(self.form, flat, into)
        return into

    def decode_add(self, encoded: BytesLike, into: Vector, weight: float = 1.0) -> None:
        """See `Codec.decode_add`."""
        require_vectors(into.size, into)
        flat = self._open(encoded, into.size)
        if into.size:
            self.engine.accumulate(self.form, flat, into, np.float32(weight))

    def residual(self, x: Vector, encoded: BytesLike) -> Vector:
        """See `Codec.residual`."""
        residual = x.copy()
        self.decode_add(encoded, residual, -1.0)
        return residual

    def _open(self, encoded: BytesLike, elements: int) -> Encoded:
        flat = np.frombuffer(encoded, np.uint8)
        size = self.form.encoded_size_bytes(elements)
        if flat.size != size:
            raise DecodeError(f"a {self.form.name} vector of {elements} elements takes {size} bytes, got {flat.size}")
        if flat.ctypes.data % 4:  # a payload may start at any byte of its frame
            flat = flat.copy()
        if elements:
            _check_records(self.form, flat.reshape(-1, self.form.record_bytes), elements)
        return flat


def _check_records(form: SparseForm, records_NR: Encoded, elements: int) -> None:  # noqa: N803 - shape suffix
    _check_words(form, records_NR)
    if form.is_map:
        _refuse(_counted(form, records_NR) > form.kept, "names more places than it has room for")
    is_held, places = places_of(form, records_NR)
    codes = codes_of(form, records_NR)
    beyond = np.greater_equal(places, (elements - np.arange(len(places)) * BLOCK)[:, None])
    _refuse(is_held & beyond, "names a place beyond the vector")
    if not form.is_map:
        _refuse(~is_held & (places != 0), "names places that do not ascend")
    _refuse(~is_held & (codes != 0), "has codes without a place")
    if form.bits == 8:
        _refuse(is_held & (codes == 0), "holds an element that is 0")


def _counted(form: SparseForm, records_NR: Encoded) -> Places:  # noqa: N803 - shape suffix
    return np.bitwise_count(records_NR[:, : form.places_bytes]).sum(axis=1, dtype=np.int64)


def _check_words(form: SparseForm, records_NR: Encoded) -> None:  # noqa: N803 - shape suffix
    is_empty = records_NR[:, -4:].max(axis=1) == 0
    if form.bits == 8:
        scales = scales_of(records_NR)
        fine = (scales >= SCALE_MIN) & (scales <= SCALE_MAX)
    else:
        lower, upper = levels_of(records_NR)
        fine = (lower >= SCALE_MIN) & (lower <= upper) & (upper <= _BFLOAT16_MAX)
    _refuse(~(fine | is_empty), "has a scale or level that no encoder writes")
    _refuse(is_empty & (records_NR.max(axis=1) > 0), "holds elements and no scale or level")


def _refuse(bad: npt.NDArray[np.bool_], what: str) -> None:
    blocks = np.nonzero(bad)[0]
    if blocks.size:
        raise DecodeError(f"the record of block {blocks[0]} {what}: no encoder writes that")
