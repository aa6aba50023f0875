"""The outer state of a run, its hash, and how it is cut into chunks that name themselves by hash. Pure.

The state's bytes are the parameters, then each slot of the outer optimiser, all float32 little-endian in layout order,
cut into chunks of 256 KiB. The SHA-256 of the chunks, 1,024 to a page, make the hash of each page; the state hash is
SHA-256 over a header (the format, the number of parameters and of slots) and the hashes of the pages. So a list of
pages is checked against the state hash before anything is fetched, a page against that list, and a chunk against its
page: a wrong byte is found in the chunk it came in, and nothing has to be read twice.

The state hash says nothing about the round: after an aborted round the state is the same, and so is its hash.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np

from prime.errors import LocalProtocolError, RemoteProtocolError
from prime.trainer.codec import Vector
from prime.trainer.round.messages import StateManifest

CHUNK_SIZE_BYTES: Final = 256 * 1024
PAGE_CHUNKS: Final = 1024
"""Chunk hashes in one page: 32 KiB of them stand for 256 MiB of state."""
HASH_SIZE_BYTES: Final = 32
_STATE_HEADER: Final = b"prime outer state 2\n"


@attrs.frozen(eq=False)
class OuterState:
    """What all members of a run share after `round`: parameters theta and the outer optimiser's slots, float32[D] each."""

    round: int
    epoch: int
    theta: Vector
    slots: tuple[Vector, ...]

    def __attrs_post_init__(self) -> None:
        names = ["theta", *(f"slot {number}" for number in range(len(self.slots)))]
        for name, vector in zip(names, (self.theta, *self.slots), strict=True):
            if vector.dtype != np.float32 or vector.ndim != 1 or vector.size != self.theta.size:
                raise LocalProtocolError(
                    f"{name} must be a flat float32 vector of {self.theta.size}, got {vector.dtype}{list(vector.shape)}",
                    hint="flatten it into one float32 vector",
                )

    def pieces(self) -> tuple[memoryview, ...]:
        """Return the state's bytes, a piece for each vector, without a copy on a little-endian machine."""
        return tuple(_little_endian(vector) for vector in (self.theta, *self.slots))

    def state_hash(self) -> bytes:
        """Return the SHA-256 that stands for parameters and slots (32 bytes); `chunked` has it too, with the chunks'."""
        return chunked("", self).manifest.state_hash


def initial_state(theta: Vector, slots: int = 1) -> OuterState:
    """Return the state before the first round: these parameters, and slots of zeros."""
    return OuterState(0, 0, theta, tuple(np.zeros_like(theta) for _ in range(slots)))


@attrs.frozen(eq=False)
class ChunkedState:
    """A state ready to be served and written down: its manifest, any page of chunk hashes, and any chunk."""

    manifest: StateManifest
    _hashes: tuple[bytes, ...]
    _pieces: tuple[memoryview, ...]

    @property
    def chunk_hashes(self) -> tuple[bytes, ...]:
        """Return the hash of every chunk, in order."""
        return self._hashes

    def of_round(self, round_: int) -> ChunkedState:
        """Return the same state known by a later round: after an abort nothing has to be hashed again."""
        known = self.manifest
        manifest = StateManifest(
            known.run, known.epoch, round_, known.state_hash, known.elements, known.slots, known.page_hashes
        )
        return ChunkedState(manifest, self._hashes, self._pieces)

    def page(self, number: int) -> bytes:
        """Return the chunk hashes of one page, one after the other. Raises RemoteProtocolError for one that is not."""
        pages = _paged(self._hashes)
        _check_index(number, len(pages), "page")
        return b"".join(pages[number])

    def chunk(self, index: int) -> memoryview:
        """Return the bytes of one chunk (a view, or a copy where it spans two vectors).

        Raises RemoteProtocolError for an index that the state does not have: only a peer can ask for that.
        """
        _check_index(index, len(self._hashes), "chunk")
        return _cut(self._pieces, index * CHUNK_SIZE_BYTES)


