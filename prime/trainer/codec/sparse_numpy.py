"""The arithmetic of the sparse forms in plain numpy: the reference that faster engines are compared with.

Shape suffixes: N blocks, B = 4096 elements of a block, K elements that a record has room for, R bytes of a record.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.form import NON_FINITE, SCALE_MIN
from prime.trainer.codec.sparse import BLOCK, CROWDED, LEVELS_APART, SCALE_MAX, TOPK, UPPER_RANK, SparseForm

Places = npt.NDArray[np.int64]
_SIGN_OFF: Final = np.uint32(0x7FFFFFFF)
_BFLOAT16: Final = np.uint32(0xFFFF0000)


class SparseEngine(Protocol):
    """The arithmetic of sparse forms. Shapes and flags as in `Engine`; no vector is empty, nothing is checked."""

    name: str

    def encode(
        self, form: SparseForm, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """Fill `encoded` with the wire form of `x + residual`, and `residual_out`; return 0, `NON_FINITE` or `CROWDED`."""
        ...

    def accumulate(self, form: SparseForm, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """`into += decoded * weight`, the product of level (or scale) and weight rounded first."""
        ...

    def decode(self, form: SparseForm, encoded: Encoded, into: Vector) -> None:
        """`into = decoded`."""
        ...


class NumpySparse:
    """See `SparseEngine`."""

    name = "numpy"

    def encode(
        self, form: SparseForm, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `SparseEngine.encode`."""
        y = x if residual is None else x + residual
        if not np.isfinite(y).all():
            return NON_FINITE
        y_NB = np.zeros((form.blocks(y.size), BLOCK), np.float32)  # noqa: N806 - shape suffix
        y_NB.reshape(-1)[: y.size] = y
        flags = _put_largest(y_NB, encoded) if form is TOPK else _put_sums(form, y_NB, encoded)
        if residual_out is not None and not flags:
            decoded = np.empty_like(y)
            self.decode(form, encoded, decoded)
            np.subtract(y, decoded, out=residual_out)
        return flags

    def accumulate(self, form: SparseForm, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `SparseEngine.accumulate`."""
        records_NR = encoded.reshape(-1, form.record_bytes)  # noqa: N806 - shape suffix
        is_held, places = places_of(form, records_NR)
        at = (np.arange(len(places))[:, None] * BLOCK + places)[is_held]
        into[at] += _values(form, records_NR, weight)[is_held]

    def decode(self, form: SparseForm, encoded: Encoded, into: Vector) -> None:
        """See `SparseEngine.decode`."""
        into[:] = 0
        self.accumulate(form, encoded, into, np.float32(1))


def _put_largest(y_NB: npt.NDArray[np.float32], encoded: Encoded) -> int:  # noqa: N803 - shape suffix
    records_NR = encoded.reshape(-1, TOPK.record_bytes)  # noqa: N806 - shape suffix
    for y_B, record_R in zip(y_NB, records_NR, strict=True):  # noqa: N806 - shape suffix
        record_R[:] = 0
        _put_block(y_B, record_R)
    return 0


def _put_block(y_B: Vector, record_R: Encoded) -> None:  # noqa: N803 - shape suffix
    bits = y_B.view(np.uint32) & _SIGN_OFF
    order = np.argsort(~bits, kind="stable")[: TOPK.kept]
    order = order[bits[order] > 0]
    if not order.size:
        return
    lower, upper = _levels(bits[order])
    if lower < SCALE_MIN:
        return
    kept = np.sort(order)
    size = np.abs(y_B[kept])
    is_held = size >= lower * np.float32(0.5)
    kept, size = kept[is_held], size[is_held]
    is_upper = size >= lower * np.float32(0.5) + upper * np.float32(0.5)
    _put_numbers(kept, TOPK, record_R)
    codes = np.zeros(TOPK.kept, np.uint8)
    codes[: kept.size] = is_upper | (np.signbit(y_B[kept]).astype(np.uint8) << 1)
    split = TOPK.places_bytes
    record_R[split:-4] = (codes.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1)
    halves = np.array([lower, upper], np.float32).view(np.uint32) >> 16
    record_R[-4:] = (halves[0] | halves[1] << 16).reshape(1).view(np.uint8)


def _levels(ranked: npt.NDArray[np.uint32]) -> tuple[np.float32, np.float32]:
    """Return the two levels of magnitudes whose bits descend."""
    k = ranked.size
    top, upper, lower = (ranked[[0, k // UPPER_RANK, k // 2]] & _BFLOAT16).view(np.float32)
    upper = max(upper, top * np.float32(LEVELS_APART))
    return max(lower, upper * np.float32(LEVELS_APART)), upper


def _put_sums(form: SparseForm, y_NB: npt.NDArray[np.float32], encoded: Encoded) -> int:  # noqa: N803 - shape suffix
    scales = np.minimum(np.abs(y_NB).max(axis=1) / np.float32(127), np.float32(SCALE_MAX))
    scales[scales < SCALE_MIN] = 0
    codes_NB = np.rint(y_NB / np.where(scales, scales, np.float32(np.inf))[:, None]).astype(np.int8)  # noqa: N806
    if int((codes_NB != 0).sum(axis=1).max(initial=0)) > form.kept:
        return CROWDED
    records_NR = encoded.reshape(-1, form.record_bytes)  # noqa: N806 - shape suffix
    records_NR[:] = 0
    split = form.places_bytes
    for codes_B, record_R in zip(codes_NB, records_NR, strict=True):  # noqa: N806 - shape suffix
        kept = np.flatnonzero(codes_B)
        if form.is_map:
            record_R[:split] = np.packbits(codes_B != 0, bitorder="little")
        else:
            _put_numbers(kept, form, record_R)
        record_R[split : split + kept.size] = codes_B[kept].view(np.uint8)
    records_NR[:, -4:] = scales.reshape(-1, 1).view(np.uint8)
    return 0


def _put_numbers(kept: Places, form: SparseForm, record_R: Encoded) -> None:  # noqa: N803 - shape suffix
    """Write places as numbers of 12 bits, two in three bytes."""
    numbers = np.zeros(form.kept, np.uint32)
    numbers[: kept.size] = kept
    pairs = numbers[0::2] | numbers[1::2] << 12
    record_R[: form.places_bytes] = pairs.view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1)


def places_of(form: SparseForm, records_NR: Encoded) -> tuple[npt.NDArray[np.bool_], Places]:  # noqa: N803
    """Return which of the K entries of each record hold an element, and the elements' places (both [N, K])."""
    split = form.places_bytes
    if form.is_map:
        is_there = np.unpackbits(records_NR[:, :split], axis=1, bitorder="little").view(np.bool_)
        is_held = np.arange(form.kept) < is_there.sum(axis=1)[:, None]
        places = np.zeros(is_held.shape, np.int64)
        places[is_held] = np.nonzero(is_there)[1]
        return is_held, places
    threes = records_NR[:, :split].reshape(len(records_NR), -1, 3).astype(np.uint32)
    pairs = threes[..., 0] | threes[..., 1] << 8 | threes[..., 2] << 16
    places = np.stack([pairs & 0xFFF, pairs >> 12], axis=2).reshape(len(records_NR), -1).astype(np.int64)
    ascends = np.ones(places.shape, np.bool_)
    ascends[:, 1:] = places[:, 1:] > places[:, :-1]
    is_held = np.logical_and.accumulate(ascends, axis=1)
    return is_held & (_words(records_NR) != 0)[:, None], places


def codes_of(form: SparseForm, records_NR: Encoded) -> Encoded:  # noqa: N803 - shape suffix
    """Return the K codes of each record, a byte each."""
    split = form.places_bytes
    packed = records_NR[:, split:-4]
    if form.bits == 8:
        return packed
    codes: Encoded = packed[..., None] >> np.array([0, 2, 4, 6], np.uint8) & np.uint8(3)
    return codes.reshape(len(records_NR), -1)


def _words(records_NR: Encoded) -> npt.NDArray[np.uint32]:  # noqa: N803 - shape suffix
    return np.ascontiguousarray(records_NR[:, -4:]).view(np.uint32)[:, 0]


def levels_of(records_NR: Encoded) -> tuple[Vector, Vector]:  # noqa: N803 - shape suffix
    """Return the lower and the upper level of each record of `topk` (both [N])."""
    words = _words(records_NR)
    return (words << np.uint32(16)).view(np.float32), (words & _BFLOAT16).view(np.float32)


def scales_of(records_NR: Encoded) -> Vector:  # noqa: N803 - shape suffix
    """Return the scale of each record of `gather` ([N])."""
    return _words(records_NR).view(np.float32)


def _values(form: SparseForm, records_NR: Encoded, weight: np.float32) -> npt.NDArray[np.float32]:  # noqa: N803
    codes = codes_of(form, records_NR)
    if form.bits == 8:
        return codes.view(np.int8).astype(np.float32) * (scales_of(records_NR) * weight)[:, None]
    lower, upper = (each[:, None] * weight for each in levels_of(records_NR))
    size = np.where(codes & 1, upper, lower)
    return np.where(codes & 2, -size, size)
