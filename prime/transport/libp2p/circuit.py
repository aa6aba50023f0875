"""Circuits through standard libp2p relays, as their client: circuit relay v2 (libp2p `specs/relay/circuit-v2.md`).

Whoever runs go-libp2p, rust-libp2p or js-libp2p with its relay service can carry them. A node that nobody can dial keeps a
reservation at such a relay and announces `<relay>/p2p-circuit/p2p/<node>`; who dials that asks the relay for a circuit, and
on what comes back the two ends secure and mux a connection as over a socket. So the relay reads nothing and can pose as
nobody. Standard relays give little, 128 KiB and two minutes by go's defaults: enough to talk, not to train. Prime's own
relay (`prime.transport.relay`) has no such bounds and works over every transport.

The messages are small protocol buffers behind their length; nothing of them is believed but a status and a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import trio
from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as RelayedPeer
from multiaddr import Multiaddr

from prime.actor.contract import PeerId
from prime.errors import ConfigError, RefusedError, RemoteProtocolError, UnreachableError, WorldError
from prime.transport.contract import Buffer
from prime.transport.libp2p.connection import MuxedChannel
from prime.transport.multiaddr import Address
from prime.transport.peer import parse_peer
from prime.transport.relay import keeper as core
from prime.transport.sockets import READ_BYTES_MAX

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
MESSAGE_BYTES_MAX: Final = 4096
REQUEST_S: Final = 10.0
RESERVATION_S_MAX: Final = 24 * 3600.0
"""A relay that promises more is asked again by then."""

_SEND_BYTES: Final = 1 << 16
_OK: Final = int(Status.OK)
_REASONS: Final = {
    int(Status.RESERVATION_REFUSED): "it keeps no slot for this node",
    int(Status.RESOURCE_LIMIT_EXCEEDED): "it has no room",
    int(Status.PERMISSION_DENIED): "it does not let this node",
    int(Status.CONNECTION_FAILED): "the other node did not answer it",
    int(Status.NO_RESERVATION): "the other node keeps no slot there",
}

log = logging.getLogger(__name__)


class Circuit:
    """What carries a connection through a relay: a stream of the connection with the relay."""

    def __init__(self, channel: MuxedChannel) -> None:
        self._channel = channel

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """See `Carriage.receive`."""
        try:
            return await self._channel.receive(max_bytes)
        except anyio.EndOfStream:
            return b""

    async def send_some(self, data: Buffer) -> int:
        """See `Carriage.send_some`."""
        if sent := self._channel.send_nowait(data):
            return sent
        piece = memoryview(data)[:_SEND_BYTES]
        await self._channel.send(piece)
        return len(piece)

    async def send_all(self, data: Buffer) -> None:
        """Send every byte."""
        await self._channel.send(data)

    def send_nowait(self, data: Buffer) -> int:
        """See `Carriage.send_nowait`."""
        return self._channel.send_nowait(data)

    def close(self) -> None:
        """See `Carriage.close`."""
        self._channel.close_nowait()


class CircuitInfo:
    """What py-libp2p may know of a connection that goes through a relay."""

    def __init__(self, relay: PeerId, peer: PeerId) -> None:
        self.relay = relay
        self._address = Multiaddr(f"/p2p/{relay}/p2p-circuit/p2p/{peer}")

    def get_remote_address(self) -> None:
        """Return nothing: where the other end is, the relay keeps to itself."""

    def get_transport_addresses(self) -> list[Any]:
        """Return the way through the relay."""
        return [self._address]

    def get_connection_type(self) -> Any:
        """Tell that this is a circuit."""
        return ConnectionType.RELAYED


# ------------------------------------------------------------------------------------------------- what is said on a stream


async def ask_for_circuit(channel: MuxedChannel, peer: PeerId) -> None:
    """Ask a relay for a circuit to `peer`; then the channel is the circuit. Raises `UnreachableError`, `RefusedError`."""
    request = HopMessage(type=HopMessage.CONNECT, peer=RelayedPeer(id=ID.from_string(peer).to_bytes()))
    await _ask(channel, request, f"no circuit to {peer}")


async def ask_for_reservation(channel: MuxedChannel) -> float:
    """Ask a relay for a slot, and return for how many seconds it keeps it. Raises as `ask_for_circuit`."""
    answer = await _ask(channel, HopMessage(type=HopMessage.RESERVE), "no slot")
    seconds = answer.reservation.expire - time.time()  # the relay's clock, by the specification
    return float(min(max(seconds, core.PAUSE_MIN_S), RESERVATION_S_MAX))


async def _ask(channel: MuxedChannel, request: Any, refused: str) -> Any:
    relay = channel.peer
    try:
        await send_message(channel, request)
        answer = await receive_message(channel, HopMessage)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, RemoteProtocolError) as error:
        raise UnreachableError(
            f"The relay {relay} gave no answer: {str(error) or type(error).__name__}.", hint="Use another relay."
        ) from error
    if answer.type != HopMessage.STATUS or answer.status != _OK:
        reason = _REASONS.get(answer.status, f"it answers {answer.status}")
        kind = UnreachableError if answer.status in {Status.NO_RESERVATION, Status.CONNECTION_FAILED} else RefusedError
        raise kind(f"The relay {relay} gives {refused}: {reason}.", hint="Try again later, or use another relay.")
    return answer


async def answer_circuit(channel: MuxedChannel) -> PeerId:
    """Take up a circuit that a relay offers, and return from whom it says that it comes.

    Raises `RemoteProtocolError`, and what receiving raises.
    """
    offer = await receive_message(channel, StopMessage)
    if offer.type != StopMessage.CONNECT:
        raise RemoteProtocolError("a relay offered no circuit")
    try:
        peer = parse_peer(str(ID(offer.peer.id)))
    except (ConfigError, ValueError) as error:
        raise RemoteProtocolError(f"a circuit from a peer of another kind: {error}") from error
    await send_message(channel, StopMessage(type=StopMessage.STATUS, status=_OK))
    return peer


async def send_message(channel: MuxedChannel, message: Message) -> None:
    """Send one message behind its length."""
    data = message.SerializeToString()
    prefix = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    await channel.send(prefix + data)


async def receive_message(channel: MuxedChannel, kind: Any, bytes_max: int = MESSAGE_BYTES_MAX) -> Any:
    """Receive one message and not a byte more: what follows is the circuit's. Raises `RemoteProtocolError`."""
    size = await _receive_size(channel, bytes_max)
    data = b""
    while len(data) < size:
        data += await channel.receive(size - len(data))
    try:
        return kind.FromString(data)
    except ProtobufError as error:
        raise RemoteProtocolError(f"a message cannot be read: {error}") from error