def chunked(
    run: str, state: OuterState, before: ChunkedState | None = None, changed: slice | None = None
) -> ChunkedState:
    """Cut a state into chunks and hash each; the state's vectors must not change afterwards.

    Where only the slice `changed` of each vector differs from the state `before`, the other chunks keep their hashes.
    """
    pieces = state.pieces()
    count = chunk_count(state.theta.size, len(state.slots))
    stale = range(count) if before is None or changed is None else _touched(state, changed)
    hashes = [b""] * count if before is None else list(before.chunk_hashes)
    for index in stale:
        hashes[index] = hashlib.sha256(_cut(pieces, index * CHUNK_SIZE_BYTES)).digest()
    pages = tuple(page_hash(page) for page in _paged(hashes))
    elements, slots = state.theta.size, len(state.slots)
    hash_ = _state_hash(elements, slots, pages)
    manifest = StateManifest(run, state.epoch, state.round, hash_, elements, slots, pages)
    return ChunkedState(manifest, tuple(hashes), pieces)


def _touched(state: OuterState, changed: slice) -> set[int]:
    """Return the chunks that a slice of any of the state's vectors lies in."""
    found: set[int] = set()
    for number in range(1 + len(state.slots)) if changed.stop > changed.start else ():
        first, last = (4 * (number * state.theta.size + at) for at in (changed.start, changed.stop - 1))
        found.update(range(first // CHUNK_SIZE_BYTES, last // CHUNK_SIZE_BYTES + 1))
    return found


def check_manifest(manifest: StateManifest, elements: int, slots: int) -> None:
    """Raise RemoteProtocolError where a manifest is not that of a state of so many parameters and slots."""
    if (manifest.elements, manifest.slots) != (elements, slots):
        raise RemoteProtocolError(
            f"the offered state has {manifest.elements} parameters and {manifest.slots} slots of the outer optimiser; "
            f"this node's has {elements} and {slots}",
            hint="the other node trains another model or with another optimiser: compare the [train] sections",
        )
    if len(manifest.page_hashes) != page_count(elements, slots):
        raise RemoteProtocolError(f"the offered state has {len(manifest.page_hashes)} pages")
    if manifest.state_hash != _state_hash(elements, slots, manifest.page_hashes):
        raise RemoteProtocolError("the offered state is not what its hash names")


def chunk_count(elements: int, slots: int) -> int:
    """Return how many chunks a state has."""
    return -(-state_size_bytes(elements, slots) // CHUNK_SIZE_BYTES)


def page_count(elements: int, slots: int) -> int:
    """Return how many pages of chunk hashes a state has."""
    return -(-chunk_count(elements, slots) // PAGE_CHUNKS)


def state_size_bytes(elements: int, slots: int) -> int:
    """Return the size of a state."""
    return 4 * elements * (1 + slots)


def chunk_size_bytes(manifest: StateManifest, index: int) -> int:
    """Return the size of one chunk: all are equal but the last."""
    total = state_size_bytes(manifest.elements, manifest.slots)
    return min(CHUNK_SIZE_BYTES, total - index * CHUNK_SIZE_BYTES)


def page_hash(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of one page of chunk hashes."""
    return hashlib.sha256(b"".join(hashes)).digest()


def state_from(manifest: StateManifest, data: memoryview) -> OuterState:
    """Return the state whose bytes `data` holds, without a copy on a little-endian machine; the bytes must not change.

    They were checked chunk by chunk as they came.
    """
    vectors = np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(1 + manifest.slots, manifest.elements)
    return OuterState(manifest.round, manifest.epoch, vectors[0], tuple(vectors[1:]))


def _state_hash(elements: int, slots: int, page_hashes: Sequence[bytes]) -> bytes:
    header = _STATE_HEADER + elements.to_bytes(8, "little") + slots.to_bytes(4, "little")
    return hashlib.sha256(header + b"".join(page_hashes)).digest()


def _paged(hashes: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [hashes[at : at + PAGE_CHUNKS] for at in range(0, len(hashes), PAGE_CHUNKS)]


def _check_index(index: int, count: int, name: str) -> None:
    if not 0 <= index < count:
        raise RemoteProtocolError(f"no {name} {index}: the state has {count}")


def _little_endian(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, np.dtype("<f4")).view(np.uint8).data.toreadonly()


def _cut(pieces: Sequence[memoryview], start: int) -> memoryview:
    """Return a chunk's bytes out of pieces that lie one after the other."""
    ends = list(itertools.accumulate(piece.nbytes for piece in pieces))
    begins = [end - piece.nbytes for end, piece in zip(ends, pieces, strict=True)]
    stop = start + CHUNK_SIZE_BYTES
    cuts = [piece[max(start - at, 0) : max(stop - at, 0)] for piece, at in zip(pieces, begins, strict=True)]
    found = [cut for cut in cuts if cut.nbytes]
    return found[0] if len(found) == 1 else memoryview(b"".join(found))
