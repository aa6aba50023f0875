"""Where a node dials: at addresses that whoever named them may vouch for, and at no others, however the contact came."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import prime
from prime.actor import Ref
from prime.dht import messages as m
from prime.dht.backends.memory import MemoryBackend
from prime.dht.contact import make_contact
from prime.dht.key import key_of, to_bytes
from prime.dht.peering import Met, Peering
from prime.dht.providing import ProvidingActor
from prime.transport.links import Links
from tests.dht.swarm import key_pair, open_node
from tests.dht.test_hostile import NOW_MS, QUICK, one_and_a_liar

LOOPBACK, PRIVATE, PUBLIC = "/ip4/127.0.0.1/tcp/6379", "/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1"
KEY = key_of(b"x")


def seen_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Have all links come from an address; of who has none, nothing is known."""
    monkeypatch.setattr(Peering, "seen_at", lambda self, peer: address if self.is_linked(peer) else "")


def named(number: int, *places: str) -> bytes:
    return make_contact(key_pair(number), places, NOW_MS).sealed


async def test_contacts_that_are_handed_out_have_no_address_that_nobody_may_vouch_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    seen_at(monkeypatch, "/ip4/9.9.9.9/tcp/1")
    async with one_and_a_liar() as (node, _, script):
        script.card = named(66, LOOPBACK, PUBLIC)
        script.closer = lambda _: (script.card, named(5, LOOPBACK, PRIVATE, PUBLIC))
        script.providers = (named(5, LOOPBACK, PRIVATE, PUBLIC), named(6, LOOPBACK))
        await trio.sleep(700)  # it has introduced itself anew
        (found,) = await node.dht.find_providers(KEY)
        assert found.addresses == (f"{PUBLIC}/p2p/{key_pair(5).peer}",)
        assert not [each for contact in node.dht.known() for each in contact.addresses if "127.0.0.1" in each]
        links = node.system.network
        assert isinstance(links, Links)
        assert LOOPBACK not in str([links.known_addresses(key_pair(number).peer) for number in (5, 6, 66)])


async def test_in_a_private_network_peers_are_found_through_one_another(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    seen_at(monkeypatch, "/ip4/10.0.0.9/tcp/1")
    async with one_and_a_liar() as (node, _, script):
        script.closer = lambda _: (named(5, LOOPBACK, PRIVATE),)
        await node.dht.closest(KEY)
        links = node.system.network
        assert isinstance(links, Links)
        assert links.known_addresses(key_pair(5).peer) == (f"{PRIVATE}/p2p/{key_pair(5).peer}",)


async def test_a_provider_is_as_it_was_seen_also_after_a_restart(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    seen_at(monkeypatch, "/ip4/10.0.0.9/tcp/1")
    memory, backend = prime.Memory(), MemoryBackend()
    async with (
        open_node(1, memory, settings=QUICK, backend=backend) as node,
        prime.open_system(transport=memory, key=key_pair(5)) as provider,
    ):
        provider.learn(node.dht.peer, node.system.addresses)
        names: Ref[Any] = provider.ref(node.dht.peer, m.PROVIDERS_PATH, ProvidingActor)
        await names.ask(m.Provide(to_bytes(KEY), named(5, LOOPBACK, PRIVATE), 3600), timeout=5)
        assert [each.addresses for each in await node.dht.find_providers(KEY)] == [
            (f"{PRIVATE}/p2p/{key_pair(5).peer}",)
        ]
    async with open_node(1, memory, settings=QUICK, backend=backend) as node:
        assert [each.addresses for each in await node.dht.find_providers(KEY)] == [
            (f"{PRIVATE}/p2p/{key_pair(5).peer}",)
        ]


async def test_a_peer_of_the_table_is_found_though_the_links_have_forgotten_where_it_is(
    autojump_clock: trio.abc.Clock,
) -> None:
    memory = prime.Memory()
    async with open_node(1, memory, settings=QUICK) as node, open_node(2, memory, settings=QUICK) as other:
        links, routing = node.system.network, node.dht._peering.routing
        assert isinstance(links, Links)
        assert routing is not None
        assert links.known_addresses(other.dht.peer) == ()
        await routing.tell(Met(other.dht.contact))  # long ago, before thousands of others
        await trio.sleep(0.1)
        assert [each.peer for each in await node.dht.closest(KEY)] == [other.dht.peer]
