"""Peers that lie, flood and forge: nothing of it is believed, nothing of it is endless, and no actor fails of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

import prime
from prime.actor import Actor, on
from prime.actor.contract import PeerId
from prime.dht import messages as m
from prime.dht.contact import make_contact, read_contact
from prime.dht.holding import HoldingActor
from prime.dht.key import Key, from_bytes, key_of, to_bytes
from prime.dht.peering import Met, Peering
from prime.dht.providing import ProvidingActor
from prime.dht.record import Record, make_record
from prime.dht.routing import RoutingActor
from prime.errors import CorruptedError, NotFoundError, RefusedError
from tests.dht.swarm import LAN, WALL_S, Node, key_pair, open_node, open_nodes, wall_s

QUICK = attrs.evolve(LAN, request_s=2.0, lookup_s=10.0)
NOW_MS = int(WALL_S * 1000)


class Liar(Actor[m.FindPeers | m.Introduce | m.GetRecord | m.StoreRecord | m.FindProviders | m.Provide]):
    """Answers as its script says."""

    def __init__(self, script: Script) -> None:
        self._script = script

    @on(m.FindPeers)
    def find(self, q: m.FindPeers) -> m.PeersFound:
        return m.PeersFound(self._script.closer(q.target))

    @on(m.Introduce)
    def introduce(self, _: m.Introduce) -> bytes:
        return self._script.card

    @on(m.GetRecord)
    def get(self, q: m.GetRecord) -> m.RecordFound:
        return m.RecordFound(self._script.record(from_bytes(q.key)), self._script.closer(q.key))

    @on(m.StoreRecord)
    def store(self, q: m.StoreRecord) -> m.RecordStored:
        return m.RecordStored("stored")

    @on(m.FindProviders)
    def providers(self, q: m.FindProviders) -> m.ProvidersFound:
        return m.ProvidersFound(self._script.providers, self._script.closer(q.key))

    @on(m.Provide)
    def provide(self, _: m.Provide) -> None:
        pass


@attrs.define
class Script:
    """What a hostile peer answers."""

    card: bytes
    closer: Callable[[bytes], tuple[bytes, ...]] = lambda _: ()
    record: Callable[[Key], bytes | None] = lambda _: None
    providers: tuple[bytes, ...] = ()


@asynccontextmanager
async def open_liar(number: int, memory: prime.Memory) -> AsyncIterator[tuple[prime.System, Script]]:
    key = key_pair(number)
    async with prime.open_system(transport=memory, key=key, seed=number) as system, system.supervisor("dht") as sup:
        script = Script(make_contact(key, system.addresses, NOW_MS).sealed)
        for name in ("routing", "records", "providers"):
            await sup.spawn(lambda: Liar(script), name)
        yield system, script


@asynccontextmanager
async def one_and_a_liar() -> AsyncIterator[tuple[Node, prime.System, Script]]:
    """Open a node that knows a liar, and no other peer."""
    memory = prime.Memory()
    async with (
        open_liar(66, memory) as (system, script),
        open_node(1, memory, system.addresses, settings=QUICK) as node,
    ):
        await node.dht.joined()
        assert node.dht.status().contacts == 1
        yield node, system, script
    assert not [fact for fact in node.facts if type(fact).__name__ == "ActorFailed"]


def version(seq: int, value: bytes = b"value", **over: Any) -> Record:
    return make_record(key_pair(7), value, salt=b"salt", **({"seq": seq, "created_ms": NOW_MS, "ttl_s": 3600} | over))


async def test_endless_lists_of_closer_peers_end(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, _, script):
        made = 0

        def strangers(_: bytes) -> tuple[bytes, ...]:
            nonlocal made
            made += 32
            keys = (key_pair(1000 + made + number) for number in range(32))
            return tuple(make_contact(key, (f"/memory/{key.peer[-8:]}",), NOW_MS).sealed for key in keys)

        script.closer = strangers
        began = trio.current_time()
        with pytest.raises(NotFoundError):
            await node.dht.get(key_of(b"x"))
        assert trio.current_time() - began <= QUICK.lookup_s
        assert node.dht.status().contacts == 1  # nobody who did not answer is in the table


async def test_own_ids_and_its_own_contact_lead_nowhere(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, _, script):
        script.closer = lambda _: (node.dht.contact.sealed, script.card)
        script.providers = (node.dht.contact.sealed,)
        assert [each.peer for each in await node.dht.closest(key_of(b"x"))] == [key_pair(66).peer]
        assert await node.dht.find_providers(key_of(b"x")) == ()


async def test_forged_contacts_are_left_out(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, _, script):
        forged = bytearray(make_contact(key_pair(5), ("/memory/five",), NOW_MS).sealed)
        forged[-1] ^= 1
        script.closer = lambda _: (bytes(forged), b"no contact")
        refused = node.dht.status().refused
        assert len(await node.dht.closest(key_of(b"x"))) == 1
        assert node.dht.status().refused == refused + 2


RECORDS: dict[str, Callable[[Key], bytes]] = {
    "a bit flipped": lambda _: version(1).sealed[:-1] + bytes([version(1).sealed[-1] ^ 1]),
    "another key's": lambda _: version(1).sealed,
    "truncated": lambda _: version(1).sealed[:-5],
    "noise": lambda _: b"no record",
}


@pytest.mark.parametrize("name", RECORDS)
async def test_a_forged_record_is_said_to_be_one(name: str, autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, _, script):
        script.record = RECORDS[name]
        with pytest.raises(CorruptedError, match="the signature is bad"):
            await node.dht.get(key_of(b"x") if name == "another key's" else version(1).key)


async def test_what_has_expired_or_comes_from_the_future_is_nothing(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, _, script):
        for over in ({"created_ms": NOW_MS - 7200_000}, {"created_ms": NOW_MS + 7200_000}):
            script.record = lambda _, over=over: version(1, **over).sealed  # type: ignore[misc]
            with pytest.raises(NotFoundError, match="held nothing"):
                await node.dht.get(version(1).key)


async def test_a_reader_never_goes_back(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, _, script):
        client = node.dht
        client._peering.server = False  # it reads, and holds nothing itself
        script.record = lambda _: version(5).sealed
        assert (await client.get(version(5).key)).seq == 5
        script.record = lambda _: version(4).sealed
        with pytest.raises(NotFoundError):
            await client.get(version(5).key)


async def test_liars_among_honest_peers_deceive_nobody(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with open_nodes(6, transport=lambda _: memory, settings=QUICK) as nodes:
        put = await nodes[0].dht.put(b"value", salt=b"salt")
        async with open_liar(66, memory) as (system, script):
            script.record = lambda _: version(9).sealed
            for node in nodes:
                await node.system.network.dial(system.addresses[0])  # type: ignore[union-attr]
                await node.dht._peering.routing.tell(Met(read_contact(script.card)))  # type: ignore[union-attr]
            for node in nodes:
                assert (await node.dht.get(put.record.key)).value == b"value"


async def test_old_records_are_not_taken_back(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, system, _):
        records = system.ref(node.dht.peer, m.RECORDS_PATH, HoldingActor)
        assert (await records.ask(m.StoreRecord(version(5).sealed), timeout=5)).outcome == "stored"
        again = await records.ask(m.StoreRecord(version(4).sealed), timeout=5)
        assert (again.outcome, again.held) == ("older", version(5).sealed)
        assert (await records.ask(m.StoreRecord(version(5).sealed), timeout=5)).outcome == "stored"


@pytest.mark.parametrize("data", [b"no record", version(1).sealed[:-5], b"\x00" * 16000], ids=["noise", "cut", "zeros"])
async def test_what_is_no_record_is_refused(data: bytes, autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, system, _):
        with pytest.raises(RefusedError, match="that is no record"):
            await system.ref(node.dht.peer, m.RECORDS_PATH, HoldingActor).ask(m.StoreRecord(data), timeout=5)
        assert node.dht.status().records == 0


async def test_a_request_over_the_bound_is_refused(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, system, _):
        node.dht._peering.settings = attrs.evolve(QUICK, request_bytes_max=100)
        with pytest.raises(RefusedError, match="where 100 are allowed"):
            await system.ref(node.dht.peer, m.RECORDS_PATH, HoldingActor).ask(
                m.StoreRecord(version(1).sealed), timeout=5
            )


async def test_nobody_speaks_for_another(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, system, _):
        other = make_contact(key_pair(5), ("/memory/five",), NOW_MS).sealed
        key = to_bytes(key_of(b"x"))
        with pytest.raises(RefusedError, match="for itself alone"):
            await system.ref(node.dht.peer, m.PROVIDERS_PATH, ProvidingActor).ask(m.Provide(key, other, 60), timeout=5)
        await system.ref(node.dht.peer, m.ROUTING_PATH, RoutingActor).ask(m.FindPeers(key, other), timeout=5)
        await trio.sleep(1)
        assert [each.peer for each in node.dht.table] == [key_pair(66).peer]


async def test_who_asks_too_often_is_refused_and_others_are_not(autojump_clock: trio.abc.Clock) -> None:
    async with one_and_a_liar() as (node, system, _):
        routing = system.ref(node.dht.peer, m.ROUTING_PATH, RoutingActor)
        outcomes = []
        for _ in range(300):
            try:
                await routing.ask(m.FindPeers(bytes(32), None), timeout=5)
                outcomes.append("answered")
            except RefusedError:
                outcomes.append("refused")
        assert 90 <= outcomes.count("answered") <= 110  # two seconds' worth at once
        await trio.sleep(2)
        await routing.ask(m.FindPeers(bytes(32), None), timeout=5)


async def test_a_peer_that_asks_and_never_answers_gets_no_place(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    key = key_pair(8)
    async with (
        open_node(1, memory, settings=QUICK) as node,
        prime.open_system(transport=memory, key=key) as mute,
    ):
        mute.learn(node.dht.peer, node.system.addresses)
        card = make_contact(key, mute.addresses, NOW_MS).sealed
        await mute.ref(node.dht.peer, m.ROUTING_PATH, RoutingActor).ask(m.FindPeers(bytes(32), card), timeout=5)
        await trio.sleep(10)
        assert node.dht.status().contacts == 0


async def test_only_addresses_that_a_peer_may_vouch_for_are_dialled(autojump_clock: trio.abc.Clock) -> None:
    async with prime.open_system(transport=prime.Memory(), key=key_pair(1)) as system:
        peering = Peering(system, key_pair(1), QUICK, server=True, wall_s=wall_s)
        public_peer = "/ip4/9.9.9.9/tcp/1"
        peering.seen_at = lambda _: public_peer  # type: ignore[method-assign]
        learned: dict[str, Any] = {}
        system.learn = learned.__setitem__  # type: ignore[method-assign]
        private, loopback, public = "/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1"
        far = PeerId("far")
        hidden = make_contact(key_pair(5), (private, loopback, "/memory/x"), NOW_MS)
        mixed = make_contact(key_pair(6), (private, public), NOW_MS)
        (vetted,) = peering.read_contacts([hidden.sealed, mixed.sealed], far)
        peering.teach(vetted)
        assert learned == {mixed.peer: (f"{public}/p2p/{mixed.peer}",)}
        assert peering.visible([hidden, mixed], far) == (mixed.sealed,)
        public_peer = "/ip4/10.0.0.9/tcp/1"  # one of the same site knows what is private there
        (vetted,) = peering.read_contacts([hidden.sealed], far)
        assert vetted.addresses == (f"{private}/p2p/{hidden.peer}",)
