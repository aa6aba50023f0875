"""Planted: a split brain. A candidate counts its votes against those who answered, not against all members."""

from __future__ import annotations

import contextlib

import attrs
import trio

from prime import Actor, Ask, Ref, message, on, sim
from prime.errors import WorldError
from prime.sim.plan import NETWORK

MEMBERS = 3


@message(tag=0x2A21)
class Vote(Ask[bool]):
    term: int


@message(tag=0x2A22)
class Reign(Ask[bool]):
    """The leader of a term is alive; answered with whether that term is still the latest."""

    term: int


@attrs.define
class Throne:
    """Who became leader in which term, in the order in which they did."""

    leaders: dict[int, list[str]] = attrs.Factory(dict)
    seen: dict[str, int] = attrs.Factory(dict)

    def is_one(self) -> bool:
        return all(len(names) == 1 for names in self.leaders.values())

    def is_agreed(self) -> bool:
        latest = max(self.leaders, default=0)
        return latest > 0 and list(self.seen.values()) == [latest] * MEMBERS


class Member(Actor[Vote | Reign]):
    def __init__(self, node: sim.Node, others: list[Ref[Vote | Reign]], throne: Throne) -> None:
        self.node = node
        self.others = others
        self.throne = throne
        self.term = 0
        self.heard_at = 0.0

    async def started(self) -> None:
        self.ctx.start_soon(self.watch_over)

    @on(Vote)
    def vote(self, m: Vote) -> bool:
        if m.term <= self.term:
            return False
        self.term = m.term
        self.heard_at = self.ctx.now()
        return True

    @on(Reign)
    def obey(self, m: Reign) -> bool:
        if m.term < self.term:
            return False
        self.term = self.throne.seen[self.node.name] = m.term
        self.heard_at = self.ctx.now()
        return True

    async def watch_over(self) -> None:
        patience = self.node.random("patience")
        while True:
            await trio.sleep(patience.uniform(1, 2))
            if self.ctx.now() - self.heard_at > 1.5:
                await self.stand()

    async def stand(self) -> None:
        self.term += 1
        term = self.term
        answers = [True, *await self.ask_all(Vote(term))]
        if self.term == term and self.wins(answers):
            self.throne.leaders.setdefault(term, []).append(self.node.name)
            self.node.note("leads", f"term {term}")
            await self.reign(term)

    def wins(self, answers: list[bool]) -> bool:
        return answers.count(True) * 2 > len(answers)

    async def reign(self, term: int) -> None:
        while self.term == term:
            self.throne.seen[self.node.name] = term
            if False in await self.ask_all(Reign(term)):
                return
            await trio.sleep(0.5)

    async def ask_all(self, question: Vote | Reign) -> list[bool]:
        """Return the answers of those who gave one."""
        answers: list[bool] = []

        async def ask(other: Ref[Vote | Reign]) -> None:
            with contextlib.suppress(WorldError):  # it is down, as far as one can see from here
                answers.append(await other.ask(question, timeout=0.5))

        async with trio.open_nursery() as nursery:
            for other in self.others:
                nursery.start_soon(ask, other)
        return answers


class MendedMember(Member):
    def wins(self, answers: list[bool]) -> bool:
        return answers.count(True) * 2 > MEMBERS


async def play(world: sim.World, member: type[Member]) -> None:
    throne = Throne()

    async def main(node: sim.Node) -> None:
        others = [other for other in world.nodes if other is not node]
        async with node.system() as system, system.supervisor("app") as sup:
            refs = [system.ref(other.peer, "/app/member", member) for other in others]
            await sup.spawn(lambda: member(node, refs, throne), "member")
            await trio.sleep_forever()

    world.start(main)
    world.always("a term has one leader", throne.is_one)
    await world.storm()
    await world.eventually("all obey one leader", throne.is_agreed, within_s=40)


@sim.scenario(nodes=MEMBERS, kinds=NETWORK | {"pause"}, storm_s=10)
async def broken(world: sim.World) -> None:
    await play(world, Member)


@sim.scenario(nodes=MEMBERS, kinds=NETWORK | {"pause"}, storm_s=10)
async def mended(world: sim.World) -> None:
    await play(world, MendedMember)
