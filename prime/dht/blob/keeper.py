"""The keeper: the actor that serves the blobs of this node's store to those who fetch them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from prime.actor import Actor, Later, on
from prime.dht.blob.content import text_of
from prime.dht.blob.messages import (
    PIECE_S,
    BlobChunk,
    BlobDescribed,
    BlobNode,
    DescribeBlob,
    FetchBlobChunk,
    FetchBlobNode,
)
from prime.dht.blob.sharing import WINDOW_MAX
from prime.dht.blob.turns import Turns
from prime.dht.rates import Rates
from prime.errors import CorruptedError, NotFoundError, PrimeError, RefusedError
from prime.store.blobs import BlobStore
from prime.store.manifest import ContentId

SUPERVISOR: Final = "blobs"
NAME: Final = "keeper"
WAITING_MAX: Final = 2 * WINDOW_MAX
"""Requests of one peer that wait; more are refused."""
PEERS_MAX: Final = 256
"""Peers served at a time."""
TOLD_S: Final = 60.0
"""How often it is told that the disk refuses a blob: whoever asks for it asks often."""
READERS: Final = 4
"""Pieces that are read and hashed at a time."""


@attrs.frozen
class BlobDamaged:
    """What was asked for is not on the disk as it was: nothing of it was sent. `why` names the file and the place."""

    content: str
    why: str


@attrs.frozen
class _Wish:
    later: Later
    read: Callable[[], Awaitable[Any]]
    content: ContentId
    since_s: float


class BlobKeeper(Actor[DescribeBlob | FetchBlobNode | FetchBlobChunk]):
    """Serves nodes and chunks, each checked as it is read, a piece of each peer in turn; the loop waits for no disk.

    `bytes_per_s` bounds what all of them together get over time; infinity: as much as they take. `on_damage` is told of
    blobs that are not as they were.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        bytes_per_s: float = float("inf"),
        on_damage: Callable[[ContentId], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._on_damage = on_damage
        self._bytes_per_s = bytes_per_s
        self._waiting: Turns[_Wish] = Turns(WAITING_MAX, PEERS_MAX)
        self._ready = trio.Semaphore(0)
        self._free_at = 0.0
        self._told = Rates(1 / TOLD_S)

    async def started(self) -> None:
        """Serve beside the mailbox."""
        for _ in range(READERS):
            self.ctx.start_soon(self._serve)

    @on(DescribeBlob)
    def describe(self, m: DescribeBlob) -> BlobDescribed:
        """Answer with the manifest of a blob that is here, whole or in part."""
        blob = self._store.find(ContentId(m.content))
        if blob is None:
            raise NotFoundError("that blob is not here", hint="ask another provider")
        return BlobDescribed(blob.manifest.packed)

    @on(FetchBlobNode)
    def fetch_node(self, m: FetchBlobNode) -> Later:
        """Answer with a node when it is this peer's turn."""
        self._store.require(ContentId(m.content), m.level, m.index)

        async def read() -> BlobNode:
            return BlobNode(memoryview(await self._store.node(ContentId(m.content), m.level, m.index)))

        return self._queued(ContentId(m.content), read)

    @on(FetchBlobChunk)
    def fetch_chunk(self, m: FetchBlobChunk) -> Later:
        """Answer with a chunk when it is this peer's turn."""
        self._store.require(ContentId(m.content), 0, m.index)

        async def read() -> BlobChunk:
            data = await self._store.chunk(ContentId(m.content), m.index)
            await self._rest(len(data))
            return BlobChunk(memoryview(data))

        return self._queued(ContentId(m.content), read)

    def _queued(self, content: ContentId, read: Callable[[], Awaitable[Any]]) -> Later:
        peer = self.ctx.sender or ""
        if not self._waiting.has_room(peer):
            raise RefusedError(
                "too many requests wait here", hint="ask for fewer pieces at a time, or another provider"
            )
        later = self.ctx.defer()
        self._waiting.add(peer, _Wish(later, read, content, self.ctx.now()))
        self._ready.release()
        return later

    async def _serve(self) -> None:
        while True:
            await self._ready.acquire()
            wish = self._waiting.next()
            if wish is not None and self.ctx.now() - wish.since_s < PIECE_S:
                await self._answer(wish)

    async def _answer(self, wish: _Wish) -> None:
        try:
            wish.later.reply(await wish.read())
        except CorruptedError as error:
            self.ctx.emit(BlobDamaged(text_of(wish.content), str(error)))
            self._on_damage(wish.content)
            wish.later.fail(NotFoundError("that blob is damaged here", hint="ask another provider"))
        except (NotFoundError, RefusedError) as error:
            wish.later.fail(error)
        except PrimeError as error:  # the disk's, whose text says where it is: that is for this node's user alone
            if self._told.take(wish.content, self.ctx.now()):
                self.ctx.emit(BlobDamaged(text_of(wish.content), str(error)))
            wish.later.fail(RefusedError("its disk refuses", hint="ask another provider"))

    async def _rest(self, size_bytes: int) -> None:
        """Keep to the rate, over all who are served."""
        now = trio.current_time()
        self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_s
        await trio.sleep(self._free_at - now)
