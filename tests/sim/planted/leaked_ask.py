"""Planted: a leaked ask. A front that answers later keeps who waits, for ever if the answer from behind is lost."""

from __future__ import annotations

import contextlib

import trio

from prime import Actor, Ask, Later, Ref, message, on, sim
from prime.errors import DeadlineError, RefusedError, WorldError
from prime.sim.plan import NETWORK

TIMEOUT_S = 3.0


@message(tag=0x2A41)
class Develop(Ask[int]):
    """A picture to be developed."""

    picture: int


@message(tag=0x2A42)
class Developed:
    ticket: int
    picture: int


@message(tag=0x2A43)
class Job:
    ticket: int
    picture: int
    reply_to: Ref[Developed]


@message
class GiveUp:
    ticket: int


class Lab(Actor[Job]):
    @on(Job)
    async def develop(self, m: Job) -> None:
        with contextlib.suppress(WorldError):  # perhaps nobody is there to have it
            await m.reply_to.tell(Developed(m.ticket, m.picture))


class Shop(Actor[Develop | Developed | GiveUp]):
    """Takes pictures, has them developed in a lab elsewhere, and answers each customer when its picture is there."""

    def __init__(self, lab: Ref[Job], waiting: dict[int, Later]) -> None:
        self.lab = lab
        self.waiting = waiting
        self.tickets = 0

    @on(Develop)
    async def take(self, m: Develop) -> Later:
        self.tickets += 1
        ticket = self.tickets
        try:
            await self.lab.tell(Job(ticket, m.picture, self.ctx.self_ref))
        except WorldError as error:
            raise RefusedError("the lab is closed", hint="come again") from error
        self.waiting[ticket] = self.ctx.defer()
        self.limit(ticket)
        return self.waiting[ticket]

    def limit(self, ticket: int) -> None:
        """Let the customer's own patience be the limit."""

    @on(Developed)
    def hand_out(self, m: Developed) -> None:
        if m.ticket in self.waiting:
            self.waiting.pop(m.ticket).reply(m.picture)

    @on(GiveUp)
    def give_up(self, m: GiveUp) -> None:
        if m.ticket in self.waiting:
            self.waiting.pop(m.ticket).fail(DeadlineError("the lab did not answer", hint="come again"))


class MendedShop(Shop):
    def limit(self, ticket: int) -> None:
        self.ctx.after(TIMEOUT_S, GiveUp(ticket))


async def play(world: sim.World, shop: type[Shop]) -> None:
    waiting: dict[int, Later] = {}

    async def selling(node: sim.Node) -> None:
        lab = world.node("lab")
        async with node.system() as system, system.supervisor("app") as sup:
            far = system.ref(lab.peer, "/app/lab", Lab)
            counter = await sup.spawn(lambda: shop(far, waiting), "shop")
            for picture in range(40):
                await trio.sleep(node.random("customers").expovariate(3))
                with contextlib.suppress(WorldError):  # the customer goes home
                    assert await counter.ask(Develop(picture), timeout=TIMEOUT_S) == picture
            await trio.sleep_forever()

    async def developing(node: sim.Node) -> None:
        async with node.system() as system, system.supervisor("app") as sup:
            await sup.spawn(Lab, "lab")
            await trio.sleep_forever()

    world.node("shop").start(selling)
    world.node("lab").start(developing)
    await world.storm()
    await trio.sleep(60)
    await world.eventually("no ask is kept past its deadline", lambda: not waiting, within_s=2 * TIMEOUT_S)


@sim.scenario(nodes=("shop", "lab"), kinds=NETWORK, storm_s=10, quiet_s=90)
async def broken(world: sim.World) -> None:
    await play(world, Shop)


@sim.scenario(nodes=("shop", "lab"), kinds=NETWORK, storm_s=10, quiet_s=90)
async def mended(world: sim.World) -> None:
    await play(world, MendedShop)
