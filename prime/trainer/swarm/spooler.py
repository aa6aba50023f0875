"""Reduced chunks go beside the journal while they come, so that a vote has little left to put on the disk."""

from __future__ import annotations

import functools
from collections import deque

import attrs
import trio

from prime.actor.contract import Entry, Journal, Staged, StagedRecord
from prime.errors import WorldError
from prime.trainer.round import messages as msg
from prime.trainer.round.records import head_of, write_record
from prime.trainer.swarm.parts import digest
from prime.trainer.swarm.stock import Key, Stock
from prime.trainer.swarm.work import compute

SPOOLED_BYTES_MIN = 4 << 20
"""A vote on fewer bytes is written in one go."""
BATCH_PIECES = 8
"""Chunks that go to the disk in one go; what is less waits for more, or for the vote."""


@attrs.define(eq=False)
class Spooled:
    """What of one round is staged, by hash, and what waits for it. A part is staged early from one sender alone."""

    round: int
    senders: dict[int, Key] = attrs.Factory(dict)
    staged: dict[bytes, Staged] = attrs.Factory(dict)
    waiting: deque[tuple[memoryview, bytes]] = attrs.Factory(deque)


class Spooler:
    """One node's spooler: for the newest round that it was given chunks of."""

    def __init__(self, journal: Journal) -> None:
        self.bytes_min = SPOOLED_BYTES_MIN
        self._journal = journal
        self._now = Spooled(0)
        self._lock = trio.Lock()
        self._news = trio.Event()
        self._given_up = 0

    def give_up(self, round_: int) -> None:
        """Have votes on this round written in one go: the disk refused one, and may have dropped what was staged."""
        self._given_up = round_

    def add(self, stock: Stock, key: Key, data: memoryview, hash_: bytes) -> None:
        """Queue a chunk of a reduced part, once it is checked."""
        if stock.round > self._now.round:
            self._now = Spooled(stock.round)
        now = self._now
        if stock.round == now.round and now.senders.setdefault(key[0], key) == key:
            now.waiting.append((data, hash_))
            self._news.set()

    async def run(self) -> None:
        """Work until cancelled. What the disk does not take now is tried again for the vote, whose error it is then."""
        while True:
            while len(self._now.waiting) >= BATCH_PIECES:
                await self._stage_next()
            self._news = trio.Event()
            await self._news.wait()

    async def _stage_next(self) -> None:
        async with self._lock:
            now = self._now
            batch = [
                now.waiting.popleft() for _ in range(min(BATCH_PIECES, len(now.waiting)))
            ]  # a vote took the others
            try:
                await self._stage(now, batch)
            except WorldError:
                now.waiting.clear()

    async def _stage(self, now: Spooled, pieces: list[tuple[memoryview, bytes]]) -> None:
        missing = [piece for piece in pieces if piece[1] not in now.staged]
        if missing:
            for piece in await self._journal.stage(now.round, missing):
                now.staged[piece.hash] = piece

    async def entry(self, stock: Stock, record: msg.Accepted, payloads: list[memoryview]) -> Entry:
        """Return what to append for a vote: all its bytes are staged by then, if it has many."""
        size = sum(map(len, payloads))
        if size < self.bytes_min or record.round == self._given_up:
            return write_record(record, payloads)
        async with self._lock:
            now = self._now if self._now.round == stock.round else Spooled(stock.round)
            known = stock.hashes_of(record.value.parts)
            hashes = await compute(functools.partial(list, map(digest, payloads)), size) if known is None else known
            now.waiting.clear()
            await self._stage(now, [one for one in zip(payloads, hashes, strict=True) if len(one[0])])
            pieces = tuple(now.staged[hash_] for data, hash_ in zip(payloads, hashes, strict=True) if len(data))
            return StagedRecord(head_of(record, payloads), pieces)
