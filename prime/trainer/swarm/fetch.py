"""What to ask whom for: the plan of a fetch of one state from several donors at once. Pure.

First the pages of chunk hashes, each checked against the manifest; then the chunks, each checked against its hash and
written straight into the place where it stays. Chunks are named by hash, so one that occurs often (slots of zeros) is
fetched once. How the pieces are spread over the donors, `prime.dht.blob.sharing` decides. The plan keeps no time: its
shell puts a deadline on every request, reports `Failed`, and says how long an answer took.
"""

from __future__ import annotations

import hashlib

import attrs
import numpy as np

from prime.dht.blob.sharing import Sharing
from prime.trainer.round.messages import StateManifest
from prime.trainer.swarm.state import (
    CHUNK_SIZE_BYTES,
    HASH_SIZE_BYTES,
    PAGE_CHUNKS,
    OuterState,
    chunk_count,
    chunk_size_bytes,
    page_count,
    state_from,
    state_size_bytes,
)


@attrs.frozen
class Piece:
    """A page of chunk hashes, or a chunk, by its number."""

    number: int
    is_page: bool = False


@attrs.frozen
class DonorFound:
    """This peer holds the state of the manifest and will serve it."""

    donor: str


@attrs.frozen
class Arrived:
    """The donor answered a request with these bytes, after so long."""

    donor: str
    piece: Piece
    data: bytes | memoryview
    seconds: float = 0.0


@attrs.frozen
class Failed:
    """A request got no answer, or a refusal: the donor is gone, or has moved on."""

    donor: str
    piece: Piece


@attrs.frozen
class Request:
    """Ask that donor for that piece."""

    donor: str
    piece: Piece


@attrs.frozen
class Dropped:
    """Ask this donor for nothing more; another may take its place."""

    donor: str
    reason: str


@attrs.frozen
class Complete:
    """Every chunk is here and matches its hash."""


@attrs.frozen
class Exhausted:
    """No donor is left, and so many pieces are missing: find another donor, or give up."""

    missing: int


Event = DonorFound | Arrived | Failed
Command = Request | Dropped | Complete | Exhausted


