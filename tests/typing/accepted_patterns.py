"""Routers, pools, state machines, streams, pipelines and portals as users type them: both type checkers accept all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from kv import Count, Get, Put, Store, Sweep

import prime
from prime import Ref, Router, StateMachine, Stream, Streaming, ask_all, entered, on, on_timeout, open_stream, streams


@prime.message(tag=0x7D11)
class Keys(Stream[str]):
    prefix: str


class Door(StateMachine[Get | Count | Sweep]):
    initial = "locked"
    otherwise = "postpone"

    @on(Get, when="locked")
    def refuse(self, m: Get) -> bytes | None:
        self.become("open", timeout=5)
        return m.key.encode()

    @on(Get, when=("open", "ajar"))
    async def get(self, m: Get) -> bytes | None:
        return m.key.encode()

    @on(Count)
    def count(self, _: Count) -> int:
        return len(self.state)

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        self.become("locked")

    @entered("open", "ajar")
    async def light(self) -> None: ...

    @on_timeout("open")
    def shut(self) -> None:
        self.become("ajar")


class Catalogue(Streaming[Keys | Count]):
    @streams(Keys)
    async def keys(self, m: Keys) -> AsyncIterator[str]:
        yield m.prefix

    @on(Count)
    def count(self, _: Count) -> int:
        return 1


async def patterns(sup: prime.Supervisor, store: Ref[Put | Get | Count | Sweep], portal: prime.Portal) -> None:
    pool = await sup.spawn_pool(Store, "stores", size=2, route=prime.LeastLoaded())
    assert_type(await pool.ask(Get("a"), timeout=1), bytes | None)
    router = await sup.spawn(lambda: Router([store, pool], route=prime.ConsistentHash(key=lambda m: 1)), "router")
    await router.tell(Put("a", b""))
    door = await sup.spawn(Door, "door")
    assert_type(await door.ask(Count(), timeout=1), int)
    catalogue = await sup.spawn(Catalogue, "catalogue")
    async with open_stream(catalogue, Keys("a"), timeout=1) as keys:
        async for key in keys:
            assert_type(key, str)
    assert_type(await ask_all(store, [Get("a"), Get("b")], timeout=1), list[bytes | None])
    async with prime.pipeline(store, (Count() for _ in range(3)), timeout=1) as counts:
        async for count in counts:
            assert_type(count, int)
    portal.tell(store, Sweep())
    assert_type(portal.ask(store, Count(), timeout=1), int)
