"""Prime's own Yamux where py-libp2p expects one: its view of a connection and of a stream, and how one is agreed on.

py-libp2p 0.8 takes a muxer through `muxer_opt` and then makes its own whatever it was given, if the protocol is Yamux;
so the upgrader, which is a public part of the swarm, is Prime's too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Self

import anyio
import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from prime.errors import RefusedError, RemoteProtocolError
from prime.transport import multistream, yamux
from prime.transport.libp2p.conduit import Conduit
from prime.transport.libp2p.connection import Connection, MuxedChannel
from prime.transport.libp2p.security import MessageConduit, Secured, TlsConnection, peer_of
from prime.transport.multiaddr import TcpPlace

READ_BYTES = 1 << 16


class Muxer(IMuxedConn):
    """A connection, as py-libp2p wants to see it. It runs already; `start` only waits for its end."""

    def __init__(self, connection: Connection, remote: tuple[str, int] | None, made: Any = None) -> None:
        self.connection = connection
        self.peer_id = ID.from_string(connection.peer)
        self.event_started = trio.Event()
        self.secured_conn = made
        self.shared_place: TcpPlace | None = None
        """This machine's end, if further connections can be made from that port."""
        self.negotiated_muxer_protocol = yamux.PROTOCOL
        self._remote = remote
        self._strangers: deque[MuxedChannel] = deque()
        self._arrival = trio.Event()

    @property
    def is_initiator(self) -> bool:
        """Tell whether this side opened the connection."""
        return self.connection.dialled

    @property
    def is_established(self) -> bool:
        """Tell whether streams can be opened."""
        return not self.is_closed

    @property
    def is_closed(self) -> bool:
        """Tell whether the connection is over."""
        return self.connection.ended.is_set()

    @property
    def relayed(self) -> bool:
        """Tell whether the connection goes through a relay."""
        return bool(self.get_connection_type() is ConnectionType.RELAYED)

    async def start(self) -> None:
        """Return when the connection is over."""
        self.event_started.set()
        await self.connection.ended.wait()
        self._arrival.set()

    async def close(self) -> None:
        """End the connection."""
        await self.connection.aclose()

    async def open_stream(self) -> MuxedStream:
        """Open a stream for one of py-libp2p's own protocols."""
        try:
            return MuxedStream(self, self.connection.open())
        except (RefusedError, anyio.BrokenResourceError) as error:
            raise MuxedConnUnavailable(str(error)) from error

    async def accept_stream(self) -> MuxedStream:
        """Wait for a stream whose protocol is not Prime's own."""
        while not self._strangers:
            if self.is_closed:
                raise MuxedConnUnavailable(self.connection.cause)
            await self._arrival.wait()
            self._arrival = trio.Event()
        return MuxedStream(self, self._strangers.popleft())

    def hand_over(self, channel: MuxedChannel) -> None:
        """Leave a stream to py-libp2p. How many there can be is bounded by the connection's limit of streams."""
        self._strangers.append(channel)
        self._arrival.set()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the host and port of the other side."""
        return self._remote

    def get_transport_addresses(self) -> list[Any]:
        """Return where the other side is."""
        if self.secured_conn is not None:
            return list(self.secured_conn.get_transport_addresses())
        if self._remote is None:
            return []
        host, port = self._remote
        return [Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host.partition('%')[0]}/tcp/{port}")]

    def get_connection_type(self) -> Any:
        """Tell whether the connection is direct or goes through a relay."""
        if self.secured_conn is None:
            return ConnectionType.DIRECT
        return self.secured_conn.get_connection_type()


class MuxedStream(IMuxedStream):
    """A stream, as py-libp2p wants to see it."""

    def __init__(self, muxer: Muxer, channel: MuxedChannel) -> None:
        self.muxed_conn = muxer
        self.channel = channel
        self._deadline_s: float | None = None

    async def read(self, n: int | None = None) -> bytes:
        """Return what has arrived, at most `n` bytes."""
        if n == 0:
            return b""
        try:
            with trio.fail_after(self._timeout_s()):
                return await self.channel.receive(READ_BYTES if n is None or n < 0 else n)
        except anyio.EndOfStream:
            raise MuxedStreamEOF("the peer ended the stream") from None
        except (anyio.BrokenResourceError, trio.TooSlowError) as error:
            raise MuxedStreamReset(str(error)) from error
        except anyio.ClosedResourceError:
            raise MuxedStreamClosed("the stream is closed") from None

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            with trio.fail_after(self._timeout_s()):
                await self.channel.send(data)
        except (anyio.BrokenResourceError, trio.TooSlowError) as error:
            raise MuxedStreamReset(str(error)) from error
        except anyio.ClosedResourceError:
            raise MuxedStreamClosed("the stream is closed") from None

    async def close(self) -> None:
        """End our direction, and the stream if the peer does not end its own within minutes."""
        self.channel.finish()
        await trio.lowlevel.checkpoint()

    async def close_write(self) -> None:
        """End our direction only."""
        try:
            await self.channel.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def reset(self) -> None:
        """Break the stream."""
        self.channel.reset()
        await trio.lowlevel.checkpoint()

    def set_deadline(self, ttl: int) -> None:
        """Let each read and write from now on take at most `ttl` seconds."""
        if ttl < 0:
            raise ValueError(f"a deadline of {ttl} s")
        self._deadline_s = ttl

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the host and port of the other side."""
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> Self:
        return self

    def _timeout_s(self) -> float:
        return float("inf") if self._deadline_s is None else self._deadline_s


async def agree_on_yamux(conduit: Conduit, *, dialled: bool) -> None:
    """Negotiate the muxer where the handshake has not. Raises as `multistream.propose`."""

    async def send(data: bytes) -> None:
        rest = memoryview(conduit.seal(data))
        while rest:
            rest = rest[await conduit.send_some(rest) :]

    async def receive(max_bytes: int) -> bytes:
        data = await conduit.receive(max_bytes)
        if not data:
            raise anyio.BrokenResourceError("the other side hung up")
        return data

    if dialled:
        await multistream.propose(send, receive, (yamux.PROTOCOL,))
    else:
        await multistream.answer(send, receive, (yamux.PROTOCOL,))


class Upgrader(TransportUpgrader):
    """Muxes the connections that py-libp2p opens by itself, with Prime's own Yamux."""

    def __init__(
        self, security: dict[str, Any], begin: Callable[[Secured, bool, Any], Muxer], let_go: Callable[[Any], None]
    ) -> None:
        super().__init__(security, {})
        self._begin = begin
        self._let_go = let_go

    async def upgrade_connection(self, conn: Any, _peer_id: Any) -> Muxer:
        """See `TransportUpgrader.upgrade_connection`."""
        if isinstance(conn, TlsConnection):
            secured = conn.secured
        else:
            secured = Secured(MessageConduit(conn, lambda: self._let_go(conn)), peer_of(conn), muxed=False)
        try:
            if not secured.muxed:
                await agree_on_yamux(secured.conduit, dialled=conn.is_initiator)
        except (RemoteProtocolError, anyio.BrokenResourceError) as error:
            raise MuxerUpgradeFailure(str(error)) from error
        return self._begin(secured, conn.is_initiator, conn)
