"""The flat vector cut into parts, and a part's encoded bytes cut into chunks and put together again (pure)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import attrs

from prime.errors import DecodeError
from prime.trainer.codec.form import INT8

CHUNK_BYTES = 256 * 1024
"""Bytes of a part that travel in one message."""


def cuts(elements: int, parts: int) -> tuple[slice, ...]:
    """Return the slices of a vector of `elements` that make `parts` equal parts, each a whole number of codec blocks.

    The last parts can be shorter or empty where there are fewer blocks than parts.
    """
    blocks = -(-elements // INT8.block)
    edges = [min(blocks * i // parts * INT8.block, elements) for i in range(parts + 1)]
    edges[-1] = elements
    return tuple(slice(low, high) for low, high in itertools.pairwise(edges))


def part_elements(elements: int, parts: int, part: int) -> int:
    """Return how many elements part number `part` has."""
    cut = cuts(elements, parts)[part]
    return cut.stop - cut.start


def offsets(total_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[int]:
    """Yield where each chunk of a part begins; an empty part is one empty chunk."""
    yield from range(0, max(total_bytes, 1), chunk_bytes)


def digest(data: bytes | memoryview) -> bytes:
    """Return the hash (SHA-256, 32 bytes) that names a part's bytes."""
    return hashlib.sha256(data).digest()


@attrs.define(eq=False)
class Assembly:
    """One part's bytes as its chunks arrive, in any order, each perhaps more than once."""

    total_bytes: int
    hash: bytes
    chunk_bytes: int = CHUNK_BYTES
    data: bytearray = attrs.field(init=False)
    missing: set[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.data = bytearray(self.total_bytes)
        self.missing = set(offsets(self.total_bytes, self.chunk_bytes))

    def add(self, offset: int, chunk: memoryview) -> bool:
        """Take one chunk; True when it was the last one missing.

        Raises `DecodeError` for a chunk that does not lie on the grid. When all are there and the hash is another
        than announced, everything is dropped and asked for again.
        """
        expected = min(self.chunk_bytes, self.total_bytes - offset)
        if offset < 0 or offset % self.chunk_bytes or offset >= max(self.total_bytes, 1) or len(chunk) != expected:
            raise DecodeError(f"a chunk of {len(chunk)} bytes at {offset} does not fit a part of {self.total_bytes}")
        if offset not in self.missing:
            return False
        self.data[offset : offset + len(chunk)] = chunk
        self.missing.discard(offset)
        return not self.missing

    def verified(self) -> bool:
        """Tell whether the whole bytes have the announced hash; if not, start over."""
        if digest(memoryview(self.data)) == self.hash:
            return True
        self.missing = set(offsets(self.total_bytes, self.chunk_bytes))
        return False


def expected_bytes(elements: int, parts: int, part: int) -> int:
    """Return the encoded size of part number `part`."""
    return INT8.encoded_size_bytes(part_elements(elements, parts, part))
