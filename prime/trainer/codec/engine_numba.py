"""The codec's arithmetic in numba: fused loops, one pass over memory, no interpreter lock, no compiler on the machine.

Compiled for this processor at the first import (about a second) and cached on disk after that; where no cache directory
can be written, it is compiled anew by each process.

How the loops come to be vectorised: the largest magnitude is a maximum over *integers* (the bits of |x|, which order
like the floats do, and where NaN and infinity are the largest), because LLVM may not reorder a maximum of floats; and
each block is a slice of constant length, so that its inner loops have no tail. Fast-math stays off: every engine must
give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types

from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.engine_numpy import NumpyEngine
from prime.trainer.codec.form import INT8, NON_FINITE, Form

_f4: Final = types.float32
_x_type: Final = types.Array(_f4, 1, "C", readonly=True)
_codes_type: Final = types.Array(types.int8, 1, "C", readonly=True)

_SIGN_OFF: Final = np.uint32(0x7FFFFFFF)
_INFINITY_BITS: Final = np.uint32(0x7F800000)  # at or above it, without the sign: an infinity or a NaN
_QMAX: Final = np.float32(INT8.code_max)
BLOCK: Final = INT8.block
SCALE_MIN: Final = np.float32(2.0**-126)
SCALE_MAX: Final = np.float32(INT8.scale_max)
_ZERO: Final = np.float32(0)


def _compiled(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile now, by signature, so that writable and read-only arrays share one machine code."""

    def compile_now(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except (RuntimeError, OSError):  # no writable place for the cache, or a full disk
            return njit(signature, nogil=True)(function)

    return compile_now


@_compiled(types.boolean(_x_type, types.int8[::1], _f4[::1]))
def _quantise(x: Any, codes: Any, scales: Any) -> bool:
    bits = x.view(np.uint32)
    whole = x.size // BLOCK
    worst = np.uint32(0)
    for b in range(whole):
        x_b = x[b * BLOCK : b * BLOCK + BLOCK]
        bits_b = bits[b * BLOCK : b * BLOCK + BLOCK]
        codes_b = codes[b * BLOCK : b * BLOCK + BLOCK]
        top = np.uint32(0)
        for i in range(BLOCK):
            top = max(top, bits_b[i] & _SIGN_OFF)
        worst = max(worst, top)
        scale = min(np.uint32(top).view(np.float32) / _QMAX, SCALE_MAX)
        if scale < SCALE_MIN or top >= _INFINITY_BITS:
            scales[b] = _ZERO
            codes_b[:] = 0
            continue
        scales[b] = scale
        for i in range(BLOCK):
            codes_b[i] = np.int8(np.int32(np.rint(x_b[i] / scale)))
    if whole < scales.size:  # the last, short block
        x_b = x[whole * BLOCK :]
        codes_b = codes[whole * BLOCK :]
        codes_b[:] = 0
        top = np.uint32(0)
        for bit in bits[whole * BLOCK :]:
            top = max(top, bit & _SIGN_OFF)
        worst = max(worst, top)
        scale = min(np.uint32(top).view(np.float32) / _QMAX, SCALE_MAX)
        scales[whole] = _ZERO
        if scale >= SCALE_MIN and top < _INFINITY_BITS:
            scales[whole] = scale
            for i in range(x_b.size):
                codes_b[i] = np.int8(np.int32(np.rint(x_b[i] / scale)))
    return bool(worst < _INFINITY_BITS)


@_compiled(types.void(_codes_type, _x_type, _f4[::1]))
def _dequantise(codes: Any, scales: Any, into: Any) -> None:
    whole = into.size // BLOCK
    for b in range(whole):
        codes_b = codes[b * BLOCK : b * BLOCK + BLOCK]
        into_b = into[b * BLOCK : b * BLOCK + BLOCK]
        scale = scales[b]
        for i in range(BLOCK):
            into_b[i] = np.float32(codes_b[i]) * scale
    for i in range(whole * BLOCK, into.size):
        into[i] = np.float32(codes[i]) * scales[whole]


@_compiled(types.void(_codes_type, _x_type, _f4[::1], _f4))
def _accumulate(codes: Any, scales: Any, into: Any, weight: Any) -> None:
    whole = into.size // BLOCK
    for b in range(whole):
        codes_b = codes[b * BLOCK : b * BLOCK + BLOCK]
        into_b = into[b * BLOCK : b * BLOCK + BLOCK]
        scale = scales[b] * weight
        for i in range(BLOCK):
            into_b[i] += np.float32(codes_b[i]) * scale
    for i in range(whole * BLOCK, into.size):
        into[i] += np.float32(codes[i]) * (scales[whole] * weight)


class NumbaEngine(NumpyEngine):
    """The default engine on a CPU."""

    name = "numba"

    def encode(
        self, form: Form, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `Engine.encode`."""
        if form is not INT8 or residual_out is not None:
            return super().encode(form, x, encoded, residual, residual_out)
        split = form.codes_bytes(x.size)
        return 0 if _quantise(x, encoded[:split].view(np.int8), encoded[split:].view(np.float32)) else NON_FINITE

    def decode(self, form: Form, encoded: Encoded, into: Vector) -> None:
        """See `Engine.decode`."""
        if form is not INT8:
            return super().decode(form, encoded, into)
        split = form.codes_bytes(into.size)
        return _dequantise(encoded[:split].view(np.int8), encoded[split:].view(np.float32), into)

    def accumulate(self, form: Form, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `Engine.accumulate`."""
        if form is not INT8:
            return super().accumulate(form, encoded, into, weight)
        split = form.codes_bytes(into.size)
        return _accumulate(encoded[:split].view(np.int8), encoded[split:].view(np.float32), into, weight)
