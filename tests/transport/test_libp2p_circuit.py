"""Circuits through standard libp2p relays: what a Prime node asks of one, and what one can do to it."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import pytest
import trio

from prime.errors import ConfigError, RefusedError, UnreachableError, WrongPeerError
from prime.testing.transport import pattern, receive_exactly
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p

pytest.importorskip("libp2p")

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
KEYS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(4)]
RELAY, NEAR, FAR, OTHER = KEYS

Relay = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def opened(key: KeyPair, *relays: str, at: str = "/ip4/127.0.0.1/tcp/0") -> AsyncIterator[Any]:
    async with Libp2p(at, via=relays, dial_timeout_s=5).open(key) as endpoint:
        yield endpoint


@asynccontextmanager
async def standard_relay(at: str = "/ip4/127.0.0.1/tcp/0") -> AsyncIterator[Any]:
    """A relay by py-libp2p, over a Prime endpoint."""
    from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
    from libp2p.tools.anyio_service import background_trio_service

    async with opened(RELAY, at=at) as relay:
        protocol = CircuitV2Protocol(relay.host, allow_hop=True)
        async with background_trio_service(protocol):
            await protocol.event_started.wait()
            yield relay


async def circuits(endpoint: Any, count: int = 1) -> list[str]:
    """Wait until an endpoint has so many addresses through relays."""
    with trio.fail_after(10):
        while len(found := [each for each in endpoint.addresses if "/p2p-circuit/" in each]) != count:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.01)
    return found


# --------------------------------------------------------------------------------------------- with a relay that works


async def test_a_node_is_dialled_through_a_standard_relay() -> None:
    async with standard_relay() as relay, opened(FAR, *relay.addresses) as far, opened(NEAR) as near:
        [address] = await circuits(far)
        assert address == f"{relay.addresses[0]}/p2p-circuit/p2p/{FAR.peer}"
        outward = await near.dial(address)
        inward = await far.accept()
        assert (outward.peer, inward.peer) == (FAR.peer, NEAR.peer)
        assert outward.relayed and inward.relayed
        data = pattern(300_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outward.send, data)
            assert await receive_exactly(inward, len(data)) == data
            nursery.start_soon(inward.send, data)
            assert await receive_exactly(outward, len(data)) == data


async def test_a_direct_dial_does_not_take_the_circuit_that_is_there() -> None:
    async with standard_relay() as relay, opened(FAR, *relay.addresses) as far, opened(NEAR) as near:
        [address] = await circuits(far)
        assert (await near.dial(address)).relayed
        direct = await near.dial(far.addresses[0])
        assert not direct.relayed
        assert not (await near.dial(address)).relayed  # and now nothing need go through the relay
        await direct.send(b"x")


async def test_who_keeps_no_slot_cannot_be_dialled_through_the_relay() -> None:
    async with standard_relay() as relay, opened(FAR) as far, opened(NEAR) as near:
        await far.dial(relay.addresses[0])
        with pytest.raises(UnreachableError, match="keeps no slot there"):
            await near.dial(f"{relay.addresses[0]}/p2p-circuit/p2p/{FAR.peer}")


async def test_a_relay_that_is_gone_is_announced_no_more_and_found_again_when_it_is_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"/ip4/127.0.0.1/tcp/{free.getsockname()[1]}"
    async with opened(FAR, f"{place}/p2p/{RELAY.peer}") as far:
        for _ in range(2):
            async with standard_relay(place):
                await circuits(far)
            await circuits(far, 0)


async def test_a_node_that_is_no_relay_is_said_to_be_none() -> None:
    async with opened(RELAY) as stranger, opened(NEAR) as near:
        with pytest.raises(UnreachableError, match="opened no stream for /libp2p/circuit") as caught:
            await near.dial(f"{stranger.addresses[0]}/p2p-circuit/p2p/{FAR.peer}")
        assert "It is no relay" in caught.value.hint


@pytest.mark.parametrize(
    "relay", ["/ip4/127.0.0.1/tcp/1", "/unix/tmp/a.sock", f"/memory/a/p2p/{RELAY.peer}", "nonsense"]
)
async def test_what_cannot_be_a_relay_is_a_config_error(relay: str) -> None:
    with pytest.raises(ConfigError):
        async with opened(NEAR, relay):
            pass


# ------------------------------------------------------------------------------------------------ with one that does not


@attrs.define(eq=False)
class FalseRelay:
    """Answers each request as a test wants; `met` are the streams it was asked on."""

    endpoint: Any
    met: list[Any] = attrs.field(factory=list)

    def answers(self, answer: Relay) -> None:
        async def handle(stream: Any) -> None:
            self.met.append(stream)
            await answer(stream)

        self.endpoint.host.set_stream_handler(HOP, handle)

    @property
    def to_far(self) -> str:
        return f"{self.endpoint.addresses[0]}/p2p-circuit/p2p/{FAR.peer}"


@asynccontextmanager
async def false_relay(answer: Relay) -> AsyncIterator[FalseRelay]:
    async with opened(RELAY) as endpoint:
        relay = FalseRelay(endpoint)
        relay.answers(answer)
        yield relay


async def read_request(stream: Any) -> bytes:
    [size] = await stream.read(1)
    return bytes(await stream.read(size))


def status(code: int) -> bytes:
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage

    data = HopMessage(type=HopMessage.STATUS, status=code).SerializeToString()
    return bytes([len(data)]) + data


def saying(data: bytes) -> Relay:
    async def answer(stream: Any) -> None:
        await read_request(stream)
        await stream.write(data)
        await trio.sleep(5)

    return answer


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (status(200), "refuses|keeps no slot for this node"),
        (status(201), "has no room"),
        (status(202), "does not let this node"),
    ],
)
async def test_a_refusal_says_why(data: bytes, words: str) -> None:
    async with false_relay(saying(data)) as relay, opened(NEAR) as near:
        with pytest.raises(RefusedError, match=words):
            await near.dial(relay.to_far)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x7f",  # a length of gigabytes
        b"\x80\x41" + bytes(8320),  # more than a message may be
        b"\x03\xff\xff\xff",  # no protocol buffer
        b"\x00",  # an empty message: no status
        b"\x02\x08\x00",  # a request instead of an answer
        status(999),
    ],
)
async def test_nonsense_from_a_relay_is_an_unreachable_peer_and_no_more(data: bytes) -> None:
    async with false_relay(saying(data)) as relay, opened(NEAR) as near:
        with pytest.raises((UnreachableError, RefusedError), match="gave no answer|gives no circuit"):
            await near.dial(relay.to_far)
        assert not near.connections[0].ended.is_set()


async def test_a_relay_that_says_nothing_costs_no_more_than_the_dial_s_deadline() -> None:
    async with false_relay(saying(b"")) as relay, Libp2p(dial_timeout_s=0.5).open(NEAR) as near:
        with trio.fail_after(3), pytest.raises(UnreachableError, match="did not answer within 0.5 s"):
            await near.dial(relay.to_far)
        assert near.connections[0].streams_of_ours == 0


async def test_a_relay_that_answers_itself_is_found_out() -> None:
    async def pose(stream: Any) -> None:
        """Say that the circuit is there, and be the other end, with the relay's own key."""
        from prime.transport.libp2p.circuit import Circuit

        await read_request(stream)
        channel = stream.muxed_stream.channel
        await channel.send(status(100))
        with pytest.raises(anyio.BrokenResourceError):
            await relay.endpoint._upgrade(Circuit(channel), None, None)

    async with false_relay(pose) as relay, opened(NEAR) as near:
        with pytest.raises(WrongPeerError, match=RELAY.peer):
            await near.dial(relay.to_far)


