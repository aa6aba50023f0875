"""Nodes of a DHT in one process, for tests: what all of them were told of, and what no test may leave unnoticed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import trio

import prime
from prime.actor import System
from prime.actor.facts import ActorFailed
from prime.dht.backends.memory import MemoryBackend
from prime.dht.dht import Dht, open_dht
from prime.dht.settings import PRESETS

LAN = PRESETS["lan"]
WALL_S = 1_700_000_000.0
OWNER: ContextVar[int] = ContextVar("OWNER", default=-1)
"""Which node's actors a task is of."""


def key_pair(number: int) -> prime.KeyPair:
    return prime.KeyPair.from_seed(number.to_bytes(32, "big"))


@attrs.frozen
class Node:
    """One node: its system, its part in the DHT, its store and its facts."""

    system: System
    dht: Dht
    backend: Any
    facts: list[Any]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def stop(self) -> None:
        """End this node, of several."""
        self.scope.cancel()
        await self.ended.wait()


def wall_s() -> float:
    """Return a time of day that goes with the clock of the test."""
    return WALL_S + trio.current_time()


@asynccontextmanager
async def open_node(
    number: int, transport: Any, begin: Sequence[str] = (), backend: Any = None, **options: Any
) -> AsyncIterator[Node]:
    """Open one node that was told of these addresses."""
    OWNER.set(number)
    key, backend, facts = key_pair(number), backend or MemoryBackend(), list[Any]()
    options = {"settings": LAN, "bootstrap": begin, "backend": backend, "wall_s": wall_s} | options
    async with prime.open_system(transport=transport, key=key, seed=number) as system:
        system.subscribe(facts.append)
        async with open_dht(system, key, **options) as dht:
            yield Node(system, dht, backend, facts)


@asynccontextmanager
async def open_nodes(
    count: int,
    *,
    transport: Callable[[int], Any] | None = None,
    backend: Callable[[int], Any] = lambda _: None,
    failures: bool = False,
    **options: Any,
) -> AsyncIterator[list[Node]]:
    """Open so many nodes, which were all told of the first; in the end no actor may have failed, unless `failures`."""
    memory, nodes, begin = prime.Memory(), list[Node](), ()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            way = memory if transport is None else transport(number)
            arguments = (number, way, begin, backend(number), options)
            node = await nursery.start(_live, *arguments)
            begin = begin or node.system.addresses
            nodes.append(node)
        await joined(nodes)
        yield nodes
        for node in reversed(nodes):
            await node.stop()
    if not failures:
        assert [fact for node in nodes for fact in node.facts if isinstance(fact, ActorFailed)] == []


async def _live(
    number: int, transport: Any, begin: Sequence[str], backend: Any, options: dict[str, Any], *, task_status: Any
) -> None:
    """Be one node until it is stopped."""
    async with open_node(number, transport, begin, backend, **options) as node:
        with node.scope:
            task_status.started(node)
            await trio.sleep_forever()
    node.ended.set()


async def joined(nodes: Sequence[Node]) -> None:
    """Wait until each has found its place."""
    with trio.fail_after(30):
        for node in nodes:
            await node.dht.joined()
