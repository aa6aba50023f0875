"""Persistent actors that both type checkers must reject: exactly the lines that are marked, no other."""

from __future__ import annotations

from accepted_persistence import Account, Close, Closed, Deposit, Deposited

from prime import Persistent, Supervisor, applies, on


class WrongEvents(Persistent[Close, Closed]):
    @on(Close)
    async def close(self, m: Close) -> None:
        await self.persist(Deposited(1))  # rejected
        await self.persist(m)  # rejected
        await self.persist(Closed(), "nope")  # rejected

    @applies(Closed)  # rejected
    def closed(self, event: Deposited) -> None:
        print(event)


class WrongStore(Account):
    def __init__(self) -> None:
        super().__init__({})  # rejected


async def use(supervisor: Supervisor, account: Account) -> None:
    ref = await supervisor.spawn(lambda: account, "account")
    await ref.tell(Deposited(1))  # rejected
    text: str = await ref.ask(Deposit(1), timeout=1)  # rejected
    print(text)
