"""The flat vector cut into parts, parts into chunks, and a part put together again from chunks (pure).

Every cut lies on a multiple of `GRAIN_ELEMENTS`, so that each chunk encodes and decodes alone, in any codec. A chunk is
named by the SHA-256 of its bytes, a part by the SHA-256 of its chunks' hashes one after the other: chunks are hashed
and checked apart from each other, in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from prime.errors import DecodeError

T = TypeVar("T")

GRAIN_ELEMENTS = 4096
"""A multiple of the block of every codec."""
CHUNK_ELEMENTS = 64 * GRAIN_ELEMENTS
"""Elements that travel in one message: a little more than 256 KiB in 8 bits."""


def chunks(part: slice, chunk_elements: int = CHUNK_ELEMENTS) -> tuple[slice, ...]:
    """Return the slices of the vector that are the chunks of a part, in order; an empty part has none."""
    starts = range(part.start, part.stop, chunk_elements)
    return tuple(slice(low, min(low + chunk_elements, part.stop)) for low in starts)


def digest(data: bytes | memoryview) -> bytes:
    """Return the hash (SHA-256, 32 bytes) that names a chunk's bytes."""
    return hashlib.sha256(data).digest()


def part_digest(hashes: Iterable[bytes]) -> bytes:
    """Return the hash (SHA-256, 32 bytes) that names a part, from those of its chunks in order."""
    return hashlib.sha256(b"".join(hashes)).digest()


def digest_of(encoded: Iterable[bytes | memoryview]) -> bytes:
    """Return the hash that names a part, from the bytes of its chunks in order."""
    return part_digest(map(digest, encoded))


Encoded = tuple[memoryview, ...]
"""The bytes of a part: one piece for each chunk, in order."""


@attrs.define(eq=False)
class Assembly:
    """One part as its chunks come, in any order, each perhaps more than once; each is hashed a while after it came.

    A part of no chunks is whole at once. One that is `refused` will never be.
    """

    count: int
    found: dict[int, memoryview] = attrs.Factory(dict)
    hashes: dict[int, bytes] = attrs.Factory(dict)
    refused: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every chunk is here, and hashed."""
        return not self.refused and len(self.hashes) == self.count

    @property
    def missing(self) -> tuple[int, ...]:
        """Return the numbers of the chunks that are not here."""
        return tuple(index for index in range(self.count) if index not in self.found)

    def add(self, index: int, chunk: memoryview) -> bool:
        """Take a chunk; `False` for one that is here already. Raises `DecodeError` where a part has no such chunk."""
        if not 0 <= index < self.count:
            raise DecodeError(f"a part of {self.count} chunks has no chunk {index}")
        if self.refused or index in self.found:
            return False
        self.found[index] = chunk
        return True

    def refuse(self) -> None:
        """Drop all of it, for good: no codec wrote a chunk of it."""
        self.refused = True
        self.found.clear()
        self.hashes.clear()

    def encoded(self) -> Encoded:
        """Return the bytes of a part that is whole."""
        return _in_order(self.found)

    def digest(self) -> bytes:
        """Return the hash of a part that is whole."""
        return part_digest(_in_order(self.hashes))


def whole(encoded: Iterable[memoryview]) -> Assembly:
    """Return the assembly of a part whose chunks are all here."""
    found = dict(enumerate(encoded))
    return Assembly(len(found), found, {index: digest(chunk) for index, chunk in found.items()})


def _in_order(found: Mapping[int, T]) -> tuple[T, ...]:
    return tuple(found[index] for index in range(len(found)))
