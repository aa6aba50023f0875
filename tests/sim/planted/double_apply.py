"""Planted: a double apply. A till that hears no answer pays in again, and the bank cannot tell that it is the same."""

from __future__ import annotations

import attrs
import trio

from prime import Actor, Ask, Ref, message, on, sim
from prime.errors import WorldError
from prime.sim.plan import NETWORK


@message(tag=0x2A11)
class Deposit(Ask[int]):
    receipt: int
    amount: int


@attrs.define
class Books:
    """What the till has taken in, and what the bank has on the account."""

    taken: int = 0
    balance: int = 0


class Bank(Actor[Deposit]):
    def __init__(self, books: Books) -> None:
        self.books = books

    @on(Deposit)
    def pay_in(self, m: Deposit) -> int:
        self.books.balance += m.amount
        return self.books.balance


class MendedBank(Bank):
    def __init__(self, books: Books) -> None:
        super().__init__(books)
        self.done: dict[int, int] = {}

    @on(Deposit)
    def pay_in(self, m: Deposit) -> int:
        if m.receipt not in self.done:
            self.done[m.receipt] = super().pay_in(m)
        return self.done[m.receipt]


async def play(world: sim.World, bank: type[Bank]) -> None:
    books = Books()
    done = trio.Event()

    async def keeping(node: sim.Node) -> None:
        async with node.system() as system, system.supervisor("app") as sup:
            await sup.spawn(lambda: bank(books), "bank")
            await trio.sleep_forever()

    async def selling(node: sim.Node) -> None:
        far = world.node("bank")
        async with node.system() as system:
            ref = system.ref(far.peer, "/app/bank", bank)
            for receipt in range(20):
                await trio.sleep(node.random("sales").expovariate(2))
                amount = node.random("sales").randint(1, 100)
                books.taken += amount
                await until_paid(ref, Deposit(receipt, amount))
            done.set()
            await trio.sleep_forever()

    world.node("bank").start(keeping)
    world.node("till").start(selling)
    world.always("nothing is paid in twice", lambda: books.balance <= books.taken)
    await world.storm()
    await world.eventually("all is paid in", lambda: done.is_set() and books.balance == books.taken, within_s=50)


async def until_paid(bank: Ref[Deposit], deposit: Deposit) -> None:
    while True:
        try:
            await bank.ask(deposit, timeout=2)
        except WorldError:
            await trio.sleep(0.5)
        else:
            return


@sim.scenario(nodes=("bank", "till"), kinds=NETWORK, storm_s=10)
async def broken(world: sim.World) -> None:
    await play(world, Bank)


@sim.scenario(nodes=("bank", "till"), kinds=NETWORK, storm_s=10)
async def mended(world: sim.World) -> None:
    await play(world, MendedBank)
