"""The loops of the numba engine: fused, one pass over memory, no interpreter lock, no compiler on the machine.

Each loop below is a template. It is compiled for each form at that form's first use (about a second), and cached on disk
after that; where no cache directory can be written, it is compiled anew by each process. What differs from form to form
are the names in capitals and the functions `code` and `number`; to numba they are constants.

How the loops come to be vectorised: the largest magnitude is a maximum over *integers* (the bits of |x|, which order
like the floats do, and where NaN and infinity are the largest), because LLVM may not reorder a maximum of floats;
each block is a slice of constant length, so that its inner loops have no tail, and the last, short block is worked on in a
padded copy; int4 codes both elements of a byte in one step, because LLVM then separates even from odd in registers,
where a detour through an array of nibbles waits for its own stores; a sum of input and residual goes through an array
of its own, so that writing the residual in place needs no proof that nothing overlaps; and integers are cut to 32 bits
after each operation, since numba widens them. Fast-math stays off: every engine must give the same bits.
"""

from __future__ import annotations

import functools
import types as python
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types

from prime.trainer.codec.engine import Encoded
from prime.trainer.codec.form import (
    FP16,
    FP16_OVERFLOW,
    INT4,
    INT8,
    SCALE_MIN,
    Form,
)

_TILE: Final = 1024
"""Elements of a sum that are finished before the next are begun: 4 KiB stay in the nearest cache, in whole blocks."""

# What a template finds among its globals, as int8 has it; `Kernels` puts each form's own in their place.
BLOCK: Final = INT8.block
WORDS: Final = INT8.block
SCALED: Final = True
PAIRS: Final = False
CODE_MAX: Final = np.float32(INT8.code_max)
SCALE_MAX: Final = np.float32(INT8.scale_max)

_SCALE_MIN: Final = np.float32(SCALE_MIN)
_SIGN_OFF: Final = np.uint32(0x7FFFFFFF)
INFINITY_BITS: Final = np.uint32(0x7F800000)  # at or above it, without the sign: an infinity or a NaN
FP16_OVERFLOW_BITS: Final = np.float32(FP16_OVERFLOW).view(np.uint32)
TOO_LARGE_BITS: Final = INFINITY_BITS


# ------------------------------------------------------------------------------------- one element: `code` and `number`


@njit(inline="always")
def _int8_code(y: Any, scale: Any) -> Any:
    return np.int8(np.int32(np.rint(y / scale)))


@njit(inline="always")
def _int8_number(code: Any) -> Any:
    return np.float32(code)


@njit(inline="always")
def _int4_code(y: Any, scale: Any) -> Any:
    return np.int32(np.rint(y / scale))


@njit(inline="always")
def _int4_number(nibble: Any) -> Any:
    return np.float32(np.int32(np.int32(nibble) << np.int32(28)) >> np.int32(28))


@njit(inline="always")
def _narrow(size_bits: Any, bits_cut: Any, less_bias: Any) -> Any:
    """Round the bits of a magnitude to a shorter mantissa, half to even, and move its bias by `less_bias` (in code steps)."""
    below_half = np.uint32((np.uint32(1) << np.uint32(bits_cut - 1)) - 1)
    odd = np.uint32(np.uint32(size_bits >> np.uint32(bits_cut)) & np.uint32(1))
    rounded = np.uint32(np.uint32(size_bits + below_half) + odd)
    return np.uint32(np.uint32(rounded >> np.uint32(bits_cut)) - np.uint32(less_bias))


@njit(inline="always")
def _steps(size_bits: Any, ulp_of: Any) -> Any:
    """Round a magnitude to steps of one ulp of `ulp_of`, half to even: the addition does it."""
    sum_ = np.float32(size_bits.view(np.float32) + np.float32(ulp_of))
    return np.uint32(sum_.view(np.uint32) - np.float32(ulp_of).view(np.uint32))


@njit(inline="always")
def _widen(size: Any, bits_cut: Any, bias: Any, step: Any, smallest: Any) -> Any:
    """Return the float32 bits of a shorter float's magnitude; below its `smallest` normal code, `step` times the code."""
    normal = np.uint32(np.uint32(size << np.uint32(bits_cut)) + np.uint32(bias << 23))
    small = np.float32(np.float32(np.int32(size)) * np.float32(step)).view(np.uint32)
    return small if size < np.uint32(smallest) else normal


@njit(inline="always")
def _fp8_code(y: Any, scale: Any) -> Any:
    bits = np.float32(y / scale).view(np.uint32)
    size_bits = np.uint32(min(np.uint32(bits & _SIGN_OFF), np.uint32(0x43E00000)))  # 448
    from_small = size_bits >= np.uint32(0x3C800000)  # 2**-6
    size = _narrow(size_bits, 20, 120 << 3) if from_small else _steps(size_bits, 2.0**14)
    return np.uint8(size | np.uint32(np.uint32(bits >> np.uint32(24)) & np.uint32(0x80)))


