"""How nodes hear of each other beside lookups: at a rendezvous point, and over links that are there for something else."""

from __future__ import annotations

import attrs
import pytest
import trio

import prime
from prime.dht import messages as m
from prime.dht.contact import make_contact
from prime.dht.discovery import DiscoveryActor
from prime.dht.rendezvous import NAMESPACE_GROUP_MAX, PEER_MAX, TTL_S_MAX, Rendezvous
from prime.errors import RefusedError
from tests.dht.strangers import contact
from tests.dht.swarm import LAN, key_pair, open_node, open_nodes

QUICK = attrs.evolve(LAN, refresh_s=30.0, request_s=2.0, lookup_s=10.0)


def test_a_registration_holds_for_its_time_and_is_shown_once_to_who_asks_on() -> None:
    book = Rendezvous(group_max=100)
    assert book.register("a", contact(1), "g", 60, now=0) == ""
    assert book.register("a", contact(2), "g", 600, now=1) == ""
    assert book.discover("a", 0, 1, now=2) == ([contact(1)], 1)
    assert book.discover("a", 1, 9, now=2) == ([contact(2)], 2)
    assert book.discover("a", 2, 9, now=2) == ([], 2)
    assert book.discover("b", 0, 9, now=2) == ([], 0)
    assert book.discover("a", 0, 9, now=61)[0] == [contact(2)]
    book.register("a", contact(2), "g", 600, now=61)  # anew: later than what was seen
    assert book.discover("a", 2, 9, now=61) == ([contact(2)], 3)
    book.sweep(now=61)
    assert len(book) == 1
    book.unregister("a", contact(2).peer)
    book.unregister("a", contact(2).peer)
    assert len(book) == 0
    assert book.register("a", contact(3), "g", 10**9, now=0) == ""
    assert book.discover("a", 0, 9, now=TTL_S_MAX)[0] == []


def test_nobody_fills_a_point_alone() -> None:
    book = Rendezvous(group_max=40)
    for number in range(40):
        assert book.register("a", contact(number), "one", 60, now=0) == ""
    assert "its quota" in book.register("a", contact(41), "one", 60, now=0)
    for number in range(PEER_MAX):
        assert book.register(f"n{number}", contact(99), "two", 60, now=0) == ""
    assert "namespaces" in book.register("one more", contact(99), "two", 60, now=0)


def test_who_comes_is_not_shown_one_group_alone() -> None:
    book = Rendezvous(group_max=1024)
    taken = [book.register("a", contact(number), "one", 60, now=0) == "" for number in range(300)]
    assert taken.count(True) == NAMESPACE_GROUP_MAX
    assert "are registered there already" in book.register("a", contact(300), "one", 60, now=0)
    assert book.register("b", contact(300), "one", 60, now=0) == ""
    assert book.register("a", contact(0), "one", 60, now=0) == "", "it is registered anew"
    assert book.register("a", contact(301), "two", 60, now=0) == ""
    assert contact(301) in book.discover("a", 0, 256, now=0)[0]


async def test_nodes_that_know_one_point_alone_find_each_other(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with open_node(1, memory, settings=QUICK) as point:
        points = point.system.addresses
        async with (
            open_node(2, memory, settings=QUICK, rendezvous=points) as two,
            open_node(3, memory, settings=QUICK, rendezvous=points) as three,
        ):
            await trio.sleep(120)
            assert {each.peer for each in two.dht.table} >= {three.dht.peer}
            put = await two.dht.put(b"value")
            assert (await three.dht.get(put.record.key)).value == b"value"


async def test_a_point_that_comes_late_is_gone_to_then(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    late = f"/memory/{key_pair(1).peer[-8:]}/p2p/{key_pair(1).peer}"
    async with open_node(2, memory, settings=QUICK, rendezvous=(late,)) as two:
        await trio.sleep(100)
        async with open_node(1, memory, settings=QUICK) as point:
            await trio.sleep(300)
            assert await point.dht.discover("dht", two.dht.peer) == ()
            assert [each.peer for each in point.dht.table] == [two.dht.peer]


async def test_programs_meet_under_a_namespace_of_their_own(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as nodes:
        point = nodes[0].dht.peer
        assert await nodes[1].dht.register("jobs", point, ttl_s=600) == 600
        await nodes[2].dht.register("jobs", point)
        assert {each.peer for each in await nodes[3].dht.discover("jobs", point)} == {
            nodes[1].dht.peer,
            nodes[2].dht.peer,
        }
        assert [each.peer for each in await nodes[1].dht.discover("jobs", point)] == [nodes[2].dht.peer]


async def test_a_peer_registers_itself_alone(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(2) as nodes:
        other = make_contact(key_pair(5), ("/memory/five",), 1).sealed
        point = nodes[0].system.ref(nodes[1].dht.peer, m.DISCOVERY_PATH, DiscoveryActor)
        with pytest.raises(RefusedError, match="itself alone"):
            await point.ask(m.Register("jobs", other, 60), timeout=5)


async def test_nodes_that_are_linked_for_something_else_meet_in_the_dht(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with open_node(1, memory, settings=QUICK) as one, open_node(2, memory, settings=QUICK) as two:
        await trio.sleep(10)
        assert one.dht.status().contacts == 0
        await one.system.network.dial(two.system.addresses[0])  # type: ignore[union-attr]
        await trio.sleep(1)
        assert (one.dht.status().contacts, two.dht.status().contacts) == (1, 1)
