"""The pair: a connected socket between a process and the child process that it started.

Nothing is proved and nothing listens: who holds the other end was given it by the parent, so each side just says its
peer id. One channel is all there is; when it ends, so does the endpoint.
"""

from __future__ import annotations

import socket as os_socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import UnreachableError
from prime.transport.contract import Channel, require_trio
from prime.transport.identity import KeyPair
from prime.transport.peer import parse_peer
from prime.transport.sockets import Wire
from prime.transport.unix import UnixChannel

PAIR_ADDRESS = "/memory/pair"
"""What `PairEndpoint.dial` is given: a pair has one other end and no address."""

_PEER_BYTES = 52


class PairChannel(UnixChannel):
    """One end of a pair."""

    def __init__(self, wire: Wire, peer: PeerId, closed: trio.Event) -> None:
        super().__init__(wire, peer, set())
        self._gone = closed

    def close_nowait(self) -> None:
        """As `aclose`, for an endpoint that ends."""
        super().close_nowait()
        self._gone.set()


@attrs.frozen
class Pair:
    """The transport over one end of a `socket.socketpair()`, which it closes. The parent dials, its child does not."""

    socket: os_socket.socket = attrs.field(repr=False)
    dials: bool

    @property
    def name(self) -> str:
        """`pair`."""
        return "pair"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[PairEndpoint]:
        """See `Transport.open`."""
        require_trio()
        endpoint = PairEndpoint(Wire(trio.socket.from_stdlib_socket(self.socket)), key.peer, dials=self.dials)
        try:
            yield endpoint
        finally:
            endpoint.close_nowait()


class PairEndpoint:
    """An opened pair."""

    def __init__(self, wire: Wire, peer: PeerId, *, dials: bool) -> None:
        self._wire = wire
        self._peer = peer
        self._dials = dials
        self._taken = False
        self._gone = trio.Event()

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        """Nowhere: nobody else can dial a pair."""
        return ()

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`; there is one channel, once."""
        if self._taken or not self._dials or address != PAIR_ADDRESS:
            raise UnreachableError(
                f"{peer or address} cannot be reached from here: this end of a pair knows its other end alone.",
                hint="The process at its other end is gone, or the actor lives on a third node.",
            )
        try:
            return await self._open()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise UnreachableError(
                "The process at the other end ended before it was reached.",
                hint="Its exit status and last output are in the failure of its actor.",
            ) from error

    async def accept(self) -> Channel:
        """See `Endpoint.accept`: returns the one channel where the other side dials, and raises once it has ended."""
        if self._dials:
            await trio.sleep_forever()
        if self._taken:
            await self._gone.wait()
            raise anyio.ClosedResourceError
        return await self._open()

    def close_nowait(self) -> None:
        """Close the socket."""
        self._wire.close()
        self._gone.set()

    async def _open(self) -> Channel:
        self._taken = True
        await self._wire.send_all(self._peer.encode())
        said = b""
        while len(said) < _PEER_BYTES:
            part = await self._wire.receive(_PEER_BYTES - len(said))
            if not part:
                raise anyio.BrokenResourceError
            said += part
        return PairChannel(self._wire, parse_peer(said.decode()), self._gone)
