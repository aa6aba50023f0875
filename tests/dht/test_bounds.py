"""What is bounded stays so: turns are given back once, tables do not grow with what strangers say, and nothing holds up the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

import prime
from prime.actor import Ref
from prime.dht import messages as m
from prime.dht.archive import open_archive
from prime.dht.backends.memory import MemoryBackend
from prime.dht.contact import make_contact
from prime.dht.facts import AddressFailed, Equivocation
from prime.dht.holding import HoldingActor, gone
from prime.dht.key import key_of, to_bytes
from prime.dht.peering import Peering
from prime.dht.providing import ProvidingActor
from prime.dht.publications import Provided
from prime.dht.record import make_record
from prime.dht.routing import TOLD_MAX
from prime.dht.row import Gone, make_row
from prime.dht.settings import DhtSettings
from prime.dht.shelf import Plan
from prime.dht.storing import STORINGS_MAX
from prime.errors import ConfigError, UnreachableError
from prime.transport.links import Links
from tests.dht.swarm import WALL_S, key_pair, open_node, open_nodes
from tests.dht.test_hostile import QUICK, one_and_a_liar, version

NOW_MS = int(WALL_S * 1000)
DAY_MS = 24 * 3600 * 1000


async def test_a_record_whose_start_is_cancelled_gives_its_turn_back_once(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(1) as (node,):
        storings = node.dht._storings
        for step in range(12):
            for beside in (False, True):
                storings._supervisor._spawned = 63  # the next spawn lets others run
                async with trio.open_nursery() as nursery:
                    act = storings.begin if beside else storings.run
                    nursery.start_soon(act, version(1), [node.dht.contact], *(("group",) if beside else ()))
                    for _ in range(step):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
        await trio.sleep(5)
        assert storings._turns.value == STORINGS_MAX
        assert storings._beside == 0


def test_a_key_that_comes_back_in_the_same_write_is_not_gone() -> None:
    record = version(1)
    row = make_row(record, "group", NOW_MS)
    assert list(gone(Plan((), (Gone(record.key), row), 0))) == []
    assert list(gone(Plan((), (row, Gone(record.key)), 0))) == [record.key]


async def test_one_place_that_answers_as_ever_another_is_remembered_once(autojump_clock: trio.abc.Clock) -> None:
    async with open_node(1, prime.Memory(), ("/memory/somewhere",), settings=QUICK) as node:
        routing = node.dht._peering.routing.cell.life.actor  # type: ignore[union-attr]
        number = 100

        async def dial(_: str) -> object:
            nonlocal number
            number += 1
            return key_pair(number).peer

        async def introduce(peer: object) -> object:
            return node.dht.contact if peer else None

        routing._introduce = introduce
        network = node.system.network
        assert isinstance(network, Links)
        network.dial = dial  # type: ignore[method-assign, assignment]
        for _ in range(20):
            await routing._dial("/memory/somewhere")
        assert len(routing._introduced) == 1


async def test_reading_a_full_store_lets_others_run(autojump_clock: trio.abc.Clock) -> None:
    backend, settings = MemoryBackend(), DhtSettings()
    records = [
        make_record(key_pair(1), b"x", salt=b"%d" % number, seq=1, created_ms=NOW_MS, ttl_s=60) for number in range(300)
    ]
    async with open_archive(key_pair(2).peer, settings, backend) as archive:
        await archive.hold([(record, "group") for record in records], NOW_MS)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with open_archive(key_pair(2).peer, settings, backend) as archive:
            assert len(archive.shelf) == 300
            assert turns >= 300 // 64
        nursery.cancel_scope.cancel()


async def test_what_nobody_heard_is_said_again(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    begin = f"/memory/{key_pair(1).peer[-8:]}/p2p/{key_pair(1).peer}"
    async with open_node(2, memory, (begin,), settings=QUICK, server=False) as early:
        with pytest.raises(UnreachableError):
            await early.dht.provide(key_of(b"x"))
        async with open_node(1, memory, settings=QUICK) as late:
            await trio.sleep(200)
            assert [each.peer for each in await late.dht.find_providers(key_of(b"x"))] == [early.dht.peer]


async def test_what_is_stopped_while_it_is_said_anew_stays_so(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(2) as (node, other):
        key = key_of(b"x")
        await node.dht.provide(key)
        put = await node.dht.put(b"value", salt=b"salt")
        for publication in node.dht._archive.publications.due(NOW_MS + DAY_MS, 5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.dht._publisher.say_anew, publication)
                await trio.lowlevel.checkpoint()
                if isinstance(publication, Provided):
                    await node.dht.stop_providing(key)
                else:
                    await node.dht.stop_publishing(put.record.key)
        assert (node.dht.status().provided, node.dht.status().published) == (0, 0)
        assert await other.dht.find_providers(key) == ()


class Slow(MemoryBackend):
    """A disk that takes its time for each write."""

    writes = 0

    async def write(self, changes: Sequence[Any]) -> None:
        self.writes += 1
        await trio.sleep(0.05)
        await super().write(changes)


async def test_who_says_much_holds_up_nobody_who_asks(autojump_clock: trio.abc.Clock) -> None:
    memory, disk, key = prime.Memory(), Slow(), key_pair(66)
    async with (
        open_nodes(1, transport=lambda _: memory, backend=lambda _: disk) as (node,),
        prime.open_system(transport=memory, key=key) as stranger,
    ):
        stranger.learn(node.dht.peer, node.system.addresses)
        card = make_contact(key, stranger.addresses, NOW_MS).sealed
        names: Ref[Any] = stranger.ref(node.dht.peer, m.PROVIDERS_PATH, ProvidingActor)
        began, before = trio.current_time(), disk.writes
        async with trio.open_nursery() as nursery:
            for number in range(90):
                nursery.start_soon(
                    lambda n=number: names.ask(m.Provide(to_bytes(key_of(b"%d" % n)), card, 60), timeout=5)
                )  # type: ignore[misc]
            await trio.sleep(0.02)
            await names.ask(m.FindProviders(to_bytes(key_of(b"x")), None), timeout=5)
            assert trio.current_time() - began < 0.05
        assert trio.current_time() - began < 0.5
        assert disk.writes - before <= 3
        assert node.dht.status().providers == 90


async def test_who_signs_two_things_and_shows_them_for_ever_fills_no_log(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, system, _):
        records: Ref[Any] = system.ref(node.dht.peer, m.RECORDS_PATH, HoldingActor)
        for _ in range(200):
            await records.ask(m.StoreRecord(version(5, b"one").sealed), timeout=5)
            await records.ask(m.StoreRecord(version(5, b"two").sealed), timeout=5)
            await trio.sleep(0.1)
        told = [fact for fact in node.facts if isinstance(fact, Equivocation)]
        assert 10 <= len(told) <= 20


async def test_many_ids_of_one_place_that_never_answer_keep_nobody_else_waiting(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    crowd, honest, seated = [key_pair(1000 + number).peer for number in range(300)], key_pair(5).peer, key_pair(6).peer
    monkeypatch.setattr(Peering, "group_of", lambda _, peer: "20.1.0.0/16" if peer in crowd else "30.1.0.0/16")
    async with open_node(1, prime.Memory(), settings=DhtSettings(request_s=2.0)) as node:
        routing, asked = node.dht._peering.routing.cell.life.actor, list[str]()  # type: ignore[union-attr]

        async def introduce(peer: str) -> None:
            asked.append(peer)
            await trio.sleep(2.0)

        routing._introduce = introduce
        for peer in crowd:
            routing._ping(peer)
        routing._ping(honest)
        routing._ping(seated, first=True)
        await trio.sleep(10)
        assert asked.index(seated) < asked.index(honest)
        assert len(asked) == 18
        assert not routing._pinged


async def test_neighbours_that_are_gone_keep_out_none_that_comes(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    named = f"/memory/{key_pair(3).peer[-8:]}/p2p/{key_pair(3).peer}"
    async with (
        open_node(1, memory, (named,), settings=QUICK) as node,
        open_node(2, memory, settings=QUICK) as neighbour,
    ):
        for number in range(TOLD_MAX + 10):
            node.dht.begin_with(f"/memory/gone{number}")
            await trio.sleep(0.1)
        node.dht.begin_with(neighbour.system.addresses[0])
        await trio.sleep(5)
        assert [each.peer for each in node.dht.known()] == [neighbour.dht.peer]
        for number in range(TOLD_MAX + 10):
            node.dht.begin_with(f"/memory/gone too{number}")
            await trio.sleep(0.1)
        told = node.dht._peering.routing.cell.life.actor._told_of  # type: ignore[union-attr]
        assert len(told) == TOLD_MAX
        assert {named, neighbour.system.addresses[0]} <= set(told)


async def test_what_is_no_address_to_begin_with_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="is no address"):
        async with open_node(1, prime.Memory(), ("nonsense",)):
            pass


async def test_an_address_that_leads_nowhere_is_told_with_its_reason_and_once(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with (
        prime.open_system(transport=memory, key=key_pair(9)) as outside,
        open_node(1, memory, ("/memory/gone", *outside.addresses)) as node,
    ):
        node.dht.begin_with(node.system.addresses[0])
        await trio.sleep(600)
        told = {fact.address: fact.reason for fact in node.facts if isinstance(fact, AddressFailed)}
        assert sum(isinstance(fact, AddressFailed) for fact in node.facts) == len(told) == 3
        assert told[node.system.addresses[0]] == "it is this node's own"
        assert "shows no contact in the DHT" in told[outside.addresses[0]]
