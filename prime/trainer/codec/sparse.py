"""The sparse wire forms (pure): of each block only its largest elements travel, with their places.

A vector of `D` elements is padded with zeros to `n = ceil(D / 4096)` blocks; its bytes are `n` records of one size, one a
block. All words are little-endian. A vector of no elements has no bytes. A record::

    places   which elements of the block it holds, in ascending order: `kept` numbers of 12 bits, number j at the bits
             12 j to 12 j + 11; or, where that is smaller, a map of 4096 bits, element i at bit i
    codes    `kept` codes of `bits` bits, code j at the bits bits j to bits j + bits - 1
    word     4 bytes: what the codes stand for

A record that holds fewer elements than it has room for ends with zero places and zero codes; one that holds none is zeros.
Places of 12 bits are as many as ascend, from the first on.

**`topk`**, what a contribution travels as: 64 elements of a block (1.56 %), codes of 2 bits, 116 bytes. Of the 64 elements
with the largest magnitudes (of equal ones those that come first; zeros never) m_0 >= m_1 >= ... >= m_{k-1}::

    upper = max(cut(m_{k // 16}), cut(m_0) 2**-12)        cut: to a bfloat16, toward zero
    lower = max(cut(m_{k // 2}), upper 2**-12)

    |y| >= (lower + upper) / 2   goes as upper        code: bit 0 set for upper, bit 1 for a negative element
    else |y| >= lower / 2        goes as lower
    else                         stays

The word is `lower` in its low half and `upper` in its high half, as bfloat16. A block whose `lower` would be under 2**-126
goes as zeros. Levels of 8 significant bits within those bounds make the residual exact: `decoded + residual == y` in
float32. (`|decoded| <= 2 |y|`, and a step of `decoded` is never finer than one of `y`, so their difference is a float.)

**`gather C`**, what the sum of C such contributions travels as: the at most 64 C elements of a block that any of them
sent, codes of 8 bits::

    scale = min(max|y| / 127, scale_max)       q = round_half_even(y / scale)      y' = q scale

The word is `scale`, float32; q is in two's complement and never 0: an element that rounds to 0 is not held.
From `DENSE_FROM` contributions on `int8` is smaller, and what travels.

Sources: the choice by magnitude in each of many small blocks, so that a place takes 12 bits, and two bits a value, are
those of Sarfi et al., "Communication Efficient LLM Pre-training with SparseLoCo", 2025 (arXiv 2508.15706). The two levels
are order statistics near those that Lloyd and Max find for an exponential tail: no sum whose order would matter.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from prime.trainer.codec.form import INT8

BLOCK: Final = 4096
"""Elements that share a record: as many as 12 bits can name."""
KEPT: Final = 64
"""Elements of a block that a contribution holds: 1.56 %."""
PLACE_BITS: Final = 12
LEVELS_APART: Final = 2.0**-12
"""The least that a level is of the one above it."""
UPPER_RANK: Final = 16
"""The upper level is the magnitude of which a sixteenth of the kept ones are larger."""

CROWDED: Final = 4
"""Flag of an encoder of `gather`: a block has more elements than its record has room for; the output is undefined."""

SCALE_MAX: Final = float.fromhex("0x1.020406p+121")
"""The largest scale of `gather`: its 127-fold is finite in float32."""


@attrs.frozen
class SparseForm:
    """One sparse form: `kept` elements of a block travel at most, in codes of `bits` bits."""

    name: str
    kept: int
    bits: Literal[2, 8]

    @property
    def is_map(self) -> bool:
        """Whether places are a map, because that is smaller than numbers."""
        return self.kept * PLACE_BITS >= BLOCK

    @property
    def places_bytes(self) -> int:
        """Return the size of a record's places."""
        return BLOCK // 8 if self.is_map else self.kept * PLACE_BITS // 8

    @property
    def codes_bytes(self) -> int:
        """Return the size of a record's codes."""
        return self.kept * self.bits // 8

    @property
    def record_bytes(self) -> int:
        """Return the size of the record of one block."""
        return self.places_bytes + self.codes_bytes + 4

    def blocks(self, elements: int) -> int:
        """Return how many blocks a vector of that many elements has."""
        return -(-elements // BLOCK)

    def encoded_size_bytes(self, elements: int) -> int:
        """Return the size of the wire form of a vector of that many elements."""
        return self.blocks(elements) * self.record_bytes


TOPK: Final = SparseForm("topk", KEPT, 2)
DENSE_FROM: Final = 57
"""From so many contributions on a dense `int8` block of 4096 elements (4160 bytes) is smaller than `gather`."""


SUMS: Final = "gather"
"""What sums of `topk` contributions travel as: `gather C`, or `int8` where that is smaller."""


def gather_name(codec: str, gather_codec: str) -> str:
    """Return what sums of contributions in `codec` travel as: what is named, or, for `auto`, `int8`, and of `topk` `SUMS`."""
    if gather_codec != "auto":
        return gather_codec
    return SUMS if codec == TOPK.name else INT8.name


def gather_form(contributions: int) -> SparseForm | None:
    """Return the form of a sum of that many `topk` contributions; None where `int8` is smaller."""
    if contributions >= DENSE_FROM:
        return None
    return SparseForm(f"gather {contributions}", KEPT * max(contributions, 1), 8)