async def _receive_size(channel: MuxedChannel, bytes_max: int) -> int:
    first = (await channel.receive(1))[0]
    size = first & 127
    if first & 128:
        second = (await channel.receive(1))[0]
        size += second << 7
    if size > bytes_max or (first & 128 and second & 128):
        raise RemoteProtocolError(f"a message is larger than {bytes_max} bytes")
    return size


# --------------------------------------------------------------------------------------------------- keeping slots


class Slots:
    """Keeps reservations at standard relays while the endpoint is open.

    `reserve` asks one relay and returns its peer, for how long, and an event that ends with the connection to it;
    `announce` is told the addresses of the relays that keep a slot.
    """

    def __init__(
        self,
        relays: tuple[Address, ...],
        reserve: Callable[[Address], Awaitable[tuple[PeerId, float, trio.Event]]],
        announce: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._relays = {str(relay): relay for relay in relays}
        self._reserve = reserve
        self._announce = announce
        self._keeper = core.Keeper(self._relays)
        self._changed = trio.Event()

    def keeps(self, peer: PeerId) -> bool:
        """Tell whether that relay keeps a slot for this node, so that it may offer circuits."""
        return any(self._relays[held].peer == peer for held in self._keeper.held)

    async def run(self) -> None:
        """Reserve, and reserve again, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._feed(core.Start(), nursery)
            while True:
                self._changed = trio.Event()
                with trio.move_on_at(self._keeper.due):
                    await self._changed.wait()
                    continue
                self._feed(core.Tick(), nursery)

    def _feed(self, event: core.Event, nursery: trio.Nursery) -> None:
        self._changed.set()
        for command in self._keeper.step(event, trio.current_time()):
            match command:
                case core.Ask(address):
                    nursery.start_soon(self._ask, address, nursery)
                case core.Announce(relays):
                    self._announce(relays)
                case core.Gone(address, reason):
                    log.info("the libp2p relay %s keeps no slot for this node: %s", address, reason)

    async def _ask(self, address: str, nursery: trio.Nursery) -> None:
        try:
            with trio.fail_after(REQUEST_S):
                peer, expires_in_s, ended = await self._reserve(self._relays[address])
        except (WorldError, trio.TooSlowError) as error:
            self._feed(core.Failed(address, str(error) or "it did not answer"), nursery)
            return
        self._feed(core.Granted(address, peer, expires_in_s, (address,)), nursery)
        nursery.start_soon(self._watch, peer, ended, nursery)

    async def _watch(self, peer: PeerId, ended: trio.Event, nursery: trio.Nursery) -> None:
        await ended.wait()
        self._feed(core.LinkLost(peer), nursery)
