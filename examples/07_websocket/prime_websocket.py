"""A transport of one's own: Prime over WebSocket, so that it passes where only web traffic does.

Run: python examples/07_websocket/prime_websocket.py
Needs: pip install wsproto

On the wire is HTTP/1.1, then WebSocket (RFC 6455) with binary messages. What is in them is Prime's TLS 1.3, from one node
to the other: a proxy that ends HTTPS or WebSocket on the way sees no plaintext, and the peer id is proved as over `tcp`.
wsproto does the protocol and touches no socket, so all that waits is here, and cancellation is exact: a receive can be
cancelled at any time, and a send that was cancelled half-way breaks the channel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import anyio
import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError as ClosedByPeerError
from wsproto.utilities import RemoteProtocolError as WebSocketError

import prime
from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.errors import ConfigError, RemoteProtocolError, UnreachableError, WrongPeerError
from prime.transport.admission import Admission
from prime.transport.contract import BACKLOG_MAX, CLOSE_TIMEOUT_S, DIAL_TIMEOUT_S, Buffer, Channel, require_trio
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, LayeredPlace, TcpPlace, parse_address
from prime.transport.sockets import Reception, Wire
from prime.transport.tcp import dial_socket, open_listener, places_of
from prime.transport.tls import Credentials, TlsSession, open_credentials

LAYERS = ("ws",)
PROTOCOL = "prime-actor-1"
WRITE_BYTES_MAX = 1 << 18  # of one WebSocket message


class WebSocket:
    """Bytes in WebSocket messages over a socket; `accept` or `connect` comes first."""

    def __init__(self, wire: Wire, kind: ConnectionType) -> None:
        self.wire = wire
        self._protocol = WSConnection(kind)
        self._inbox: list[Event] = []
        self._pongs: list[Pong] = []
        self._ended = False

    async def accept(self) -> None:
        """Take the other side's request for our protocol, or turn it away."""
        request = await self._event()
        if not isinstance(request, Request) or PROTOCOL not in request.subprotocols:
            if isinstance(request, Request):
                await self._send(RejectConnection(status_code=404))
            raise RemoteProtocolError("The caller asked for no WebSocket of Prime's.")
        await self._send(AcceptConnection(subprotocol=PROTOCOL))

    async def connect(self, host: str) -> None:
        """Request our protocol."""
        await self._send(Request(host=host, target="/", subprotocols=[PROTOCOL]))
        answer = await self._event()
        if not isinstance(answer, AcceptConnection) or answer.subprotocol != PROTOCOL:
            raise RemoteProtocolError("No WebSocket of Prime's answers.")

    async def receive(self) -> bytes:
        """Return some bytes of messages, `b""` at the end. A cancelled call loses nothing."""
        while not self._ended:
            data = b"".join(map(self._heard, await self._events()))
            if data:
                return data
        return b""

    async def send(self, data: bytes) -> None:
        """Send a message, behind the pongs that are owed. Cancelled, it breaks the connection."""
        pongs, self._pongs = self._pongs, []
        await self._send(*pongs, BytesMessage(data=data))

    async def say_goodbye(self) -> None:
        """Tell the other side, and whoever is between, that the connection ends."""
        if not self._ended:
            await self._send(CloseConnection(code=1000))

    def _heard(self, event: Event) -> bytes:
        match event:
            case BytesMessage():
                return bytes(event.data)
            case Ping():
                self._pongs = [event.response()]  # one answers them all (RFC 6455 section 5.5.3)
            case TextMessage() | CloseConnection():
                self._ended = True
        return b""

    async def _event(self) -> Event:
        while not self._inbox:
            self._inbox = await self._events()
            if self._ended and not self._inbox:
                raise anyio.BrokenResourceError
        return self._inbox.pop(0)

    async def _events(self) -> list[Event]:
        if self._inbox:  # what came directly behind the opening
            events, self._inbox = self._inbox, []
            return events
        data = await self.wire.receive()
        self._ended = self._ended or not data
        try:
            self._protocol.receive_data(data or None)
            return list(self._protocol.events())
        except WebSocketError as error:
            if error.event_hint is not None and not self._protocol.client:
                await self._send(error.event_hint)
            raise RemoteProtocolError("The other side speaks no WebSocket.") from error

    async def _send(self, *events: Event) -> None:
        try:
            data = b"".join(map(self._protocol.send, events))
        except ClosedByPeerError as error:
            raise anyio.BrokenResourceError from error
        await self.wire.send_all(data, begun=True)