async def test_a_circuit_that_the_relay_cuts_breaks_like_a_connection() -> None:
    async with standard_relay() as relay, opened(FAR, *relay.addresses) as far, opened(NEAR) as near:
        [address] = await circuits(far)
        outward = await near.dial(address)
        await far.accept()
        for connection in relay.connections:
            connection.close_nowait()
        with trio.fail_after(5), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await outward.receive()


# ----------------------------------------------------------------------------------------------------------- offers


async def is_dropped(relay: Any, target: str, data: bytes) -> bool:
    """Offer a circuit, and tell whether the stream was reset without an answer."""
    from libp2p.peer.id import ID

    with trio.fail_after(5):
        try:
            stream = await relay.host.new_stream(ID.from_string(target), [STOP])
            await stream.write(data)
            return not await stream.read(1)
        except Exception:  # noqa: BLE001 - py-libp2p wraps a reset in whatever was being done
            return True


def connect_from(peer: bytes) -> bytes:
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId, StopMessage

    data = StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=peer)).SerializeToString()
    return bytes([len(data)]) + data


@pytest.mark.parametrize("data", [b"\x00", b"\x03\xff\xff\xff", connect_from(b""), connect_from(b"x" * 100)])
async def test_an_offer_of_nonsense_is_dropped_and_the_slot_stays(data: bytes) -> None:
    async with standard_relay() as relay, opened(FAR, *relay.addresses) as far:
        await circuits(far)
        assert await is_dropped(relay, FAR.peer, data)
        await circuits(far)


async def test_an_offer_from_a_relay_that_was_not_asked_is_dropped() -> None:
    async with standard_relay() as relay, opened(FAR, *relay.addresses) as far, opened(OTHER) as stranger:
        await circuits(far)
        await stranger.dial(far.addresses[0])
        assert await is_dropped(stranger, FAR.peer, connect_from(b"x"))


async def test_a_promise_of_any_length_is_renewed_within_a_day_and_not_at_once() -> None:
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Reservation

    from prime.transport.libp2p.circuit import RESERVATION_S_MAX, ask_for_reservation

    for expire, expected in ((0, 1.0), (int(time.time()) - 5, 1.0), (2**63, RESERVATION_S_MAX)):
        message = HopMessage(type=HopMessage.STATUS, status=100, reservation=Reservation(expire=expire))
        data = message.SerializeToString()
        async with false_relay(saying(bytes([len(data)]) + data)) as relay, opened(NEAR) as near:
            muxer = await near.connect(_place(relay), None)
            channel = await near._open_stream(muxer, HOP)
            assert await ask_for_reservation(channel) == expected


def _place(relay: FalseRelay) -> Any:
    from prime.transport.multiaddr import parse_address

    return parse_address(relay.endpoint.addresses[0]).place
