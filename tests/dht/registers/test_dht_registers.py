"""Registers on real actors: written and read from several nodes over the memory transport, across crashes of electors."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest
import trio

import prime
from prime.actor import Ref
from prime.actor.contract import PeerId
from prime.dht.backends.memory import MemoryBackend
from prime.dht.dht import Dht
from prime.dht.registers import messages as m
from prime.dht.registers.answering import RegistersActor
from prime.dht.registers.elector import Elector
from prime.dht.registers.proposal import Ballot, Call, Register, signed
from prime.dht.registers.standing import TENDED_KIND
from prime.errors import (
    ConflictError,
    CorruptedError,
    NotFoundError,
    PrimeError,
    UnreachableError,
    UsageError,
    WorldError,
)
from prime.sim import linear
from prime.sim.scenarios.registers import Versions, told
from tests.dht.swarm import LAN, WALL_S, open_node, open_nodes

QUICK = attrs.evolve(LAN, replicas=5, request_s=1.0, lookup_s=8.0)


async def test_one_of_several_writers_wins_and_the_others_hear_what_is_there(autojump_clock: trio.abc.Clock) -> None:
    team = prime.KeyPair.from_seed(b"t" * 32)
    async with open_nodes(6) as opened:
        nodes = [each.dht for each in opened]
        won: list[bytes] = []
        lost: list[object] = []

        async def write(node: Dht, value: bytes) -> None:
            try:
                version = await node.compare_and_set(b"leader", 0, value, signer=team)
            except ConflictError as error:
                lost.append(error.found)
            else:
                assert (version.seq, version.value) == (1, value)
                won.append(value)

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(write, node, b"%d" % number)
        there = await nodes[0].read_register(team.peer, b"leader")
        assert won == [there.value]
        assert lost == [there] * 5
        assert (await nodes[3].compare_and_set(b"leader", 1, None, signer=team)).seq == 2
        with pytest.raises(NotFoundError, match="removed, by version 2"):
            await nodes[1].read_register(team.peer, b"leader")


async def test_a_register_that_is_not_there(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as opened:
        nodes = [each.dht for each in opened]
        with pytest.raises(NotFoundError, match="never written"):
            await nodes[0].read_register(nodes[1].peer, b"none")
        with pytest.raises(ConflictError, match="nothing was ever written") as caught:
            await nodes[0].compare_and_set(b"none", 4, b"x")
        assert caught.value.found is None
        with pytest.raises(UsageError, match="65 bytes"):
            await nodes[0].compare_and_set(b"s" * 65, 0, b"x")


class Life:
    """Nodes over the memory transport that end and start again, with clients on each, whose operations are recorded."""

    def __init__(self, count: int, seed: int) -> None:
        self.memory = prime.Memory()
        self.team = prime.KeyPair.from_seed(b"t" * 32)
        self.random = Random(seed)
        self.history = linear.History(trio.current_time)
        self.backends = [MemoryBackend() for _ in range(count)]
        self.begin: tuple[str, ...] = ()
        self.there = [trio.Event() for _ in range(count)]
        self.values = 0

    async def live(self, number: int, until: float) -> None:
        """Be one node, life after life; it loses its store now and then."""
        while trio.current_time() < until:
            with trio.move_on_after(self.random.uniform(5, 20)):
                async with open_node(number, self.memory, self.begin, self.backends[number], settings=QUICK) as node:
                    if number < 2 and len(self.begin) < 2:
                        self.begin = (*self.begin, *node.system.addresses)
                    await node.dht.joined()
                    self.there[number].set()
                    await self.there[-1].wait()
                    while trio.current_time() < until:
                        await self.act(f"n{number}", node.dht)
            await trio.sleep(self.random.uniform(0.5, 2))

    async def act(self, name: str, dht: Dht) -> None:
        """Read or write once."""
        await trio.sleep(self.random.uniform(0.1, 1.5))
        seq, _ = await self.read(name, dht)
        if seq >= 0 and self.random.random() < 0.6:
            await self.write(name, dht, seq)

    async def read(self, name: str, dht: Dht) -> tuple[int, bytes | None]:
        with self.history.operation(name, "r", "read") as recorded:
            there: tuple[int, bytes | None]
            try:
                version = await dht.read_register(self.team.peer, b"r")
                there = (version.seq, version.value)
            except NotFoundError:
                there = (0, None)
            except PrimeError:
                recorded.failed()
                return (-1, None)
            recorded.returned(there)
            return there

    async def write(self, name: str, dht: Dht, seq: int) -> None:
        self.values += 1
        value = b"%d" % self.values
        with self.history.operation(name, "r", "write", (seq, value)) as recorded:
            try:
                version = await dht.compare_and_set(b"r", seq, value, signer=self.team)
            except ConflictError as error:
                recorded.returned((False, told(error.found)))  # type: ignore[arg-type]
            except PrimeError:
                recorded.unknown()
            else:
                recorded.returned((True, told(version)))


async def play(seed: int, seconds: float) -> list[linear.Operation]:
    """Let five nodes come and go, and return the writes that took effect, once the history is found to be sound."""
    life = Life(5, seed)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(life.live, number, seconds)
            await life.there[number].wait()
    life.history.check(Versions()).require()
    ended = [one for one in life.history.operations if one.name == "write" and one.outcome == "returned"]
    return [one for one in ended if one.result[0]]


async def test_what_real_nodes_saw_while_they_came_and_went_is_linearizable(autojump_clock: trio.abc.Clock) -> None:
    assert len(await play(1, 15.0)) >= 5


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 12))
async def test_what_real_nodes_saw_for_longer_is_linearizable(autojump_clock: trio.abc.Clock, seed: int) -> None:
    assert len(await play(seed, 120.0)) >= 5


async def test_electors_that_stay_away_are_replaced(autojump_clock: trio.abc.Clock) -> None:
    memory, begin = prime.Memory(), list[str]()
    ends: dict[PeerId, trio.CancelScope] = {}

    async def live(number: int, task_status: trio.TaskStatus[Dht]) -> None:
        with trio.CancelScope() as scope:
            async with open_node(number, memory, tuple(begin), settings=attrs.evolve(QUICK, replicas=3)) as node:
                begin.extend(node.system.addresses)
                await node.dht.joined()
                ends[node.dht.peer] = scope
                task_status.started(node.dht)
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nodes = [await nursery.start(live, number) for number in range(7)]
        writer = nodes[0]
        await writer.compare_and_set(b"s", 0, b"a")
        for seq in (1, 2, 3):
            known = writer._registers._known[Register(writer.peer, b"s")].term
            gone = next(peer for peer in known.electors.peers() if peer != writer.peer)
            ends[gone].cancel()
            await trio.sleep(5)
            assert await writer.tend_register(b"s") == (gone,)
            await writer.tend_register(b"s")
            assert await writer.tend_register(b"s") == ()
            assert (await writer.compare_and_set(b"s", seq, b"%d" % seq)).seq == seq + 1
        reader = next(node for node in nodes[1:] if not ends[node.peer].cancel_called)
        assert (await reader.read_register(writer.peer, b"s")).value == b"3"
        nursery.cancel_scope.cancel()


async def test_a_node_tends_what_it_has_written_by_itself(autojump_clock: trio.abc.Clock) -> None:
    settings = attrs.evolve(QUICK, replicas=3, replicate_s=60.0)

    def days_s() -> float:
        return WALL_S + 1000 * trio.current_time()

    async with open_nodes(4, settings=settings, wall_s=days_s) as opened:
        writer, backend = opened[0].dht, opened[0].backend
        await writer.compare_and_set(b"s", 0, b"a")
        before = writer._registers._known[Register(writer.peer, b"s")].term.known
        await trio.sleep(200)
        after = writer._registers._known[Register(writer.peer, b"s")].term.known
        assert after.stamp_ms > before.stamp_ms
        assert after.version == before.version
        loaded = await backend.open()
        assert [entry.body for entry in loaded.entries if entry.kind == TENDED_KIND] == [b"s"]


async def test_a_call_alone_has_an_elector_provide_nothing(autojump_clock: trio.abc.Clock) -> None:
    memory, stranger = prime.Memory(), prime.KeyPair.from_seed(b"s" * 32)
    async with (
        open_nodes(1, transport=lambda _: memory) as (node,),
        prime.open_system(transport=memory, key=stranger) as system,
    ):
        system.learn(node.dht.peer, node.system.addresses)
        elector: Ref[Any] = system.ref(node.dht.peer, m.REGISTERS_PATH, RegistersActor)
        register = Register(stranger.peer, b"salt")
        call = signed(stranger, Call(register, Ballot(0, 1, bytes(8)), b"", b""))
        assert (await elector.ask(m.PrepareRegister(call.sealed, None), timeout=5)).outcome == "promised"
        assert node.dht.status().provided == 0
        assert [each.group for each in node.dht._archive.elector.standings] == [f"peer:{stranger.peer}"]


async def test_a_register_that_went_back_is_not_read_as_if_nothing_were(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as opened:
        writer, reader = opened[0].dht, opened[1].dht
        await writer.compare_and_set(b"s", 0, b"a")
        electors = [node.dht._archive for node in opened]
        before = [archive.elector.standings for archive in electors]
        await writer.compare_and_set(b"s", 1, b"b")
        assert (await reader.read_register(writer.peer, b"s")).seq == 2
        for archive, standings in zip(electors, before, strict=True):  # each has an old copy of its disk put back
            archive.elector = Elector(archive.elector.seat, standings)
        with pytest.raises(CorruptedError, match="went back from version 2 to 1"):
            await reader.read_register(writer.peer, b"s")


async def test_a_write_without_a_quorum_says_whether_it_may_have_taken_effect(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as opened:
        writer = opened[0].dht
        await writer.compare_and_set(b"s", 0, b"a")
        full = WorldError("the disk is full", hint="make room")

        async def write(_: object) -> None:
            raise full

        for node in opened:
            node.dht._archive._backend.write = write  # type: ignore[method-assign]
        with pytest.raises(UnreachableError, match=r"2 of its 3 electors do not vote") as caught:
            await writer.compare_and_set(b"s", 1, b"b")
        assert caught.value.hint == "try again when they are back"
        assert (await writer.read_register(writer.peer, b"s")).value == b"a"