@njit(inline="always")
def _fp8_number(code: Any) -> Any:
    word = np.uint32(code)
    bits = _widen(np.uint32(word & np.uint32(0x7F)), 20, 120, 2.0**-9, 8)
    return np.uint32(bits | np.uint32(np.uint32(word & np.uint32(0x80)) << np.uint32(24))).view(np.float32)


@njit(inline="always")
def _fp16_code(y: Any, _one: Any) -> Any:
    bits = np.float32(y).view(np.uint32)
    size_bits = np.uint32(bits & _SIGN_OFF)
    from_small = size_bits >= np.uint32(0x38800000)  # 2**-14
    size = _narrow(size_bits, 13, 112 << 10) if from_small else _steps(size_bits, 0.5)
    return np.uint16(size | np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)))


@njit(inline="always")
def _fp16_number(code: Any) -> Any:
    word = np.uint32(code)
    bits = _widen(np.uint32(word & np.uint32(0x7FFF)), 13, 112, 2.0**-24, 1024)
    return np.uint32(bits | np.uint32(np.uint32(word & np.uint32(0x8000)) << np.uint32(16))).view(np.float32)


@njit(inline="always")
def _none_code(y: Any, _one: Any) -> Any:
    return y


@njit(inline="always")
def _none_number(code: Any) -> Any:
    return code


code: Any = _int8_code
number: Any = _int8_number


# ------------------------------------------------------------------------------------------- templates: whole blocks


@njit(inline="always")
def _scale(top: Any, code_max: Any, scale_max: Any) -> Any:
    """Return the scale of a block whose largest magnitude has these bits: 0 for one that goes as zeros."""
    scale = min(np.uint32(top).view(np.float32) / code_max, scale_max)
    return np.float32(0) if scale < _SCALE_MIN or top >= INFINITY_BITS else scale


