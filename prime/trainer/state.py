"""The state that all members share, its hash, its chunks, and the plan that fetches it from several donors (pure).

The hash covers the parameters and the momentum, and nothing that could differ between equal states; chunks are named
by SHA-256, so a wrong one is known at once, whoever sent it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import DecodeError
from prime.trainer.messages import StateManifest

Vector = npt.NDArray[np.float32]

CHUNK_BYTES = 256 * 1024
IN_FLIGHT_MAX = 4
"""Chunks asked of one donor at a time."""


@attrs.frozen(eq=False)
class OuterState:
    """Parameters and momentum (float32[D] each) after `round`."""

    round: int
    theta: Vector
    momentum: Vector

    def hash(self) -> bytes:
        """Return SHA-256 over the element count and both vectors as little-endian float32 (32 bytes)."""
        found = hashlib.sha256(b"prime outer state 1\0" + self.theta.size.to_bytes(8, "little"))
        found.update(_little(self.theta).data)
        found.update(_little(self.momentum).data)
        return found.digest()

    def to_bytes(self) -> memoryview:
        """Return theta, then momentum, as little-endian float32."""
        return np.concatenate([_little(self.theta), _little(self.momentum)]).view(np.uint8).data


def from_bytes(round_: int, data: bytes | bytearray | memoryview, elements: int) -> OuterState:
    """Read what `to_bytes` wrote. Raises `DecodeError` unless it has exactly two vectors of `elements`."""
    if len(data) != 8 * elements:
        raise DecodeError(
            f"a state of {len(data)} bytes, but this model's has {8 * elements}",
            hint="every node of a run needs the same model: compare their [train] sections",
        )
    both = np.frombuffer(data, "<f4").astype(np.float32)
    return OuterState(round_, both[:elements].copy(), both[elements:].copy())


def manifest_of(run: str, epoch: int, state: OuterState, data: memoryview) -> StateManifest:
    """Describe a state's bytes chunk by chunk."""
    hashes = tuple(hashlib.sha256(data[at : at + CHUNK_BYTES]).digest() for at in range(0, len(data), CHUNK_BYTES))
    return StateManifest(run, epoch, state.round, state.hash(), len(data), CHUNK_BYTES, hashes)


class FetchPlan:
    """Which chunk to ask of whom: every chunk once, again from another donor where one fails or lies.

    `take` says what to ask next, `arrived` and `failed` what came of it. A donor that sent a wrong chunk is asked for
    nothing more.
    """

    def __init__(self, manifest: StateManifest, donors: Iterable[str]) -> None:
        self._manifest = manifest
        self._donors = list(donors)
        self._wanted = list(range(len(manifest.chunk_hashes)))[::-1]
        self._asked: dict[int, str] = {}
        self._data = bytearray(manifest.total_bytes)
        self._left = len(manifest.chunk_hashes)

    @property
    def done(self) -> bool:
        """Tell whether every chunk is here and verified."""
        return self._left == 0

    @property
    def donors(self) -> tuple[str, ...]:
        """Return the donors that can still be asked."""
        return tuple(self._donors)

    def take(self, donor: str) -> int | None:
        """Return the next chunk to ask of `donor`, or `None` if there is nothing for it to do."""
        busy = sum(1 for asked in self._asked.values() if asked == donor)
        if donor not in self._donors or not self._wanted or busy >= IN_FLIGHT_MAX:
            return None
        index = self._wanted.pop()
        self._asked[index] = donor
        return index

    def arrived(self, index: int, data: memoryview) -> bool:
        """Take a chunk; False (and its donor is dropped) if it is not the one that the manifest names."""
        donor = self._asked.pop(index, None)
        if donor is None:
            return False
        if hashlib.sha256(data).digest() != self._manifest.chunk_hashes[index]:
            self._wanted.append(index)
            self.drop(donor)
            return False
        at = index * self._manifest.chunk_bytes
        self._data[at : at + len(data)] = data
        self._left -= 1
        return True

    def failed(self, index: int) -> None:
        """Note that the donor of a chunk did not send it: it is dropped, and another is asked."""
        donor = self._asked.pop(index, None)
        if donor is not None:
            self._wanted.append(index)
            self.drop(donor)

    def drop(self, donor: str) -> None:
        """Ask this donor for nothing more."""
        if donor in self._donors:
            self._donors.remove(donor)

    def data(self) -> bytearray:
        """Return the whole bytes; only meaningful when `done`."""
        return self._data


def fault_of(manifest: StateManifest, elements: int) -> str:
    """Say why a manifest cannot be this model's state, or return an empty text."""
    chunks = -(-manifest.total_bytes // max(manifest.chunk_bytes, 1))
    if manifest.total_bytes != 8 * elements:
        return f"its state has {manifest.total_bytes} bytes, this model's has {8 * elements}"
    if manifest.chunk_bytes != CHUNK_BYTES or len(manifest.chunk_hashes) != chunks:
        return "its manifest is not well formed"
    return ""


def _little(vector: Vector) -> npt.NDArray[np.float32]:
    return vector.astype("<f4", copy=False)
