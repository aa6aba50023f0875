"""Calls that both type checkers must reject: exactly the lines that are marked, no other."""

from __future__ import annotations

from kv import Count, Foreign, ForeignAsk, Get, Put, Store, Sweep

import prime
from prime import Mailbox, Ref, Restart, Supervisor, System
from prime.testing import Probe


async def tell(store: Ref[Put | Get]) -> None:
    await store.tell("nope")  # rejected
    await store.tell(Foreign())  # rejected
    await store.tell(Put)  # rejected
    store.tell_nowait(Sweep())  # rejected


async def ask(store: Ref[Put | Get | Count]) -> None:
    number: int = await store.ask(Get("a"), timeout=1)  # rejected
    text: str = await store.ask(Count(), timeout=1)  # rejected
    print(number, text)
    await store.ask("nope", timeout=1)  # rejected
    await store.ask(Put("a", b""), timeout=1)  # rejected
    await store.ask(ForeignAsk(), timeout=1)  # rejected
    await store.ask(Get("a"))  # rejected


async def ask_one_of_which_is_foreign(store: Ref[Get], either: Get | Count) -> None:
    await store.ask(either, timeout=1)  # rejected


async def call_far(system: System, peer: str) -> None:
    far = system.ref(peer, "/kv/store", Store)
    await far.tell(Foreign())  # rejected
    await far.ask(ForeignAsk(), timeout=1)  # rejected
    system.ref(peer, "/kv/store", Put)  # rejected


def only_put(_: Ref[Put]) -> None: ...


def put_and_get(_: Ref[Put | Get]) -> None: ...


def a_capability_does_not_widen(put: Ref[Put], get: Ref[Get]) -> None:
    put_and_get(put)  # rejected
    put_and_get(get)  # rejected
    only_put(get)  # rejected


async def narrowed(store: Ref[Put | Get | Count], known: Ref[Put | Get]) -> None:
    await store.narrow(Put).tell(Get("a"))  # rejected
    await store.narrow(Put, Count).ask(Get("a"), timeout=1)  # rejected
    await store.narrow(Put, Get).tell("nope")  # rejected
    narrow = known.narrow(Put)
    put_and_get(narrow)  # rejected
    # `known.narrow(Foreign)` is beyond both checkers: a class alone cannot be held to the ref's protocol, since Python
    # has no bounds that depend on another type; and `put_and_get(known.narrow(Put))` in one expression takes the wider
    # class from where it goes. At run time the ref is as narrow as it was made, and its actor refuses what is foreign.


async def many_at_once(store: Ref[Put | Get]) -> None:
    await prime.ask_all(store, [Count()], timeout=1)  # rejected
    await prime.ask_all(store, [Put("a", b"")], timeout=1)  # rejected


def from_a_thread(portal: prime.Portal, store: Ref[Put | Get]) -> None:
    portal.tell(store, Foreign())  # rejected
    portal.ask(store, ForeignAsk(), timeout=1)  # rejected


async def spawn(sup: Supervisor) -> None:
    await sup.spawn(Put, "message")  # rejected
    await sup.spawn(Store(1), "instance")  # rejected
    await sup.spawn(lambda: Store("many"), "lambda")  # rejected
    narrow: Ref[Foreign] = await sup.spawn(Store, "store")  # rejected
    print(narrow)
    await sup.spawn(Store, "kind", kind="eternal")  # rejected
    pool: Ref[Foreign] = await sup.spawn_pool(Store, "pool", size=2)  # rejected
    print(pool)


async def probe(supervisor: Supervisor) -> None:
    probe = await Probe.spawn(supervisor)
    put: Put = await probe.expect(Get)  # rejected
    print(put)
    await probe.expect(Put("a", b""))  # rejected


def build() -> None:
    Mailbox(full="overflow")  # rejected
    Restart(max="five")  # rejected
    Put("a")  # rejected
    Put(1, b"")  # rejected
    Put("a", b"").key = "b"  # rejected
