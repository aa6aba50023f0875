"""Which chunk of a state to ask whom for: the plan of a fetch from several donors at once. Pure.

Chunks are named by their hash, so a chunk that occurs twice (a momentum of zeros) is fetched once. A donor that leaves
takes nothing with it: what it had not delivered is asked of the others. A donor that sends a wrong chunk is dropped
for good. The plan keeps no time: its shell puts a deadline on every request and reports `Failed`.
"""

from __future__ import annotations

import hashlib
from collections import deque

import attrs

from prime.trainer.round.messages import StateManifest
from prime.trainer.swarm.state import chunk_size_bytes


@attrs.frozen
class DonorFound:
    """This peer holds the state of the manifest and will serve it."""

    donor: str


@attrs.frozen
class Arrived:
    """The donor answered a request with these bytes."""

    donor: str
    index: int
    data: bytes | memoryview


@attrs.frozen
class Failed:
    """A request got no answer, or a refusal: the donor is gone, or has moved on."""

    donor: str
    index: int


@attrs.frozen
class Request:
    """Ask that donor for that chunk."""

    donor: str
    index: int


@attrs.frozen
class Dropped:
    """Ask this donor for nothing more."""

    donor: str
    reason: str


@attrs.frozen
class Complete:
    """Every chunk is here and matches its hash."""


@attrs.frozen
class Exhausted:
    """No donor is left, and chunks are missing: find another donor, or give up."""

    missing: int


Event = DonorFound | Arrived | Failed
Command = Request | Dropped | Complete | Exhausted


class FetchPlan:
    """The one way in is `step`. Good chunks collect in `chunks` by hash, also over a change of donors.

    `window` is how many requests one donor has in flight. Chunks of an earlier, broken-off fetch may be passed in.
    """

    def __init__(
        self, manifest: StateManifest, window: int = 4, chunks: dict[bytes, bytes | memoryview] | None = None
    ) -> None:
        self.manifest = manifest
        self.window = window
        self.chunks: dict[bytes, bytes | memoryview] = {}
        known = chunks or {}
        self._index_of = {digest: index for index, digest in reversed(list(enumerate(manifest.chunk_hashes)))}
        for digest in self._index_of.keys() & known.keys():
            self.chunks[digest] = known[digest]
        self._waiting = deque(sorted(i for digest, i in self._index_of.items() if digest not in self.chunks))
        self._asked: dict[str, set[int]] = {}  # live donors and what each is asked for
        self._refused: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Tell whether every chunk is here."""
        return len(self.chunks) == len(self._index_of)

    @property
    def donors(self) -> tuple[str, ...]:
        """Return the donors in use."""
        return tuple(self._asked)

    def step(self, event: Event) -> list[Command]:
        """Take one event, return what to do next. Events of a donor that was dropped change nothing."""
        if isinstance(event, DonorFound):
            if event.donor not in self._refused:
                self._asked.setdefault(event.donor, set())
            return self._go_on([])
        if event.index not in self._asked.get(event.donor, ()):
            return []
        if isinstance(event, Failed):
            return self._drop(event.donor, "it does not answer", for_good=False)
        return self._take(event)

    def _take(self, event: Arrived) -> list[Command]:
        digest = self.manifest.chunk_hashes[event.index]
        if hashlib.sha256(event.data).digest() != digest:
            size = chunk_size_bytes(self.manifest, event.index)
            reason = f"chunk {event.index} is not what its hash names ({len(event.data)} of {size} bytes)"
            return self._drop(event.donor, reason, for_good=True)
        self._asked[event.donor].discard(event.index)
        self.chunks[digest] = event.data
        return self._go_on([])

    def _drop(self, donor: str, reason: str, *, for_good: bool) -> list[Command]:
        self._waiting.extendleft(sorted(self._asked.pop(donor), reverse=True))
        if for_good:
            self._refused.add(donor)
        return self._go_on([Dropped(donor, reason)])

    def _go_on(self, commands: list[Command]) -> list[Command]:
        if self.is_complete:
            return [*commands, Complete()]
        while self._waiting and (idle := self._least_busy()) is not None:
            index = self._waiting.popleft()
            self._asked[idle].add(index)
            commands.append(Request(idle, index))
        if not self._asked:
            commands.append(Exhausted(len(self._index_of) - len(self.chunks)))
        return commands

    def _least_busy(self) -> str | None:
        free = [donor for donor, asked in self._asked.items() if len(asked) < self.window]
        return min(free, key=lambda donor: len(self._asked[donor]), default=None)
