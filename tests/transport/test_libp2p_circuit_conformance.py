"""Channels through a standard libp2p relay keep the contract of every channel."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import attrs
import pytest
import trio

from prime.testing import transport as suite
from prime.testing.transport import CASES, Case, TransportKit
from prime.transport.contract import BACKLOG_MAX, DIAL_TIMEOUT_S, Channel, Endpoint
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p

pytest.importorskip("libp2p")

HOP, STOP = "/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop"
NOT_OF_CIRCUITS = {
    suite.dialling.dials_without_knowing_the_peer,  # a relay must be told whom to ask
    suite.dialling.refuses_a_wrong_peer,  # another id is another target, which is not there
    suite.ending.takes_an_address_once,  # the address has the peer's id in it
}
USUAL = {
    suite.dialling.dials_both_ways_at_once,
    suite.ending.keeps_the_other_direction_open,
    suite.streaming.carries_large_data_both_ways_at_once,
    suite.cancelling.loses_nothing_to_a_cancelled_receive,
    suite.cancelling.never_tears_a_cancelled_send,
}
"""Those that say most about what is between; all others are run at night."""


class StandardRelay:
    """Circuit relay v2 in miniature, without limits: py-libp2p's own relay ends the siblings of a circuit that ends."""

    def __init__(self, endpoint: Any) -> None:
        self.endpoint = endpoint
        endpoint.host.set_stream_handler(HOP, self.serve)

    @property
    def address(self) -> str:
        return str(self.endpoint.addresses[0])

    async def serve(self, stream: Any) -> None:
        from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Reservation, Status

        channel = stream.muxed_stream.channel
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            request = HopMessage.FromString(await body(channel))
            answer = HopMessage(type=HopMessage.STATUS, status=Status.OK)
            if request.type == HopMessage.RESERVE:
                answer.reservation.CopyFrom(Reservation(expire=int(time.time()) + 3600))
                await channel.send(sized(answer))
                return
            far = await self.offer(request.peer.id, channel.peer)
            answer.status = Status.NO_RESERVATION if far is None else Status.OK
            await channel.send(sized(answer))
            if far is not None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pass_on, channel, far)
                    nursery.start_soon(pass_on, far, channel)

    async def offer(self, target: bytes, source: str) -> Any:
        from libp2p.peer.id import ID
        from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId, StopMessage

        try:
            stream = await self.endpoint.host.new_stream(ID(target), [STOP])
        except Exception:  # noqa: BLE001 - nobody of that id is connected
            return None
        far = stream.muxed_stream.channel
        offer = StopMessage(type=StopMessage.CONNECT, peer=PeerId(id=ID.from_string(source).to_bytes()))
        await far.send(sized(offer))
        await body(far)
        return far


async def pass_on(source: Any, target: Any) -> None:
    try:
        while True:
            await target.send(await source.receive(65536))
    except anyio.EndOfStream:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await target.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        target.reset()
        source.reset()


def sized(message: Any) -> bytes:
    data = message.SerializeToString()
    assert len(data) < 128
    return bytes([len(data)]) + data


async def body(channel: Any) -> bytes:
    [size] = await channel.receive(1)
    data = b""
    while len(data) < size:
        data += await channel.receive(size - len(data))
    return data


@attrs.frozen
class Circled:
    """Reaches others, and is reached, only through a standard relay."""

    relay: str
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S
    name: str = "libp2p"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[Endpoint]:
        inner = Libp2p(backlog_max=self.backlog_max, dial_timeout_s=self.dial_timeout_s, via=(self.relay,))
        async with inner.open(key) as endpoint:
            with trio.fail_after(10):
                while len(endpoint.addresses) < 2:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.01)
            circuits = tuple(address for address in endpoint.addresses if "/p2p-circuit/" in address)
            yield CircledEndpoint(endpoint, circuits)


@attrs.frozen
class CircledEndpoint:
    inner: Any
    addresses: tuple[str, ...]

    @property
    def peer(self) -> Any:
        return self.inner.peer

    async def dial(self, address: str, peer: Any = None) -> Channel:
        channel: Channel = await self.inner.dial(address, peer)
        assert channel.relayed
        return channel

    async def accept(self) -> Channel:
        channel: Channel = await self.inner.accept()
        assert channel.relayed
        return channel


def cases() -> Iterator[Any]:
    for case in CASES:
        if case not in NOT_OF_CIRCUITS:
            yield pytest.param(case, id=case.__name__, marks=() if case in USUAL else (pytest.mark.nightly,))


@pytest.mark.parametrize("case", tuple(cases()))
async def test_conformance(case: Case) -> None:
    async with Libp2p().open(KeyPair.generate()) as endpoint:
        relay = StandardRelay(endpoint)
        kit = TransportKit(
            make=lambda: Circled(relay.address),
            make_at=lambda _address: Circled(relay.address),
            make_hurried=lambda: Circled(relay.address, backlog_max=2, dial_timeout_s=0.5),
            nobody=f"{relay.address}/p2p-circuit/p2p/{KeyPair.from_seed(bytes(32)).peer}",
            foreign="/memory/alice",
        )
        await case(kit)
