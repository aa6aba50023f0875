"""TCP with mutual TLS 1.3: the fast transport that needs no compiler and no libp2p.

Only input and output live here; the protocol is `tls.TlsSession`. Reads of up to 1 MiB and writes of 256 KiB make it
about twice as fast as `trio.SSLStream`, whose reads are small.
"""

from __future__ import annotations

import errno
import os
import socket as os_socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.errors import AddressInUseError, ConfigError, RemoteProtocolError, UnreachableError, WrongPeerError
from prime.transport.admission import Admission
from prime.transport.contract import BACKLOG_MAX, CLOSE_TIMEOUT_S, DIAL_TIMEOUT_S, Buffer, Channel, require_trio
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, TcpPlace, parse_address
from prime.transport.sockets import READ_BYTES_MIN, Reception, Wire, keep_freed_memory, tcp_place, tune
from prime.transport.tls import Credentials, TlsSession, open_credentials
from prime.transport.turns import Rested

WRITE_BYTES_MAX = 1 << 18  # encrypted in one go; bounds the memory of a blocked sender and the pause of the loop

NOWAIT_BYTES_MAX = 1 << 14  # one record: what `send_nowait` takes in one go

_KERNEL_BACKLOG = 128

Start = Callable[[Callable[[], Awaitable[None]]], object]
"""Starts a task that lives as long as the endpoint."""


