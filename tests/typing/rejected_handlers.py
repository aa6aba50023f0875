"""Handlers that both type checkers must reject: exactly the lines that are marked, no other."""

from __future__ import annotations

from kv import Count, Get, Put, Store, Sweep

import prime
from prime import Actor, Later, on


class WrongMessage(Actor[Put | Get | Count | Sweep]):
    @on(Put)  # rejected
    def put(self, m: Get) -> None:
        print(m)

    @on(Get)  # rejected
    def get(self, m: Put) -> bytes | None:
        return m.value

    @on(Count, Sweep)  # rejected
    def hear(self, m: Sweep) -> None:
        print(m)


class WrongReply(Actor[Get | Count]):
    @on(Get)  # rejected
    def get(self, m: Get) -> str:
        return m.key

    @on(Count)  # rejected
    async def count(self, _: Count) -> None:
        pass


class WrongReplyNowOrLater(Actor[Get | Count]):
    @on(Get)  # rejected
    def get(self, _: Get) -> str | Later:
        return self.ctx.defer()

    @on(Count)  # rejected
    async def count(self, _: Count) -> Later | None:
        return self.ctx.defer()


class NoParameter(Actor[Sweep]):
    @on(Sweep)  # rejected
    def sweep(self) -> None:
        pass


class OneMore(Actor[Sweep]):
    @on(Sweep)  # rejected
    def sweep(self, m: Sweep, also: int) -> None:
        print(m, also)


class Account(prime.Persistent[Sweep, Put]):
    @on(Sweep)
    def sweep(self, _: Sweep) -> None: ...

    @prime.applies(Put)  # rejected
    def put(self, event: Get) -> None: ...


async def call_directly(store: Store) -> None:
    store.put("nope")  # rejected
    number: int = store.get(Get("a"))  # rejected
    print(number)


@on("Put")  # rejected
def no_class() -> None:
    pass
