"""Persistent actors that both type checkers must take."""

from __future__ import annotations

from typing import assert_type

import prime
from prime import Ask, EventStore, MemoryEventStore, Persistent, Ref, SqliteEventStore, Supervisor, applies, on


@prime.message(tag=0x7F31)
class Deposited:
    amount: int


@prime.message(tag=0x7F32)
class Closed:
    pass


@prime.message
class Deposit(Ask[int]):
    amount: int


@prime.message
class Close:
    pass


class Account(Persistent[Deposit | Close, Deposited | Closed]):
    def __init__(self, store: EventStore) -> None:
        super().__init__(store, "account/ada", snapshot_every=100, events_kept=10)
        self.total = 0

    @on(Deposit)
    async def deposit(self, m: Deposit) -> int:
        await self.persist(Deposited(m.amount), Deposited(0), Closed())
        return self.sequence

    @on(Close)
    async def close(self, _: Close) -> None:
        await self.persist(*[Closed()])

    @applies(Deposited)
    def deposited(self, event: Deposited) -> None:
        self.total += event.amount

    @applies(Closed)
    def closed(self, event: Closed | Deposited) -> None:
        print(event)

    def snapshot(self) -> Deposited:
        return Deposited(self.total)

    def restore(self, snapshot: Deposited) -> None:
        self.total = snapshot.amount


async def use(supervisor: Supervisor, path: str) -> None:
    account = await supervisor.spawn(lambda: Account(MemoryEventStore()), "account")
    assert_type(await account.ask(Deposit(1), timeout=1), int)
    same: Ref[Deposit | Close] = account
    await same.tell(Close())
    async with await SqliteEventStore.open(path) as store:
        assert_type(await store.append("key", 0, [b"event"]), int)
        stores: list[EventStore] = [store, MemoryEventStore()]
        print(stores)
