"""The codec's arithmetic on CUDA, in Triton: three kernels, each of them one pass over memory.

| kernel | reads | writes |
|---|---|---|
| `encode_kernel` | a tensor, and a residual where there is one | its wire form, the new residual |
| `reduce_kernel` | the wire forms of R ranks, and a residual where there is one | that of their weighted sum, the new residual |
| `decode_kernel` | a wire form | a tensor |

Nothing here waits for the device: what an encoder found stays in a flag word on the device until somebody reads it.

**Why the bits are those of the CPU's engines.** Each value takes the same IEEE operations in the same order, and:

- No product is fused with a sum unless it says `tl.fma`: every kernel is compiled with `enable_fp_fusion=False`. Fused,
  `sum + code * scale` would round once where the others round twice.
- Scales are divided by `tl.div_rn`: `/` of two float32 is an approximation on CUDA.
- A code's quotient `x / s` is that division, too, at half its cost (`div.rn` has a branch that the threads would wait
  for). Both are multiplied by the power of two that brings `s` into [1, 2), which is exact; `r`, the rounded reciprocal
  of `s`, is divided once a block; then `q = x r`, and twice `q += (x - q s) r` by two fused operations. The first leaves
  `q` within one unit in the last place, the second rounds it right (P. Markstein, *Computation of elementary functions
  on the IBM RISC System/6000 processor*, 1990, theorem 1, which needs `r` rounded right). Where the multiplied `x` is
  subnormal, its code is 0 however it is rounded.
- Half is rounded to even by adding and subtracting `1.5 * 2**23`, whose last place is 1; the sum's low bits are the code.
- Maxima are of the bits of |x| as integers, which order as the floats do; NaN and infinity are the largest.
- float8 is rounded and read by operations on bits, so that it does not depend on what conversions a device has.

**Memory.** A thread reads 16 bytes of float32 at once and writes the 4 codes of them, so neighbours touch neighbouring
bytes. A tile has its blocks cut into four parts, and the parts as its first axis: Triton hands out the last axis to
threads and leaves the first to each, so 16 threads hold a block, 16 elements each (4 threads, of `int4`): what is worked
out once a block is done by few, and no maximum crosses a warp. Only the last program has masks: one that ends anywhere
would make every load one of a single element.

Shape suffixes: R ranks; of one program: P parts of a block, N blocks, E the elements of a part of each block, one after
the other, W the bytes of their codes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl

from prime.errors import LocalProtocolError
from prime.trainer.codec.form import FP16_OVERFLOW, NON_FINITE, OVERFLOW, SCALE_MIN, Form

_TILE: Final = 2048
"""Elements of one program. With 4 warps a thread has 16 of them: four loads of 16 bytes in flight."""
_WARPS: Final = 4
_EXACT: Final = {"enable_fp_fusion": False}
_PLAIN_BLOCK: Final = 256
"""How many elements of a form without scales are treated like a block."""

_PARTS: tl.constexpr = tl.constexpr(4)
_SIGN_OFF: tl.constexpr = tl.constexpr(0x7FFFFFFF)
_EXPONENT: tl.constexpr = tl.constexpr(0x7F800000)  # of a float32; as a magnitude: infinity, and NaN above it
_TWICE_BIAS: tl.constexpr = tl.constexpr(254 << 23)  # less an exponent field: that of the power's inverse
_ROUNDER: tl.constexpr = tl.constexpr(1.5 * 2**23)  # a sum with it is a whole number
_ROUNDER_BITS: tl.constexpr = tl.constexpr(0x4B400000)
_FP8_LEAST: tl.constexpr = tl.constexpr(121 << 23)  # the exponent of 2**-6, float8's smallest normal
_FP8_REBIAS: tl.constexpr = tl.constexpr(2.0**120)  # 2 ** (127 - 7): the difference of the exponents' biases
_ALIGNED: tl.constexpr = tl.constexpr(4)  # bytes: what a wire form keeps, and what a thread writes of its codes at once
_SCALE_MIN: tl.constexpr = tl.constexpr(SCALE_MIN)
_NON_FINITE: tl.constexpr = tl.constexpr(NON_FINITE)
_OVERFLOW: tl.constexpr = tl.constexpr(OVERFLOW)
_FP16_OVERFLOW: tl.constexpr = tl.constexpr(FP16_OVERFLOW)


@triton.jit
def _load(pointer, at, left, WHOLE: tl.constexpr):
    """Load the elements at those places, and 0 behind the end, which is `left` elements from `pointer`."""
    return tl.load(pointer + at) if WHOLE else tl.load(pointer + at, mask=at < left, other=0)


@triton.jit
def _store(pointer, at, value, left, WHOLE: tl.constexpr):
    """Store the values, converted to what `pointer` points to, and none behind the end."""
    value = value.to(pointer.dtype.element_ty)
    if WHOLE:
        tl.store(pointer + at, value)
    else:
        tl.store(pointer + at, value, mask=at < left)


@triton.jit
def _places(BLOCKS: tl.constexpr, WIDTH: tl.constexpr):
    """Return the offsets of a tile, [P, E], where a block is `WIDTH` wide."""
    PART: tl.constexpr = WIDTH // _PARTS
    at_E = tl.arange(0, BLOCKS * PART)
    return (tl.arange(0, _PARTS) * PART)[:, None] + (at_E // PART * WIDTH + at_E % PART)[None, :]


@triton.jit
def _spread(value_N, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the values of blocks, once for each element: [1, E]."""
    PART: tl.constexpr = BLOCK // _PARTS
    return tl.reshape(tl.broadcast_to(value_N[:, None], (BLOCKS, PART)), (1, BLOCKS * PART))


