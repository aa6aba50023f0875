"""What an owner makes of the contributions to its part: their inner products, and the reduced part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from prime.errors import DecodeError, LocalProtocolError
from prime.trainer.robust.gram import added
from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round.view import Share
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.parts import Assembly, digest
from prime.trainer.swarm.stock import Ahead, Key, Stock
from prime.trainer.swarm.work import batches, compute

Made = tuple[int, memoryview, bytes]
"""Number, bytes and hash of a chunk that was reduced."""


class Reduction:
    """How one owner reduces, by the run's rule. `on_chunk` hears of each chunk of a reduced part when it is made."""

    def __init__(
        self, numbers: Numbers[Any], rule: Rule, on_chunk: Callable[[Stock, Key, memoryview, bytes], None]
    ) -> None:
        self._numbers = numbers
        self._rule = rule
        self._on_chunk = on_chunk

    async def multiply(self, stock: Stock, command: cmd.Multiply) -> cmd.GramReady:
        """Return the inner products over a part: the sum of its chunks', in their order. Raises `DecodeError`."""
        inputs = _contributions(stock, command.part, command.shares)
        found: list[list[float]] = []
        for index, cut in enumerate(stock.chunks[command.part]):
            work = functools.partial(self._numbers.multiply, [one.found[index] for one in inputs], cut)
            found.append(await compute(work, self._numbers.size_bytes(cut.stop - cut.start) * len(inputs)))
        return cmd.GramReady(command.round, command.part, command.seal, tuple(added(len(inputs), found)))

    async def reduce(self, stock: Stock, command: cmd.Reduce, key: Key, result: Assembly) -> cmd.Reduced:
        """Reduce a part into `result`, chunk by chunk; its bytes are known by `key` from the first one on.

        Raises `DecodeError` and `LocalProtocolError` for what cannot be reduced: then nobody waits for the rest.
        """
        try:
            await self._make(stock, command, key, result)
        except (DecodeError, LocalProtocolError):
            result.refuse()
            stock.grow()
            raise
        stock.learn(command.part, command.seal, result.encoded(), result.digest())
        return cmd.Reduced(command.round, command.part, command.seal, result.digest())

    async def _make(self, stock: Stock, command: cmd.Reduce, key: Key, result: Assembly) -> None:
        inputs = _contributions(stock, command.part, command.shares)
        weights = [share.counts for share in command.shares]
        ahead = stock.ahead_in(self._numbers)
        for batch in batches(range(result.count)):
            size_bytes = self._numbers.size_bytes(_elements(stock.chunks[command.part][batch[0] : batch[-1] + 1]))
            work = functools.partial(self._reduced, stock, ahead, key, inputs, weights, batch)
            for index, data, hash_ in await compute(work, size_bytes):
                result.add(index, data)
                result.hashes[index] = hash_
                self._on_chunk(stock, key, data, hash_)
            stock.grow()

    def _reduced(
        self, stock: Stock, ahead: Ahead, key: Key, inputs: list[Assembly], weights: list[float], batch: tuple[int, ...]
    ) -> list[Made]:
        made = []
        for index in batch:
            cut = stock.chunks[key[0]][index]
            data = self._numbers.reduce([one.found[index] for one in inputs], weights, cut, self._rule)
            ahead.decode(key, index, data, cut)
            made.append((index, data, digest(data)))
        return made


def _contributions(stock: Stock, part: int, shares: Sequence[Share]) -> list[Assembly]:
    return [stock.contributions[part, share.peer] for share in shares]


def _elements(cuts: Sequence[slice]) -> int:
    return sum(cut.stop - cut.start for cut in cuts)
