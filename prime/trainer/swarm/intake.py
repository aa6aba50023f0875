"""What comes in is hashed, checked and decoded beside the mailbox, in the order in which it came."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from prime.errors import DecodeError
from prime.trainer.round import messages as msg
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.parts import Assembly, digest
from prime.trainer.swarm.stock import Key, Stock
from prime.trainer.swarm.work import BATCH_CHUNKS, compute


@attrs.frozen(eq=False)
class Arrival:
    """A chunk that came."""

    stock: Stock
    key: Key
    index: int
    assembly: Assembly
    data: memoryview

    @property
    def cut(self) -> slice:
        """Return which slice of the vector it is."""
        return self.stock.chunks[self.key[0]][self.index]


class Intake:
    """One node's intake. `on_whole` hears of each part that is complete, `on_bad` of each that no codec wrote.

    `on_reduced` hears of each chunk of a reduced part that is one.
    """

    def __init__(
        self,
        numbers: Numbers[Any],
        on_whole: Callable[[Stock, Key, Assembly], Awaitable[None]],
        on_bad: Callable[[Stock, Key, DecodeError], None],
        on_reduced: Callable[[Stock, Key, memoryview, bytes], None],
    ) -> None:
        self._numbers = numbers
        self._on_whole = on_whole
        self._on_bad = on_bad
        self._on_reduced = on_reduced
        self._heard: dict[str, float] = {}
        self._arrivals: deque[Arrival] = deque()
        self._news = trio.Event()

    def take(self, stock: Stock, chunk: msg.Chunk, now: float) -> None:
        """Store a chunk, and queue it if it is new: each at most once, so the stock's bound is the queue's."""
        self._heard[chunk.sender] = now
        key = (chunk.part, chunk.seal, chunk.sender)
        try:
            is_new = stock.put(key, chunk.index, chunk.data)
        except DecodeError as error:
            self._on_bad(stock, key, error)
            return
        if is_new:
            self._arrivals.append(Arrival(stock, key, chunk.index, stock.held(key), chunk.data))
            self._news.set()

    def is_quiet(self, peer: str, now: float, for_s: float) -> bool:
        """Tell whether no chunk has come from a peer for so long."""
        return now - self._heard.get(peer, float("-inf")) >= for_s

    def forget(self, peer: str) -> None:
        """Take a peer that is gone as quiet."""
        self._heard.pop(peer, None)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while self._arrivals:
                await self._digest()
            self._news = trio.Event()
            await self._news.wait()

    async def _digest(self) -> None:
        batch = [self._arrivals.popleft() for _ in range(min(BATCH_CHUNKS, len(self._arrivals)))]
        for stock in {arrival.stock for arrival in batch if arrival.key[1]}:
            stock.ahead_in(self._numbers)
        elements = sum(arrival.cut.stop - arrival.cut.start for arrival in batch)
        work: Callable[[], list[bytes | DecodeError]] = functools.partial(list, map(self._proved, batch))
        for arrival, proof in zip(batch, await compute(work, self._numbers.size_bytes(elements)), strict=True):
            await self._note(arrival, proof)

    def _proved(self, arrival: Arrival) -> bytes | DecodeError:
        """Return the chunk's hash, or why it is none."""
        try:
            if arrival.key[1]:
                assert arrival.stock.ahead is not None  # noqa: S101 - made before the batch
                arrival.stock.ahead.decode(arrival.key, arrival.index, arrival.data, arrival.cut)
            else:
                self._numbers.check(arrival.data, arrival.cut)
        except DecodeError as error:
            return error
        return digest(arrival.data)

    async def _note(self, arrival: Arrival, proof: bytes | DecodeError) -> None:
        assembly = arrival.assembly
        if assembly.refused:
            return
        if isinstance(proof, DecodeError):
            assembly.refuse()
            self._on_bad(arrival.stock, arrival.key, proof)
            return
        assembly.hashes[arrival.index] = proof
        if arrival.key[1]:
            self._on_reduced(arrival.stock, arrival.key, arrival.data, proof)
        if assembly.is_whole:
            await self._on_whole(arrival.stock, arrival.key, assembly)
