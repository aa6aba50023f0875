"""What to ask whom for: the plan of a fetch of one blob from several providers at once. Pure.

It walks the tree from its top, depth first. Each node is looked for on the disk, then asked for; of a node over chunks the
disk says which chunks are missing, and those are asked for. Only a few such pages are open at a time, so a terabyte needs
no more memory than a gigabyte. How pieces are spread over providers, `sharing.py` decides. No byte comes by here: who
carries the commands out checks each piece against its hash, in a thread, and says whether it was right.
"""

from __future__ import annotations

from typing import Final

import attrs

from prime.dht.blob.sharing import Sharing
from prime.store.manifest import FANOUT, Manifest

PAGES_OPEN: Final = 3
"""Pages of chunks in hand at a time: the last chunks of one do not hold up the next."""


@attrs.frozen
class Piece:
    """A node of the tree, or, at level 0, a chunk."""

    level: int
    number: int


@attrs.frozen
class ProviderFound:
    """This peer says that it has the blob."""

    provider: str


@attrs.frozen
class Seen:
    """The answer to `Look`: whether the node is on the disk; if so, at level 1, which of its chunks are not."""

    node: Piece
    is_here: bool
    missing: tuple[int, ...] = ()


@attrs.frozen
class Arrived:
    """The provider answered after so long, and what it sent was right and is on the disk, or was wrong."""

    provider: str
    piece: Piece
    is_right: bool
    seconds: float = 0.0


@attrs.frozen
class Failed:
    """A request got no answer, or a refusal."""

    provider: str
    piece: Piece
    why: str = ""


@attrs.frozen
class Look:
    """Look whether this node is on the disk."""

    node: Piece


@attrs.frozen
class Request:
    """Ask that provider for that piece."""

    provider: str
    piece: Piece


@attrs.frozen
class Dropped:
    """Ask this provider for nothing more; with `for_good`, never again."""

    provider: str
    reason: str
    for_good: bool


@attrs.frozen
class Complete:
    """Every chunk is on the disk."""


@attrs.frozen
class Exhausted:
    """No provider is left: find another one, or give up."""


Event = ProviderFound | Seen | Arrived | Failed
Command = Look | Request | Dropped | Complete | Exhausted


class BlobPlan:
    """The one way in is `step`; `start` gives the first commands."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.here_bytes = 0
        """How much of the blob is on the disk, as far as it was looked through."""
        self.kept_bytes = 0
        """How much of that was there before."""
        self._sharing: Sharing[Piece] = Sharing(lambda piece: (-piece.level, piece.number))
        self._ahead: list[tuple[int, range]] = [] if not manifest.chunks else [(max(1, manifest.levels), range(1))]
        """Nodes still to be looked at, by level; the last entry first."""
        self._looking: set[Piece] = set()
        self._nodes: set[Piece] = set()
        """Nodes that are asked for."""
        self._missing: dict[int, set[int]] = {}
        """Chunks that are asked for, by page."""

    @property
    def is_complete(self) -> bool:
        """Tell whether every chunk is here."""
        return not (self._ahead or self._looking or self._nodes or self._missing)

    @property
    def is_exhausted(self) -> bool:
        """Tell whether nothing more comes, as no provider is left."""
        return not (self.is_complete or self._sharing.sources or self._looking)

    @property
    def providers(self) -> tuple[str, ...]:
        """Return the providers in use."""
        return self._sharing.sources

    @property
    def refused(self) -> frozenset[str]:
        """Return the providers that sent something wrong."""
        return frozenset(self._sharing.refused)

    def start(self) -> list[Command]:
        """Return what to do first."""
        return self._go_on([])

    def step(self, event: Event) -> list[Command]:
        """Take one event, return what to do next."""
        match event:
            case ProviderFound():
                self._sharing.add(event.provider)
                return self._go_on([])
            case Seen():
                self._see(event)
                return self._go_on([])
            case Failed():
                if not self._sharing.was_asked(event.provider, event.piece):
                    return []
                return self._drop(event.provider, event.why or "it does not answer", for_good=False)
        return self._take(event)

    def _see(self, seen: Seen) -> None:
        node = seen.node
        self._looking.discard(node)
        if not seen.is_here:
            self._nodes.add(node)
            self._sharing.want_first([node])
        elif node.level > 1:
            children = range(
                node.number * FANOUT, min((node.number + 1) * FANOUT, self.manifest.counts[node.level - 1])
            )
            self._ahead.append((node.level - 1, children))
        else:
            self._open(node.number, seen.missing)

    def _open(self, page: int, missing: tuple[int, ...]) -> None:
        size = self.manifest.chunk_size_bytes
        absent = set(missing)
        kept = sum(size(index) for index in self.manifest.chunks_of(page) if index not in absent)
        self.kept_bytes += kept
        self.here_bytes += kept
        if absent:
            self._missing[page] = absent
            self._sharing.want(Piece(0, index) for index in missing)

    def _take(self, event: Arrived) -> list[Command]:
        """Take what came; also of a provider that was dropped since, as it is right."""
        piece, is_awaited = event.piece, self._sharing.was_asked(event.provider, event.piece)
        if not event.is_right:
            what = f"chunk {piece.number}" if not piece.level else f"node {piece.number} of level {piece.level}"
            reason = f"{what} is not what its hash names"
            return self._drop(event.provider, reason, for_good=True) if is_awaited else []
        if is_awaited:
            self._sharing.answered(event.provider, piece, event.seconds)
        commands: list[Command] = []
        if piece in self._nodes:
            self._nodes.discard(piece)
            self._look(piece, commands)
        elif not piece.level:
            self._chunk_came(piece.number)
        return self._go_on(commands)

    def _chunk_came(self, index: int) -> None:
        page = index // FANOUT
        missing = self._missing.get(page, set())
        if index in missing:  # else somebody was quicker
            missing.discard(index)
            self.here_bytes += self.manifest.chunk_size_bytes(index)
            if not missing:
                del self._missing[page]

    def _drop(self, provider: str, reason: str, *, for_good: bool) -> list[Command]:
        self._sharing.drop(provider, for_good=for_good)
        return self._go_on([Dropped(provider, reason, for_good)])

    def _go_on(self, commands: list[Command]) -> list[Command]:
        while self._ahead and len(self._missing) + len(self._looking) + len(self._nodes) < PAGES_OPEN:
            level, left = self._ahead.pop()
            if len(left) > 1:
                self._ahead.append((level, left[1:]))
            self._look(Piece(level, left[0]), commands)
        if self.is_complete:
            return [*commands, Complete()]
        commands += [Request(provider, piece) for provider, piece in self._sharing.requests(self._has)]
        if self.is_exhausted:
            commands.append(Exhausted())
        return commands

    def _look(self, node: Piece, commands: list[Command]) -> None:
        self._looking.add(node)
        commands.append(Look(node))

    def _has(self, piece: Piece) -> bool:
        if piece.level:
            return piece not in self._nodes
        return piece.number not in self._missing.get(piece.number // FANOUT, ())