class TcpChannel(Channel):
    """A TLS session over a socket."""

    def __init__(self, wire: Wire, session: TlsSession, owner: set[TcpChannel], start: Start) -> None:
        self._wire = wire
        self._session = session
        self._start = start
        self._rest: memoryview | None = None  # encrypted by `send_nowait`, and not taken by the kernel at once
        self._rest_sent = trio.Event()
        self._ended = False
        self._owner = owner
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")
        owner.add(self)

    @property
    def peer(self) -> PeerId:
        """The peer that the other side's certificate proves."""
        return self._session.peer

    @property
    def remote(self) -> str:
        """See `Channel.remote`."""
        return self._wire.remote

    @property
    def local(self) -> str:
        """This end of the connection, as an address without `/p2p/`; empty once it is gone."""
        return self._wire.local

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`."""
        return bytes(await self._receive(max_bytes))

    async def receive_into(self, room: memoryview) -> int:
        """See `Channel.receive_into`."""
        data = await self._receive(len(room), room)
        if isinstance(data, bytes):
            room[: len(data)] = data
        return len(data)

    async def _receive(self, max_bytes: int, room: memoryview | None = None) -> bytes | memoryview:
        with self._receiving:
            if self._wire.closed or self._session.has_input:
                await self._wire.check()  # a wait for the wire is a checkpoint; without one, here it is
            while (data := self._decrypt(max_bytes, room)) is None:
                self._session.feed(await self._wire.receive(max(max_bytes, READ_BYTES_MIN)))
            if not data:
                raise anyio.EndOfStream
            return data

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`."""
        with self._sending:
            await self._wire.check()
            if self._ended:
                raise anyio.ClosedResourceError
            await self._rest_gone()
            rest = memoryview(item).cast("B")
            while rest:
                # What is encrypted counts as begun: the session can't take a record back.
                await self._wire.send_all(self._session.encrypt(rest[:WRITE_BYTES_MAX]), begun=True)
                rest = rest[WRITE_BYTES_MAX:]

    def send_nowait(self, item: Buffer) -> int:
        """See `Channel.send_nowait`. What the kernel does not take of it at once is sent by a task of the endpoint's."""
        if self._ended or self._rest is not None or self._wire.closed or not 0 < len(item) <= NOWAIT_BYTES_MAX:
            return 0
        data = self._session.encrypt(item)
        sent = self._wire.send_nowait(data)
        if sent < len(data):
            self._rest, self._rest_sent = memoryview(data)[sent:], trio.Event()
            self._start(self._send_rest)
        return len(item)

    async def _send_rest(self) -> None:
        try:
            await self._wire.send_all(self._rest or b"", begun=True)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # whoever sends next hears of it
        finally:
            self._rest = None
            self._rest_sent.set()

    async def _rest_gone(self) -> None:
        while self._rest is not None:
            await self._rest_sent.wait()
            await self._wire.check()

    async def send_eof(self) -> None:
        """See `Channel.send_eof`; TLS' own end of data, which nobody on the way can forge."""
        with self._sending:
            await self._wire.check()
            await self._rest_gone()
            await self._say_end()

    async def aclose(self) -> None:
        """See `Channel.aclose`; says the end if no send is in the way and the socket takes it soon."""
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self.send_eof()
        except (anyio.BusyResourceError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self.close_nowait()

    def close_nowait(self) -> None:
        """Close without a goodbye."""
        self._owner.discard(self)
        self._wire.close()

    async def _say_end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._wire.send_all(self._session.end(), begun=True)

    def _decrypt(self, max_bytes: int, room: memoryview | None) -> bytes | memoryview | None:
        try:
            return self._session.decrypt_placed(max_bytes, room)
        except RemoteProtocolError as error:
            raise anyio.BrokenResourceError from error


@attrs.frozen
class Tcp:
    """The TCP transport: `address` is where to listen, port 0 for any free one.

    Listening on an unspecified host (`/ip4/0.0.0.0/…`), `addresses` names loopback and the address of the default route.
    """

    address: str = "/ip4/127.0.0.1/tcp/0"
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S

    @property
    def name(self) -> str:
        """`tcp`."""
        return "tcp"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[TcpEndpoint]:
        """See `Transport.open`."""
        require_trio()
        keep_freed_memory()
        place = listen_place(self.address, key.peer)
        with ExitStack() as stack:
            credentials = stack.enter_context(open_credentials(key))
            listener = await open_listener(place, self.address)
            stack.callback(listener.close)
            places = places_of(place, *listener.getsockname()[:2])
            async with one_error(), trio.open_nursery() as nursery:
                endpoint = TcpEndpoint(self, key.peer, credentials, places, nursery.start_soon)
                stack.callback(endpoint.close_nowait)
                nursery.start_soon(endpoint.reception.serve, listener)
                try:
                    yield endpoint
                finally:
                    nursery.cancel_scope.cancel()


class TcpEndpoint:
    """An opened TCP transport."""

    def __init__(
        self, transport: Tcp, peer: PeerId, credentials: Credentials, places: tuple[TcpPlace, ...], start: Start
    ) -> None:
        self._transport = transport
        self._start = start
        self._peer = peer
        self._credentials = credentials
        self._channels: set[TcpChannel] = set()
        self._proofs = Rested()
        self.addresses = tuple(str(Address(place, peer)) for place in places)
        self.reception = Reception(
            self._prove_caller, backlog_max=transport.backlog_max, timeout_s=transport.dial_timeout_s
        )

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._peer

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`."""
        return await self._dial(address, peer, shared=False)

    async def dial_shared(self, address: str, peer: PeerId | None = None) -> TcpChannel:
        """As `dial`, from a port of this machine that further connections can be made from: to punch a hole."""
        return await self._dial(address, peer, shared=True)

    async def adopt(self, socket: trio.socket.SocketType, peer: PeerId, *, server_side: bool) -> TcpChannel:
        """Make a channel of a connected socket, and close that if it fails. Raises as `dial`, without its deadline."""
        self.reception.check_open()
        expected = Address(tcp_place(*socket.getpeername()[:2]), peer)
        return await self._secured(socket, expected, server_side=server_side)

    async def _dial(self, address: str, peer: PeerId | None, *, shared: bool) -> TcpChannel:
        self.reception.check_open()
        wanted = parse_address(address).expecting(peer)
        if not isinstance(wanted.place, TcpPlace):
            raise UnreachableError(f"{address} is no TCP address.", hint="Dial it over the transport that it names.")
        with trio.move_on_after(self._transport.dial_timeout_s):
            socket = await (dial_shared_socket if shared else dial_socket)(wanted.place)
            return await self._secured(socket, wanted, server_side=False)
        raise UnreachableError(
            f"{address} did not answer within {self._transport.dial_timeout_s:g} s.",
            hint="Check that the node runs, and that no firewall drops what goes there.",
        )

    def guard(self, admission: Admission) -> None:
        """See `Guarded.guard`."""
        self.reception.guard(admission)

    async def accept(self) -> Channel:
        """See `Endpoint.accept`."""
        return await self.reception.accept()

    def close_nowait(self) -> None:
        """Stop accepting and close every channel."""
        self.reception.close()
        for channel in tuple(self._channels):
            channel.close_nowait()

    async def _secured(self, socket: trio.socket.SocketType, wanted: Address, *, server_side: bool) -> TcpChannel:
        try:
            session = await self._shake_hands(Wire(socket), server_side=server_side, expected=wanted)
        except BaseException:
            socket.close()
            raise
        return TcpChannel(Wire(socket), session, self._channels, self._start)

    async def _prove_caller(self, socket: trio.socket.SocketType) -> Channel:
        tune(socket)
        session = await self._shake_hands(Wire(socket), server_side=True, expected=None)
        return TcpChannel(Wire(socket), session, self._channels, self._start)

    async def _shake_hands(self, wire: Wire, *, server_side: bool, expected: Address | None) -> TlsSession:
        work: AbstractAsyncContextManager[object] = self._proofs if server_side else nullcontext()
        async with work:
            session = TlsSession(self._credentials, server_side=server_side)
        try:
            while not await self._stepped(session, expected, work):
                await wire.send_all(session.output())
                session.feed(await wire.receive())
            await wire.send_all(session.output())
        except RemoteProtocolError as error:
            await _send_alert(wire, session)
            raise _not_prime(expected, str(error)) from error
        except anyio.BrokenResourceError as error:
            raise _not_prime(expected, "The connection broke during the TLS handshake.") from error
        return session

    async def _stepped(
        self, session: TlsSession, expected: Address | None, work: AbstractAsyncContextManager[object]
    ) -> bool:
        async with work:
            return _step(session, expected)


def _step(session: TlsSession, expected: Address | None) -> bool:
    """Advance the handshake; a client checks who answers before it sends the message that completes the handshake."""
    if not session.handshake():
        return False
    if expected and expected.peer and session.peer != expected.peer:
        raise WrongPeerError(
            f"At {expected.place} answers {session.peer}, not {expected.peer}.",
            hint="Correct the address, or find out why that machine has another key.",
        )
    return True


async def _send_alert(wire: Wire, session: TlsSession) -> None:
    try:
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await wire.send_all(session.output())
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # the other side will see the end of the connection instead


def _not_prime(expected: Address | None, why: str) -> UnreachableError:
    where = expected.place if expected else "a caller"
    return UnreachableError(f"{where} does not speak Prime's TCP transport: {why}", hint="Check host and port.")


async def dial_socket(place: TcpPlace) -> trio.socket.SocketType:
    """Connect to a place. Raises `UnreachableError`."""
    try:
        stream = await trio.open_tcp_stream(place.host, place.port)
    except OSError as error:
        raise UnreachableError(
            f"Nobody answers at {place}: {_cause(error)}.",
            hint="Check the address, and that the node runs and listens there.",
        ) from error
    return stream.socket


async def dial_shared_socket(place: TcpPlace) -> trio.socket.SocketType:
    """As `dial_socket`, from a port that other sockets of this process can be bound to as well."""
    try:
        family, _, _, _, where = (await trio.socket.getaddrinfo(place.host, place.port, type=trio.socket.SOCK_STREAM))[
            0
        ]
        socket = shared_socket(family, 0)
    except OSError as error:
        raise UnreachableError(
            f"{place} cannot be dialled: {_cause(error)}.", hint="Check the address, and this machine's network."
        ) from error
    try:
        await socket.connect(where)
    except OSError as error:
        socket.close()
        raise UnreachableError(
            f"Nobody answers at {place}: {_cause(error)}.",
            hint="Check the address, and that the node runs and listens there.",
        ) from error
    except BaseException:
        socket.close()
        raise
    return socket


def shared_socket(family: int, port: int) -> trio.socket.SocketType:
    """Return a socket that is bound to a port (0: a free one) which other sockets of this user may be bound to too."""
    plain = os_socket.socket(family, os_socket.SOCK_STREAM)
    try:
        plain.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)
        plain.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEPORT, 1)
        tune(plain)
        plain.bind(("::" if family == os_socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - it only dials, or is punched
    except BaseException:
        plain.close()
        raise
    return trio.socket.from_stdlib_socket(plain)


def _cause(error: OSError) -> str:
    """Return the reason in words; Trio wraps the errors of several attempts into one."""
    inner = error.__cause__
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    known = inner if isinstance(inner, OSError) else error
    return (os.strerror(known.errno) if known.errno and known.errno > 0 else str(known)).lower()


def listen_place(address: str, peer: PeerId) -> TcpPlace:
    """Return where a TCP address says to listen. Raises `ConfigError`."""
    place = parse_address(address).expecting(peer).place
    if not isinstance(place, TcpPlace):
        raise ConfigError(f"{address!r} is no TCP address.", hint="Write /ip4/127.0.0.1/tcp/0 (0: any free port).")
    return place


async def open_listener(place: TcpPlace, address: str) -> trio.socket.SocketType:
    """Listen at a place. Raises `AddressInUseError`, or `ConfigError` for one that this machine can't listen on."""
    try:
        listeners = await trio.open_tcp_listeners(place.port, host=place.host, backlog=_KERNEL_BACKLOG)
    except OSError as error:
        raise cannot_listen(error, address) from error
    first, *others = listeners
    for other in others:  # a name with several addresses: one endpoint has one
        await other.aclose()
    return first.socket


def cannot_listen(error: OSError, address: str) -> AddressInUseError | ConfigError:
    """Return the error that says why nobody can listen at an address."""
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(
            f"Another program listens at {address} already.", hint="Stop it, or choose another port (0: any free one)."
        )
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error).lower()
    return ConfigError(
        f"Cannot listen at {address}: {reason}.", hint="Name an address of this machine and a free port."
    )


def places_of(place: TcpPlace, host: str, port: int) -> tuple[TcpPlace, ...]:
    """Return where others reach what is bound to `host` and `port`; for an unspecified host, what this machine has."""
    if host not in {"0.0.0.0", "::"}:  # noqa: S104 (recognised, not bound)
        return (attrs.evolve(place, port=port),)
    kind = "ip6" if ":" in host else "ip4"
    loopback = "::1" if kind == "ip6" else "127.0.0.1"
    hosts = dict.fromkeys(filter(None, (_default_route_host(kind), loopback)))
    return tuple(TcpPlace(kind, each, port) for each in hosts)


def _default_route_host(kind: str) -> str:
    """Return this machine's address towards the world; empty if it has none. Connecting UDP sends nothing."""
    family = os_socket.AF_INET6 if kind == "ip6" else os_socket.AF_INET
    documentation = "2001:db8::1" if kind == "ip6" else "192.0.2.1"  # RFC 3849, RFC 5737: routed like any other
    with os_socket.socket(family, os_socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((documentation, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])
