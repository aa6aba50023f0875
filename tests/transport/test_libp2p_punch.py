"""Hole punching over libp2p: what the ends of a circuit tell each other, and what they may make each other do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio

pytest.importorskip("libp2p")

from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from prime.errors import RemoteProtocolError, UnreachableError
from prime.transport.hole import CANDIDATES_MAX
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p
from prime.transport.libp2p.punch import DCUTR, _candidates, begin, follow
from prime.transport.multiaddr import TcpPlace

HERE, THERE = TcpPlace("ip4", "51.0.0.2", 4001), TcpPlace("ip4", "51.0.0.3", 4002)


def connect(*addresses: str) -> Any:
    return HolePunch(type=HolePunch.CONNECT, ObsAddrs=[Multiaddr(each).to_bytes() for each in addresses])


def sized(message: Any) -> bytes:
    data = message.SerializeToString()
    assert len(data) < 128
    return bytes([len(data)]) + data


class Pair:
    """Two ends of a stream in memory, as much of them as the agreement uses."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.news = trio.Event()
        self.other: Pair

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.other.sent += data
        self.other.news.set()

    async def receive(self, max_bytes: int) -> bytes:
        while not self.sent:
            self.news = trio.Event()
            await self.news.wait()
        data = bytes(self.sent[:max_bytes])
        del self.sent[:max_bytes]
        return data


def pair() -> tuple[Any, Any]:
    near, far = Pair(), Pair()
    near.other, far.other = far, near
    return near, far


async def test_each_end_hears_where_the_other_is_and_both_are_ready_at_the_same_time(autojump_clock: Any) -> None:
    near, far = pair()
    heard: dict[str, Any] = {}

    async def run(name: str, agree: Callable[..., Awaitable[Any]], channel: Any, own: TcpPlace) -> None:
        heard[name] = await agree(channel, [own])

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "dialled", begin, near, HERE)
            nursery.start_soon(run, "dialler", follow, far, THERE)
    assert heard == {"dialled": [THERE], "dialler": [HERE]}


@pytest.mark.parametrize(
    "address",
    ["/ip4/127.0.0.1/tcp/22", "/ip4/169.254.169.254/tcp/80", "/ip6/::ffff:127.0.0.1/tcp/22", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.251/tcp/1", "/ip4/51.0.0.2/tcp/0", "/dns4/x.org/tcp/1",
     "/ip4/51.0.0.2/udp/4001", "/ip4/51.0.0.2/tcp/443/ws", "/unix/tmp/x"],
)  # fmt: skip
def test_no_end_is_made_to_dial_itself_or_what_is_no_host(address: str) -> None:
    assert _candidates(connect(address)) == []


def test_addresses_that_are_none_are_left_out_and_of_many_a_few_are_tried() -> None:
    junk = HolePunch(type=HolePunch.CONNECT, ObsAddrs=[b"", b"\xff" * 40, Multiaddr(str(HERE)).to_bytes()])
    assert _candidates(junk) == [HERE]
    assert len(_candidates(connect(*[f"/ip4/51.0.0.{n}/tcp/1" for n in range(1, 100)]))) == CANDIDATES_MAX


@pytest.mark.parametrize("agree", [begin, follow])
@pytest.mark.parametrize("said", [b"\x03\xff\xff\xff", b"\xff\xff\x7f", sized(HolePunch(type=HolePunch.SYNC))])
async def test_an_end_that_says_something_else_is_left(agree: Any, said: bytes) -> None:
    near, far = pair()
    await far.send(said)
    with pytest.raises(RemoteProtocolError):
        await agree(near, [HERE])


async def test_a_sign_that_is_none_is_no_sign() -> None:
    near, far = pair()
    await far.send(sized(connect(str(HERE))) + sized(connect(str(HERE))))
    with pytest.raises(RemoteProtocolError, match="no sign"):
        await follow(near, [THERE])


async def test_who_is_not_being_dialled_through_a_relay_is_not_followed() -> None:
    async with Libp2p().open(KeyPair.generate()) as node, Libp2p().open(KeyPair.generate()) as stranger:
        muxer = await stranger.connect(_place(node), None)
        with trio.fail_after(5), pytest.raises((UnreachableError, anyio.BrokenResourceError, anyio.EndOfStream)):
            channel = await stranger._open_stream(muxer, DCUTR)
            await channel.send(sized(connect("/ip4/51.0.0.9/tcp/22")))
            await channel.receive(1)


def _place(endpoint: Any) -> Any:
    from prime.transport.multiaddr import parse_address

    return parse_address(endpoint.addresses[0]).place
