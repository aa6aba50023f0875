"""Prime's libp2p with peers that are not Prime: both dial, over each security, and speak the link protocol."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

import prime
from prime import Actor, Ask, Payload, Ref, on
from prime.actor.system import System
from prime.errors import LinkLostError, WrongPeerError
from prime.testing.transport import pattern
from prime.transport.identity import KeyPair
from prime.transport.libp2p import PROTOCOL

pytest.importorskip("libp2p")

PEERS = ["js-noise", "js-tls", "go-noise", "go-tls"]
LARGE_BYTES = 5 << 20
DEADLINE_S = 30.0

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("foreign", PEERS, indirect=True)]


@prime.message(tag=0x7B11)
class Say(Ask[str]):
    text: str


@prime.message(tag=0x7B92)
class Carry(Ask[Payload]):
    data: Payload


class Echo(Actor[Say | Carry]):
    @on(Say)
    def say(self, m: Say) -> str:
        return m.text

    @on(Carry)
    def carry(self, m: Carry) -> memoryview:
        return m.data


@asynccontextmanager
async def met(foreign: Any) -> AsyncIterator[tuple[Any, System]]:
    """A foreign peer, and a node of ours with an actor at `/py/echo`."""
    with trio.fail_after(DEADLINE_S):
        async with (
            foreign() as peer,
            prime.open_system(transport=prime.Libp2p()) as system,
            system.supervisor("py") as sup,
        ):
            await sup.spawn(Echo, "echo")
            yield peer, system


async def dialled(peer: Any, system: System) -> Ref[Say | Carry]:
    """Dial the foreign peer and return a ref to its echo."""
    assert system.network is not None
    return system.ref(await system.network.dial(peer.address), peer.echo, Echo)


async def test_a_foreign_peer_identifies_us(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        found = await peer.identify(system.addresses[0])
        assert found.peer == system.peer
        assert {PROTOCOL, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(found.protocols)


async def test_we_identify_and_ping_a_foreign_peer(foreign: Any) -> None:
    """py-libp2p asks who it is after each dial; both go over the connection that Prime has made."""
    ping = importlib.import_module("libp2p.host.ping")
    with trio.fail_after(DEADLINE_S):
        async with foreign() as peer, prime.Libp2p().open(KeyPair.generate()) as endpoint:
            channel = await endpoint.dial(peer.address)
            who = importlib.import_module("libp2p.peer.id").ID.from_string(channel.peer)
            while PROTOCOL not in protocols_of(endpoint.host, who):  # noqa: ASYNC110 (nobody tells when it knows)
                await trio.sleep(0.01)
            assert await ping.PingService(endpoint.host).ping(who, 2)


def protocols_of(host: Any, who: Any) -> list[str]:
    """Return what a peer has said that it speaks."""
    with suppress(Exception):  # nothing is known of it yet
        return list(host.get_peerstore().get_protocols(who))
    return []


async def test_a_foreign_peer_pings_us(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        await peer.ping(system.addresses[0])


async def test_a_foreign_peer_asks_our_actor(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        answer = await peer.ask(system.addresses[0], "/py/echo", [0x7B11, "grüß dich"])
        assert answer.value == "grüß dich"


async def test_a_foreign_peer_is_told_why_its_ask_failed(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        with pytest.raises(Exception, match="NoSuchActorError"):
            await peer.ask(system.addresses[0], "/py/nobody", [0x7B11, "hallo"])
        with pytest.raises(Exception, match="DecodeError"):
            await peer.ask(system.addresses[0], "/py/echo", [0x7BFF, "no such message"])


async def test_our_actor_gives_a_foreign_peer_five_megabytes_back(foreign: Any) -> None:
    data = pattern(LARGE_BYTES)
    async with met(foreign) as (peer, system):
        answer = await peer.ask(system.addresses[0], "/py/echo", [0x7B92, 0], (data,))
        assert answer.payloads == [data]


async def test_a_foreign_peer_does_not_take_us_for_another(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        place = system.addresses[0].rpartition("/p2p/")[0]
        with pytest.raises(Exception, match="(?i)peer id|unexpected peer|does ?n.t match|mismatch"):
            await peer.ping(f"{place}/p2p/{KeyPair.generate().peer}")


async def test_we_ask_a_foreign_peer(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        ref = await dialled(peer, system)
        assert await ref.ask(Say("grüß dich"), timeout=DEADLINE_S) == "grüß dich"


async def test_a_foreign_peer_gives_us_five_megabytes_back(foreign: Any) -> None:
    data = pattern(LARGE_BYTES)
    async with met(foreign) as (peer, system):
        ref = await dialled(peer, system)
        assert await ref.ask(Carry(memoryview(data)), timeout=DEADLINE_S) == data


async def test_we_do_not_take_a_foreign_peer_for_another(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        place, _, true_peer = peer.address.rpartition("/p2p/")
        assert system.network is not None
        with pytest.raises(WrongPeerError, match=true_peer):
            await system.network.dial(f"{place}/p2p/{KeyPair.generate().peer}")


async def test_a_foreign_peer_that_dies_fails_what_was_asked(foreign: Any) -> None:
    async with met(foreign) as (peer, system):
        ref = await dialled(peer, system)
        assert await ref.ask(Say("alive"), timeout=DEADLINE_S) == "alive"
        peer.kill()
        with pytest.raises(LinkLostError):
            await ref.ask(Say("still there?"), timeout=DEADLINE_S)
