"""The store of the README, as its users type it: what the other files here call."""

from __future__ import annotations

import prime
from prime import Actor, Ask, on


@prime.message(tag=0x7DA1)
class Put:
    key: str
    value: bytes


@prime.message(tag=0x7DA2)
class Get(Ask[bytes | None]):
    key: str


@prime.message
class Count(Ask[int]):
    pass


@prime.message
class Sweep:
    pass


@prime.message
class Foreign:
    pass


@prime.message
class ForeignAsk(Ask[str]):
    pass


class Store(Actor[Put | Get | Count | Sweep]):
    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.data: dict[str, bytes] = {}

    @on(Put)
    def put(self, m: Put) -> None:
        self.data[m.key] = m.value

    @on(Get)
    def get(self, m: Get) -> bytes | None:
        return self.data.get(m.key)

    @on(Count)
    async def count(self, _: Count) -> int:
        return len(self.data)

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        self.data.clear()
