"""The transport within one process: for tests, for a single node, and for learning Prime without a network.

One `MemoryHub` is one network. `Memory()` makes its own, so systems meet when they are given the same `Memory` (or
several that share a hub); two networks in one process know nothing of each other, and nothing is global.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import AddressInUseError, ConfigError, UnreachableError, WrongPeerError
from prime.transport.contract import BACKLOG_MAX, DIAL_TIMEOUT_S, Buffer, Channel, require_trio
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, MemoryPlace, parse_address
from prime.transport.pipe import BUFFER_BYTES_MAX, Pipe


class MemoryChannel(Channel):
    """One end of a connection within the process."""

    def __init__(self, peer: PeerId, inward: Pipe, outward: Pipe) -> None:
        self._peer = peer
        self._inward = inward
        self._outward = outward
        self._owner: set[MemoryChannel] = set()

    def belong_to(self, owner: set[MemoryChannel]) -> None:
        """Be a member of `owner` until closed."""
        self._owner = owner
        owner.add(self)

    @property
    def peer(self) -> PeerId:
        """The id of the other end; the hub vouches for it."""
        return self._peer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`; a `bytes` object sent whole and small enough arrives as that very object."""
        return await self._inward.get(max_bytes)

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`."""
        await self._outward.put(item)

    async def send_eof(self) -> None:
        """End our direction."""
        await self._outward.finish()

    async def aclose(self) -> None:
        """End both directions; the other side may still read what was sent."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """As `aclose`, for an endpoint that ends."""
        self._owner.discard(self)
        self._outward.end(closed=True)
        self._inward.abandon()


class MemoryHub:
    """One network within the process: who listens under which name."""

    def __init__(self) -> None:
        self._endpoints: dict[str, MemoryEndpoint] = {}

    def join(self, name: str, endpoint: MemoryEndpoint) -> None:
        """Listen under a name. Raises `AddressInUseError`."""
        if name in self._endpoints:
            raise AddressInUseError(
                f"Another node of this memory network listens at /memory/{name}.",
                hint="Open it with another key or name, or after the other has closed.",
            )
        self._endpoints[name] = endpoint

    def leave(self, name: str) -> None:
        """Stop listening under a name."""
        del self._endpoints[name]

    def find(self, name: str) -> MemoryEndpoint | None:
        """Return who listens under a name, if anybody."""
        return self._endpoints.get(name)


@attrs.frozen
class Memory:
    """The memory transport. `address` is `/memory/NAME`; without one the name is the end of the peer id."""

    address: str = ""
    hub: MemoryHub = attrs.field(factory=MemoryHub, repr=False, eq=False)
    buffer_bytes_max: int = BUFFER_BYTES_MAX
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S

    @property
    def name(self) -> str:
        """`memory`."""
        return "memory"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[MemoryEndpoint]:
        """See `Transport.open`."""
        require_trio()
        endpoint = MemoryEndpoint(self, self._place(key.peer), key.peer)
        name = endpoint.place.name
        self.hub.join(name, endpoint)
        try:
            yield endpoint
        finally:
            self.hub.leave(name)
            endpoint.close_nowait()

    def _place(self, peer: PeerId) -> MemoryPlace:
        if not self.address:
            return MemoryPlace(peer[-8:])
        address = parse_address(self.address).expecting(peer)
        if not isinstance(address.place, MemoryPlace):
            raise ConfigError(f"{self.address!r} is no memory address.", hint="Write /memory/NAME.")
        return address.place


class MemoryEndpoint:
    """An opened memory transport."""

    def __init__(self, transport: Memory, place: MemoryPlace, peer: PeerId) -> None:
        self.place = place
        self._transport = transport
        self._peer = peer
        self._arrived, self._waiting = trio.open_memory_channel[MemoryChannel](transport.backlog_max)
        self._channels: set[MemoryChannel] = set()
        self._closed = False

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        """The one address, `/memory/NAME/p2p/ID`."""
        return (str(Address(self.place, self._peer)),)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`."""
        if self._closed:
            raise anyio.ClosedResourceError
        wanted = parse_address(address).expecting(peer)
        with trio.move_on_after(self._transport.dial_timeout_s):
            return await self._connect(wanted)
        raise UnreachableError(
            f"{address} did not accept within {self._transport.dial_timeout_s:g} s.",
            hint="That node is too busy to accept, or has stopped accepting.",
        )

    async def accept(self) -> Channel:
        """See `Endpoint.accept`."""
        try:
            return await self._waiting.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise anyio.ClosedResourceError from None

    def close_nowait(self) -> None:
        """Stop accepting and close every channel."""
        self._closed = True
        self._arrived.close()
        self._waiting.close()
        for channel in tuple(self._channels):
            channel.close_nowait()

    async def _connect(self, wanted: Address) -> MemoryChannel:
        far = self._transport.hub.find(wanted.place.name) if isinstance(wanted.place, MemoryPlace) else None
        if far is None:
            raise UnreachableError(
                f"Nobody listens at {wanted} in this memory network.",
                hint="Give both systems the same Memory() (or the same hub), and open the listener first.",
            )
        if wanted.peer not in {None, far.peer}:
            raise WrongPeerError(
                f"At {wanted.place} answers {far.peer}, not {wanted.peer}.", hint="Correct the address."
            )
        here, there = self._pair(far)
        await far.admit(there)
        here.belong_to(self._channels)
        return here

    async def admit(self, channel: MemoryChannel) -> None:
        """Queue an inbound channel; waits while the backlog is full. Raises `UnreachableError` if closed meanwhile."""
        try:
            await self._arrived.send(channel)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise UnreachableError(
                f"{self.addresses[0]} closed before it accepted.", hint="Dial again later."
            ) from None
        channel.belong_to(self._channels)

    def _pair(self, far: MemoryEndpoint) -> tuple[MemoryChannel, MemoryChannel]:
        size = self._transport.buffer_bytes_max
        outward, inward = Pipe(size), Pipe(size)
        return MemoryChannel(far.peer, inward, outward), MemoryChannel(self._peer, outward, inward)
