"""What secures a libp2p connection: Prime's own TLS 1.3 (`/tls/1.0.0`) first, py-libp2p's Noise for peers without it.

Both are handed to py-libp2p through `sec_opt`, so whatever it dials or is dialled by (a circuit through a relay, say)
is secured the same way; plaintext and secio are on no list. The muxer is agreed on within the TLS handshake where the
other side knows how (libp2p `specs/connections/inlined-muxer-negotiation.md`), which saves a round trip.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final, Protocol, Self

import anyio
from libp2p.abc import ISecureConn, ISecureTransport
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport

from prime.actor.contract import PeerId
from prime.errors import ConfigError, RemoteProtocolError, WrongPeerError
from prime.transport import multistream, yamux
from prime.transport.contract import Buffer
from prime.transport.libp2p.conduit import Carriage, Conduit, Place, TlsConduit, Work, shake_hands
from prime.transport.peer import parse_peer, public_key_of
from prime.transport.sockets import READ_BYTES_MAX, Wire
from prime.transport.tls import ALPN, Credentials, TlsSession

TLS: Final = "/tls/1.0.0"
NOISE_BYTES: Final = 65519
"""Plaintext of the largest Noise message (libp2p `specs/noise`): a frame fills exactly one."""


class Line(Carriage, Protocol):
    """What a connection is secured over: a socket's `Wire`, or a circuit."""

    async def send_all(self, data: Buffer) -> None:
        """Send every byte."""
        ...


LINE_BYTES_MAX: Final = 1 << 14
"""More than is read at once while a protocol is agreed on, by exact sizes."""

Check = Callable[[PeerId], None]
"""Looks at who answered; raises `WrongPeerError`."""

LetGo = Callable[[Any], None]


class Secured:
    """A secured connection, before it is muxed."""

    def __init__(self, conduit: Conduit, peer: PeerId, *, muxed: bool) -> None:
        self.conduit = conduit
        self.peer = peer
        self.muxed = muxed
        """Whether the handshake has agreed on Yamux already."""


class Security:
    """Secures connections as the owner of one key.

    `let_go` closes, in a task of its own, one of py-libp2p's connections, whose closing may have to wait.
    """

    def __init__(self, keys: Any, credentials: Credentials, let_go: LetGo) -> None:
        self._keys = keys
        self._credentials = credentials
        self._let_go = let_go
        self._noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)

    def options(self) -> dict[str, Any]:
        """Return py-libp2p's `sec_opt`: what it offers, in this order."""
        return {TLS: TlsTransport(self._keys, self._credentials, self._let_go), str(NOISE): self._noise}

    async def dial(self, wire: Line, check: Check) -> Secured:
        """Secure a connection that this side opened. `check` sees who answers.

        Raises `RemoteProtocolError`, what `check` raises, and `anyio.BrokenResourceError`.
        """
        protocol = await multistream.propose(wire.send_all, _reader(wire), (TLS, NOISE))
        return await self._secure(wire, protocol, check, nullcontext())

    async def accept(self, wire: Line, work: Work) -> Secured:
        """Secure a connection that the other side opened, what is computed for it as `work`; raises as `dial`."""
        protocol = await multistream.answer(wire.send_all, _reader(wire), (TLS, NOISE))
        return await self._secure(wire, protocol, None, work)

    async def _secure(self, wire: Line, protocol: str, check: Check | None, work: Work) -> Secured:
        if protocol == TLS:
            return await secure_by_tls(wire, self._credentials, check, work)
        async with WireStream(wire, work) as stream:
            return await self._secure_by_noise(wire, stream, check)

    async def _secure_by_noise(self, wire: Line, stream: WireStream, check: Check | None) -> Secured:
        raw = RawConnection(stream, check is not None)
        pattern = self._noise.get_pattern()
        try:
            # Without an expected peer the handshake still proves who answers, so a wrong one can be named.
            made = await (pattern.handshake_outbound(raw, None) if check else pattern.handshake_inbound(raw))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise
        except Exception as error:  # border: py-libp2p raises whatever its layers raise
            raise RemoteProtocolError(f"the Noise handshake failed: {str(error) or type(error).__name__}") from error
        peer = peer_of(made)
        if check:
            check(peer)
        return Secured(MessageConduit(made, wire.close), peer, muxed=False)


