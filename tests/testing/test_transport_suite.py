"""The conformance suite finds what is planted: a suite that passes whatever it is given would hold nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import pytest
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.testing.transport import (
    Case,
    TransportKit,
    WireKit,
    cancelling,
    cuts,
    detour_tcp,
    dialling,
    ending,
    knock_tcp,
    leaks,
    strangers,
    streaming,
)
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory, MemoryChannel, MemoryEndpoint, MemoryHub
from prime.transport.multiaddr import Address, TcpPlace, parse_address
from prime.transport.pipe import Pipe
from prime.transport.sockets import Reception, Wire
from prime.transport.tcp import Tcp, TcpChannel, dial_socket, open_listener
from prime.transport.unix import UnixChannel


def memory_kit(**settings: Any) -> TransportKit:
    hub = MemoryHub()
    return TransportKit(
        make=lambda: Memory(hub=hub, **settings),
        make_at=lambda address: Memory(address, hub=hub, **settings),
        make_hurried=lambda: Memory(hub=hub, backlog_max=2, dial_timeout_s=0.5),
        nobody="/memory/nobody",
        foreign="/ip4/127.0.0.1/tcp/1",
    )


def tcp_kit(transport: Any, hurried_s: float = 0.5) -> TransportKit:
    return TransportKit(
        make=transport,
        make_at=transport,
        make_hurried=lambda: transport(backlog_max=2, dial_timeout_s=hurried_s),
        nobody="/ip4/127.0.0.1/tcp/1",
        foreign="/memory/alice",
        wire=WireKit(knock_tcp, detour_tcp),
    )


async def finds(case: Case, kit: TransportKit, words: str) -> None:
    with pytest.raises((AssertionError, BaseExceptionGroup)) as caught:
        await case(kit)
    assert words in said(caught.value)


def said(error: BaseException) -> str:
    """Return what an error says, or those of a group; only a broken promise counts."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(said, error.exceptions))
    return str(error) if isinstance(error, AssertionError) else ""


async def test_a_receive_that_loses_bytes_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive(self: MemoryChannel, max_bytes: int = 65536) -> bytes:
        data = await self._inward.get(max_bytes)
        await trio.lowlevel.checkpoint()  # here a cancel takes what was received with it
        return data

    monkeypatch.setattr(MemoryChannel, "receive", receive)
    await finds(cancelling.loses_nothing_wherever_a_receive_was_cancelled, memory_kit(), "lost or mixed")


async def test_a_send_that_goes_on_behind_a_torn_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipe, "tear", lambda _: None)
    await finds(cancelling.never_tears_a_cancelled_send, memory_kit(), "cancelled send is followed by another")


async def test_an_accept_that_loses_channels_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MemoryEndpoint.accept

    async def accept(self: MemoryEndpoint) -> Channel:
        channel = await honest(self)
        await trio.lowlevel.checkpoint()
        return channel

    monkeypatch.setattr(MemoryEndpoint, "accept", accept)
    with trio.move_on_after(2) as scope:
        await cancelling.loses_no_channel_to_a_cancelled_accept(memory_kit())
    assert scope.cancelled_caught


async def test_a_buffer_without_a_bound() -> None:
    await finds(
        streaming.slows_a_sender_whose_peer_does_not_read, memory_kit(buffer_bytes_max=1 << 40), "does not read"
    )


async def test_a_close_that_leaves_something(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[TcpChannel] = []
    honest = TcpChannel.close_nowait

    def close_nowait(self: TcpChannel) -> None:
        kept.append(self)
        honest(self)

    monkeypatch.setattr(TcpChannel, "close_nowait", close_nowait)
    await finds(leaks.leaves_nothing_behind, tcp_kit(Tcp), "objects stay of each channel")


async def test_a_close_that_keeps_its_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []

    def close(self: Wire) -> None:
        self._closed = True
        kept.append(self.socket)
        self.socket.shutdown(trio.socket.SHUT_WR)

    monkeypatch.setattr(Wire, "close", close)
    try:
        await finds(leaks.leaves_nothing_behind, tcp_kit(Tcp), "descriptors stay open")
    finally:
        for socket in kept:
            socket.close()


async def test_objects_of_others_are_counted_without_being_asked() -> None:
    class Shy:
        @property
        def __class__(self) -> type:
            raise RuntimeError("asked for its class")

    shy = Shy()
    await leaks.leaves_nothing_behind(memory_kit())
    assert type(shy) is Shy


async def test_a_listener_that_waits_for_strangers_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "SHOWN_OUT_S", 0.1)
    await finds(strangers.shows_who_says_nothing_the_door, tcp_kit(Tcp, 30.0), "let stay")


async def test_an_end_that_is_taken_for_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    async def aclose(self: MemoryChannel) -> None:
        self._outward.tear()
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(MemoryChannel, "aclose", aclose)
    with pytest.raises(anyio.BrokenResourceError):
        await ending.closes(memory_kit())


# -------------------------------------------------------------------------- a transport without a proof, in plain text


@attrs.frozen
class Bare:
    """Tells its peer id and believes the other side's, and sends bytes as they are."""

    address: str = "/ip4/127.0.0.1/tcp/0"
    backlog_max: int = 32
    dial_timeout_s: float = 10.0

    @property
    def name(self) -> str:
        return "bare"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[BareEndpoint]:
        place = parse_address(self.address).place
        assert isinstance(place, TcpPlace)
        listener = await open_listener(place, self.address)
        endpoint = BareEndpoint(self, key.peer, listener.getsockname()[1])
        try:
            async with one_error(), trio.open_nursery() as nursery:
                nursery.start_soon(endpoint.reception.serve, listener)
                yield endpoint
                nursery.cancel_scope.cancel()
        finally:
            listener.close()
            endpoint.reception.close()
            for channel in tuple(endpoint.channels):
                channel.close_nowait()


class BareEndpoint:
    def __init__(self, transport: Bare, peer: PeerId, port: int) -> None:
        self.peer = peer
        self.addresses = (str(Address(TcpPlace("ip4", "127.0.0.1", port), peer)),)
        self.channels: set[UnixChannel] = set()
        self.reception = Reception(self._met, backlog_max=transport.backlog_max, timeout_s=transport.dial_timeout_s)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        place = parse_address(address).expecting(peer).place
        assert isinstance(place, TcpPlace)
        return await self._met(await dial_socket(place))

    async def accept(self) -> Channel:
        return await self.reception.accept()

    async def _met(self, socket: trio.socket.SocketType) -> Channel:
        wire = Wire(socket)
        await wire.send_all(self.peer.encode())
        said = b""
        while len(said) < len(self.peer):
            part = await wire.receive(len(self.peer) - len(said))
            if not part:
                raise anyio.BrokenResourceError
            said += part
        return UnixChannel(wire, PeerId(said.decode()), self.channels)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (cuts.hides_what_it_carries, "plaintext was on the wire"),
        (cuts.takes_no_cut_for_more_than_came, "a cut was taken for the end"),
        (strangers.believes_no_handshake_played_back, "played back was believed"),
        (dialling.refuses_a_wrong_peer, "WrongPeerError was not raised"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_a_transport_that_proves_and_hides_nothing(case: Case, words: str) -> None:
    await finds(case, tcp_kit(Bare), words)
