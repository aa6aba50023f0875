"""A circuit as a channel: TLS 1.3 between its two ends, over whatever a relay passes on.

The relay sees ciphertext and can do no more than drop, delay or cut: a changed, doubled or missing byte breaks the session,
and the other end's certificate names its peer. Inside TLS the bytes travel in records, so that control messages can go
between them and a circuit can move to a better way without its user noticing; see spec/protocols/relay.md, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

import anyio
import trio

from prime.actor.contract import PeerId
from prime.errors import DecodeError, PrimeInternalError, RemoteProtocolError, UnreachableError, WrongPeerError
from prime.transport.contract import CLOSE_TIMEOUT_S, Buffer, Channel
from prime.transport.tls import Credentials, TlsSession

RECORD_BYTES_MAX: Final = 1 << 16
"""Of user data in one record: also what a relay reads at once, so that circuits take turns."""
CONTROL_BYTES_MAX: Final = 1 << 12
CONTROLS_MAX: Final = 64
"""Control messages that one end may send over the life of a circuit."""
MOVE_TIMEOUT_S: Final = 5.0
"""How long a peer that has moved to the direct connection is waited for there."""

_HEAD_BYTES: Final = 4


class Kind(IntEnum):
    """What a record holds; the numbers are on the wire."""

    DATA = 0
    CONTROL = 1
    MOVED = 2
    """The last record of this direction: what follows travels on the direct connection."""


async def secure(
    channel: Channel, credentials: Credentials, *, server_side: bool, expected: PeerId | None
) -> TlsSession:
    """Prove the ends of a circuit to each other. Raises `UnreachableError`, `WrongPeerError`."""
    session = TlsSession(credentials, server_side=server_side)
    try:
        while not session.handshake():
            await channel.send(session.output())
            session.feed(await channel.receive())
        if expected and session.peer != expected:  # before the message that completes the handshake
            raise WrongPeerError(
                f"At the other end of the circuit is {session.peer}, not {expected}.",
                hint="The relay joined the wrong two, or is hostile: use another relay.",
            )
        await channel.send(session.output())
    except RemoteProtocolError as error:
        raise _no_circuit(str(error)) from error
    except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError) as error:
        raise _no_circuit("The relay ended it during the TLS handshake.") from error
    return session


def _no_circuit(why: str) -> UnreachableError:
    return UnreachableError(f"The circuit could not be secured: {why}", hint="Dial again, or through another relay.")


class CircuitChannel(Channel):
    """One end of a circuit, with the bytes of its user in records inside TLS.

    `on_control` hears the control messages of the other end, while somebody receives. `move` takes the bytes from the
    circuit to a direct connection: each side's last record says that all that follows goes there, so nothing is lost,
    doubled or overtaken, and whoever sends and receives here does not notice.
    """

    def __init__(self, way: Channel, session: TlsSession, owner: set[CircuitChannel]) -> None:
        self._way = way
        self._direct: Channel | None = None
        self._moving = trio.Event()  # there is a direct connection to move to
        self._sends_directly = self._receives_directly = False
        self.on_moved: Callable[[], None] = lambda: None
        self.on_closed: Callable[[], None] = lambda: None
        self._session = session
        self._owner = owner
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")
        self._writing = trio.Lock()
        self._closed = self._broken = self._ended = self._over = False
        self._plain = b""
        self._controls = 0
        self._left = 0  # of the record of user data in hand
        self.on_control: Callable[[bytes], None] = lambda _message: None
        owner.add(self)

    @property
    def peer(self) -> PeerId:
        """The peer at the other end, as its certificate proves."""
        return self._session.peer

    @property
    def relayed(self) -> bool:
        """See `Channel.relayed`."""
        return not (self._sends_directly and self._receives_directly)

    @property
    def remote(self) -> str:
        """See `Channel.remote`; known once the bytes go directly."""
        return "" if self.relayed or self._direct is None else self._direct.remote

    async def move(self, direct: Channel) -> None:
        """Send what follows over `direct`, a connection to the same peer, and expect the peer to do so too."""
        await self._check()
        self._direct = direct
        self._moving.set()
        if not self._ended:
            await self._put(Kind.MOVED, b"", begun=False, then=self._send_directly)

    async def leave_relay(self) -> None:
        """Let the connection to the relay go, once nothing more will go through it either way."""
        if not self.relayed:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self._way.aclose()

    def _send_directly(self) -> None:
        self._sends_directly = True
        self._settle_move()

    def _settle_move(self) -> None:
        if not self.relayed:
            self.on_moved()

    # ---- sending

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`."""
        with self._sending:
            await self._check()
            if self._ended:
                raise anyio.ClosedResourceError
            rest = memoryview(item).cast("B")
            begun = False
            while rest:
                if self._sends_directly:
                    await self._send_rest(rest, begun=begun)
                    return
                await self._put(Kind.DATA, rest[:RECORD_BYTES_MAX], begun=begun)
                rest, begun = rest[RECORD_BYTES_MAX:], True

    def send_nowait(self, item: Buffer) -> int:
        """See `Channel.send_nowait`."""
        direct = self._direct
        if direct is None or not self._sends_directly or self._closed or self._ended:
            return 0
        return direct.send_nowait(item)

    async def _send_rest(self, rest: memoryview, *, begun: bool) -> None:
        direct = self._open_direct()
        try:
            await direct.send(rest)
        except trio.Cancelled:
            if begun:  # the beginning went through the circuit
                await self._tear()
            raise

    def _open_direct(self) -> Channel:
        if self._direct is None:
            raise PrimeInternalError("a circuit sends directly, and has no direct connection")
        return self._direct

    async def send_control(self, message: bytes) -> None:
        """Send a control message between the bytes of the user, whose own `send` may be under way."""
        await self._check()
        await self._put(Kind.CONTROL, message, begun=False)

    async def send_eof(self) -> None:
        """See `Channel.send_eof`; TLS' own end of data, which no relay can forge."""
        with self._sending:
            await self._check()
            if not self._ended:
                async with self._writing:
                    self._ended = True
                    if self._sends_directly:
                        await self._open_direct().send_eof()
                    else:
                        await self._pass_on(self._session.end())

    async def _put(self, kind: Kind, body: Buffer, *, begun: bool, then: Callable[[], None] = lambda: None) -> None:
        """Send one record, and then call `then` before another is. What is encrypted can't be taken back, so a cancelled record breaks the circuit."""
        try:
            await self._writing.acquire()
        except trio.Cancelled:
            if begun:
                await self._tear()
            raise
        try:
            if self._ended:
                raise anyio.ClosedResourceError
            if self._sends_directly:
                if kind is Kind.DATA:
                    await self._send_rest(memoryview(body), begun=begun)
                return
            head = (kind << 24 | len(body)).to_bytes(_HEAD_BYTES, "big")
            await self._pass_on(self._session.encrypt(head + body))
            then()
        finally:
            self._writing.release()

    async def _pass_on(self, data: bytes) -> None:
        try:
            await self._way.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise self._lost(error) from None
        except trio.Cancelled:
            await self._tear()
            raise

    async def _tear(self) -> None:
        """Give the circuit up because a part of it is missing."""
        self._broken = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
            await self._let_go()

    async def _let_go(self) -> None:
        self.on_closed()
        if self._direct is not None:
            await self._direct.aclose()
        await self._way.aclose()

    # ---- receiving

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`."""
        with self._receiving:
            await self._check()
            while not self._receives_directly:
                if data := self._take(max_bytes):
                    return data
                if self._over:
                    raise anyio.EndOfStream
                if not self._receives_directly:
                    await self._fill()
            return await (await self._moved_to()).receive(max_bytes)

    async def _moved_to(self) -> Channel:
        """Return the direct connection; the peer's word that it moved may overtake what settles it."""
        with trio.move_on_after(MOVE_TIMEOUT_S):
            await self._moving.wait()
        if self._direct is None:
            self._broken = True
            raise anyio.BrokenResourceError
        return self._direct

    def _take(self, max_bytes: int) -> bytes:
        """Return user data that is there, stepping over whole records of other kinds."""
        while not self._left and len(self._plain) >= _HEAD_BYTES:
            if not self._next_record():
                return b""
        size = min(self._left, max_bytes, len(self._plain))
        data, self._plain = self._plain[:size], self._plain[size:]
        self._left -= size
        return data

    def _next_record(self) -> bool:
        """Begin the next record; `False` if it is a control message that is not whole yet."""
        head = int.from_bytes(self._plain[:_HEAD_BYTES], "big")
        kind, size = head >> 24, head & 0xFFFFFF
        if kind == Kind.DATA and 0 < size <= RECORD_BYTES_MAX:
            self._plain, self._left = self._plain[_HEAD_BYTES:], size
            return True
        if kind == Kind.MOVED and not size and len(self._plain) == _HEAD_BYTES:
            self._plain, self._receives_directly = b"", True
            self._settle_move()
            return False
        if kind != Kind.CONTROL or size > CONTROL_BYTES_MAX or self._controls >= CONTROLS_MAX:
            self._broken = True
            raise anyio.BrokenResourceError from DecodeError(f"a record of kind {kind} with {size} bytes")
        if len(self._plain) < _HEAD_BYTES + size:
            return False
        message, self._plain = self._plain[_HEAD_BYTES : _HEAD_BYTES + size], self._plain[_HEAD_BYTES + size :]
        self._controls += 1
        self.on_control(message)
        return True

    async def _fill(self) -> None:
        """Add what the other end has sent to the bytes in hand; cancelled, it loses none."""
        while (plain := self._decrypt()) is None:
            self._session.feed(await self._more())
        self._plain += plain
        if not plain:
            if self._left or self._plain:
                self._broken = True
                raise anyio.BrokenResourceError
            self._over = True

    async def _more(self) -> bytes:
        try:
            return await self._way.receive(RECORD_BYTES_MAX)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise self._lost(error) from None

    def _decrypt(self) -> bytes | None:
        try:
            return self._session.decrypt(RECORD_BYTES_MAX)
        except RemoteProtocolError as error:
            raise anyio.BrokenResourceError from error

    # ---- ending

    async def aclose(self) -> None:
        """See `Channel.aclose`; says the end if no send is in the way and the relay takes it soon."""
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self.send_eof()
        except (anyio.BusyResourceError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self._closed = True
            self._owner.discard(self)
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self._let_go()

    async def _check(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed or self._broken:
            raise self._why_closed()

    def _lost(self, error: Exception) -> Exception:
        """Return what became of this channel with the connection to the relay: its endpoint closed it, or it broke."""
        if isinstance(error, anyio.ClosedResourceError) and not self._broken:
            self._closed = True
        else:
            self._broken = True
        return self._why_closed()

    def _why_closed(self) -> Exception:
        return anyio.ClosedResourceError() if self._closed else anyio.BrokenResourceError()
