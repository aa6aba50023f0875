"""What to ask whom for: the plan of a fetch of one state from several donors at once. Pure.

First the pages of chunk hashes, each checked against the manifest; then the chunks, each checked against its hash and
written straight into the place where it stays. Chunks are named by hash, so one that occurs often (slots of zeros) is
fetched once. A donor that leaves takes nothing with it: what it had not delivered is asked of the others. A donor that
sends a wrong piece is dropped for good. Whoever answers fast is asked for more at a time, and at the end what only slow
donors have still to bring is asked of an idle one too. The plan keeps no time: its shell puts a deadline on every
request, reports `Failed`, and says how long an answer took.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

import attrs
import numpy as np

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

WINDOW: Final = 2
"""Requests that a donor has in flight at first."""
WINDOW_MAX: Final = 16
"""And at most: donors refuse more (`donor.py`)."""
QUICK_S: Final = 1.0
"""An answer within this lets the donor have one request more in flight; a later one takes one away."""


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


@attrs.define
class _Donor:
    window: int = WINDOW
    asked: set[Piece] = attrs.Factory(set)


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
        self._waiting: deque[Piece] = deque()
        self._donors: dict[str, _Donor] = {}
        self._refused: set[str] = set()
        self._buffer = self._taken_over(earlier)
        self._waiting.extend(Piece(page, is_page=True) for page in range(self._page_count) if page not in self._pages)

    def _taken_over(self, earlier: FetchPlan | None) -> np.ndarray:
        size = state_size_bytes(self.manifest.elements, self.manifest.slots)
        if earlier is None or earlier._buffer.nbytes != size:  # noqa: SLF001 - its successor
            return np.empty(size, np.uint8)
        self._kept = {**earlier._kept, **earlier._here}  # noqa: SLF001
        if earlier.manifest.state_hash == self.manifest.state_hash:
            self._refused = earlier._refused  # noqa: SLF001
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
        return tuple(self._donors)

    def state(self) -> OuterState:
        """Return the state, which is complete; it lies in the plan's own buffer."""
        return state_from(self.manifest, self._buffer.data)

    def step(self, event: Event) -> list[Command]:
        """Take one event, return what to do next. A donor that was dropped can still bring what it was asked for."""
        if isinstance(event, DonorFound):
            if event.donor not in self._refused:
                self._donors.setdefault(event.donor, _Donor())
            return self._go_on([])
        donor = self._donors.get(event.donor)
        if isinstance(event, Arrived) and donor is None and event.donor not in self._refused:
            self._take_piece(event)
            return self._go_on([])
        if donor is None or event.piece not in donor.asked:
            return []
        if isinstance(event, Failed):
            return self._drop(event.donor, "it does not answer, or holds this state no more", for_good=False)
        return self._take(donor, event)

    def _take(self, donor: _Donor, event: Arrived) -> list[Command]:
        if not self._take_piece(event):
            what = "page" if event.piece.is_page else "chunk"
            reason = f"{what} {event.piece.number} is not what its hash names ({len(event.data)} bytes)"
            return self._drop(event.donor, reason, for_good=True)
        donor.asked.discard(event.piece)
        quick = event.seconds <= QUICK_S
        donor.window = min(donor.window + 1, WINDOW_MAX) if quick else max(donor.window - 1, 1)
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
            self._waiting.append(Piece(index))

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
        left = self._donors.pop(donor).asked
        elsewhere = {piece for other in self._donors.values() for piece in other.asked}
        self._waiting.extendleft(sorted(left - elsewhere, key=lambda piece: (piece.is_page, -piece.number)))
        if for_good:
            self._refused.add(donor)
        return self._go_on([Dropped(donor, reason)])

    def _go_on(self, commands: list[Command]) -> list[Command]:
        if self.is_complete:
            return [*commands, Complete()]
        while self._waiting and (name := self._least_busy()) is not None:
            piece = self._waiting.popleft()
            if not self._has(piece):
                self._ask(name, piece, commands)
        if not self._waiting:
            self._hurry(commands)
        if not self._donors:
            commands.append(Exhausted(self.chunks - self.here))
        return commands

    def _ask(self, name: str, piece: Piece, commands: list[Command]) -> None:
        self._donors[name].asked.add(piece)
        commands.append(Request(name, piece))

    def _hurry(self, commands: list[Command]) -> None:
        """Ask idle donors too for what others have still to bring: the last pieces wait for no slow donor."""
        for name, donor in self._donors.items():
            if donor.asked:
                continue
            late = [p for other in self._donors.values() for p in other.asked if not self._has(p)]
            alone = [piece for piece in late if late.count(piece) == 1]
            for piece in alone[-donor.window :]:
                self._ask(name, piece, commands)

    def _has(self, piece: Piece) -> bool:
        return piece.number in (self._pages if piece.is_page else self._here)

    def _least_busy(self) -> str | None:
        free = [name for name, donor in self._donors.items() if len(donor.asked) < donor.window]
        return min(free, key=lambda name: len(self._donors[name].asked), default=None)