def _encode(x: Any, codes: Any, scales: Any) -> Any:
    """Encode x; return the bits of the largest magnitude."""
    bits = x.view(np.uint32)
    worst = np.uint32(0)
    for b in range(x.size // BLOCK):
        x_b = x[b * BLOCK : b * BLOCK + BLOCK]
        bits_b = bits[b * BLOCK : b * BLOCK + BLOCK]
        codes_b = codes[b * WORDS : b * WORDS + WORDS]
        top = np.uint32(0)
        for i in range(BLOCK):
            top = max(top, bits_b[i] & _SIGN_OFF)
        worst = max(worst, top)
        scale = np.float32(1)
        if SCALED:
            scale = _scale(top, CODE_MAX, SCALE_MAX)
            scales[b] = scale
            if scale == 0:
                codes_b[:] = 0
                continue
        if PAIRS:
            for i in range(WORDS):
                codes_b[i] = np.uint8((code(x_b[2 * i], scale) & 15) | ((code(x_b[2 * i + 1], scale) & 15) << 4))
        else:
            for i in range(BLOCK):
                codes_b[i] = code(x_b[i], scale)
    return worst


def _encode_feedback(x: Any, residual: Any, residual_out: Any, codes: Any, scales: Any) -> Any:
    """Encode x + residual, and keep what is left out; return the bits of the largest magnitude."""
    y_b = np.empty(BLOCK, np.float32)
    worst = np.uint32(0)
    for b in range(x.size // BLOCK):
        x_b = x[b * BLOCK : b * BLOCK + BLOCK]
        residual_b = residual[b * BLOCK : b * BLOCK + BLOCK]
        out_b = residual_out[b * BLOCK : b * BLOCK + BLOCK]
        codes_b = codes[b * WORDS : b * WORDS + WORDS]
        top = np.uint32(0)
        for i in range(BLOCK):
            y = np.float32(x_b[i] + residual_b[i])
            y_b[i] = y
            top = max(top, y.view(np.uint32) & _SIGN_OFF)
        worst = max(worst, top)
        scale = np.float32(1)
        if SCALED:
            scale = _scale(top, CODE_MAX, SCALE_MAX)
            scales[b] = scale
            if scale == 0:
                codes_b[:] = 0
                out_b[:] = y_b
                continue
        if PAIRS:
            for i in range(WORDS):
                codes_b[i] = np.uint8((code(y_b[2 * i], scale) & 15) | ((code(y_b[2 * i + 1], scale) & 15) << 4))
            for i in range(BLOCK):  # a second division costs less than writing every other element
                out_b[i] = y_b[i] - number(code(y_b[i], scale)) * scale
        else:
            for i in range(BLOCK):
                word = code(y_b[i], scale)
                codes_b[i] = word
                out_b[i] = y_b[i] - number(word) * scale
    return worst


def _decode(codes: Any, scales: Any, into: Any) -> None:
    for b in range(into.size // BLOCK):
        codes_b = codes[b * WORDS : b * WORDS + WORDS]
        into_b = into[b * BLOCK : b * BLOCK + BLOCK]
        scale = scales[b] if SCALED else np.float32(1)
        if PAIRS:
            for i in range(WORDS):
                into_b[2 * i] = number(codes_b[i]) * scale
                into_b[2 * i + 1] = number(codes_b[i] >> 4) * scale
        else:
            for i in range(BLOCK):
                into_b[i] = number(codes_b[i]) * scale


def _accumulate(codes: Any, scales: Any, into: Any, weight: Any) -> None:
    for b in range(into.size // BLOCK):
        codes_b = codes[b * WORDS : b * WORDS + WORDS]
        into_b = into[b * BLOCK : b * BLOCK + BLOCK]
        scale = scales[b] * weight if SCALED else weight
        if PAIRS:
            for i in range(WORDS):
                into_b[2 * i] += number(codes_b[i]) * scale
                into_b[2 * i + 1] += number(codes_b[i] >> 4) * scale
        else:
            for i in range(BLOCK):
                into_b[i] += number(codes_b[i]) * scale


accumulate: Any = _accumulate
decode: Any = _decode
encode: Any = _encode
encode_feedback: Any = _encode_feedback


def _reduce(
    rows: Any,
    row_words: Any,
    row_scales: Any,
    first_scale: Any,
    weights: Any,
    residual: Any,
    residual_out: Any,
    codes: Any,
    scales: Any,
) -> Any:
    """Sum the rows by weight and encode the sum, tile by tile; return the bits of the largest magnitude.

    `rows` are all wire forms in code words, `row_words` each; `row_scales` the same memory as float32, in which the first
    row's scales begin at `first_scale`. Without feedback the residuals are empty.
    """
    tile = np.empty(_TILE, np.float32)
    worst = np.uint32(0)
    row_floats = row_scales.size // weights.size
    blocks = codes.size // WORDS
    for first in range(0, blocks, _TILE // BLOCK):
        last = min(first + _TILE // BLOCK, blocks)
        total = tile[: (last - first) * BLOCK]
        total[:] = 0
        for r in range(weights.size):
            at = r * row_words
            scale_at = r * row_floats + first_scale
            codes_r = rows[at + first * WORDS : at + last * WORDS]
            accumulate(codes_r, row_scales[scale_at + first : scale_at + last], total, weights[r])
        codes_t, scales_t = codes[first * WORDS : last * WORDS], scales[first:last]
        if residual.size:
            cut = slice(first * BLOCK, last * BLOCK)
            top = encode_feedback(total, residual[cut], residual_out[cut], codes_t, scales_t)
        else:
            top = encode(total, codes_t, scales_t)
        worst = max(worst, top)
    return worst


def _fold(
    rows: Any,
    row_words: Any,
    row_scales: Any,
    first_scale: Any,
    weights: Any,
    own: Any,
    own_weight: Any,
    residual: Any,
    residual_out: Any,
    codes: Any,
    scales: Any,
) -> Any:
    """As `_reduce`, with an own share that is exact, and decode into it; a tile that has no wire form keeps its share."""
    tile, share_tile = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    worst = np.uint32(0)
    row_floats = row_scales.size // weights.size
    blocks = codes.size // WORDS
    for first in range(0, blocks, _TILE // BLOCK):
        last = min(first + _TILE // BLOCK, blocks)
        cut = slice(first * BLOCK, last * BLOCK)
        own_t = own[cut]
        total = tile[: own_t.size]
        total[:] = 0
        for r in range(weights.size):
            at = r * row_words
            scale_at = r * row_floats + first_scale
            codes_r = rows[at + first * WORDS : at + last * WORDS]
            accumulate(codes_r, row_scales[scale_at + first : scale_at + last], total, weights[r])
        codes_t, scales_t = codes[first * WORDS : last * WORDS], scales[first:last]
        if residual.size:
            share = share_tile[: own_t.size]
            residual_t = residual[cut]
            for i in range(own_t.size):
                share[i] = np.float32(own_t[i] * own_weight) + residual_t[i]
            top = encode_feedback(total, share, residual_out[cut], codes_t, scales_t)
        else:
            for i in range(own_t.size):
                total[i] += np.float32(own_t[i] * own_weight)
            top = encode(total, codes_t, scales_t)
        worst = max(worst, top)
        if top < TOO_LARGE_BITS:
            decode(codes_t, scales_t, own_t)
    return worst


# ---------------------------------------------------------------------------------------------- a template, compiled

_f4: Final = types.float32
_floats: Final = types.Array(_f4, 1, "C")
_read_floats: Final = types.Array(_f4, 1, "C", readonly=True)  # of a writable array, too: one machine code for both


class Kernels:
    """The templates of one form, each compiled at its first use."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.block = form.block if form.scale_bytes else INT8.block  # a plain form has no blocks: any size will do
        self.words = self.block // 2 if form is INT4 else self.block
        self.word: np.dtype[Any] = np.dtype(_WORDS[form.name])
        word = types.Array(getattr(types, self.word.name), 1, "C")
        self._codes = (word, word.copy(readonly=True))

    def parts(self, encoded: Encoded, elements: int) -> tuple[Any, Any]:
        """Return the codes as words, and the scales (none in a plain form)."""
        split = self.form.codes_bytes(elements)
        scales = encoded[split:] if self.form.scale_bytes else encoded[:0]
        return encoded[:split].view(self.word), scales.view(np.float32)

    def whole(self, elements: int) -> int:
        """Return how many elements are in whole blocks."""
        return elements - elements % self.block

    def last(self, codes: Any, scales: Any, elements: int) -> tuple[Any, Any]:
        """Return the codes (a padded copy) and the scale of the last, short block."""
        return padded(codes[elements // self.block * self.words :], self.words), scales[-1:]

    @functools.cached_property
    def encode(self) -> Any:
        """`(x, codes, scales) -> bits of the largest magnitude`."""
        codes, _ = self._codes
        return self._compiled(_encode, types.uint32(_read_floats, codes, _floats))

    @functools.cached_property
    def encode_feedback(self) -> Any:
        """`(x, residual, residual_out, codes, scales) -> bits of the largest magnitude`."""
        codes, _ = self._codes
        signature = types.uint32(_read_floats, _read_floats, _floats, codes, _floats)
        return self._compiled(_encode_feedback, signature)

    @functools.cached_property
    def decode(self) -> Any:
        """`(codes, scales, into)`."""
        _, read = self._codes
        return self._compiled(_decode, types.void(read, _read_floats, _floats))

    @functools.cached_property
    def accumulate(self) -> Any:
        """`(codes, scales, into, weight)`."""
        _, read = self._codes
        return self._compiled(_accumulate, types.void(read, _read_floats, _floats, _f4))

    @functools.cached_property
    def reduce(self) -> Any:
        """See `_reduce`."""
        codes, read = self._codes
        size = types.intp
        signature = types.uint32(read, size, _read_floats, size, _read_floats, _read_floats, _floats, codes, _floats)
        called = {"accumulate": self.accumulate, "encode": self.encode, "encode_feedback": self.encode_feedback}
        return self._compiled(_reduce, signature, called)

    @functools.cached_property
    def fold(self) -> Any:
        """See `_fold`."""
        codes, read = self._codes
        size, row = types.intp, _read_floats
        signature = types.uint32(read, size, row, size, row, _floats, _f4, row, _floats, codes, _floats)
        verbs = ("accumulate", "encode", "encode_feedback", "decode")
        return self._compiled(_fold, signature, {verb: getattr(self, verb) for verb in verbs})

    def _compiled(self, template: Callable[..., Any], signature: Any, called: dict[str, Any] | None = None) -> Any:
        """Compile a copy of the template whose globals, and whose name in the cache, are this form's own."""
        own = {
            "BLOCK": self.block,
            "WORDS": self.words,
            "SCALED": bool(self.form.scale_bytes),
            "PAIRS": self.form is INT4,
            "CODE_MAX": np.float32(self.form.code_max),
            "SCALE_MAX": np.float32(self.form.scale_max),
            "TOO_LARGE_BITS": FP16_OVERFLOW_BITS if self.form is FP16 else INFINITY_BITS,
            "code": globals()[f"_{self.form.name}_code"],
            "number": globals()[f"_{self.form.name}_number"],
        }
        scope = {**globals(), **own, **(called or {})}
        function = python.FunctionType(template.__code__, scope, f"{self.form.name}{template.__name__}")
        function.__qualname__ = function.__name__
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except (RuntimeError, OSError):  # no writable place for the cache, or a full disk
            return njit(signature, nogil=True)(function)


def padded(rest: Any, size: int) -> Any:
    """Return a copy of that size, zeros behind."""
    whole = np.zeros(size, rest.dtype)
    whole[: rest.size] = rest
    return whole


_WORDS: Final = {"int8": np.int8, "int4": np.uint8, "fp8": np.uint8, "fp16": np.uint16, "none": np.float32}
"""What one word of codes is; in `int4` it holds two."""

kernels_of = functools.cache(Kernels)
"""Return the kernels of a form, the same ones each time."""
