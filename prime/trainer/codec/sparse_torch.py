"""The arithmetic of the sparse forms in eager torch, on any device: whole-tensor operations that say what the form says.

Shape suffixes: D elements, N blocks, B = 4096 elements of a block, K elements that a record has room for.
"""

from __future__ import annotations

import numpy as np
import torch

from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.form import NON_FINITE, SCALE_MIN
from prime.trainer.codec.sparse import (
    BLOCK,
    CROWDED,
    LEVELS_APART,
    PLACE_BITS,
    SCALE_MAX,
    TOPK,
    UPPER_RANK,
    SparseForm,
)

_SIGN_OFF = 0x7FFFFFFF
_BFLOAT16 = -0x10000


class SparseTensors:
    """Flat contiguous tensors of one device: x and into float32[D], encoded uint8[N R], R bytes a record."""

    def encode(self, form: SparseForm, y: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Fill `encoded` with the wire form of `y`; return the flags, int32[1]."""
        y_NB = torch.zeros(form.blocks(y.numel()), BLOCK, device=y.device)  # noqa: N806 - shape suffix
        y_NB.view(-1)[: y.numel()] = y
        flags = (~torch.isfinite(y).all()).int() * NON_FINITE
        if form is TOPK:
            is_held, places, codes, words = _largest(y_NB)
            most = is_held.new_zeros((), dtype=torch.int64)
        else:
            is_held, places, codes, words, most = _sums(form, y_NB)
        _put(form, encoded.view(len(y_NB), -1), is_held, places, codes, words)
        return (flags | (most > form.kept).int() * CROWDED).view(1)

    def accumulate(self, form: SparseForm, encoded: torch.Tensor, into: torch.Tensor, weight: torch.Tensor) -> None:
        """`into += decoded * weight`, the product of level (or scale) and weight rounded first."""
        records_NR = encoded.view(-1, form.record_bytes)  # noqa: N806 - shape suffix
        is_held, places = _places_of(form, records_NR)
        at = (torch.arange(len(places), device=into.device)[:, None] * BLOCK + places)[is_held]
        into[at] += _values(form, records_NR, weight)[is_held]


def _largest(
    y_NB: torch.Tensor,  # noqa: N803 - shape suffix
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    bits = y_NB.view(torch.int32) & _SIGN_OFF
    ranked, order = bits.sort(dim=1, descending=True, stable=True)  # of equal ones those that come first
    ranked, order = ranked[:, : TOPK.kept], order[:, : TOPK.kept]
    count = (ranked > 0).sum(dim=1, keepdim=True)
    top, upper, lower = (
        _cut(ranked.gather(1, (count // part).clamp(max=TOPK.kept - 1))) for part in (1 << 30, UPPER_RANK, 2)
    )
    upper = torch.maximum(upper, top * LEVELS_APART)
    lower = torch.maximum(lower, upper * LEVELS_APART)
    size = ranked.view(torch.float32)
    is_held = (ranked > 0) & (size >= lower * 0.5) & (lower >= SCALE_MIN)
    places, by_place = torch.where(is_held, order, BLOCK).sort(dim=1)
    is_held, size = is_held.gather(1, by_place), size.gather(1, by_place)
    places = torch.where(is_held, places, 0)
    codes = (size >= lower * 0.5 + upper * 0.5).int() | (y_NB.gather(1, places) < 0).int() << 1
    word = (lower.view(torch.int32) >> 16) & 0xFFFF | upper.view(torch.int32)
    words = torch.where(is_held.any(dim=1, keepdim=True), word, 0)
    return is_held, places, torch.where(is_held, codes, 0), words


def _cut(bits: torch.Tensor) -> torch.Tensor:
    return (bits & _BFLOAT16).view(torch.float32)


def _sums(
    form: SparseForm,
    y_NB: torch.Tensor,  # noqa: N803 - shape suffix
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    code_max = torch.full((), 127.0, device=y_NB.device)  # by a Python number CUDA multiplies with its reciprocal
    scale = (y_NB.abs().amax(1, keepdim=True) / code_max).clamp(max=SCALE_MAX)
    scale = torch.where(scale >= SCALE_MIN, scale, 0.0)
    codes = torch.round(torch.where(scale > 0, y_NB / scale, 0.0)).nan_to_num().int()  # torch rounds half to even
    room = min(form.kept, BLOCK)
    order = (codes == 0).int().sort(dim=1, stable=True)[1][:, :room]
    is_held = codes.gather(1, order) != 0
    places = torch.where(is_held, order, 0)
    held = torch.where(is_held, codes.gather(1, order), 0)
    words = scale.view(torch.int32)
    return is_held, places, held, words, (codes != 0).sum(dim=1).amax()


def _put(
    form: SparseForm,
    records_NR: torch.Tensor,  # noqa: N803 - shape suffix
    is_held: torch.Tensor,
    places: torch.Tensor,
    codes: torch.Tensor,
    words: torch.Tensor,
) -> None:
    split = form.places_bytes
    records_NR[:, -4:] = words.contiguous().view(torch.uint8).view(len(records_NR), 4)
    if form.bits == 8:
        records_NR[:, split:-4] = 0
        records_NR[:, split : split + codes.shape[1]] = codes.to(torch.int8).view(torch.uint8)
    else:
        records_NR[:, split:-4] = _packed(codes, 2)
    if form.is_map:
        is_there = torch.zeros(len(records_NR), BLOCK + 1, dtype=torch.int32, device=places.device)
        is_there.scatter_(1, torch.where(is_held, places, BLOCK), 1)
        records_NR[:, :split] = _packed(is_there[:, :BLOCK], 1)
    else:
        pairs = places[:, 0::2] | places[:, 1::2] << PLACE_BITS
        threes = torch.stack([pairs & 255, pairs >> 8 & 255, pairs >> 16], 2)
        records_NR[:, :split] = threes.view(len(records_NR), -1).to(torch.uint8)


def _packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    each = codes.view(len(codes), -1, 8 // bits) << torch.arange(0, 8, bits, device=codes.device)
    return each.sum(dim=2).to(torch.uint8)


def _places_of(form: SparseForm, records_NR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: N803
    packed = records_NR[:, : form.places_bytes]
    if form.is_map:
        is_there = (packed[..., None] >> torch.arange(8, device=packed.device) & 1).view(len(packed), -1)
        places = (is_there == 0).int().sort(dim=1, stable=True)[1][:, : form.kept]
        return torch.arange(places.shape[1], device=places.device) < is_there.sum(1, keepdim=True), places
    threes = packed.reshape(len(packed), -1, 3).long()
    pairs = threes[..., 0] | threes[..., 1] << 8 | threes[..., 2] << 16
    places = torch.stack([pairs & 0xFFF, pairs >> PLACE_BITS], 2).view(len(packed), -1)
    ascends = torch.ones_like(places)
    ascends[:, 1:] = places[:, 1:] > places[:, :-1]
    return (ascends.cumprod(1) * records_NR[:, -4:].any(1, keepdim=True)).bool(), places


def _values(form: SparseForm, records_NR: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # noqa: N803
    codes = records_NR[:, form.places_bytes : -4]
    words = records_NR[:, -4:].contiguous().view(torch.int32)
    if form.bits == 8:
        held = codes[:, : min(form.kept, BLOCK)].contiguous().view(torch.int8).float()
        return held * (words.view(torch.float32) * weight)
    codes = (codes[..., None] >> torch.tensor([0, 2, 4, 6], device=codes.device) & 3).view(len(codes), -1)
    lower, upper = (words << 16).view(torch.float32) * weight, _cut(words) * weight
    size = torch.where((codes & 1).bool(), upper, lower)
    return torch.where((codes & 2).bool(), -size, size)


class TorchSparse:
    """The same for numpy arrays. See `SparseEngine`."""

    name = "torch"

    def __init__(self) -> None:
        self._tensors = SparseTensors()

    def encode(
        self, form: SparseForm, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `SparseEngine.encode`."""
        y = torch.tensor(x)
        if residual is not None:
            y += torch.from_numpy(residual)
        flags = int(self._tensors.encode(form, y, torch.from_numpy(encoded)))
        if residual_out is not None and not flags:
            decoded = np.empty_like(x)
            self.decode(form, encoded, decoded)
            np.subtract(y.numpy(), decoded, out=residual_out)
        return flags

    def accumulate(self, form: SparseForm, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `SparseEngine.accumulate`."""
        self._tensors.accumulate(form, torch.tensor(encoded), torch.from_numpy(into), torch.tensor(weight))

    def decode(self, form: SparseForm, encoded: Encoded, into: Vector) -> None:
        """See `SparseEngine.decode`."""
        into[:] = 0
        self.accumulate(form, encoded, into, np.float32(1))
