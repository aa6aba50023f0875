"""The vector that a round decided, from the bytes of its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prime.trainer.round.view import Value
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.stock import Stock
from prime.trainer.swarm.work import compute


async def gather(stock: Stock, value: Value, numbers: Numbers[Any]) -> Any:
    """Return the decided vector, all of whose parts are known: most of it is decoded by now."""
    ahead, stock.ahead = stock.ahead_in(numbers), None
    parts = [
        (stock.keys_of(part, hash_), stock.known[part, hash_][1], stock.chunks[part])
        for part, hash_ in enumerate(value.parts)
    ]
    return await compute(functools.partial(ahead.finish, parts), numbers.size_bytes(stock.elements))


def later(stock: Stock, value: Value, numbers: Numbers[Any]) -> Callable[[], Any] | None:
    """Return what makes the decided vector when it is called, perhaps long after the round; `None` where bytes are missing."""
    keys = tuple(enumerate(value.parts))
    if any(key not in stock.known for key in keys):
        return None
    parts = [(stock.chunks[part], stock.known[part, hash_][1]) for part, hash_ in keys]
    elements = stock.elements  # and nothing else of the round, which is forgotten

    def join() -> Any:
        room = numbers.room(elements)
        for places, encoded in parts:
            for place, piece in zip(places, encoded, strict=True):
                room.decode(piece, place)
        return room.vector()

    return join
