"""The manifest of a blob: a tree of hashes over its chunks, for any size. Pure.

A blob is cut into chunks of one size (the last may be shorter). The SHA-256 of up to 1,024 chunks, one after the other, are
a node; those of up to 1,024 nodes are a node of the level above, until one hash is left: the top. The manifest is the
deterministic CBOR of `[format, size, chunk size, top]`, some 60 bytes for any size, and its SHA-256 is the blob's content id.

So whoever has the content id can check the manifest, each node by the one above it, and each chunk by its node, as they
come, in any order and from anybody; a terabyte needs no message above 32 KiB besides its chunks. The manifest names the
sizes, which fix the tree's shape, so a node can never be shown as a chunk (the second preimage of Merkle trees). Source:
spec/protocols/blobs.md 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NewType

import attrs

from prime.errors import DecodeError
from prime.wire import Limits, dumps, loads

FORMAT: Final = "prime-blob-1"
HASH_BYTES: Final = 32
FANOUT: Final = 1024
"""Hashes in a node: 32 KiB of them stand for 1 GiB of a blob at the usual chunk size."""
NODE_BYTES_MAX: Final = FANOUT * HASH_BYTES
CHUNK_BYTES: Final = 1 << 20
"""The size of the chunks of a blob that is pushed here; others may choose another.

Of 128 KiB to 2 MiB it is where both ends work least for a byte; twice as much brings nothing more, and doubles what waits.
"""
CHUNK_BYTES_MIN: Final = 4 << 10
CHUNK_BYTES_MAX: Final = 4 << 20
SIZE_BYTES_MAX: Final = 1 << 53
MANIFEST_BYTES_MAX: Final = 256
_LIMITS: Final = Limits(header_size_bytes_max=MANIFEST_BYTES_MAX, items_max=16, depth_max=2)
_HINT: Final = "who sent it is broken or hostile: nothing of it was used"

ContentId = NewType("ContentId", bytes)
"""The SHA-256 of a blob's manifest (32 bytes)."""


@attrs.frozen
class Manifest:
    """The size of a blob and of its chunks, and the hash that stands for all of them."""

    size_bytes: int
    chunk_bytes: int
    top: bytes
    packed: bytes = attrs.field(init=False, repr=False, eq=False)
    content: ContentId = attrs.field(init=False, eq=False)
    counts: tuple[int, ...] = attrs.field(init=False, repr=False, eq=False)
    """How many there are of each level: of the chunks, of the nodes over them, and so on up to the one at the top."""

    @packed.default
    def _packed(self) -> bytes:
        return dumps([FORMAT, self.size_bytes, self.chunk_bytes, self.top])

    @content.default
    def _content(self) -> ContentId:
        return ContentId(hashlib.sha256(self.packed).digest())

    @counts.default
    def _counts(self) -> tuple[int, ...]:
        counts = [-(-self.size_bytes // self.chunk_bytes)]
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // FANOUT))
        return tuple(counts)

    @property
    def chunks(self) -> int:
        """Return how many chunks it has; none of an empty blob."""
        return self.counts[0]

    @property
    def levels(self) -> int:
        """Return how many levels of nodes stand over the chunks: none over a single one."""
        return len(self.counts) - 1

    @property
    def pages(self) -> int:
        """Return how many nodes of level 1 there are, or 1 where the top is the hash of the only chunk."""
        return self.counts[1] if self.levels else self.chunks

    @property
    def tree_bytes(self) -> int:
        """Return the size of all nodes, one after the other, those of level 1 first."""
        return HASH_BYTES * sum(self.counts[:-1])

    def chunk_size_bytes(self, index: int) -> int:
        """Return the size of one chunk: all are equal but the last."""
        return min(self.chunk_bytes, self.size_bytes - index * self.chunk_bytes)

    def chunks_of(self, page: int) -> range:
        """Return the chunks whose hashes are in a node of level 1."""
        return range(page * FANOUT, min((page + 1) * FANOUT, self.chunks))

    def node_size_bytes(self, level: int, index: int) -> int:
        """Return the size of a node, of level 1 or above."""
        return HASH_BYTES * min(FANOUT, self.counts[level - 1] - index * FANOUT)

    def node_at(self, level: int, index: int) -> int:
        """Return where a node begins among all of them, in bytes."""
        return HASH_BYTES * (sum(self.counts[: level - 1]) + index * FANOUT)

    def hash_at(self, level: int, index: int) -> int | None:
        """Return where the hash of a chunk (level 0) or node stands in the tree, in bytes; `None` where it is the top."""
        return None if level == self.levels else HASH_BYTES * (sum(self.counts[:level]) + index)

    def has(self, level: int, index: int) -> bool:
        """Tell whether there is such a chunk (level 0) or node."""
        return 0 <= level <= self.levels and 0 <= index < self.counts[level]


def read_manifest(data: bytes, content: ContentId) -> Manifest:
    """Return the manifest in bytes, which must be those that the content id names. Raises `DecodeError`."""
    if len(data) > MANIFEST_BYTES_MAX or hashlib.sha256(data).digest() != content:
        raise DecodeError("a manifest that is not what its content id names", hint=_HINT)
    match loads(data, _LIMITS):
        case [str(name), int(size), int(chunk), bytes(top)] if _fits(name, size, chunk, top):
            return Manifest(size, chunk, top)
    raise DecodeError("a manifest of another shape", hint="a later version made it, or nobody sound: update this node")


def _fits(name: str, size_bytes: int, chunk_bytes: int, top: bytes) -> bool:
    within = (
        type(size_bytes) is int
        and 0 <= size_bytes <= SIZE_BYTES_MAX
        and CHUNK_BYTES_MIN <= chunk_bytes <= CHUNK_BYTES_MAX
    )
    return name == FORMAT and within and type(chunk_bytes) is int and len(top) == HASH_BYTES


class TreeBuilder:
    """Makes the tree of a blob from the hashes of its chunks, in order; it holds 32 bytes a chunk."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._hashes = bytearray()
        self._size_bytes = 0

    def add(self, digest: bytes, size_bytes: int) -> None:
        """Take the hash and the size of the next chunk."""
        self._hashes += digest
        self._size_bytes += size_bytes

    def finish(self) -> tuple[Manifest, bytes]:
        """Return the manifest, and all nodes, those of level 1 first."""
        levels = [bytes(self._hashes)]
        while len(levels[-1]) > HASH_BYTES:
            levels.append(b"".join(hashlib.sha256(node).digest() for node in _nodes(levels[-1])))
        top = levels.pop() or hashlib.sha256().digest()
        return Manifest(self._size_bytes, self._chunk_bytes, top), b"".join(levels)


def _nodes(hashes: bytes) -> Iterator[bytes]:
    for at in range(0, len(hashes), NODE_BYTES_MAX):
        yield hashes[at : at + NODE_BYTES_MAX]
