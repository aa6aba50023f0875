"""Marks for field types: payload bytes, ranges, sizes and finite floats.

They ride in `typing.Annotated`, so a type checker sees the plain type and the codec sees the rule::

    @message(tag=0x1003)
    class Chunk:
        index: Annotated[int, Range(0, 4096)]
        digest: Annotated[bytes, Size(32, 32)]
        loss: Finite
        data: Payload
"""

from __future__ import annotations

from typing import Annotated

import attrs


@attrs.frozen
class PayloadMark:
    """These bytes travel beside the CBOR header, without a copy."""


@attrs.frozen
class FiniteMark:
    """NaN and the infinities are refused, in both directions."""


@attrs.frozen
class Range:
    """An int from `low` to `high`, both included."""

    low: int
    high: int


@attrs.frozen
class Size:
    """Text, bytes or a container whose `len` is from `low` to `high`, both included (text: in code points)."""

    low: int
    high: int


Payload = Annotated[memoryview, PayloadMark()]
"""Raw bytes beside the header. Encode from any contiguous buffer; decoded it is a read-only memoryview of bytes."""

Finite = Annotated[float, FiniteMark()]
"""A float that is neither NaN nor infinite."""
