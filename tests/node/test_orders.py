"""What a node's user orders of the DHT: who may, how many at a time, and how refusals come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from prime import Memory, open_system
from prime.actor import Ref
from prime.errors import DeadlineError, RefusedError
from prime.node import orders
from prime.node.messages import DHT_PATH, OfferKey, PublishRecord, ShowPeers, ShowProviders, ShowRecord, WithdrawRecord
from prime.node.orders import DhtActor, Order
from prime.transport.identity import KeyPair

PEER = KeyPair.from_seed(bytes(32)).peer
KEY = "ab" * 32
ALL = [ShowRecord(KEY), PublishRecord(b"x"), WithdrawRecord("x"), OfferKey(KEY), ShowProviders(KEY), ShowPeers(KEY)]
by_name = pytest.mark.parametrize("order", ALL, ids=lambda order: type(order).__name__)


async def refusing(*_: object, **__: object) -> Any:
    raise RefusedError("1 of 3 peers hold it, where 2 are needed", hint="try again")


async def hanging(*_: object, **__: object) -> Any:
    await trio.sleep_forever()


def dht_that(does: Any) -> Any:
    methods = ("get", "put", "remove", "provide", "stop_providing", "find_providers", "closest", "find_peer")
    return SimpleNamespace(peer=PEER, ipfs=None, **dict.fromkeys(methods, does))


@asynccontextmanager
async def taking_orders(dht: Any) -> AsyncIterator[Ref[Order]]:
    async with open_system(transport=Memory()) as system, system.supervisor("node") as supervisor:
        yield await supervisor.spawn(lambda: DhtActor(dht), "dht")


@by_name
async def test_a_refusal_comes_back_as_it_was_said(order: Any) -> None:
    async with taking_orders(dht_that(refusing)) as node:
        with pytest.raises(RefusedError, match="where 2 are needed") as caught:
            await node.ask(order, timeout=5)
        assert caught.value.hint == "try again"


@by_name
async def test_a_node_outside_the_dht_says_so(order: Any) -> None:
    async with taking_orders(None) as node:
        with pytest.raises(RefusedError, match="not in the DHT") as caught:
            await node.ask(order, timeout=5)
        assert "dht.enabled" in caught.value.hint


@pytest.mark.parametrize("order", [ShowRecord("a:b"), WithdrawRecord("/"), ShowPeers("x/y"), PublishRecord(b"", "a/b")])
async def test_what_names_no_key_crashes_nothing(order: Any) -> None:
    async with taking_orders(dht_that(refusing)) as node:
        with pytest.raises(RefusedError) as caught:
            await node.ask(order, timeout=5)
        assert caught.value.hint
        with pytest.raises(RefusedError, match="where 2 are needed"):
            await node.ask(ShowRecord(KEY), timeout=5)


async def test_libp2ps_dht_is_not_there_without_libp2p() -> None:
    async with taking_orders(dht_that(refusing)) as node:
        with pytest.raises(RefusedError, match="libp2p"):
            await node.ask(ShowPeers(f"ipfs:{PEER}"), timeout=5)


async def test_other_nodes_give_no_orders() -> None:
    hub = Memory()
    async with (
        open_system(transport=hub) as system,
        system.supervisor("node") as supervisor,
        open_system(transport=hub) as stranger,
    ):
        await supervisor.spawn(lambda: DhtActor(dht_that(refusing)), "dht")
        stranger.learn(system.peer, system.addresses)
        with pytest.raises(RefusedError, match="only on its own machine"):
            await stranger.ref(system.peer, DHT_PATH, DhtActor).ask(ShowRecord(KEY), timeout=5)


async def test_so_many_orders_at_a_time_and_no_more(autojump_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "ORDERS_MAX", 2)
    outcomes: list[type] = []

    async def order(node: Ref[Order], timeout_s: float) -> None:
        try:
            await node.ask(ShowRecord(KEY), timeout=timeout_s)
        except (DeadlineError, RefusedError) as error:
            outcomes.append(type(error))

    async with taking_orders(dht_that(hanging)) as node:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(order, node, 10)
        assert sorted(outcomes, key=lambda each: each.__name__) == [DeadlineError, DeadlineError, RefusedError]
