"""A node that nobody can dial is reached through one that everybody can, with nothing but `open_system`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

import prime
from prime.errors import ActorUsageError, RefusedError, UnreachableError
from prime.transport.facts import CircuitClosed, LinkUp, SlotLost, SlotReserved
from prime.transport.identity import KeyPair
from tests.transport.relaying import until


@prime.message(tag=0x7C81)
class Double(prime.Ask[int]):
    number: int


class Doubler(prime.Actor[Double]):
    @prime.on(Double)
    def double(self, m: Double) -> int:
        return 2 * m.number


def circuits_of(system: prime.System) -> list[str]:
    return [address for address in system.addresses if "p2p-circuit" in address]


def transports(kind: str) -> Callable[[], Any]:
    if kind == "memory":
        hub = prime.Memory()
        return lambda: hub
    if kind == "libp2p":
        pytest.importorskip("libp2p")
        return lambda: prime.Libp2p("/ip4/127.0.0.1/tcp/0")
    return lambda: prime.Tcp("/ip4/127.0.0.1/tcp/0")


@contextlib.asynccontextmanager
async def behind_a_relay(make: Callable[[], Any], **relay: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Yield a relay, a node that reserved there, and another node."""
    async with (
        prime.open_system(transport=make(), relay=prime.RelayLimits(**relay)) as middle,
        prime.open_system(transport=make(), via=middle.addresses) as behind,
        prime.open_system(transport=make()) as other,
        behind.supervisor("app") as sup,
    ):
        await sup.spawn(Doubler, "doubler")
        await until(lambda: circuits_of(behind))
        yield middle, behind, other


@pytest.mark.parametrize("kind", ["memory", "tcp", "libp2p"])
async def test_a_node_is_asked_through_a_relay(kind: str) -> None:
    facts: list[Any] = []
    async with behind_a_relay(transports(kind)) as (middle, behind, other):
        other.subscribe(facts.append)
        assert await other.network.dial(circuits_of(behind)[0]) == behind.peer
        far = other.ref(behind.peer, "/app/doubler", Doubler)
        assert await far.ask(Double(21), timeout=5) == 42
        up = next(fact for fact in facts if isinstance(fact, LinkUp) and fact.peer == behind.peer)
        assert up.relayed
        assert middle.peer not in other.network.peers  # a circuit needs no link to the relay


async def test_a_node_answers_back_through_the_same_circuit() -> None:
    async with behind_a_relay(transports("memory")) as (_, behind, other), other.supervisor("app") as sup:
        await sup.spawn(Doubler, "doubler")
        await other.network.dial(circuits_of(behind)[0])
        assert await behind.ref(other.peer, "/app/doubler", Doubler).ask(Double(2), timeout=5) == 4


async def test_addresses_that_do_not_answer_do_not_keep_a_circuit_from_being_tried() -> None:
    async with behind_a_relay(transports("tcp")) as (_, behind, other):
        silent = "/ip4/192.0.2.1/tcp/9"  # nobody answers there, and nobody says so (RFC 5737)
        other.learn(behind.peer, (circuits_of(behind)[0], f"{silent}/p2p/{behind.peer}"))
        started = trio.current_time()
        assert await other.ref(behind.peer, "/app/doubler", Doubler).ask(Double(1), timeout=8) == 2
        assert trio.current_time() - started < 4


async def test_a_relay_that_comes_back_is_used_again() -> None:
    hub, key = prime.Memory(), KeyPair.generate()
    facts: list[Any] = []
    address = f"/memory/{key.peer[-8:]}"
    async with prime.open_system(transport=hub, via=[address]) as behind:
        behind.subscribe(facts.append)
        await until(lambda: [fact for fact in facts if isinstance(fact, SlotLost)])
        for _ in range(2):
            async with prime.open_system(transport=hub, key=key, relay=prime.RelayLimits()):
                await until(lambda: circuits_of(behind))
            await until(lambda: not circuits_of(behind))
        assert len([fact for fact in facts if isinstance(fact, SlotReserved)]) == 2


async def _run_relay(hub: Any, *, task_status: trio.TaskStatus[Any]) -> None:
    with trio.CancelScope() as scope:
        async with prime.open_system(transport=hub, relay=prime.RelayLimits()) as system:
            task_status.started((system, scope))
            await trio.sleep_forever()


