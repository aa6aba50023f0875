"""The wire forms (pure): what the bytes of an encoded vector mean.

Shapes: `D` elements, `n = ceil(D / block)` blocks. All words are little-endian. A vector of no elements has no bytes.

**Block forms** (`int8`, `int4`, `fp8`): the codes of all blocks, then one float32 scale a block::

    codes   bits/8 * block * n bytes      element i of the vector at place i, the last block padded with 0
    scales  float32[n]

    s_b = min(max|x_b| / code_max, scale_max)     in float32, of the elements of block b
    q   = round_half_even(x / s_b)                a division: a reciprocal overflows for the smallest blocks
    x'  = q s_b                                   in float32

A block with `s_b < 2**-126` (the smallest normal float32) has scale 0 and codes 0: its values are all residual.

| form | block | code | `code_max` |
|---|---|---|---|
| `int8` | 256 | two's complement in a byte; -128 is never written | 127 |
| `int4` | 64 | two's complement in a nibble, the even element in the low one; -8 is never written | 7 |
| `fp8` | 256 | float8 e4m3 "fn" in a byte (OCP 8-bit floating point: no infinity, largest 448); 0x7f and 0xff, its NaNs, are never written; larger quotients go as 448 | 448 |

**Plain forms**: `none` is float32[D]. `fp16` is float16[D], padded with 0 to an even number, then one word (uint32), the
flag, 0; where a value would overflow float16 (from 65520 on) the vector is float32[D] and the flag 1.

A vector with a NaN or an infinity has no wire form: encoding it sets the flag `NON_FINITE` and the sender is refused,
so that no NaN scale ever leaves a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from prime.errors import ConfigError

SCALE_MIN: Final = 2.0**-126
"""The smallest normal float32: a block whose scale would be smaller goes as zeros."""
FP16_OVERFLOW: Final = 65520.0
"""The smallest magnitude that rounds to an infinity in float16."""

NON_FINITE: Final = 1
"""Flag of an encoder: the vector held a NaN or an infinity, and the output is undefined."""
OVERFLOW: Final = 2
"""Flag of an encoder of `fp16`: a value is too large for float16; the output is undefined, float32 has to travel."""


@attrs.frozen
class Form:
    """One wire form. `block` elements share a scale; a plain form has no scales, and `scale_bytes` 0."""

    name: str
    bits: int
    block: int
    scale_bytes: int = 0
    code_max: float = 0.0
    scale_max: float = 0.0
    """The largest scale whose `code_max`-fold is finite in float32: a buffer with a larger one is refused."""
    trailer_bytes: int = 0

    def blocks(self, elements: int) -> int:
        """Return how many blocks a vector of that many elements has."""
        return -(-elements // self.block)

    def codes_bytes(self, elements: int) -> int:
        """Return the size of the codes alone, the padding of the last block included."""
        return self.blocks(elements) * self.block * self.bits // 8

    def encoded_size_bytes(self, elements: int) -> int:
        """Return the size of the wire form of a vector of that many elements (`fp16`: where nothing overflows)."""
        if elements == 0:
            return 0
        return self.codes_bytes(elements) + self.scale_bytes * self.blocks(elements) + self.trailer_bytes


INT8: Final = Form("int8", 8, 256, 4, 127.0, float.fromhex("0x1.020406p+121"))
INT4: Final = Form("int4", 4, 64, 4, 7.0, float.fromhex("0x1.249248p+125"))
FP8: Final = Form("fp8", 8, 256, 4, 448.0, float.fromhex("0x1.249248p+119"))
FP16: Final = Form("fp16", 16, 2, trailer_bytes=4)
NONE: Final = Form("none", 32, 1)

FORMS: Final[Mapping[str, Form]] = {each.name: each for each in (INT8, INT4, FP8, FP16, NONE)}
"""Every wire form by the name that a job and a message use."""


def form(name: str) -> Form:
    """Return the form of that name; ConfigError where there is none."""
    try:
        return FORMS[name]
    except KeyError:
        raise ConfigError(f"no codec is called {name!r}", hint=f"choose one of {', '.join(FORMS)}") from None
