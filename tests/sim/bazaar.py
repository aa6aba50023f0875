"""A scenario that uses as much of the runtime as fits on a page, on every node and across nodes.

It promises nothing: it is there to be run twice. Whatever order the runtime takes from a set, an address or a hash
shows in its trace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from prime import (
    Actor,
    Ask,
    ConsistentHash,
    Down,
    Restart,
    Router,
    Stream,
    Streaming,
    ask_all,
    message,
    on,
    open_stream,
    sim,
)
from prime import streams as streaming
from prime.errors import PrimeError

PATIENT = Restart(max=1000, within=1.0)


@message(tag=0x2B01)
class Haggle(Ask[int]):
    price: int


@message(tag=0x2B02)
class Tick:
    pass


@message(tag=0x2B03)
class Wares(Stream[str]):
    count: int


@message(tag=0x2B04)
class Rumour:
    text: str


class Trader(Actor[Haggle | Rumour]):
    """Haggles, and now and then loses its temper."""

    def __init__(self, node: sim.Node) -> None:
        self.node = node
        self.temper = node.random("temper")

    async def started(self) -> None:
        self.ctx.join("traders")
        self.ctx.join(f"traders-{self.temper.randint(1, 3)}")

    @on(Haggle)
    async def haggle(self, m: Haggle) -> int:
        await trio.sleep(self.temper.random() * 0.05)
        if self.temper.random() < 0.05:
            raise RuntimeError("enough")
        return m.price - self.temper.randint(0, 5)

    @on(Rumour)
    async def hear(self, m: Rumour) -> None:
        self.node.note("hears", self.ctx.path, text=m.text)
        if self.temper.random() < 0.1:
            self.ctx.stop()


class Stall(Streaming[Wares]):
    @streaming(Wares)
    async def lay_out(self, m: Wares) -> AsyncIterator[str]:
        for number in range(m.count):
            yield f"carpet {number}"
            await trio.sleep(0.01)


class Crier(Actor[Tick | Down]):
    """Tells everybody of its node a rumour, every second, and watches them leave."""

    def __init__(self, node: sim.Node) -> None:
        self.node = node

    async def started(self) -> None:
        self.ctx.every(1.0, Tick())
        for ref in self.ctx.system.group("traders"):
            self.ctx.watch(ref)

    @on(Tick)
    async def cry(self, _: Tick) -> None:
        for ref in self.ctx.system.group(f"traders-{self.node.random('cry').randint(1, 3)}"):
            await ref.tell(Rumour(f"at {self.ctx.now():g}"))

    @on(Down)
    async def miss(self, m: Down) -> None:
        self.node.note("misses", m.path)


async def trade(node: sim.Node) -> None:
    async with node.system() as system, system.supervisor("bazaar", restart=PATIENT) as sup:
        await sup.spawn_pool(lambda: Trader(node), "traders", size=4, restart=PATIENT)
        await sup.spawn(Stall, "stall")
        await sup.spawn(lambda: Router(group="traders", route=ConsistentHash(key=lambda m: m.price)), "gate")
        await sup.spawn(lambda: Crier(node), "crier")
        async with trio.open_nursery() as nursery:
            for other in node.world.nodes:
                nursery.start_soon(visit, node, system, other)


async def visit(node: sim.Node, system: sim.System, other: sim.Node) -> None:
    pool = system.ref(other.peer, "/bazaar/traders", Trader, reliable=node is not other)
    gate = system.ref(other.peer, "/bazaar/gate", Trader)
    stall = system.ref(other.peer, "/bazaar/stall", Stall)
    for trip in range(1000):
        await trio.sleep(node.random("trips", other.name).expovariate(1.0))
        try:
            await pool.tell(Rumour(f"{node.name} {trip}"))
            prices = await ask_all(pool, [Haggle(trip), Haggle(trip + 1)], timeout=1.0)
            node.note("pays", other.name, prices=[*prices, await gate.ask(Haggle(trip), timeout=1.0)])
            async with open_stream(stall, Wares(3), credit=2, timeout=1.0) as wares:
                node.note("sees", other.name, wares=[item async for item in wares])
        except PrimeError as error:
            node.note("gives up", other.name, why=type(error).__name__)


@sim.scenario(nodes=3, storm_s=6.0, quiet_s=30.0)
async def bazaar(world: sim.World) -> None:
    """Trade through a storm, and three seconds more."""
    world.start(trade)
    await world.storm()
    await trio.sleep(3)


@sim.scenario(nodes=1, storm_s=1.0)
async def careless(world: sim.World) -> None:
    """Take the order of a set of strings for an order."""
    for name in {f"customer {number}" for number in range(10)}:
        world.note("serves", name)
    await world.storm()