@triton.jit
def _plain(encoded, FORM: tl.constexpr):
    """Return the pointer to the numbers of a form without scales."""
    return encoded.to(tl.pointer_type(tl.float16)) if FORM == "fp16" else encoded.to(tl.pointer_type(tl.float32))


@triton.jit
def _quotients(x_PE, scale_N, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Return `x / scale` rounded as IEEE 754 says (see the module's docstring); 0 where the scale is 0."""
    coded_N = scale_N > 0
    divisor_N = tl.where(coded_N, scale_N, 1.0)
    power_N = (-(divisor_N.to(tl.int32, bitcast=True) & _EXPONENT) + _TWICE_BIAS).to(tl.float32, bitcast=True)
    s_N = divisor_N * power_N
    s_1E, r_1E = _spread(s_N, BLOCKS, BLOCK), _spread(tl.div_rn(1.0, s_N), BLOCKS, BLOCK)
    x_PE = x_PE * _spread(tl.where(coded_N, power_N, 0.0), BLOCKS, BLOCK)
    q_PE = x_PE * r_1E
    q_PE = tl.fma(tl.fma(-q_PE, s_1E, x_PE), r_1E, q_PE)
    return tl.fma(tl.fma(-q_PE, s_1E, x_PE), r_1E, q_PE)


@triton.jit
def _rounded(quotient_PE):
    """Return the codes of `int8` and `int4` (int32), and what they stand for in units of the scale."""
    sum_PE = quotient_PE + _ROUNDER
    return sum_PE.to(tl.int32, bitcast=True) - _ROUNDER_BITS, sum_PE - _ROUNDER


@triton.jit
def _rounded_fp8(quotient_PE, sign_PE):
    """Return the same for `fp8`; the sign is a bit of its own, which a zero has, too.

    The rounder's exponent is 20 above the quotient's: its last place is that of a float8 as large. A carry out of the
    fraction's three bits raises the exponent, as it should. The largest quotient is a hair above 448 and goes as 448.
    """
    size_PE = tl.abs(quotient_PE)
    exponent_PE = tl.maximum(size_PE.to(tl.int32, bitcast=True) & _EXPONENT, _FP8_LEAST)
    rounder_PE = exponent_PE + (20 << 23)
    sum_PE = size_PE + rounder_PE.to(tl.float32, bitcast=True)
    code_PE = ((exponent_PE - _FP8_LEAST) >> 20) + (sum_PE.to(tl.int32, bitcast=True) - rounder_PE)
    whole_PE = sum_PE - rounder_PE.to(tl.float32, bitcast=True)
    whole_PE = (whole_PE.to(tl.int32, bitcast=True) | sign_PE).to(tl.float32, bitcast=True)
    return code_PE | ((sign_PE >> 24) & 0x80), whole_PE


@triton.jit
def _encode_blocks(
    x_PE,
    top_N,
    encoded,
    first,
    elements,
    FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_MAX: tl.constexpr,
    SCALE_MAX: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Write codes and scales from block `first` on; return what they stand for."""
    scale_N = tl.minimum(tl.div_rn(top_N.to(tl.float32, bitcast=True), CODE_MAX), SCALE_MAX)
    scale_N = tl.where((scale_N >= _SCALE_MIN) & (top_N < _EXPONENT), scale_N, 0.0)
    quotient_PE = _quotients(x_PE, scale_N, BLOCKS, BLOCK)
    if FORM == "fp8":
        sign_1E = _spread(tl.where(scale_N > 0, ~_SIGN_OFF, 0), BLOCKS, BLOCK)
        code_PW, whole_PE = _rounded_fp8(quotient_PE, x_PE.to(tl.int32, bitcast=True) & sign_1E)
    else:
        code_PW, whole_PE = _rounded(quotient_PE)
    if FORM == "int4":
        low_PW, high_PW = tl.split(tl.reshape(code_PW, (_PARTS, BLOCKS * BLOCK // _PARTS // 2, 2)))
        code_PW = (low_PW & 15) | ((high_PW & 15) << 4)
    WIDTH: tl.constexpr = BLOCK // 2 if FORM == "int4" else BLOCK
    blocks = (elements + BLOCK - 1) // BLOCK
    codes = tl.multiple_of(encoded + first * WIDTH, _ALIGNED)
    _store(codes, _places(BLOCKS, WIDTH), code_PW, (blocks - first) * WIDTH, WHOLE)
    scales = (encoded + blocks * WIDTH).to(tl.pointer_type(tl.float32)) + first
    _store(scales, tl.arange(0, BLOCKS), scale_N, blocks - first, WHOLE)
    return whole_PE * _spread(scale_N, BLOCKS, BLOCK)


@triton.jit
def _encode_plain(
    x_PE, encoded, first, elements, FORM: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr
):
    """Do the same for the forms without scales. The trailer of `fp16` says that no value overflows."""
    numbers = _plain(encoded, FORM)
    padded = elements
    if FORM == "fp16":
        padded = elements + elements % 2
        tl.store((numbers + padded).to(tl.pointer_type(tl.int32)), 0)  # by every program: asking which costs as much
    value_PE = x_PE.to(numbers.dtype.element_ty)
    _store(numbers + first * BLOCK, _places(BLOCKS, BLOCK), value_PE, padded - first * BLOCK, WHOLE)
    return value_PE.to(tl.float32)


@triton.jit
def _encode(
    x_PE,
    residual,
    residual_out,
    encoded,
    flags,
    first,
    elements,
    FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_MAX: tl.constexpr,
    SCALE_MAX: tl.constexpr,
    ADDS: tl.constexpr,
    LEAVES: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Write the wire form of `x` plus its residual, the blocks from `first` on, and what that leaves out."""
    at_PE = _places(BLOCKS, BLOCK)
    left = elements - first * BLOCK
    if ADDS:
        x_PE = x_PE + _load(residual + first * BLOCK, at_PE, left, WHOLE)
    top_E = tl.max(x_PE.to(tl.int32, bitcast=True) & _SIGN_OFF, axis=0)
    top_N = tl.max(tl.reshape(top_E, (BLOCKS, BLOCK // _PARTS)), axis=1)
    flags_N = flags + tl.zeros((BLOCKS,), tl.int32)
    tl.atomic_or(flags_N, _NON_FINITE, mask=top_N >= _EXPONENT, sem="relaxed")
    if FORM == "fp16":
        over_N = (top_N.to(tl.float32, bitcast=True) >= _FP16_OVERFLOW) & (top_N < _EXPONENT)
        tl.atomic_or(flags_N, _OVERFLOW, mask=over_N, sem="relaxed")
    if CODE_MAX > 0:
        decoded_PE = _encode_blocks(
            x_PE, top_N, encoded, first, elements, FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, WHOLE
        )
    else:
        decoded_PE = _encode_plain(x_PE, encoded, first, elements, FORM, BLOCKS, BLOCK, WHOLE)
    if LEAVES:
        _store(residual_out + first * BLOCK, at_PE, x_PE - decoded_PE, left, WHOLE)


@triton.jit
def _values(code_PW, FORM: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Return what codes (uint8) stand for, in units of their scale."""
    if FORM == "int8":
        value_PE = code_PW.to(tl.int8, bitcast=True).to(tl.float32)
    elif FORM == "int4":  # shifted up and down again, so that a nibble's sign comes along
        code_PW = code_PW.to(tl.int32)
        pair_PW2 = tl.join((code_PW << 28) >> 28, (code_PW << 24) >> 28)
        value_PE = tl.reshape(pair_PW2, (_PARTS, BLOCKS * BLOCK // _PARTS)).to(tl.float32)
    else:  # the bits where a float32 has them, then the exponent's bias: subnormals come right, too
        code_PW = code_PW.to(tl.int32)
        bits_PE = ((code_PW & 0x7F) << 20) | ((code_PW & 0x80) << 24)
        value_PE = bits_PE.to(tl.float32, bitcast=True) * _FP8_REBIAS
    return value_PE


@triton.jit
def _decode(
    encoded, first, elements, FORM: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr
):
    """Read the wire form of the blocks from `first` on: return the codes' values (float32[P, E]) and scales."""
    if (FORM == "fp16") | (FORM == "none"):
        numbers = _plain(encoded, FORM) + first * BLOCK
        value_PE = _load(numbers, _places(BLOCKS, BLOCK), elements - first * BLOCK, WHOLE).to(tl.float32)
        scale_N = tl.full((BLOCKS,), 1.0, tl.float32)
    else:
        WIDTH: tl.constexpr = BLOCK // 2 if FORM == "int4" else BLOCK
        blocks = (elements + BLOCK - 1) // BLOCK
        codes = tl.multiple_of(encoded + first * WIDTH, _ALIGNED)
        code_PW = _load(codes, _places(BLOCKS, WIDTH), (blocks - first) * WIDTH, WHOLE)
        value_PE = _values(code_PW, FORM, BLOCKS, BLOCK)
        scales = (encoded + blocks * WIDTH).to(tl.pointer_type(tl.float32)) + first
        scale_N = _load(scales, tl.arange(0, BLOCKS), blocks - first, WHOLE)
    return value_PE, scale_N


@triton.jit
def _encode_tile(
    x,
    residual,
    residual_out,
    encoded,
    flags,
    first,
    elements,
    FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_MAX: tl.constexpr,
    SCALE_MAX: tl.constexpr,
    ADDS: tl.constexpr,
    LEAVES: tl.constexpr,
    WHOLE: tl.constexpr,
):
    x_PE = _load(x + first * BLOCK, _places(BLOCKS, BLOCK), elements - first * BLOCK, WHOLE).to(tl.float32)
    _encode(
        x_PE, residual, residual_out, encoded, flags, first, elements,
        FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, ADDS, LEAVES, WHOLE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["elements"])
def encode_kernel(
    x,
    residual,
    residual_out,
    encoded,
    flags,
    elements,
    FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_MAX: tl.constexpr,
    SCALE_MAX: tl.constexpr,
    ADDS: tl.constexpr,
    LEAVES: tl.constexpr,
):
    """Encode `x` (plus `residual` if it ADDS), and write what is left out (if it LEAVES it). A program has N blocks."""
    elements = elements.to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCKS
    if elements - first * BLOCK >= BLOCKS * BLOCK:
        _encode_tile(
            x, residual, residual_out, encoded, flags, first, elements,
            FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, ADDS, LEAVES, True,
        )  # fmt: skip
    else:
        _encode_tile(
            x, residual, residual_out, encoded, flags, first, elements,
            FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, ADDS, LEAVES, False,
        )  # fmt: skip


@triton.jit
def _reduce_tile(
    encoded_R,
    weight_R,
    residual,
    residual_out,
    encoded,
    flags,
    first,
    elements,
    row_bytes,
    RANKS: tl.constexpr,
    FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_MAX: tl.constexpr,
    SCALE_MAX: tl.constexpr,
    ADDS: tl.constexpr,
    LEAVES: tl.constexpr,
    WHOLE: tl.constexpr,
):
    sum_PE = tl.zeros((_PARTS, BLOCKS * BLOCK // _PARTS), tl.float32)
    for rank in tl.range(0, RANKS, loop_unroll_factor=2):
        row = tl.multiple_of(encoded_R + rank * row_bytes.to(tl.int64), _ALIGNED)
        value_PE, scale_N = _decode(row, first, elements, FORM, BLOCKS, BLOCK, WHOLE)
        scale_N = scale_N * tl.load(weight_R + rank)
        sum_PE = sum_PE + value_PE * _spread(scale_N, BLOCKS, BLOCK)
    if not WHOLE:  # whatever the ranks wrote behind the end
        sum_PE = tl.where(_places(BLOCKS, BLOCK) < elements - first * BLOCK, sum_PE, 0.0)
    _encode(
        sum_PE, residual, residual_out, encoded, flags, first, elements,
        FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, ADDS, LEAVES, WHOLE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["elements", "row_bytes"])
def reduce_kernel(
    encoded_R,
    weight_R,
    residual,
    residual_out,
    encoded,
    flags,
    elements,
    row_bytes,
    RANKS: tl.constexpr,
    FORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CODE_MAX: tl.constexpr,
    SCALE_MAX: tl.constexpr,
    ADDS: tl.constexpr,
    LEAVES: tl.constexpr,
):
    """Add up the ranks' vectors in float32, first to last, each times its weight, and encode the sum as above."""
    elements = elements.to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCKS
    if elements - first * BLOCK >= BLOCKS * BLOCK:
        _reduce_tile(
            encoded_R, weight_R, residual, residual_out, encoded, flags, first, elements, row_bytes,
            RANKS, FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, ADDS, LEAVES, True,
        )  # fmt: skip
    else:
        _reduce_tile(
            encoded_R, weight_R, residual, residual_out, encoded, flags, first, elements, row_bytes,
            RANKS, FORM, BLOCKS, BLOCK, CODE_MAX, SCALE_MAX, ADDS, LEAVES, False,
        )  # fmt: skip


@triton.jit
def _decode_tile(
    encoded, into, first, elements, FORM: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr
):
    value_PE, scale_N = _decode(encoded, first, elements, FORM, BLOCKS, BLOCK, WHOLE)
    value_PE = value_PE * _spread(scale_N, BLOCKS, BLOCK)
    _store(into + first * BLOCK, _places(BLOCKS, BLOCK), value_PE, elements - first * BLOCK, WHOLE)


@triton.jit(do_not_specialize=["elements"])
def decode_kernel(encoded, into, elements, FORM: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the vector that a wire form stands for, rounded to what `into` holds."""
    elements = elements.to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCKS
    if elements - first * BLOCK >= BLOCKS * BLOCK:
        _decode_tile(encoded, into, first, elements, FORM, BLOCKS, BLOCK, True)
    else:
        _decode_tile(encoded, into, first, elements, FORM, BLOCKS, BLOCK, False)


class TritonTensors:
    """See `TensorEngine`. Kernels start on the current stream of the tensors' device, and nothing waits for them.

    Wire forms begin at a multiple of 4 bytes; LocalProtocolError says so of another one.
    """

    name = "triton"

    def encode(
        self,
        form: Form,
        x: torch.Tensor,
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
    ) -> torch.Tensor:
        """See `TensorEngine.encode`."""
        _require_aligned(encoded)
        flags = torch.zeros(1, dtype=torch.int32, device=x.device)
        _launch(
            encode_kernel,
            (x, _or(residual, x), _or(residual_out, x), encoded, flags),
            (x.numel(),),
            _encoder(form, residual, residual_out),
        )
        return _flags(form, flags)

    def decode(self, form: Form, encoded: torch.Tensor, into: torch.Tensor) -> None:
        """See `TensorEngine.decode`."""
        _require_aligned(encoded)
        _launch(decode_kernel, (encoded, into), (into.numel(),), _tile(form))

    def reduce(
        self,
        form: Form,
        encoded_RB: torch.Tensor,
        weights_R: torch.Tensor,
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
        elements: int,
    ) -> torch.Tensor:
        """See `TensorEngine.reduce`."""
        _require_aligned(encoded_RB, encoded)
        flags = torch.zeros(1, dtype=torch.int32, device=encoded.device)
        _launch(
            reduce_kernel,
            (encoded_RB, weights_R, _or(residual, weights_R), _or(residual_out, weights_R), encoded, flags),
            (elements, encoded_RB.shape[1]),
            {"RANKS": encoded_RB.shape[0], **_encoder(form, residual, residual_out)},
        )
        return _flags(form, flags)


def _flags(form: Form, flags: torch.Tensor) -> torch.Tensor:
    """Return what the programs found. Of a vector that is not finite it does not count that it overflows elsewhere."""
    if form.name != "fp16":
        return flags
    return torch.where(flags == NON_FINITE | OVERFLOW, NON_FINITE, flags)


def _require_aligned(*wire_forms: torch.Tensor) -> None:
    for each in wire_forms:
        if (
            each.data_ptr() % 4
        ):  # a kernel that read a word there would end the device's context, and the process with it
            raise LocalProtocolError(
                f"a wire form begins {each.data_ptr() % 4} bytes behind a multiple of 4",
                hint="cut buffers at multiples of form.encoded_size_bytes, which is one of 4",
            )


def _or(tensor: torch.Tensor | None, unused: torch.Tensor) -> torch.Tensor:
    """Return a tensor for a parameter that the kernel does not touch: its pointer has to have a type."""
    return unused if tensor is None else tensor


def _tile(form: Form) -> dict[str, Any]:
    block = form.block if form.scale_bytes else _PLAIN_BLOCK
    return {"FORM": form.name, "BLOCKS": _TILE // block, "BLOCK": block}


def _encoder(form: Form, residual: torch.Tensor | None, residual_out: torch.Tensor | None) -> dict[str, Any]:
    return _tile(form) | {
        "CODE_MAX": form.code_max,
        "SCALE_MAX": form.scale_max,
        "ADDS": residual is not None,
        "LEAVES": residual_out is not None,
    }


def _launch(
    kernel: Any, tensors: tuple[torch.Tensor, ...], numbers: tuple[int, ...], constants: dict[str, Any]
) -> None:
    """Start `kernel` for `numbers[0]` elements, on the current stream of the device that has the tensors.

    Each tensor is kept from reuse until this stream has passed the kernel, whatever stream it was allocated on, so a
    caller may drop its last reference at once.
    """
    grid = (-(-numbers[0] // _TILE),)
    device = tensors[0].device
    if device.type != "cuda":  # Triton's interpreter
        kernel[grid](*tensors, *numbers, **constants)
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        kernel[grid](*tensors, *numbers, **constants, num_warps=_WARPS, **_EXACT)
        for tensor in tensors:
            tensor.record_stream(stream)