async def secure_by_tls(
    carriage: Carriage, credentials: Credentials, check: Check | None, work: Work | None = None
) -> Secured:
    """Do the TLS handshake, as its client if there is a `check`; what is computed for it is `work`."""
    work = work or nullcontext()
    async with work:
        session = TlsSession(credentials, server_side=check is None, protocols=(yamux.PROTOCOL, ALPN))
    await shake_hands(carriage, session, check or _anybody, work)
    return Secured(TlsConduit(carriage, session), session.peer, muxed=session.protocol == yamux.PROTOCOL)


def peer_of(connection: Any) -> PeerId:
    """Return the peer of one of py-libp2p's secured connections. Raises `RemoteProtocolError` for other keys."""
    try:
        return parse_peer(str(connection.get_remote_peer()))
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from error


def _anybody(_peer: PeerId) -> None:
    """Let everybody in: a listener."""


def _reader(wire: Line) -> multistream.Receive:
    async def receive(max_bytes: int) -> bytes:
        data = await wire.receive(max_bytes)
        if not data:
            raise anyio.BrokenResourceError("the other side hung up")
        return data

    return receive


class WireStream(ReadWriteCloser):
    """A socket as py-libp2p's Noise wants it.

    Within `async with`, a handshake, what goes on between its reads and writes is `work`: Noise computes only there.
    """

    def __init__(self, wire: Line, work: Work) -> None:
        self._wire = wire
        self._work = work
        self._shakes_hands = self._works = False

    async def __aenter__(self) -> Self:
        self._shakes_hands = True
        await self._go_on()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._shakes_hands = False
        await self._pause()

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes; none at the end."""
        await self._pause()
        data = await self._wire.receive(READ_BYTES_MAX if n is None else n)
        await self._go_on()
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._pause()
        await self._wire.send_all(data)
        await self._go_on()

    async def _go_on(self) -> None:
        if self._shakes_hands:
            await self._work.__aenter__()
            self._works = True

    async def _pause(self) -> None:
        if self._works:
            self._works = False
            await self._work.__aexit__(None, None, None)

    async def close(self) -> None:
        """Close the socket."""
        self._wire.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the host and port of the other side."""
        return remote_of(self._wire)


def remote_of(wire: Line) -> tuple[str, int] | None:
    """Return the host and port at the other end of a socket; `None` if it is no more, or this is a circuit."""
    if not isinstance(wire, Wire):
        return None
    try:
        host, port, *_ = wire.socket.getpeername()
    except OSError:
        return None
    return host, port


class MessageConduit:
    """One of py-libp2p's secured connections, which encrypts while it sends."""

    frame_bytes_max = NOISE_BYTES - yamux.HEADER_BYTES

    def __init__(self, made: Any, close: Callable[[], None]) -> None:
        self._made = made
        self._close = close

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """See `Conduit.receive`."""
        try:
            # py-libp2p waits for all of `n` bytes, and without it for one message: what a muxer reads has no exact size.
            return bytes(await self._made.read(None if max_bytes >= LINE_BYTES_MAX else max_bytes))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise
        except Exception as error:  # border, as above
            raise anyio.BrokenResourceError(str(error) or type(error).__name__) from error

    async def receive_placed(self, max_bytes: int, place: Place) -> bytes:  # noqa: ARG002 - py-libp2p decrypts elsewhere
        """See `Conduit.receive_placed`."""
        return await self.receive(max_bytes)

    def seal(self, head: bytes, body: Buffer = b"") -> bytes:
        """See `Conduit.seal`: nothing is encrypted yet, but the bytes are kept."""
        return b"".join((head, body))

    async def send_some(self, data: Buffer) -> int:
        """See `Conduit.send_some`; sends one message."""
        part = bytes(data[:NOISE_BYTES])
        try:
            await self._made.write(part)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise
        except Exception as error:  # border, as above
            raise anyio.BrokenResourceError(str(error) or type(error).__name__) from error
        return len(part)

    def send_nowait(self, data: Buffer) -> int:  # noqa: ARG002 - it cannot
        """See `Conduit.send_nowait`."""
        return 0

    def end(self) -> bytes:
        """See `Conduit.end`: Noise has no word for it."""
        return b""

    def close(self) -> None:
        """See `Conduit.close`."""
        self._close()