class FetchPlan:
    """The one way in is `step`. Good chunks collect in one buffer of the state's size.

    `earlier` is the plan of a fetch that was broken off, of this state or another one of the same size: its buffer is
    taken over with every chunk that the new state has in the same place, and it must not be used any more.
    """

    def __init__(self, manifest: StateManifest, earlier: FetchPlan | None = None) -> None:
        self.manifest = manifest
        self._pages: dict[int, tuple[bytes, ...]] = {}
        self._here: dict[int, bytes] = {}
        """Chunks that stand in the buffer, with their hashes."""
        self._kept: dict[int, bytes] = {}
        """What an earlier fetch left in the buffer: good for this state where its hash is the same."""
        self._places: dict[bytes, list[int]] = {}
        self._sharing: Sharing[Piece] = Sharing(lambda piece: (not piece.is_page, piece.number))
        self._buffer = self._taken_over(earlier)
        self._sharing.want(Piece(page, is_page=True) for page in range(self._page_count) if page not in self._pages)

    def _taken_over(self, earlier: FetchPlan | None) -> np.ndarray:
        size = state_size_bytes(self.manifest.elements, self.manifest.slots)
        if earlier is None or earlier._buffer.nbytes != size:  # noqa: SLF001 - its successor
            return np.empty(size, np.uint8)
        self._kept = {**earlier._kept, **earlier._here}  # noqa: SLF001
        if earlier.manifest.state_hash == self.manifest.state_hash:
            self._sharing.refused = earlier._sharing.refused  # noqa: SLF001
        return earlier._buffer  # noqa: SLF001

    @property
    def _page_count(self) -> int:
        return page_count(self.manifest.elements, self.manifest.slots)

    @property
    def chunks(self) -> int:
        """Return how many chunks the state has."""
        return chunk_count(self.manifest.elements, self.manifest.slots)

    @property
    def here(self) -> int:
        """Return how many of them are here."""
        return len(self._here)

    @property
    def is_complete(self) -> bool:
        """Tell whether every chunk is here."""
        return len(self._here) == self.chunks

    @property
    def donors(self) -> tuple[str, ...]:
        """Return the donors in use."""
        return self._sharing.sources

    def state(self) -> OuterState:
        """Return the state, which is complete; it lies in the plan's own buffer."""
        return state_from(self.manifest, self._buffer.data)

    def step(self, event: Event) -> list[Command]:
        """Take one event, return what to do next. A donor that was dropped can still bring what it was asked for."""
        if isinstance(event, DonorFound):
            self._sharing.add(event.donor)
            return self._go_on([])
        sharing, donor = self._sharing, event.donor
        if isinstance(event, Arrived) and donor not in sharing.sources and donor not in sharing.refused:
            self._take_piece(event)
            return self._go_on([])
        if not sharing.was_asked(donor, event.piece):
            return []
        if isinstance(event, Failed):
            return self._drop(donor, "it does not answer, or holds this state no more", for_good=False)
        return self._take(event)

    def _take(self, event: Arrived) -> list[Command]:
        if not self._take_piece(event):
            what = "page" if event.piece.is_page else "chunk"
            reason = f"{what} {event.piece.number} is not what its hash names ({len(event.data)} bytes)"
            return self._drop(event.donor, reason, for_good=True)
        self._sharing.answered(event.donor, event.piece, event.seconds)
        return self._go_on([])

    def _take_piece(self, event: Arrived) -> bool:
        return self._take_page(event) if event.piece.is_page else self._take_chunk(event)

    def _take_page(self, event: Arrived) -> bool:
        page, data = event.piece.number, bytes(event.data)
        if page in self._pages:
            return True  # somebody was quicker
        count = min(PAGE_CHUNKS, self.chunks - page * PAGE_CHUNKS)
        if len(data) != count * HASH_SIZE_BYTES or hashlib.sha256(data).digest() != self.manifest.page_hashes[page]:
            return False
        hashes = tuple(data[at : at + HASH_SIZE_BYTES] for at in range(0, len(data), HASH_SIZE_BYTES))
        self._pages[page] = hashes
        for index, digest in enumerate(hashes, page * PAGE_CHUNKS):
            self._want(index, digest)
        return True

    def _want(self, index: int, digest: bytes) -> None:
        if self._kept.get(index) == digest:
            self._here[index] = digest
            return
        places = self._places.setdefault(digest, [])
        places.append(index)
        if len(places) == 1:
            self._sharing.want([Piece(index)])

    def _take_chunk(self, event: Arrived) -> bool:
        index = event.piece.number
        digest = self._pages[index // PAGE_CHUNKS][index % PAGE_CHUNKS]
        if len(event.data) != chunk_size_bytes(self.manifest, index) or hashlib.sha256(event.data).digest() != digest:
            return False
        data = np.frombuffer(event.data, np.uint8)
        for place in self._places.pop(digest, ()):
            start = place * CHUNK_SIZE_BYTES
            self._kept.pop(place, None)
            self._buffer[start : start + data.size] = data
            self._here[place] = digest
        return True

    def _drop(self, donor: str, reason: str, *, for_good: bool) -> list[Command]:
        self._sharing.drop(donor, for_good=for_good)
        return self._go_on([Dropped(donor, reason)])

    def _go_on(self, commands: list[Command]) -> list[Command]:
        if self.is_complete:
            return [*commands, Complete()]
        commands += [Request(donor, piece) for donor, piece in self._sharing.requests(self._has)]
        if not self._sharing.sources:
            commands.append(Exhausted(self.chunks - self.here))
        return commands

    def _has(self, piece: Piece) -> bool:
        return piece.number in (self._pages if piece.is_page else self._here)
