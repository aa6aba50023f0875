"""A port of the router: the lease's decisions, and the transport that carries them out, on a virtual clock."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError, MissingExtraError, RefusedError, UnreachableError
from prime.transport import upnp
from prime.transport.contract import Endpoint, Guarded
from prime.transport.identity import KeyPair
from prime.transport.lease import (
    LEASE_S,
    PORTS_TRIED_MAX,
    RENEW_S,
    RETRY_MAX_S,
    Announce,
    Begin,
    Denied,
    Found,
    Granted,
    Lease,
    Map,
    Missing,
    Release,
    Say,
    Search,
    Stop,
    Taken,
    WakeAt,
    Withdraw,
    Woke,
)
from prime.transport.memory import Memory
from prime.transport.tcp import Tcp
from prime.transport.upnp import CALLS_MAX, Mapped, UpnpRouter

PUBLIC = "51.0.0.2"
KEY = KeyPair.generate()


def held(lease: Lease, now: float = 0.0) -> Lease:
    lease.step(Begin(), now)
    lease.step(Found(PUBLIC), now)
    lease.step(Granted(), now)
    return lease


def kinds(commands: list[Any]) -> list[type]:
    return [type(command) for command in commands]


# ----------------------------------------------------------------------------------------------------- the lease's core


def test_a_granted_port_is_announced_and_renewed_before_its_lease_ends() -> None:
    lease = Lease(4001)
    assert lease.step(Begin(), 0) == [Search()]
    assert lease.step(Found(PUBLIC), 1) == [Map(4001)]
    granted = lease.step(Granted(), 2)
    assert granted[0] == Announce(PUBLIC, 4001) and granted[-1] == WakeAt(2 + RENEW_S)
    assert 3 * RENEW_S < LEASE_S
    assert lease.step(Woke(), 302) == [Search()]
    assert lease.step(Found(PUBLIC), 303) == [Map(4001)]
    assert lease.step(Granted(), 304) == [WakeAt(304 + RENEW_S)]  # nothing new to tell


def test_a_new_public_address_takes_the_place_of_the_old() -> None:
    lease = held(Lease(4001))
    lease.step(Woke(), 300)
    lease.step(Found("51.0.0.9"), 301)
    assert lease.step(Granted(), 302)[0] == Announce("51.0.0.9", 4001)


def test_a_port_of_another_machine_is_left_to_it() -> None:
    lease = Lease(65534)
    lease.step(Begin(), 0)
    lease.step(Found(PUBLIC), 0)
    assert [lease.step(Taken(), 0) for _ in range(3)] == [[Map(65535)], [Map(1024)], [Map(1025)]]
    assert lease.step(Granted(), 0)[0] == Announce(PUBLIC, 1025)
    lease.step(Woke(), 300)
    assert lease.step(Found(PUBLIC), 300) == [Map(1025)]  # and what was got is kept


def test_when_every_port_is_taken_it_says_so_and_tries_again_later() -> None:
    lease = Lease(4001)
    lease.step(Begin(), 0)
    lease.step(Found(PUBLIC), 0)
    steps = [lease.step(Taken(), 0) for _ in range(PORTS_TRIED_MAX)]
    assert kinds(steps[-1]) == [Say, WakeAt]


@pytest.mark.parametrize("host", ["192.168.1.1", "10.0.0.1", "100.64.0.1", "127.0.0.1", "8.8.8", "", "evil", "::1"])
def test_an_address_that_nobody_outside_can_dial_is_never_announced(host: str) -> None:
    lease = held(Lease(4001))
    lease.step(Woke(), 300)
    commands = lease.step(Found(host), 300)
    assert kinds(commands) == [Withdraw, Say, WakeAt]
    assert lease.held is None


def test_a_router_that_is_away_for_a_moment_costs_nothing() -> None:
    lease = held(Lease(4001))
    now, withdrawn_at = 300.0, 0.0
    while not withdrawn_at:
        assert lease.step(Woke(), now) == [Search()]
        commands = lease.step(Missing("no answer"), now)
        if Withdraw() in commands:
            withdrawn_at = now
        now = next(command.at for command in commands if isinstance(command, WakeAt))
    assert withdrawn_at == LEASE_S  # not before the router itself has forgotten it


def test_pauses_grow_up_to_a_bound() -> None:
    lease = Lease(4001)
    lease.step(Begin(), 0)
    pauses = [lease.step(Denied("no"), 0)[-1] for _ in range(20)]
    assert [pause.at for pause in pauses[:3] if isinstance(pause, WakeAt)] == [15, 30, 60]
    assert pauses[-1] == WakeAt(RETRY_MAX_S)


def test_the_same_words_are_said_once() -> None:
    lease = Lease(4001)
    said = [kinds(lease.step(Missing("no answer"), 0)) for _ in range(3)]
    assert said == [[Say, WakeAt], [WakeAt], [WakeAt]]


def test_what_is_held_is_given_back_at_the_end() -> None:
    assert held(Lease(4001)).step(Stop(), 5) == [Withdraw(), Release(4001)]
    assert Lease(4001).step(Stop(), 5) == []


answers = st.sampled_from([Found(PUBLIC), Found("10.0.0.1"), Granted(), Taken(), Missing("m"), Denied("d"), Woke()])


@given(st.lists(st.tuples(answers, st.floats(0, 500)), max_size=40))
def test_whatever_a_router_says_one_thing_is_awaited_and_announcing_agrees_with_what_is_held(events: Any) -> None:
    lease, now, announced = Lease(4001), 0.0, None
    lease.step(Begin(), now)
    for event, passed_s in events:
        now += passed_s
        commands = lease.step(event, now)
        assert sum(isinstance(command, Search | Map | WakeAt) for command in commands) == 1
        for command in commands:
            if isinstance(command, Announce):
                announced = command
            elif isinstance(command, Withdraw):
                announced = None
        assert announced == lease.held


# ------------------------------------------------------------------------------------------------------- the transport


@attrs.define(eq=False)
class FakeRouter:
    """Answers at once, with what a test wants."""

    host: str = PUBLIC
    taken: set[int] = attrs.field(factory=set)
    away: bool = False
    mapped: dict[int, int] = attrs.field(factory=dict)
    searches: int = 0

    async def search(self) -> str:
        self.searches += 1
        await trio.sleep(0.1)
        if self.away:
            raise UnreachableError("no router answers", hint="none")
        return self.host

    async def map(self, outer: int, inner: int, lease_s: int) -> None:
        await trio.sleep(0.1)
        if outer in self.taken:
            raise RefusedError("taken", hint="none")
        self.mapped[outer] = inner

    async def release(self, outer: int) -> None:
        await trio.sleep(0.1)
        del self.mapped[outer]


class Inner:
    """A transport that listens nowhere, on a port that a router could reach."""

    name = "tcp"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[Any]:
        @attrs.frozen
        class Opened:
            peer: str
            addresses: tuple[str, ...]

        yield Opened(key.peer, (f"/ip4/192.168.1.2/tcp/4001/p2p/{key.peer}",))


def mapped(router: Any, say: Callable[[str], None] | None = None) -> Mapped:
    return Mapped(Inner(), router=router, on_change=say)  # type: ignore[arg-type]


async def addresses(endpoint: Endpoint, count: int, within_s: float) -> tuple[str, ...]:
    with trio.fail_after(within_s):
        while len(endpoint.addresses) != count:  # noqa: ASYNC110 - on a virtual clock
            await trio.sleep(1)
    return endpoint.addresses


async def test_the_mapped_address_stands_beside_the_own_and_goes_with_the_endpoint(autojump_clock: Any) -> None:
    router, said = FakeRouter(taken={4001}), list[str]()
    async with mapped(router, said.append).open(KEY) as endpoint:
        assert endpoint.addresses[1] == f"/ip4/{PUBLIC}/tcp/4002/p2p/{KEY.peer}"  # there from the start
        assert router.mapped == {4002: 4001}
    assert router.mapped == {}
    assert said == ["the router passes on what comes to 51.0.0.2 port 4002"]


async def test_the_entrance_is_guarded_as_without_it() -> None:
    admission: Any = object()
    heard: list[Any] = []
    async with Mapped(Tcp("/ip4/0.0.0.0/tcp/0"), router=FakeRouter(), settle_s=0).open(KEY) as endpoint:
        inner: Any = endpoint
        inner._inner.guard = heard.append
        assert isinstance(endpoint, Guarded)
        endpoint.guard(admission)
    assert heard == [admission]


async def test_a_router_that_restarts_is_asked_again(autojump_clock: Any) -> None:
    router = FakeRouter()
    async with mapped(router).open(KEY):
        router.mapped.clear()
        await trio.sleep(RENEW_S + 1)
        assert router.mapped == {4001: 4001}


async def test_a_router_that_goes_for_good_is_missed_when_the_lease_ends_and_found_when_it_is_back(
    autojump_clock: Any,
) -> None:
    router = FakeRouter()
    async with mapped(router).open(KEY) as endpoint:
        router.away = True
        await trio.sleep(LEASE_S - 10)
        assert len(endpoint.addresses) == 2
        await addresses(endpoint, 1, within_s=60)
        router.away = False
        await addresses(endpoint, 2, within_s=RETRY_MAX_S + 10)


async def test_without_a_router_the_node_opens_all_the_same_and_soon(autojump_clock: Any) -> None:
    said = list[str]()
    async with mapped(FakeRouter(away=True), said.append).open(KEY) as endpoint:
        assert trio.current_time() < 1
        assert len(endpoint.addresses) == 1
    assert said == ["no port of the router: no router answers"]


async def test_a_router_that_never_answers_holds_up_neither_opening_nor_closing(autojump_clock: Any) -> None:
    class Silent(FakeRouter):
        async def search(self) -> str:
            await trio.sleep_forever()
            raise AssertionError

    start = trio.current_time()
    async with mapped(Silent()).open(KEY) as endpoint:
        assert len(endpoint.addresses) == 1
    assert trio.current_time() - start <= 5.1


async def test_a_router_that_does_not_take_the_port_back_delays_the_end_by_little(autojump_clock: Any) -> None:
    class Deaf(FakeRouter):
        async def release(self, outer: int) -> None:
            await trio.sleep_forever()

    async with mapped(Deaf()).open(KEY):
        start = trio.current_time()
    assert trio.current_time() - start < 3.1


@pytest.mark.parametrize("inner", [Tcp("/ip4/127.0.0.1/tcp/0"), Memory()])
async def test_what_no_router_could_reach_is_refused_with_what_to_do(inner: Any) -> None:
    with pytest.raises(ConfigError, match="cannot pass anything on") as caught:
        async with Mapped(inner, router=FakeRouter()).open(KEY):
            pass
    assert "/ip4/0.0.0.0/tcp/4001" in caught.value.hint


async def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "miniupnpc", None)
    with pytest.raises(MissingExtraError) as caught:
        async with Mapped(Tcp("/ip4/0.0.0.0/tcp/0")).open(KEY):
            pass
    assert "prime-actors[lan]" in caught.value.hint


class Gateway:
    """Stands for miniupnpc's object: bare exceptions with the router's words."""

    lanaddr = "192.168.1.2"

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.calls: list[tuple[Any, ...]] = []

    def addportmapping(self, *arguments: Any) -> None:
        self.calls.append(arguments)
        if self.failures:
            raise Exception(self.failures.pop(0))  # noqa: TRY002 - as miniupnpc does


async def ask(*failures: str) -> Gateway:
    gateway = Gateway(*failures)
    await router_of(gateway).map(4001, 5001, 1200)
    return gateway


def router_of(gateway: Any) -> UpnpRouter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "miniupnpc", SimpleNamespace(UPnP=lambda: gateway))
        router = UpnpRouter()
    router._gateway = gateway
    return router


async def test_a_router_that_knows_no_leases_maps_for_good() -> None:
    gateway = await ask("OnlyPermanentLeasesSupported")
    assert [call[-1] for call in gateway.calls] == [1200, 0]
    assert gateway.calls[1][:4] == (4001, "TCP", "192.168.1.2", 5001)


async def test_the_router_s_words_become_errors() -> None:
    with pytest.raises(RefusedError):
        await ask("ConflictInMappingEntry")
    with pytest.raises(UnreachableError, match="the router says: Action Failed"):
        await ask("Action Failed")


async def test_where_nobody_answers_the_search_it_is_said_so() -> None:
    def discover() -> int:
        raise Exception("Success")  # noqa: TRY002 - as miniupnpc does

    with pytest.raises(UnreachableError, match="no router answers"):
        await router_of(SimpleNamespace(discover=discover)).search()


async def test_a_router_that_never_ends_its_answers_takes_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are left behind still count: all of Trio's would be names that nobody looks up any more."""
    monkeypatch.setattr(upnp, "CALL_S", 0.01)
    over = threading.Event()
    waiting: list[bool] = []

    def discover() -> int:
        waiting.append(True)
        over.wait(20)
        return 1

    router = router_of(SimpleNamespace(discover=discover))
    try:
        for _ in range(4):
            with pytest.raises(UnreachableError, match="did not answer"):
                await router.search()
        assert len(waiting) <= CALLS_MAX
    finally:
        over.set()
