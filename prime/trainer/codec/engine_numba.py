"""The codec's arithmetic in numba: the default on a CPU. The loops themselves are those of `numba_loops.py`.

Here a vector is cut into whole blocks, which go to the loops, and the last, short one, which goes in padded copies.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.form import FP16, NON_FINITE, OVERFLOW, Form
from prime.trainer.codec.numba_loops import FP16_OVERFLOW_BITS, INFINITY_BITS, Kernels, kernels_of, padded


class NumbaEngine:
    """The default engine on a CPU. See `Engine`."""

    name = "numba"

    def encode(
        self, form: Form, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `Engine.encode`."""
        kernels = kernels_of(form)
        codes, scales = kernels.parts(encoded, x.size)
        encoded[encoded.size - form.trailer_bytes :] = 0
        if residual is None or residual_out is None:
            worst = kernels.encode(x, codes, scales)
        else:
            worst = kernels.encode_feedback(x, residual, residual_out, codes, scales)
        last = _encode_last(kernels, x[kernels.whole(x.size) :], codes, scales, residual, residual_out)
        return _flags(form, max(int(worst), last))

    def decode(self, form: Form, encoded: Encoded, into: Vector) -> None:
        """See `Engine.decode`."""
        kernels = kernels_of(form)
        codes, scales = kernels.parts(encoded, into.size)
        kernels.decode(codes, scales, into)
        if rest := into.size % kernels.block:
            into_b = np.empty(kernels.block, np.float32)
            kernels.decode(*kernels.last(codes, scales, into.size), into_b)
            into[-rest:] = into_b[:rest]

    def accumulate(self, form: Form, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `Engine.accumulate`."""
        kernels = kernels_of(form)
        codes, scales = kernels.parts(encoded, into.size)
        kernels.accumulate(codes, scales, into, weight)
        if rest := into.size % kernels.block:
            into_b = padded(into[-rest:], kernels.block)
            kernels.accumulate(*kernels.last(codes, scales, into.size), into_b, weight)
            into[-rest:] = into_b[:rest]

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
        kernels = kernels_of(form)
        codes, scales = kernels.parts(encoded, elements)
        encoded[encoded.size - form.trailer_bytes :] = 0
        rows = encoded_RB.reshape(-1)
        worst = kernels.reduce(
            rows.view(kernels.word),
            encoded_RB.shape[1] // kernels.word.itemsize,
            rows.view(np.float32),
            form.codes_bytes(elements) // 4,
            weights_R,
            _NO_FLOATS if residual is None else residual,
            _NO_FLOATS if residual_out is None else residual_out,
            codes[: elements // kernels.block * kernels.words],
            scales,
        )
        total = np.zeros(kernels.block, np.float32)
        rest = elements % kernels.block
        for row, weight in zip(encoded_RB, weights_R, strict=True) if rest else ():
            kernels.accumulate(*kernels.last(*kernels.parts(row, elements), elements), total, weight)
        last = _encode_last(kernels, total[:rest], codes, scales, residual, residual_out)
        return _flags(form, max(int(worst), last))

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
        kernels = kernels_of(form)
        codes, scales = kernels.parts(encoded, own.size)
        encoded[encoded.size - form.trailer_bytes :] = 0
        rows = encoded_RB.reshape(-1)
        worst = kernels.fold(
            rows.view(kernels.word),
            encoded_RB.shape[1] // kernels.word.itemsize,
            rows.view(np.float32),
            form.codes_bytes(own.size) // 4,
            weights_R,
            own,
            own_weight,
            _NO_FLOATS if residual is None else residual,
            _NO_FLOATS if residual_out is None else residual_out,
            codes[: own.size // kernels.block * kernels.words],
            scales,
        )
        if rest := own.size % kernels.block:
            last = self._fold_last(
                kernels, encoded_RB, weights_R, own, own_weight, codes, scales, residual, residual_out, rest
            )
            worst = max(int(worst), last)
        return _flags(form, int(worst))

    @staticmethod
    def _fold_last(
        kernels: Kernels,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix
        weights_R: Vector,  # noqa: N803 - shape suffix
        own: Vector,
        own_weight: np.float32,
        codes: Any,
        scales: Vector,
        residual: Vector | None,
        residual_out: Vector | None,
        rest: int,
    ) -> int:
        total = np.zeros(kernels.block, np.float32)
        for row, weight in zip(encoded_RB, weights_R, strict=True):
            kernels.accumulate(*kernels.last(*kernels.parts(row, own.size), own.size), total, weight)
        share = own[-rest:] * own_weight
        if residual is not None:
            share += residual[-rest:]
        left_out = share if residual_out is None else residual_out
        worst = _encode_last(kernels, total[:rest], codes, scales, share, left_out)
        if not _flags(kernels.form, worst):
            own_b = np.empty(kernels.block, np.float32)
            kernels.decode(*kernels.last(codes, scales, own.size), own_b)
            own[-rest:] = own_b[:rest]
        return worst


_NO_FLOATS: Final = np.empty(0, np.float32)


def _encode_last(
    kernels: Kernels, x: Vector, codes: Any, scales: Vector, residual: Vector | None, residual_out: Vector | None
) -> int:
    """Encode the last, short block `x` (if there is one) in padded copies; return the bits of its largest magnitude."""
    if not x.size:
        return 0
    x_b, codes_b = padded(x, kernels.block), np.zeros(kernels.words, kernels.word)
    if residual is None or residual_out is None:
        worst = kernels.encode(x_b, codes_b, scales[-1:])
    else:
        residual_b = padded(residual[-x.size :], kernels.block)
        worst = kernels.encode_feedback(x_b, residual_b, residual_b, codes_b, scales[-1:])
        residual_out[-x.size :] = residual_b[: x.size]
    rest = codes.size % kernels.words or kernels.words
    codes[-rest:] = codes_b[:rest]
    return int(worst)


def _flags(form: Form, worst: int) -> int:
    if worst >= INFINITY_BITS:
        return NON_FINITE
    return OVERFLOW if form is FP16 and worst >= FP16_OVERFLOW_BITS else 0
