"""The codec's arithmetic in plain numpy: always there, slow (several passes with temporaries)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prime.trainer.codec.engine import Encoded, Vector, folded
from prime.trainer.codec.form import FP16, FP16_OVERFLOW, INT4, INT8, NON_FINITE, NONE, OVERFLOW, SCALE_MIN, Form

_ONE = np.float32(1)


class NumpyEngine:
    """See `Engine`. Shape suffixes: N blocks, B elements in a block."""

    name = "numpy"

    def encode(
        self, form: Form, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `Engine.encode`."""
        y = x if residual is None else x + residual
        if not np.isfinite(y).all():
            return NON_FINITE
        if form is FP16 and y.size and np.abs(y).max() >= FP16_OVERFLOW:
            return OVERFLOW
        _put(form, y, encoded)
        if residual_out is not None:
            np.subtract(y, _value(form, encoded, _ONE, y.size), out=residual_out)
        return 0

    def decode(self, form: Form, encoded: Encoded, into: Vector) -> None:
        """See `Engine.decode`."""
        into[:] = _value(form, encoded, _ONE, into.size)

    def accumulate(self, form: Form, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `Engine.accumulate`."""
        into += _value(form, encoded, weight, into.size)

    def reduce(
        self,
        form: Form,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix
        weights_R: Vector,  # noqa: N803 - shape suffix
        encoded: Encoded,
        residual: Vector | None,
        residual_out: Vector | None,
        elements: int,
    ) -> int:
        """See `Engine.reduce`."""
        total = np.zeros(elements, np.float32)
        for row, weight in zip(encoded_RB, weights_R, strict=True):
            self.accumulate(form, row, total, weight)
        return self.encode(form, total, encoded, residual, residual_out)

    def fold(
        self,
        form: Form,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix
        weights_R: Vector,  # noqa: N803 - shape suffix
        own: Vector,
        own_weight: np.float32,
        encoded: Encoded,
        residual: Vector | None,
        residual_out: Vector | None,
    ) -> int:
        """See `Engine.fold`."""
        return folded(self, form, encoded_RB, weights_R, own, own_weight, encoded, residual, residual_out)


def _put(form: Form, y: Vector, encoded: Encoded) -> None:
    if form is NONE:
        encoded.view(np.float32)[:] = y
    elif form is FP16:
        encoded[2 * y.size :] = 0
        encoded[: 2 * y.size].view(np.float16)[:] = y
    else:
        _put_blocks(form, y, encoded)


def _put_blocks(form: Form, y: Vector, encoded: Encoded) -> None:
    n, split = form.blocks(y.size), form.codes_bytes(y.size)
    y_NB = np.zeros((n, form.block), np.float32)  # noqa: N806 - shape suffix
    y_NB.reshape(-1)[: y.size] = y
    scales = encoded[split:].view(np.float32)
    np.minimum(np.abs(y_NB).max(axis=1, initial=0) / np.float32(form.code_max), form.scale_max, out=scales)
    lost = scales < SCALE_MIN
    y_NB[lost] = 0
    np.divide(y_NB, np.where(lost, np.float32(1), scales)[:, None], out=y_NB)
    scales[lost] = 0
    encoded[:split] = _codes(form, y_NB.reshape(-1))


def _codes(form: Form, quotients: Vector) -> npt.NDArray[np.uint8]:
    if form is INT8:
        return np.rint(quotients).astype(np.int8).view(np.uint8)
    if form is INT4:
        nibbles = np.rint(quotients).astype(np.int8).view(np.uint8) & 15
        return np.bitwise_or(nibbles[0::2], nibbles[1::2] << 4, dtype=np.uint8)
    return _e4m3(quotients)


def _e4m3(quotients: Vector) -> npt.NDArray[np.uint8]:
    """Round to float8 e4m3: half to even, beyond 448 as 448, from 2**-6 down in steps of 2**-9."""
    bits = quotients.view(np.uint32)
    size = np.minimum(np.abs(quotients), np.float32(448))
    size_bits = size.view(np.uint32)
    normal = (size_bits + 0x7FFFF + (size_bits >> 20 & 1) >> 20) - (120 << 3)  # the exponent's bias: 127 becomes 7
    small = np.rint(size * np.float32(512)).astype(np.uint32)
    return (np.where(size < 2.0**-6, small, normal) | bits >> 24 & 0x80).astype(np.uint8)


def _e4m3_value(codes: npt.NDArray[np.uint8]) -> Vector:
    """Return what each code stands for; its NaN as 480."""
    magnitude = (codes & 0x7F).astype(np.uint32)
    normal = (magnitude + (120 << 3) << 20).view(np.float32)
    value = np.where(magnitude < 8, magnitude.astype(np.float32) * np.float32(2.0**-9), normal)
    return np.where(codes & 0x80, -value, value)


def _value(form: Form, encoded: Encoded, weight: np.float32, elements: int) -> Vector:
    if form is NONE:
        return encoded.view(np.float32) * weight
    if form is FP16:
        return encoded[: 2 * elements].view(np.float16).astype(np.float32) * weight
    split = form.codes_bytes(elements)
    scales = encoded[split:].view(np.float32) * weight
    whole: Vector = (_code_values(form, encoded[:split]).reshape(-1, form.block) * scales[:, None]).reshape(-1)
    return whole[:elements]


def _code_values(form: Form, codes: npt.NDArray[np.uint8]) -> Vector:
    if form is INT8:
        return codes.view(np.int8).astype(np.float32)
    if form is INT4:
        pairs = np.empty((codes.size, 2), np.int8)
        pairs[:, 0] = (codes << 4).view(np.int8) >> 4
        pairs[:, 1] = codes.view(np.int8) >> 4
        return pairs.reshape(-1).astype(np.float32)
    return _e4m3_value(codes)
