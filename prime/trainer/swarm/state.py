"""The outer state of a run, its hash, and how it is cut into chunks that name themselves by hash. Pure.

The state's bytes are the parameters, then the momentum, each float32 little-endian in layout order. The state hash is
SHA-256 over a header that names the format and the number of parameters, followed by those bytes. It says nothing
about the round: after an aborted round the state is the same, and so is its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import attrs
import numpy as np

from prime.errors import CorruptedError, LocalProtocolError, RemoteProtocolError
from prime.trainer.codec import Vector
from prime.trainer.round.messages import StateManifest

CHUNK_SIZE_BYTES: Final = 256 * 1024
HASH_SIZE_BYTES: Final = 32
_STATE_HEADER: Final = b"prime outer state 1\n"
_PARAMETERS_HEADER: Final = b"prime parameters 1\n"


@attrs.frozen(eq=False)
class OuterState:
    """What all members of a run share after `round`: parameters theta and outer momentum, float32[D] each."""

    round: int
    epoch: int
    theta: Vector
    momentum: Vector

    def __attrs_post_init__(self) -> None:
        for name, vector in (("theta", self.theta), ("momentum", self.momentum)):
            if vector.dtype != np.float32 or vector.ndim != 1 or vector.size != self.theta.size:
                raise LocalProtocolError(
                    f"{name} must be a flat float32 vector of {self.theta.size}, got {vector.dtype}{list(vector.shape)}",
                    hint="flatten it into one float32 vector",
                )

    def pieces(self) -> tuple[memoryview, memoryview]:
        """Return the state's bytes in two pieces, without a copy on a little-endian machine."""
        return _little_endian(self.theta), _little_endian(self.momentum)

    def state_hash(self) -> bytes:
        """Return the SHA-256 that stands for parameters and momentum (32 bytes)."""
        return _hash(_STATE_HEADER, self.theta.size, self.pieces())


def parameters_hash(theta: Vector) -> bytes:
    """Return the SHA-256 that stands for the parameters alone (32 bytes): equal on nodes that agree."""
    return _hash(_PARAMETERS_HEADER, theta.size, (_little_endian(theta),))


def initial_state(theta: Vector) -> OuterState:
    """Return the state before the first round: these parameters, no momentum."""
    return OuterState(0, 0, theta, np.zeros_like(theta))


@attrs.frozen(eq=False)
class ChunkedState:
    """A state ready to be served: its manifest, and any chunk by index."""

    manifest: StateManifest
    _pieces: tuple[memoryview, memoryview]

    def chunk(self, index: int) -> memoryview:
        """Return the bytes of one chunk (a view, or a copy where it spans the two vectors).

        Raises RemoteProtocolError for an index that the manifest does not have: only a peer can ask for that.
        """
        if not 0 <= index < len(self.manifest.chunk_hashes):
            raise RemoteProtocolError(f"no chunk {index}: the state has {len(self.manifest.chunk_hashes)}")
        return _cut(self._pieces, index)


def chunked(run: str, state: OuterState) -> ChunkedState:
    """Cut a state into chunks and hash each; the state's vectors must not change afterwards."""
    pieces = state.pieces()
    total = sum(piece.nbytes for piece in pieces)
    hashes = tuple(hashlib.sha256(_cut(pieces, i)).digest() for i in range(_chunk_count(total, CHUNK_SIZE_BYTES)))
    manifest = StateManifest(run, state.epoch, state.round, state.state_hash(), total, CHUNK_SIZE_BYTES, hashes)
    return ChunkedState(manifest, pieces)


def check_manifest(manifest: StateManifest, parameter_count: int) -> None:
    """Raise RemoteProtocolError where a manifest cannot be that of a state of so many parameters."""
    total = 8 * parameter_count
    wanted = (total, CHUNK_SIZE_BYTES, _chunk_count(total, CHUNK_SIZE_BYTES))
    if (manifest.total_bytes, manifest.chunk_bytes, len(manifest.chunk_hashes)) != wanted:
        raise RemoteProtocolError(
            f"the offered state has {manifest.total_bytes} bytes in {len(manifest.chunk_hashes)} chunks; "
            f"{parameter_count} parameters make {wanted[0]} in {wanted[2]}",
            hint="the other node trains another model: compare the [train] sections",
        )
    if any(len(digest) != HASH_SIZE_BYTES for digest in (manifest.state_hash, *manifest.chunk_hashes)):
        raise RemoteProtocolError("the offered state has a hash that is no SHA-256")


def chunk_size_bytes(manifest: StateManifest, index: int) -> int:
    """Return the size of one chunk: all are equal but the last."""
    return min(manifest.chunk_bytes, manifest.total_bytes - index * manifest.chunk_bytes)


def join_state(manifest: StateManifest, chunks: Mapping[bytes, bytes | memoryview]) -> OuterState:
    """Put a state together from chunks by hash; raises CorruptedError unless the whole has the manifest's hash.

    The chunks were checked one by one; this last check catches a manifest whose parts do not make its whole.
    """
    whole = np.empty(manifest.total_bytes, np.uint8)
    for index, digest in enumerate(manifest.chunk_hashes):
        start = index * manifest.chunk_bytes
        whole[start : start + chunk_size_bytes(manifest, index)] = np.frombuffer(chunks[digest], np.uint8)
    theta, momentum = np.split(whole.view("<f4").astype(np.float32, copy=False), 2)
    state = OuterState(manifest.round, manifest.epoch, theta, momentum)
    if state.state_hash() != manifest.state_hash:
        raise CorruptedError(
            f"the state after round {manifest.round} does not have the hash that its manifest names",
            hint="a donor lied or its memory is bad; fetch from other donors",
        )
    return state


def _little_endian(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, np.dtype("<f4")).view(np.uint8).data.toreadonly()


def _hash(header: bytes, parameter_count: int, pieces: tuple[memoryview, ...]) -> bytes:
    digest = hashlib.sha256(header + parameter_count.to_bytes(8, "little"))
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _chunk_count(total_bytes: int, chunk_bytes: int) -> int:
    return -(-total_bytes // chunk_bytes)


def _cut(pieces: tuple[memoryview, memoryview], index: int) -> memoryview:
    start, stop = index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES
    first, second = pieces
    if stop <= first.nbytes:
        return first[start:stop]
    if start >= first.nbytes:
        return second[start - first.nbytes : stop - first.nbytes]
    return memoryview(bytes(first[start:]) + bytes(second[: stop - first.nbytes]))
