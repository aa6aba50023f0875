"""Nodes of Prime in the DHT of libp2p, over real connections on the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio

import prime
from prime.actor.system import System
from prime.dht.ipfs.ipfs import Ipfs, open_ipfs
from prime.dht.settings import PRESETS, DhtSettings

QUICK = attrs.evolve(PRESETS["lan"], request_s=2.0, lookup_s=8.0)


@attrs.frozen
class Node:
    system: System
    ipfs: Ipfs


@asynccontextmanager
async def nodes(count: int, settings: DhtSettings = QUICK, **options: Any) -> AsyncIterator[list[Node]]:
    """Run nodes that were all told of the first, and know one another."""
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            found: list[Node] = []
            for _ in range(count):
                system = await stack.enter_async_context(prime.open_system(transport=prime.Libp2p()))
                told = found[0].system.addresses[:1] if found else ()
                ipfs = await stack.enter_async_context(open_ipfs(system, settings=settings, bootstrap=told, **options))
                found.append(Node(system, ipfs))
            for node in found:
                await known(node.ipfs, count - 1)
            yield found


async def known(ipfs: Ipfs, count: int) -> None:
    """Wait until a node has so many in its table."""
    while len(ipfs.desk.table) < count:  # noqa: ASYNC110 (the table tells nobody)
        await trio.sleep(0.01)
