"""Planted: a lost wake-up. A spool says that it has run dry, and only then makes the event that a new job sets."""

from __future__ import annotations

import contextlib
from collections import deque

import trio

from prime import Actor, Ask, Ref, message, on, sim
from prime.errors import WorldError
from prime.sim.plan import NETWORK

JOBS = 8


@message(tag=0x2A01)
class Print(Ask[None]):
    number: int


@message(tag=0x2A02)
class Dry(Ask[None]):
    pass


class Lamp(Actor[Dry]):
    @on(Dry)
    def light(self, _: Dry) -> None:
        pass


class Spool(Actor[Print]):
    """Takes jobs at once, and prints them in a task of its own."""

    def __init__(self, lamp: Ref[Dry], printed: dict[int, None]) -> None:
        self.lamp = lamp
        self.printed = printed
        self.jobs: deque[int] = deque()
        self.wake = trio.Event()

    async def started(self) -> None:
        self.ctx.start_soon(self.work)

    @on(Print)
    def take(self, m: Print) -> None:
        self.jobs.append(m.number)
        self.wake.set()

    async def work(self) -> None:
        while True:
            while self.jobs:
                self.printed[self.jobs.popleft()] = None
            await self.rest()

    async def rest(self) -> None:
        await self.say_dry()
        self.wake = trio.Event()  # a job that came meanwhile set the event before this one
        await self.wake.wait()

    async def say_dry(self) -> None:
        with contextlib.suppress(WorldError):  # a lamp that cannot be reached is dark
            await self.lamp.ask(Dry(), timeout=1)


class MendedSpool(Spool):
    async def rest(self) -> None:
        self.wake = trio.Event()
        await self.say_dry()
        await self.wake.wait()


async def play(world: sim.World, spool: type[Spool]) -> None:
    printed: dict[int, None] = {}

    async def printing(node: sim.Node) -> None:
        office = world.node("office")
        async with node.system() as system, system.supervisor("app") as sup:
            lamp = system.ref(office.peer, "/app/lamp", Lamp)
            await sup.spawn(lambda: spool(lamp, printed), "spool")
            await trio.sleep_forever()

    async def writing(node: sim.Node) -> None:
        far = world.node("spool")
        async with node.system() as system, system.supervisor("app") as sup:
            await sup.spawn(Lamp, "lamp")
            ref = system.ref(far.peer, "/app/spool", spool)
            for number in range(JOBS):
                await trio.sleep(node.random("jobs").expovariate(2))
                await until_taken(ref, number)
            await trio.sleep_forever()

    world.node("spool").start(printing)
    world.node("office").start(writing)
    await world.storm()
    await world.eventually("every job is printed", lambda: len(printed) == JOBS, within_s=40)


async def until_taken(spool: Ref[Print], number: int) -> None:
    """Hand a job over; printing one twice does no harm."""
    while True:
        try:
            return await spool.ask(Print(number), timeout=2)
        except WorldError:
            await trio.sleep(0.5)


@sim.scenario(nodes=("spool", "office"), kinds=NETWORK, storm_s=10)
async def broken(world: sim.World) -> None:
    await play(world, Spool)


@sim.scenario(nodes=("spool", "office"), kinds=NETWORK, storm_s=10)
async def mended(world: sim.World) -> None:
    await play(world, MendedSpool)
