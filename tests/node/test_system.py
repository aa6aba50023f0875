"""Two systems: the same ref, near and far."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import trio

import prime
from prime import Actor, Ask, Down, Ref, on
from prime.errors import (
    ActorCrashedError,
    DeadlineError,
    LocalProtocolError,
    NoSuchActorError,
    RefusedError,
    UnreachableError,
    WrongBackendError,
    WrongPeerError,
)
from prime.testing import cancelled_at


@prime.message(tag=0x7001)
class Put:
    key: str
    value: bytes


@prime.message(tag=0x7002)
class Get(Ask[bytes | None]):
    key: str


@prime.message(tag=0x7003)
class Boom(Ask[None]):
    pass


@prime.message(tag=0x7004)
class WhoAsks(Ask[str]):
    pass


@prime.message(tag=0x7005)
class Wait(Ask[None]):
    pass


@prime.message
class Private:
    pass


class Store(Actor[Put | Get | Boom | WhoAsks | Wait]):
    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    @on(Put)
    def put(self, m: Put) -> None:
        self.data[m.key] = m.value

    @on(Get)
    def get(self, m: Get) -> bytes | None:
        return self.data.get(m.key)

    @on(Boom)
    def boom(self, _: Boom) -> None:
        raise ValueError("boom")

    @on(WhoAsks)
    def who_asks(self, _: WhoAsks) -> str:
        return self.ctx.sender or ""

    @on(Wait)
    async def wait(self, _: Wait) -> None:
        await trio.sleep_forever()


def transports() -> list[Any]:
    hub = prime.Memory()
    return [pytest.param(lambda: hub, id="memory"), pytest.param(lambda: prime.Tcp("/ip4/127.0.0.1/tcp/0"), id="tcp")]


@pytest.mark.parametrize("transport", transports())
async def test_a_far_ref_is_the_same_ref(transport: Any) -> None:
    with trio.fail_after(20):
        async with (
            prime.open_system(transport=transport()) as near,
            prime.open_system(transport=transport()) as far,
            far.supervisor("kv") as sup,
        ):
            await sup.spawn(Store, "store", shutdown=0.2)
            assert near.network is not None
            peer = await near.network.dial(far.addresses[0])
            assert peer == far.peer
            store: Ref[Any] = near.ref(peer, "/kv/store", Store)
            await store.tell(Put("a", b"1"))
            assert await store.ask(Get("a"), timeout=5) == b"1"
            assert await store.ask(WhoAsks(), timeout=5) == near.peer
            with pytest.raises(ActorCrashedError, match="ValueError: boom") as caught:
                await store.ask(Boom(), timeout=5)
            assert "in boom" in caught.value.remote_traceback
            assert await store.ask(Get("a"), timeout=5) is None
            with pytest.raises(NoSuchActorError, match="/kv/none"):
                await near.ref(peer, "/kv/none", Store).ask(Get("a"), timeout=5)
            with pytest.raises(LocalProtocolError, match="Private"):
                await store.tell(Private())
            with pytest.raises(DeadlineError):
                await store.ask(Wait(), timeout=0.1)


async def test_a_watch_across_nodes_hears_of_the_far_nodes_end_exactly_once() -> None:
    downs: list[Down] = []
    heard = trio.Event()
    hub = prime.Memory()

    class Watcher(Actor[Down]):
        def __init__(self, target: Ref[Any]) -> None:
            self.target = target

        async def started(self) -> None:
            self.ctx.watch(self.target)

        @on(Down)
        def down(self, m: Down) -> None:
            downs.append(m)
            heard.set()

    with trio.fail_after(20):
        async with prime.open_system(transport=hub) as near, near.supervisor("w") as watchers:
            async with prime.open_system(transport=hub) as far, far.supervisor("kv") as sup:
                await sup.spawn(Store, "store")
                assert near.network is not None
                await near.network.dial(far.addresses[0])
                peer = far.peer
                await watchers.spawn(lambda: Watcher(near.ref(peer, "/kv/store", Store)), "w")
                await near.ref(peer, "/kv/store", Store).ask(Get("a"), timeout=5)
            await heard.wait()
            await trio.sleep(0.1)
    assert [(down.path, down.peer) for down in downs] == [("/kv/store", peer)]


async def test_addresses_that_cannot_work() -> None:
    with trio.fail_after(20):
        async with prime.open_system(transport=prime.Tcp("/ip4/127.0.0.1/tcp/0")) as near:
            assert near.network is not None
            with pytest.raises(UnreachableError) as caught:
                await near.network.dial("/ip4/127.0.0.1/tcp/1")
            assert caught.value.hint
            stranger = prime.KeyPair.generate().peer
            with pytest.raises(UnreachableError, match=stranger):
                await near.ref(stranger, "/kv/store", Store).ask(Get("a"), timeout=5)
            async with prime.open_system(transport=prime.Tcp("/ip4/127.0.0.1/tcp/0")) as far:
                address = far.addresses[0].rpartition("/")[0] + f"/{stranger}"
                with pytest.raises(WrongPeerError):
                    await near.network.dial(address)


async def test_a_handler_may_refuse_across_nodes() -> None:
    class Picky(Actor[Get]):
        @on(Get)
        def get(self, _: Get) -> bytes | None:
            raise RefusedError("not for you", hint="ask nicely")

    hub = prime.Memory()
    with trio.fail_after(20):
        async with (
            prime.open_system(transport=hub) as near,
            prime.open_system(transport=hub) as far,
            far.supervisor("p") as sup,
        ):
            await sup.spawn(Picky, "picky")
            assert near.network is not None
            peer = await near.network.dial(far.addresses[0])
            with pytest.raises(RefusedError, match="not for you") as caught:
                await near.ref(peer, "/p/picky", Picky).ask(Get("a"), timeout=5)
            assert caught.value.hint == "ask nicely"


def test_under_asyncio_it_says_so() -> None:
    async def main() -> None:
        async with prime.open_system():
            pass

    with pytest.raises(WrongBackendError) as caught:
        anyio.run(main, backend="asyncio")
    assert 'backend="trio"' in caught.value.hint


def test_under_anyio_on_trio_it_runs() -> None:
    async def main() -> bool:
        async with prime.open_system() as system, system.supervisor("kv") as sup:
            store = await sup.spawn(Store, "store")
            await store.tell(Put("a", b"1"))
            return await store.ask(Get("a"), timeout=1) == b"1"

    assert anyio.run(main, backend="trio")


@pytest.mark.parametrize("late", [False, True])
async def test_a_start_that_is_cancelled_ends(late: bool, autojump_clock: trio.testing.MockClock) -> None:
    async def start() -> None:
        async with prime.open_system(transport=prime.Memory()):
            pass

    count = await cancelled_at(0, start)
    assert count > 0
    for step in range(1, count + 1):
        await cancelled_at(step, start, late=late)
