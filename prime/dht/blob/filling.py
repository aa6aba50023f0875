"""The filling of a draft: the plan's commands carried out over the network and on the disk, with a deadline on each.

What to ask whom for is decided in `plan.py`; here are the tasks. Pieces are hashed and written in worker threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from prime.dht.blob.causes import Causes
from prime.dht.blob.keeper import BlobKeeper
from prime.dht.blob.messages import KEEPER_PATH, PIECE_S, FetchBlobChunk, FetchBlobNode
from prime.dht.blob.plan import (
    Arrived,
    BlobPlan,
    Command,
    Complete,
    Dropped,
    Exhausted,
    Failed,
    Look,
    Piece,
    ProviderFound,
    Request,
    Seen,
)
from prime.errors import WorldError
from prime.store.draft import Draft
from prime.store.manifest import ContentId

if TYPE_CHECKING:
    from prime.actor import Ref, System

PROVIDERS_MAX: Final = 6
"""Providers that are asked at a time; the others stand by."""
SEARCH_S: Final = 30.0
"""Between two searches for further providers while some are at work."""
PAUSE_S: Final = 1.0
PAUSE_S_MAX: Final = 10.0
"""Between two searches while none is: twice as long each time."""

HOPELESS_S: Final = 3.0
"""How long it is looked for others where all providers have said that they do not have it, or have sent something else."""

Find = Callable[[], Awaitable[Sequence[str]]]
"""Returns the peers that say that they have the blob; the links know where they are."""


@attrs.frozen
class FetchProgress:
    """How far a fetch is: `here_bytes` of `size_bytes` are on the disk, `kept_bytes` of them from before.

    `sent` is what came from each provider.
    """

    content: ContentId
    size_bytes: int
    here_bytes: int
    kept_bytes: int
    sent: tuple[tuple[str, int], ...]


class Filling:
    """Fills one draft, once. `first` are providers known already, `find` looks for more."""

    def __init__(
        self,
        system: System,
        draft: Draft,
        first: Sequence[str],
        find: Find,
        causes: Causes,
        *,
        on_progress: Callable[[FetchProgress], None],
        patience_s: float,
    ) -> None:
        self._system = system
        self._draft = draft
        self._find = find
        self._causes = causes
        self._on_progress = on_progress
        self._patience_s = patience_s
        self._plan = BlobPlan(draft.manifest)
        self._known = set(first)
        self._working = set(first)
        self._ready = deque(first)
        self._sent: dict[str, int] = {}
        self._starving = trio.Event()
        self._came_at = trio.current_time()
        self._failure: WorldError | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self) -> FetchProgress:
        """Bring every chunk into the draft. Raises `WorldError`: the disk's, or why no provider is left."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._carry_out(self._plan.start())
            nursery.start_soon(self._search)
        if self._failure is not None:
            raise self._failure
        return self._tell()

    def _tell(self) -> FetchProgress:
        plan, sent = self._plan, tuple(self._sent.items())
        content, size_bytes = plan.manifest.content, plan.manifest.size_bytes
        progress = FetchProgress(content, size_bytes, plan.here_bytes, plan.kept_bytes, sent)
        self._on_progress(progress)
        return progress

    def _end(self, failure: WorldError | None = None) -> None:
        self._failure = self._failure or failure
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()  # a provider that hangs is not worth waiting for

    # ------------------------------------------------------------------------------------------------ the providers

    async def _search(self) -> None:
        """Look for providers: at first, when none is left, and after a while; until patience ends."""
        pause_s = PAUSE_S
        if not self._known:
            await self._meet_more()
        while True:
            self._employ()
            with trio.move_on_after(SEARCH_S):
                await self._starving.wait()
            if self._starving.is_set():
                patience_s = self._patience_s if self._causes.may_pass else min(self._patience_s, HOPELESS_S)
                if not self._known:
                    patience_s = 0
                if trio.current_time() - self._came_at >= patience_s:
                    self._end(self._causes.error())
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
                self._working.clear()  # who left may be back
                self._starving = trio.Event()
            await self._meet_more()

    async def _meet_more(self) -> None:
        try:
            found = await self._find()
        except WorldError as error:
            self._causes.failed("the search for providers", error)
            return
        fresh = [peer for peer in found if peer not in self._working]
        self._ready.extend(fresh)
        self._working.update(fresh)
        self._known.update(fresh)

    def _employ(self) -> None:
        """Let further providers take part, as long as there are places."""
        while self._ready and len(self._plan.providers) < PROVIDERS_MAX:
            self._carry_out(self._plan.step(ProviderFound(self._ready.popleft())))
        if self._plan.is_exhausted:
            self._starving.set()

    # --------------------------------------------------------------------------------------------------- the pieces

    def _carry_out(self, commands: list[Command]) -> None:
        assert self._nursery is not None  # noqa: S101 - opened by `run`
        for command in commands:
            match command:
                case Look(node):
                    self._nursery.start_soon(self._look, node)
                case Request():
                    self._nursery.start_soon(self._request, command)
                case Dropped(provider, reason, for_good):
                    if for_good:
                        self._causes.lied(provider, reason)
                case Complete():
                    self._end()
                case Exhausted():
                    self._starving.set()

    async def _look(self, node: Piece) -> None:
        draft = self._draft
        try:
            is_here = node.level > draft.manifest.levels or await draft.has_node(node.level, node.number)
            missing = await draft.missing(node.number) if is_here and node.level == 1 else []
        except WorldError as error:
            self._end(error)
            return
        self._carry_out(self._plan.step(Seen(node, is_here, tuple(missing))))
        self._tell()

    async def _request(self, wish: Request) -> None:
        started = trio.current_time()
        try:
            data = await self._asked(wish)
        except WorldError as error:
            self._causes.failed(wish.provider, error)
            self._carry_out(self._plan.step(Failed(wish.provider, wish.piece, str(error))))
        else:
            await self._take(wish, data, trio.current_time() - started)
        self._employ()

    async def _asked(self, wish: Request) -> memoryview:
        ref: Ref[Any] = self._system.ref(wish.provider, KEEPER_PATH, BlobKeeper)
        content, piece = self._draft.manifest.content, wish.piece
        if piece.level:
            node = await ref.ask(FetchBlobNode(content, piece.level, piece.number), timeout=PIECE_S)
            return memoryview(node.hashes)
        chunk = await ref.ask(FetchBlobChunk(content, piece.number), timeout=PIECE_S)
        return memoryview(chunk.data)

    async def _take(self, wish: Request, data: memoryview, seconds: float) -> None:
        piece, draft = wish.piece, self._draft
        try:
            if piece.level:
                is_right = await draft.put_node(piece.level, piece.number, data)
            else:
                is_right = await draft.put_chunk(piece.number, data)
        except WorldError as error:  # the disk's
            self._end(error)
            return
        if is_right:
            self._sent[wish.provider] = self._sent.get(wish.provider, 0) + len(data)
            self._came_at = trio.current_time()
        self._carry_out(self._plan.step(Arrived(wish.provider, piece, is_right, seconds)))
        self._tell()
