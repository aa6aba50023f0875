"""The DHT end to end: nodes that join, put, get, provide and find each other, over memory and over TCP."""

from __future__ import annotations

import pytest
import trio

import prime
from prime.dht.key import key_of
from prime.dht.messages import RECORDS_PATH, ROUTING_PATH, Introduce
from prime.dht.routing import RoutingActor
from prime.errors import ConflictError, NotFoundError, RefusedError, UsageError
from tests.dht.swarm import LAN, open_node, open_nodes


async def test_what_one_node_puts_another_gets(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(5) as nodes:
        ann, ben = nodes[0].dht, nodes[4].dht
        put = await ann.put(b"value", salt=b"salt")
        assert len(put.holders) == LAN.replicas
        assert (await ben.get(put.record.key)).value == b"value"
        again = await ann.put(b"later", salt=b"salt")
        assert again.record.seq == put.record.seq + 1
        assert (await ben.get(put.record.key)).value == b"later"
        await ann.remove(b"salt")
        with pytest.raises(NotFoundError, match="removed"):
            await ben.get(put.record.key)


async def test_a_value_under_its_own_hash_is_anybody_s(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as nodes:
        one, other = await nodes[0].dht.put(b"value"), await nodes[1].dht.put(b"value")
        assert one.record.key == other.record.key
        assert (await nodes[2].dht.get(one.record.key)).value == b"value"


@pytest.mark.parametrize("verb", ["get", "provide", "find_providers", "closest"])
async def test_bytes_are_no_key(verb: str, autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(2) as nodes:
        with pytest.raises(UsageError, match="is no key of the DHT") as caught:
            await getattr(nodes[0].dht, verb)(b"what I look for")
        assert "key_of" in caught.value.hint


async def test_puts_of_one_salt_at_a_time_take_turns(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as nodes:
        async with trio.open_nursery() as nursery:
            for value in (b"a", b"b", b"c"):
                nursery.start_soon(lambda value=value: nodes[0].dht.put(value, salt=b"salt"))
        assert (await nodes[3].dht.put(b"x", salt=b"salt")).record.seq == 0
        assert (await nodes[0].dht.put(b"d", salt=b"salt")).record.seq == 3


async def test_a_version_below_the_one_that_is_held_is_a_conflict(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as nodes:
        await nodes[0].dht.put(b"value", salt=b"salt", seq=7)
        with pytest.raises(ConflictError, match="version 7 is held"):
            await nodes[0].dht.put(b"other", salt=b"salt", seq=3)


async def test_names_are_their_publisher_s(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(3) as nodes:
        await nodes[0].dht.set_name("model", b"value")
        assert await nodes[1].dht.resolve(f"{nodes[0].dht.peer}/model") == b"value"
        assert await nodes[0].dht.resolve("model") == b"value"
        with pytest.raises(NotFoundError, match="held nothing"):
            await nodes[1].dht.resolve("model")


async def test_nodes_find_each_other_and_who_provides(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(5) as nodes:
        assert await nodes[1].dht.find_peer(nodes[4].dht.peer) == nodes[4].dht.contact
        key = key_of(b"a chunk")
        assert await nodes[2].dht.provide(key) == LAN.replicas
        assert await nodes[3].dht.find_providers(key) == (nodes[2].dht.contact,)
        await nodes[2].dht.stop_providing(key)
        assert await nodes[3].dht.find_providers(key) == ()


async def test_a_node_alone_holds_what_it_puts(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(1) as nodes:
        put = await nodes[0].dht.put(b"value", salt=b"salt")
        assert put.holders == (nodes[0].dht.peer,)
        assert (await nodes[0].dht.get(put.record.key)).value == b"value"
        assert await nodes[0].dht.provide(put.record.key) == 1


async def test_a_client_uses_the_dht_and_serves_nobody(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with (
        open_nodes(3, transport=lambda _: memory) as nodes,
        open_node(9, memory, nodes[0].system.addresses, server=False) as client,
    ):
        await client.dht.joined()
        put = await client.dht.put(b"value", salt=b"salt")
        assert client.dht.peer not in put.holders
        assert (await nodes[1].dht.get(put.record.key)).value == b"value"
        assert (await client.dht.get(put.record.key)).value == b"value"
        assert all(client.dht.peer not in (each.peer for each in node.dht.table) for node in nodes)
        for path in (ROUTING_PATH, RECORDS_PATH):
            with pytest.raises((RefusedError, NotFoundError)):
                await nodes[0].system.ref(client.dht.peer, path, RoutingActor).ask(Introduce(None), timeout=5)


async def test_over_tcp() -> None:
    async with open_nodes(3, transport=lambda _: prime.Tcp("/ip4/127.0.0.1/tcp/0")) as nodes:
        put = await nodes[1].dht.put(b"value")
        assert (await nodes[2].dht.get(put.record.key)).value == b"value"