async def test_slots_are_renewed_for_as_long_as_the_node_lives_and_end_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = prime.Memory()
    async with (
        prime.open_system(transport=hub, relay=prime.RelayLimits(reservation_s=10, lost_s=5)) as middle,
        prime.open_system(transport=hub) as other,
    ):
        async with prime.open_system(transport=hub, via=middle.addresses) as behind:
            await until(lambda: circuits_of(behind))
            address = circuits_of(behind)[0]
            await trio.sleep(300)
            await other.network.dial(address)
        await trio.sleep(20)
        with pytest.raises(UnreachableError, match="nobody of that id"):
            await other.network.dial(address)
        async with prime.open_system(transport=hub) as third:  # it may have another address of that node in mind
            with pytest.raises(UnreachableError, match="nobody of that id"):
                await third.network.dial(address)


async def test_a_relay_that_dies_takes_its_circuits_with_it() -> None:
    hub = prime.Memory()
    async with trio.open_nursery() as nursery:
        middle, life = await nursery.start(_run_relay, hub)
        async with (
            prime.open_system(transport=hub, via=middle.addresses) as behind,
            prime.open_system(transport=hub) as other,
        ):
            await until(lambda: circuits_of(behind))
            await other.network.dial(circuits_of(behind)[0])
            down: list[str] = []
            other.network.watch(behind.peer, "/net/circuits", down.append)
            life.cancel()
            await until(lambda: down)
            assert "link lost" in down[0]
            await until(lambda: not circuits_of(behind))


async def test_the_far_node_that_dies_ends_the_circuit_at_the_relay() -> None:
    hub, facts = prime.Memory(), []
    async with prime.open_system(transport=hub, relay=prime.RelayLimits()) as middle:
        middle.subscribe(facts.append)
        async with prime.open_system(transport=hub) as other:
            async with prime.open_system(transport=hub, via=middle.addresses) as behind:
                await until(lambda: circuits_of(behind))
                await other.network.dial(circuits_of(behind)[0])
            await until(lambda: [fact for fact in facts if isinstance(fact, CircuitClosed)])
            assert behind.peer not in other.network.peers


async def test_a_relay_that_serves_named_peers_only_says_so() -> None:
    hub, facts = prime.Memory(), []
    async with (
        prime.open_system(transport=hub, relay=prime.RelayLimits(reservers=frozenset())) as middle,
        prime.open_system(transport=hub, via=middle.addresses) as behind,
    ):
        behind.subscribe(facts.append)
        await until(lambda: [fact for fact in facts if isinstance(fact, SlotLost)])
        assert "named peers only" in facts[-1].reason
        assert circuits_of(behind) == []


async def test_nobody_is_reached_who_has_not_reserved() -> None:
    async with behind_a_relay(transports("memory")) as (middle, _, other):
        stranger = KeyPair.generate().peer
        with pytest.raises(UnreachableError, match="nobody of that id"):
            await other.network.dial(f"{middle.addresses[0]}/p2p-circuit/p2p/{stranger}")


async def test_a_flood_of_circuits_is_refused_and_hurts_nobody() -> None:
    async with behind_a_relay(transports("memory"), requests_per_minute_max=5) as (middle, behind, other):
        stranger = KeyPair.generate().peer
        errors: list[Exception] = []
        for _ in range(8):
            try:
                await other.network.dial(f"{middle.addresses[0]}/p2p-circuit/p2p/{stranger}")
            except (UnreachableError, RefusedError) as error:
                errors.append(error)
        assert [type(error) for error in errors] == [UnreachableError] * 5 + [RefusedError] * 3
        async with prime.open_system(transport=other.network._transport) as third:
            await third.network.dial(circuits_of(behind)[0])
            assert await third.ref(behind.peer, "/app/doubler", Doubler).ask(Double(3), timeout=5) == 6


async def test_a_system_without_a_transport_relays_nothing() -> None:
    with pytest.raises(ActorUsageError, match="without a transport"):
        async with prime.open_system(relay=prime.RelayLimits()):
            pass
