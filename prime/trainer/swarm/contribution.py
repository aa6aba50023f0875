"""What this node contributes: frozen for a round, encoded chunk by chunk for the owners, and settled by the outcome."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Generic, TypeVar

from prime.errors import LocalProtocolError
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.swarm.carry import Frozen, Ledgers
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.parts import Assembly, digest
from prime.trainer.swarm.plans import Contribute
from prime.trainer.swarm.stock import Stock
from prime.trainer.swarm.work import batches, compute

V = TypeVar("V")

Place = tuple[int, int, slice]
"""Part and number of a chunk, and which slice of the vector it is."""


class Contributions(Generic[V]):
    """The contributions of the member `me`, on account of its `ledgers`."""

    def __init__(self, me: str, numbers: Numbers[V], ledgers: Ledgers[V]) -> None:
        self._me = me
        self._numbers = numbers
        self._ledgers = ledgers

    def freeze(self, stock: Stock, plan: Contribute) -> Frozen[V]:
        """Return what goes out for a round; from now on its chunks are waited for in `stock.own`."""
        frozen = self._ledgers.of(plan.round).freeze(plan.round, plan.delta, plan.weight)
        stock.own = {part: Assembly(len(cuts)) for part, cuts in enumerate(stock.chunks)}
        return frozen

    def batches(self, stock: Stock) -> Iterator[tuple[Place, ...]]:
        """Yield all chunks in the order in which they are to be encoded, a few at a time."""
        return batches(in_turns(stock, stock.view.peers().index(self._me)))

    async def encode(self, stock: Stock, frozen: Frozen[V], batch: tuple[Place, ...]) -> None:
        """Encode these chunks, and wake those who wait for them. Raises `LocalProtocolError` for values without bytes."""
        size_bytes = self._numbers.size_bytes(sum(cut.stop - cut.start for _, _, cut in batch))
        work = functools.partial(self._encoded, frozen.y, batch)
        for (part, index, _), data, hash_ in await compute(work, size_bytes):
            stock.own[part].add(index, data)
            stock.own[part].hashes[index] = hash_
        stock.grow()

    def _encoded(self, y: V, batch: tuple[Place, ...]) -> list[tuple[Place, memoryview, bytes]]:
        made = []
        for place in batch:
            try:
                data = self._numbers.encode(y, place[2])
            except LocalProtocolError as error:
                raise LocalProtocolError(f"from element {place[2].start} on: {error}", hint=error.hint) from error
            made.append((place, data, digest(data)))
        return made

    def offer(self, stock: Stock, frozen: Frozen[V], base: bytes) -> msg.SignedOffer:
        """Return what is to be signed of a contribution that is encoded; with error feedback its bytes are kept for that."""
        if self._numbers.feeds_back:
            self._ledgers.of(stock.round).encoded(stock.round, tuple(stock.pieces(stock.own)))
        hashes = tuple(stock.own[part].digest() for part in range(stock.parts))
        return msg.SignedOffer(stock.view.run, stock.view.epoch, stock.round, frozen.weight, base, hashes)

    def miss(self, plan: Contribute) -> None:
        """Keep what came too late for its round: it is carried."""
        self._ledgers.of(plan.round).miss(plan.delta, plan.weight)

    async def settle(self, command: cmd.Apply | cmd.Keep | cmd.Settle | cmd.CatchUp) -> None:
        """Do what the outcome of a round is to what this member owes."""
        match command:
            case cmd.Keep(value):
                self._ledgers.of(value.round).abort(value.round)
            case cmd.Apply(value, included):
                await self._commit(value.round, included=included)
            case cmd.Settle(value, included):
                await self._settle_unseen(value.round, known=True, included=included)
            case cmd.CatchUp(round_, _, value, included):
                await self._settle_unseen(round_, known=value is not None, included=included)

    async def _settle_unseen(self, round_: int, *, known: bool, included: bool) -> None:
        frozen = self._ledgers.in_flight()
        if frozen is None:
            return
        if known and frozen.round == round_:
            await self._commit(round_, included=included)
        else:
            self._ledgers.of(frozen.round).lose(frozen.round)

    async def _commit(self, round_: int, *, included: bool) -> None:
        """Settle what is in flight; what its bytes left out is computed only now that the round took them."""
        ledger, residual = self._ledgers.of(round_), None
        frozen = ledger.frozen
        if included and frozen is not None and frozen.encoded is not None:
            elements = sum(cut.stop - cut.start for cut, _ in frozen.encoded)
            work = functools.partial(self._numbers.residual, frozen.y, frozen.encoded)
            residual = await compute(work, self._numbers.size_bytes(elements))
        ledger.commit(round_, included=included, residual=residual)


def in_turns(stock: Stock, last: int) -> Iterator[Place]:
    """Yield all chunks: the first of each part, then the second of each, so that every way out is busy at once.

    Those of part number `last`, which travel nowhere as a rule, come at the end.
    """
    parts = [part for part in range(stock.parts) if part != last]
    for index in range(max((len(stock.chunks[part]) for part in parts), default=0)):
        for part in parts:
            if index < len(stock.chunks[part]):
                yield part, index, stock.chunks[part][index]
    for index, cut in enumerate(stock.chunks[last]):
        yield last, index, cut
