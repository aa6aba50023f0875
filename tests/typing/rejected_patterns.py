"""Patterns that both type checkers must reject: exactly the lines that are marked, no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

from accepted_patterns import Catalogue, Keys
from kv import Count, Get, Put, Sweep

import prime
from prime import Ref, StateMachine, Streaming, ask_all, on, open_stream, streams


class Door(StateMachine[Get | Count]):
    initial = "locked"

    @on(Get, when="locked")  # rejected
    def get(self, m: Get) -> str:
        return m.key

    @on(Count, when=5)  # rejected
    def count(self, _: Count) -> int:
        return 1


class Numbers(Streaming[Keys]):
    @streams(Keys)  # rejected
    async def keys(self, m: Keys) -> AsyncIterator[int]:
        yield len(m.prefix)


async def patterns(sup: prime.Supervisor, gets: Ref[Get], catalogue: Ref[Keys | Count], portal: prime.Portal) -> None:
    pool = await sup.spawn_pool(Catalogue, "pool", size=2)
    await pool.tell(Put("a", b""))  # rejected
    await ask_all(gets, [Count()], timeout=1)  # rejected
    portal.tell(gets, Sweep())  # rejected
    async with open_stream(catalogue, Keys("a"), timeout=1) as keys:
        async for key in keys:
            print(key + 1)  # rejected
    async with open_stream(gets, Keys("a"), timeout=1) as keys:  # rejected
        print(keys)
