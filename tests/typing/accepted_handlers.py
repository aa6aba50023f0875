"""Handlers that both type checkers must take."""

from __future__ import annotations

from typing import Any, assert_type

from kv import Count, Foreign, ForeignAsk, Get, Put, Store, Sweep

import prime
from prime import Actor, Down, Later, on


class Wide(Actor[Put | Get | Count | Sweep | Foreign | Down]):
    """A handler may take more than its class, return less than the reply, wait or not."""

    @on(Put, Sweep, Foreign)
    def hear(self, m: Put | Sweep | Foreign) -> None:
        print(m)

    @on(Get)
    async def get(self, m: Get | Count) -> bytes:
        return repr(m).encode()

    @on(Count)
    def count(self, m: object) -> bool:
        return bool(m)

    @on(Down)
    async def down(self, m: Down) -> None:
        print(m.reason)


class Many(Actor[Any]):
    """Past four classes the checker believes the method."""

    @on(Put, Get, Count, Sweep, Foreign, ForeignAsk)
    def hear(self, m: Any) -> None:
        print(m)


class Deferring(Actor[Get | Count]):
    """A handler that answers after it has returned returns where the answer will go."""

    @on(Get)
    def get(self, _: Get) -> Later:
        return self.ctx.defer()

    @on(Count)
    async def count(self, _: Count) -> Later:
        return self.ctx.defer()


class NowOrLater(Actor[Get | Count]):
    @on(Get)
    def get(self, m: Get) -> bytes | Later | None:
        return self.ctx.defer() if m.key else None

    @on(Count)
    async def count(self, _: Count) -> int | Later:
        return self.ctx.defer() if self.ctx.now() else 1


class Slow(Actor[Count]):
    @on(Count, thread=True)
    def count(self, _: Count) -> int:
        return 1


@prime.message(tag=0x7DA3)
class Opened:
    by: str


class Account(prime.Persistent[Count, Opened]):
    @on(Count)
    async def count(self, _: Count) -> int:
        await self.persist(Opened("me"))
        return 1

    @prime.applies(Opened)
    def opened(self, event: Opened) -> None:
        print(event.by)


class Louder(Store):
    """A subclass may override a handler."""

    @on(Get)
    def get(self, m: Get) -> bytes | None:
        print(m)
        return super().get(m)


async def call_directly(store: Store) -> None:
    """A handler remains a method."""
    store.put(Put("a", b""))
    assert_type(store.get(Get("a")), bytes | None)
    assert_type(await store.count(Count()), int)


async def context(store: Store) -> None:
    assert_type(store.ctx, prime.Context)
    assert_type(store.ctx.path, str)
    assert_type(store.ctx.now(), float)
    store.ctx.every(30, Sweep())
