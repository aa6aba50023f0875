"""The DHT end to end: nodes that join, put, get, provide and find each other, over memory and over TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

import prime
from prime.actor.facts import ActorFailed
from prime.dht.dht import Dht, open_dht
from prime.dht.key import key_of
from prime.dht.settings import PRESETS
from prime.errors import NotFoundError

LAN = PRESETS["lan"]


@asynccontextmanager
async def swarm(count: int, transports: Sequence[Any] = (), **options: Any) -> AsyncIterator[list[Dht]]:
    """Open so many nodes; all were told of the first."""
    memory, nodes, facts, begin = prime.Memory(), list[Dht](), list[object](), ()
    async with AsyncExitStack() as stack:
        for number in range(count):
            key = prime.KeyPair.from_seed(number.to_bytes(32, "big"))
            transport = transports[number] if transports else memory
            system = await stack.enter_async_context(prime.open_system(transport=transport, key=key, seed=number))
            system.subscribe(facts.append)
            dht = await stack.enter_async_context(
                open_dht(system, key, **{"settings": LAN, "bootstrap": begin} | options)
            )
            begin = begin or system.addresses
            nodes.append(dht)
        with trio.fail_after(30):
            for node in nodes:
                await node.joined()
        yield nodes
    assert [fact for fact in facts if isinstance(fact, ActorFailed)] == []


async def test_what_one_node_puts_another_gets(autojump_clock: trio.abc.Clock) -> None:
    async with swarm(5) as nodes:
        put = await nodes[0].put(b"value", salt=b"salt")
        assert len(put.holders) == LAN.replicas
        assert (await nodes[4].get(put.record.key)).value == b"value"
        assert await nodes[3].resolve(f"{nodes[0].peer}/salt") == b"value"
        again = await nodes[0].put(b"later", salt=b"salt")
        assert again.record.seq == 1
        assert (await nodes[4].get(put.record.key)).value == b"later"
        await nodes[0].remove(b"salt")
        with pytest.raises(NotFoundError, match="removed"):
            await nodes[4].get(put.record.key)


async def test_nodes_find_each_other_and_who_provides(autojump_clock: trio.abc.Clock) -> None:
    async with swarm(5) as nodes:
        assert await nodes[1].find_peer(nodes[4].peer) == nodes[4].contact
        key = key_of(b"a chunk")
        assert await nodes[2].provide(key) == LAN.replicas
        assert await nodes[3].find_providers(key) == (nodes[2].contact,)
        await nodes[2].stop_providing(key)
        assert await nodes[3].find_providers(key) == ()


async def test_over_tcp() -> None:
    async with swarm(3, [prime.Tcp("/ip4/127.0.0.1/tcp/0") for _ in range(3)]) as nodes:
        put = await nodes[1].put(b"value")
        assert (await nodes[2].get(put.record.key)).value == b"value"
