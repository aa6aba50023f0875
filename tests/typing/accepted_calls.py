"""Calls that both type checkers must take, with the types they must see."""

from __future__ import annotations

from typing import Any, assert_type

from kv import Count, Get, Put, Store, Sweep

import prime
from prime import Mailbox, Ref, Restart, Supervisor, System

Kv = Put | Get | Count | Sweep


async def serve() -> None:
    async with prime.open_system(transport=prime.Tcp("/ip4/127.0.0.1/tcp/0"), seed=1) as system:
        assert_type(system, System)
        async with system.supervisor("kv", strategy="rest_for_one", restart=Restart(max=5, within=10)) as sup:
            assert_type(sup, Supervisor)
            assert_type(await sup.spawn(Store, "class"), Ref[Kv])
            assert_type(await sup.spawn(lambda: Store(10), "lambda", mailbox=Mailbox(8, full="reject")), Ref[Kv])
            assert_type(await sup.spawn_pool(Store, "pool", size=4, route=prime.LeastLoaded()), Ref[Kv])
            assert_type(await sup.spawn_process(Store, "process", args=(10,)), Ref[Kv])
            assert_type(await sup.spawn_process("kv:Store", "named"), Ref[Any])
            assert_type(system.whereis("/kv/class"), Ref[Any] | None)


async def call(store: Ref[Kv]) -> None:
    await store.tell(Put("a", b"1"))
    await store.tell(Sweep())
    store.tell_nowait(Put("a", b"1"))
    await store.tell(Get("a"))  # an ask may be told: its reply goes nowhere
    assert_type(await store.ask(Get("a"), timeout=1), bytes | None)
    assert_type(await store.ask(Count(), timeout=1), int)
    assert_type((store.path, store.peer), tuple[str, str])


async def call_either(store: Ref[Kv], either: Get | Count) -> None:
    assert_type(await store.ask(either, timeout=1), bytes | None | int)


async def call_far(system: System, peer: str) -> None:
    far = system.ref(peer, "/kv/store", Store)
    assert_type(far, Ref[Kv])
    await far.tell(Put("a", b"1"))
    assert_type(await far.ask(Get("a"), timeout=1), bytes | None)


async def call_anything(ref: Ref[Any]) -> None:
    await ref.tell("what its sender knows to be right")
    assert_type(await ref.ask(Count(), timeout=1), int)


def only_put(_: Ref[Put]) -> None: ...


def only_reads(_: Ref[Get | Count]) -> None: ...


def narrower_is_a_capability(store: Ref[Kv]) -> None:
    only_put(store)
    only_reads(store)
    only_put(store.narrow(Put))
    assert_type(store.narrow(Put), Ref[Put])
    assert_type(store.narrow(Get, Count), Ref[Get | Count])


async def many_at_once(store: Ref[Kv]) -> None:
    keys = [Get("a"), Get("b")]
    assert_type(await prime.ask_all(store, keys, timeout=1), list[bytes | None])
    async with prime.pipeline(store, keys, timeout=1) as answers:
        async for answer in answers:
            assert_type(answer, bytes | None)


def from_a_thread(portal: prime.Portal, store: Ref[Kv]) -> None:
    portal.tell(store, Put("a", b""))
    assert_type(portal.ask(store, Get("a"), timeout=1), bytes | None)
