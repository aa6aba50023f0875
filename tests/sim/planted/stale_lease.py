"""Planted: a stale lease. Who holds it looks at the clock before each step, and the step comes late all the same."""

from __future__ import annotations

import contextlib

import trio

from prime import Actor, Ask, Ref, message, on, sim
from prime.errors import RefusedError, WorldError
from prime.sim.plan import NETWORK

TTL_S = 1.0
TIMEOUT_S = 4.0


@message(tag=0x2A31)
class Acquire(Ask[int]):
    """Answered with a token, which rises with each grant."""


@message(tag=0x2A32)
class Read(Ask[int]):
    token: int


@message(tag=0x2A33)
class Write(Ask[None]):
    token: int
    value: int


@message(tag=0x2A34)
class Release(Ask[None]):
    token: int


class Counter(Actor[Acquire | Read | Write | Release]):
    """A number, and the lease on it."""

    def __init__(self) -> None:
        self.value = 0
        self.token = 0
        self.until = 0.0

    @on(Acquire)
    def acquire(self, _: Acquire) -> int:
        if self.ctx.now() < self.until:
            raise RefusedError("somebody has it", hint="ask again later")
        self.token += 1
        self.until = self.ctx.now() + TTL_S
        return self.token

    @on(Release)
    def release(self, m: Release) -> None:
        if m.token == self.token:
            self.until = 0.0

    @on(Read)
    def read(self, m: Read) -> int:
        self.check(m.token)
        return self.value

    @on(Write)
    def write(self, m: Write) -> None:
        self.check(m.token)
        self.value = m.value

    def check(self, token: int) -> None:
        """Trust whoever says that it has the lease."""


class MendedCounter(Counter):
    def check(self, token: int) -> None:
        if token < self.token:
            raise RefusedError("another has had the lease since", hint="acquire it again")


Counting = Ref[Acquire | Read | Write | Release]


async def count(node: sim.Node, counter: Counting, history: sim.linear.History) -> None:
    """Add one, again and again, as long as the lease lasts."""
    until = trio.current_time() + TTL_S
    token = await counter.ask(Acquire(), timeout=TIMEOUT_S)
    while trio.current_time() < until:
        await increment(node.name, counter, token, history)
        await trio.sleep(node.random("work").uniform(0, 0.2))
    await counter.ask(Release(token), timeout=TIMEOUT_S)


async def increment(name: str, counter: Counting, token: int, history: sim.linear.History) -> None:
    with history.operation(name, "counter", "read") as op:
        value = await counter.ask(Read(token), timeout=TIMEOUT_S)
        op.returned(value)
    with history.operation(name, "counter", "cas", (value, value + 1)) as op:
        await counter.ask(Write(token, value + 1), timeout=TIMEOUT_S)
        op.returned(True)


async def play(world: sim.World, counter: type[Counter]) -> None:
    history = sim.linear.History(trio.current_time, note=world.note)

    async def keeping(node: sim.Node) -> None:
        async with node.system() as system, system.supervisor("app") as sup:
            await sup.spawn(counter, "counter")
            await trio.sleep_forever()

    async def counting(node: sim.Node) -> None:
        far = world.node("store")
        async with node.system() as system:
            ref = system.ref(far.peer, "/app/counter", counter)
            while True:
                with contextlib.suppress(WorldError):  # it may be done, or not; the history says so
                    await count(node, ref, history)
                await trio.sleep(node.random("rest").uniform(0.1, 1))

    world.node("store").start(keeping)
    world.node("ann").start(counting)
    world.node("bob").start(counting)
    await world.storm()
    await trio.sleep(10)
    history.check(sim.linear.CompareAndSet(0)).require()


@sim.scenario(nodes=("store", "ann", "bob"), kinds=NETWORK | {"pause"}, storm_s=15)
async def broken(world: sim.World) -> None:
    await play(world, Counter)


@sim.scenario(nodes=("store", "ann", "bob"), kinds=NETWORK | {"pause"}, storm_s=15)
async def mended(world: sim.World) -> None:
    await play(world, MendedCounter)