class WebSocketChannel(Channel):
    """TLS in WebSocket messages."""

    def __init__(self, socket: WebSocket, session: TlsSession, owner: set[WebSocketChannel]) -> None:
        self._socket = socket
        self._wire = socket.wire
        self._session = session
        self._ended = False
        self._owner = owner
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")
        owner.add(self)

    @property
    def peer(self) -> PeerId:
        return self._session.peer

    @property
    def remote(self) -> str:
        return self._wire.remote

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with self._receiving:
            await self._wire.check()
            try:
                while (data := self._session.decrypt(max_bytes)) is None:
                    self._session.feed(await self._socket.receive())
            except RemoteProtocolError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            return data

    async def send(self, item: Buffer) -> None:
        with self._sending:
            await self._wire.check()
            if self._ended:
                raise anyio.ClosedResourceError
            rest = memoryview(item).cast("B")
            while rest:
                await self._socket.send(self._session.encrypt(rest[:WRITE_BYTES_MAX]))
                rest = rest[WRITE_BYTES_MAX:]

    async def send_eof(self) -> None:
        with self._sending:
            await self._wire.check()
            if not self._ended:
                self._ended = True
                await self._socket.send(self._session.end())

    async def aclose(self) -> None:
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self.send_eof()
                await self._socket.say_goodbye()
        except (anyio.BusyResourceError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self.close_nowait()

    def close_nowait(self) -> None:
        self._owner.discard(self)
        self._wire.close()


@attrs.frozen
class WebSockets:
    """The transport: `address` is where to listen, such as `/ip4/0.0.0.0/tcp/8080/ws`."""

    address: str = "/ip4/127.0.0.1/tcp/0/ws"
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S

    @property
    def name(self) -> str:
        return "websocket"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[WebSocketEndpoint]:
        require_trio()
        place = _tcp_place(parse_address(self.address).expecting(key.peer))
        if place is None:
            raise ConfigError(f"{self.address!r} is no WebSocket address.", hint="Write /ip4/127.0.0.1/tcp/0/ws.")
        with ExitStack() as stack:
            credentials = stack.enter_context(open_credentials(key))
            listener = await open_listener(place, self.address)
            stack.callback(listener.close)
            endpoint = WebSocketEndpoint(self, key.peer, credentials, places_of(place, *listener.getsockname()[:2]))
            stack.callback(endpoint.close_nowait)
            async with one_error(), trio.open_nursery() as nursery:
                nursery.start_soon(endpoint.reception.serve, listener)
                try:
                    yield endpoint
                finally:
                    nursery.cancel_scope.cancel()


class WebSocketEndpoint:
    """An opened transport. Its `Reception` accepts sockets and lets each prove its peer, bounded in number and time."""

    def __init__(
        self, transport: WebSockets, peer: PeerId, credentials: Credentials, places: tuple[TcpPlace, ...]
    ) -> None:
        self.peer = peer
        self.addresses = tuple(f"{place}/{'/'.join(LAYERS)}/p2p/{peer}" for place in places)
        self.reception = Reception(
            self._prove_caller, backlog_max=transport.backlog_max, timeout_s=transport.dial_timeout_s
        )
        self._dial_timeout_s = transport.dial_timeout_s
        self._credentials = credentials
        self._channels: set[WebSocketChannel] = set()

    def guard(self, admission: Admission) -> None:
        self.reception.guard(admission)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        self.reception.check_open()
        wanted = parse_address(address).expecting(peer)
        place = _tcp_place(wanted)
        if place is None:
            raise UnreachableError(f"{address} is no WebSocket address.", hint="Dial it over its own transport.")
        with trio.move_on_after(self._dial_timeout_s):
            return await self._connect(wanted, place)
        raise UnreachableError(
            f"{address} did not answer within {self._dial_timeout_s:g} s.", hint="Check that the node runs there."
        )

    async def accept(self) -> Channel:
        return await self.reception.accept()

    def close_nowait(self) -> None:
        self.reception.close()
        for channel in tuple(self._channels):
            channel.close_nowait()

    async def _connect(self, wanted: Address, place: TcpPlace) -> WebSocketChannel:
        wire = Wire(await dial_socket(place))
        try:
            socket = WebSocket(wire, ConnectionType.CLIENT)
            await socket.connect(f"{place.host}:{place.port}")
            return await self._prove(socket, wanted, server_side=False)
        except (RemoteProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            wire.close()
            raise UnreachableError(
                f"{place} does not speak Prime over WebSocket: {str(error) or 'it hung up'}",
                hint="Check host and port.",
            ) from error
        except BaseException:
            wire.close()
            raise

    async def _prove_caller(self, connection: trio.socket.SocketType) -> Channel:
        connection.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        socket = WebSocket(Wire(connection), ConnectionType.SERVER)
        await socket.accept()
        return await self._prove(socket, None, server_side=True)

    async def _prove(self, socket: WebSocket, wanted: Address | None, *, server_side: bool) -> WebSocketChannel:
        """Do the TLS handshake: afterwards each side knows the other's peer id, and nobody between can read or write."""
        session = TlsSession(self._credentials, server_side=server_side)
        try:
            while not session.handshake():
                await socket.send(session.output())
                session.feed(await socket.receive())
            if wanted and wanted.peer not in {None, session.peer}:  # before our last message tells who we are
                raise WrongPeerError(
                    f"At {wanted.place} answers {session.peer}, not {wanted.peer}.", hint="Correct the address."
                )
        except RemoteProtocolError:
            with trio.move_on_after(CLOSE_TIMEOUT_S), suppress(anyio.BrokenResourceError):
                await socket.send(session.output())  # TLS's own alert
            raise
        if last := session.output():
            await socket.send(last)
        return WebSocketChannel(socket, session, self._channels)


def _tcp_place(address: Address) -> TcpPlace | None:
    place = address.place
    if isinstance(place, LayeredPlace) and (place.protocol, place.layers) == ("tcp", LAYERS):
        return TcpPlace(place.kind, place.host, place.port)
    return None


def make_transport(address: str, *, dial_timeout_s: float) -> WebSockets:
    """Make the transport: what the entry point names (`prime.transport.choice.Factory`)."""
    if address:
        return WebSockets(address, dial_timeout_s=dial_timeout_s)
    return WebSockets(dial_timeout_s=dial_timeout_s)


# ------------------------------------------------------------------------------------------------- two nodes, over it


@prime.message(tag=0x1710)
class Greet(prime.Ask[str]):
    """Greets somebody."""

    name: str


class Greeter(prime.Actor[Greet]):
    """Greets all who ask."""

    @prime.on(Greet)
    def greet(self, m: Greet) -> str:
        return f"hello, {m.name}"


async def main() -> None:
    async with (
        prime.open_system(transport=WebSockets()) as far,
        prime.open_system(transport=WebSockets()) as near,
        far.supervisor("doors") as doors,
    ):
        await doors.spawn(Greeter, "front")
        near.learn(far.peer, far.addresses)
        said = await near.ref(far.peer, "/doors/front", Greeter).ask(Greet("web"), timeout=10)
        print(f"over {far.addresses[0].partition('/p2p/')[0]}: {said}")


if __name__ == "__main__":
    trio.run(main)