class RawCarriage:
    """One of py-libp2p's raw connections: what it dialled itself, such as a circuit through a relay."""

    def __init__(self, raw: Any, let_go: LetGo) -> None:
        self._raw = raw
        self._let_go = let_go

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """See `Carriage.receive`."""
        try:
            return bytes(await self._raw.read(max_bytes))
        except Exception as error:  # border: py-libp2p raises whatever its layers raise, also at the end
            raise anyio.BrokenResourceError(str(error) or type(error).__name__) from error

    async def send_some(self, data: Buffer) -> int:
        """See `Carriage.send_some`."""
        try:
            await self._raw.write(bytes(data))
        except Exception as error:  # border, as above
            raise anyio.BrokenResourceError(str(error) or type(error).__name__) from error
        return len(data)

    def send_nowait(self, data: Buffer) -> int:  # noqa: ARG002 - it cannot
        """See `Carriage.send_nowait`."""
        return 0

    def close(self) -> None:
        """See `Carriage.close`."""
        self._let_go(self._raw)


class TlsTransport(ISecureTransport):
    """Prime's TLS for connections that py-libp2p opens by itself."""

    def __init__(self, keys: Any, credentials: Credentials, let_go: LetGo) -> None:
        self._keys = keys
        self._credentials = credentials
        self._let_go = let_go

    async def secure_inbound(self, conn: Any) -> TlsConnection:
        """See `ISecureTransport.secure_inbound`."""
        return await self._secure(conn, None)

    async def secure_outbound(self, conn: Any, peer_id: Any) -> TlsConnection:
        """See `ISecureTransport.secure_outbound`."""
        return await self._secure(conn, _only(str(peer_id)))

    async def _secure(self, raw: Any, check: Check | None) -> TlsConnection:
        try:
            secured = await secure_by_tls(RawCarriage(raw, self._let_go), self._credentials, check)
        except (RemoteProtocolError, WrongPeerError, anyio.BrokenResourceError) as error:
            raise HandshakeFailure(str(error)) from error
        return TlsConnection(self._keys, secured, raw, initiator=check is not None)


def _only(peer: str) -> Check:
    def check(answers: PeerId) -> None:
        if answers != peer:
            raise WrongPeerError(f"{answers} answers, not {peer}", hint="Correct the address.")

    return check


class TlsConnection(ISecureConn):
    """What `TlsTransport` made, as py-libp2p wants to see it. The muxer takes its conduit."""

    def __init__(self, keys: Any, secured: Secured, raw: Any, *, initiator: bool) -> None:
        self._keys = keys
        self._raw = raw
        self.secured = secured
        self.is_initiator = initiator

    def get_local_peer(self) -> Any:
        """Return this side's own id."""
        return ID.from_pubkey(self._keys.public_key)

    def get_local_private_key(self) -> Any:
        """Return this side's own key."""
        return self._keys.private_key

    def get_remote_peer(self) -> Any:
        """Return the peer that the certificate proves."""
        return ID.from_string(self.secured.peer)

    def get_remote_public_key(self) -> Any:
        """Return that peer's key."""
        return Ed25519PublicKey.from_bytes(public_key_of(self.secured.peer))

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes; none at the end."""
        return await self.secured.conduit.receive(READ_BYTES_MAX if n is None else n)

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        rest = memoryview(self.secured.conduit.seal(data))
        while rest:
            rest = rest[await self.secured.conduit.send_some(rest) :]

    async def close(self) -> None:
        """Close what is below."""
        await self._raw.close()

    def get_remote_address(self) -> Any:
        """Return the host and port of the other side, if what is below knows them."""
        return self._raw.get_remote_address()

    def get_transport_addresses(self) -> Any:
        """Return what is below says of where the other side is."""
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> Any:
        """Return what is below says of whether this is a circuit."""
        kind = getattr(self._raw, "get_connection_type", None)
        return kind() if kind else ConnectionType.UNKNOWN
