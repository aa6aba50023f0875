"""Copies: after quiet every record has as many as it should, whoever has come or gone, and stale ones are corrected."""

from __future__ import annotations

import attrs
import pytest
import trio

import prime
from prime.dht.key import Key, distance
from prime.errors import NotFoundError
from tests.dht.swarm import LAN, Node, joined, open_node, open_nodes

QUICK = attrs.evolve(LAN, replicate_s=60.0, refresh_s=30.0, request_s=2.0, lookup_s=10.0)


def holders(nodes: list[Node], key: Key) -> set[str]:
    return {node.dht.peer for node in nodes if node.dht.held(key) is not None}


def nearest(nodes: list[Node], key: Key) -> set[str]:
    """Return who should hold what is under a key, as whoever sees all of them knows."""
    ranked = sorted(nodes, key=lambda node: distance(node.dht.contact.key, key))
    return {node.dht.peer for node in ranked[: LAN.replicas]}


async def test_a_put_goes_to_the_nearest(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(8) as nodes:
        for number in range(6):
            put = await nodes[0].dht.put(b"%d" % number)
            assert set(put.holders) == holders(nodes, put.record.key) == nearest(nodes, put.record.key)


async def test_where_a_holder_leaves_the_next_one_gets_its_records(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(7, settings=QUICK) as nodes:
        keys = [(await nodes[0].dht.put(b"%d" % number)).record.key for number in range(8)]
        for _ in range(3):
            await nodes.pop().stop()
            await trio.sleep(200)
            assert [holders(nodes, key) for key in keys] == [nearest(nodes, key) for key in keys]
        for key in keys:
            await nodes[1].dht.get(key)


async def test_a_holder_that_leaves_is_not_missed_for_an_hour(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(7, settings=attrs.evolve(QUICK, replicate_s=3600.0)) as nodes:
        keys = [(await nodes[0].dht.put(b"%d" % number)).record.key for number in range(8)]
        for _ in range(3):
            await nodes.pop().stop()
            await trio.sleep(120)
            assert [nearest(nodes, key) - holders(nodes, key) for key in keys] == [set()] * len(keys)


async def test_what_was_put_while_nobody_answered_is_handed_on_once_they_do(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(5, settings=attrs.evolve(QUICK, replicate_s=3600.0)) as nodes:
        writer, *others = nodes
        cells = [
            actor.cell for node in others for actor in (node.dht._peering.holding, node.dht._peering.routing) if actor
        ]
        for cell in cells:
            cell.held = True
        put = await writer.dht.put(b"value")
        assert put.holders == (writer.dht.peer,)
        for cell in cells:
            cell.held = False
            cell.wake()
        await trio.sleep(120)
        assert holders(nodes, put.record.key) >= nearest(nodes, put.record.key)


async def test_a_newcomer_gets_what_it_is_nearest_to_and_others_give_it_up(autojump_clock: trio.abc.Clock) -> None:
    memory = prime.Memory()
    async with open_nodes(4, transport=lambda _: memory, settings=QUICK) as nodes:
        keys = [(await nodes[0].dht.put(b"%d" % number)).record.key for number in range(8)]
        async with open_node(50, memory, nodes[0].system.addresses, settings=QUICK) as newcomer:
            everybody = [*nodes, newcomer]
            await joined(everybody)
            await trio.sleep(300)
            assert [holders(everybody, key) for key in keys] == [nearest(everybody, key) for key in keys]
            assert newcomer.dht.status().records > 0


async def test_a_record_that_all_holders_took_with_them_is_published_anew(autojump_clock: trio.abc.Clock) -> None:
    often = attrs.evolve(QUICK, republish_s=60.0)
    async with open_nodes(8, settings=often) as nodes:
        put = await nodes[0].dht.put(b"value", salt=b"salt")
        gone = [node for node in nodes[1:] if node.dht.peer in put.holders]
        for node in gone:
            node.scope.cancel()
        left = [node for node in nodes if node not in gone]
        await trio.sleep(300)
        assert holders(left, put.record.key) == nearest(left, put.record.key)
        assert (await left[1].dht.get(put.record.key)).value == b"value"


async def test_what_has_expired_is_gone_everywhere(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4, settings=QUICK) as nodes:
        put = await nodes[0].dht.put(b"value", salt=b"salt", ttl_s=100)
        await nodes[0].dht.stop_publishing(put.record.key)
        await trio.sleep(200)
        assert holders(nodes, put.record.key) == set()
        with pytest.raises(NotFoundError, match="held nothing"):
            await nodes[1].dht.get(put.record.key)


async def test_a_read_corrects_who_holds_an_older_version_or_none(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(5) as nodes:
        put = await nodes[0].dht.put(b"value", salt=b"salt")
        holder = next(node for node in nodes if node.dht.peer in put.holders)
        await holder.dht._archive.drop(put.record, holder.dht._peering.now_ms())
        assert holder.dht.peer not in holders(nodes, put.record.key)
        reader = next(node for node in nodes[1:] if node.dht.peer not in put.holders)
        await reader.dht.get(put.record.key)
        await trio.sleep(1)
        assert holder.dht.peer in holders(nodes, put.record.key)
