"""A box office on one node and a clerk on another: the program that the tutorial on simulation tests."""

from __future__ import annotations

import trio

from prime import Actor, Ask, Ref, message, on, sim
from prime.errors import WorldError


@message(tag=0x2401)
class Sell(Ask[int]):
    """Sell a ticket; the answer is its number."""

    customer: str


class BoxOffice(Actor[Sell]):
    """Sells tickets."""

    def __init__(self) -> None:
        self.sold: list[str] = []

    @on(Sell)
    async def sell(self, order: Sell) -> int:
        self.sold.append(order.customer)
        return len(self.sold)


async def buy(office: Ref[Sell], customer: str) -> int:
    """Buy one ticket, however often one has to ask."""
    while True:
        try:
            return await office.ask(Sell(customer), timeout=1)
        except WorldError:
            await trio.sleep(0.5)  # no answer: ask again


@sim.scenario(nodes=("office", "clerk"), kinds=frozenset({"latency", "loss", "pause", "cut"}))
async def one_each(world: sim.World) -> None:
    """Twenty customers ask for a ticket; each gets one, whatever the network does."""
    books = BoxOffice()

    async def office(node: sim.Node) -> None:
        async with node.system() as system, system.supervisor("theatre") as theatre:
            await theatre.spawn(lambda: books, "office")
            await trio.sleep_forever()

    async def clerk(node: sim.Node) -> None:
        async with node.system() as system:
            far = system.ref(world.node("office").peer, "/theatre/office", BoxOffice)
            for number in range(20):
                await buy(far, f"customer {number}")

    world.node("office").start(office)
    world.node("clerk").start(clerk)
    world.always("one ticket each", lambda: len(books.sold) == len(set(books.sold)))
    await world.storm()
    await world.eventually("everybody has one", lambda: len(set(books.sold)) == 20, within_s=30)
