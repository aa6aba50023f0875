"""What a muxed connection's bytes go through: something that encrypts, over something that carries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import anyio
import trio

from prime.actor.contract import PeerId
from prime.errors import RemoteProtocolError, WrongPeerError
from prime.transport.contract import Buffer
from prime.transport.sockets import READ_BYTES_MAX, READ_BYTES_MIN
from prime.transport.tls import RECORD_BYTES_MAX, TlsSession

TAKE_BYTES_MAX: Final = 1 << 17
"""What is decrypted before whoever waits for it has a turn: so he can offer the next room, and it is still in the caches."""
DECRYPTIONS_MAX: Final = 16
"""In a row, before others have their turn: with little in each record, one read holds very many."""

Place = Callable[[], memoryview | None]
"""Offers where the next bytes may go, if they are known to belong there."""

Work = AbstractAsyncContextManager[object]
"""What is computed within is work of one kind, which may have to wait for its turn."""


class Carriage(Protocol):
    """Bytes to and from another machine, in clear: a socket, or a circuit through a relay."""

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Return what has arrived; empty at the end. Raises `anyio.BrokenResourceError`, or `ClosedResourceError`."""
        ...

    async def send_some(self, data: Buffer) -> int:
        """Send at least a byte of `data` and return how many; raises as `receive`."""
        ...

    def send_nowait(self, data: Buffer) -> int:
        """Send what can be sent without a wait; 0 is no error."""
        ...

    def close(self) -> None:
        """Let go, now; idempotent."""
        ...


class Conduit(Protocol):
    """A secured connection. One task reads and one writes; what `seal` returned must be sent, in order."""

    frame_bytes_max: int
    """The most data that a frame should hold."""

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Return what has arrived, decrypted; empty at the end. Raises `anyio.BrokenResourceError`."""
        ...

    async def receive_placed(self, max_bytes: int, place: Place) -> bytes | memoryview:
        """As `receive`, but what `place` offers once bytes are there may be filled, and its filled part returned."""
        ...

    def seal(self, head: bytes, body: Buffer = b"") -> bytes:
        """Return the bytes to be sent for `head` followed by `body`."""
        ...

    async def send_some(self, data: Buffer) -> int:
        """See `Carriage.send_some`."""
        ...

    def send_nowait(self, data: Buffer) -> int:
        """See `Carriage.send_nowait`."""
        ...

    def end(self) -> bytes:
        """Return the last bytes to be sent, if the protocol has any."""
        ...

    def close(self) -> None:
        """See `Carriage.close`."""
        ...


class TlsConduit:
    """TLS, in records of up to 16 KiB, over any carriage."""

    frame_bytes_max = 1 << 18

    def __init__(self, carriage: Carriage, session: TlsSession) -> None:
        self._carriage = carriage
        self._session = session
        self._unwaited = 0  # decryptions since the carriage was waited for
        self.send_some = carriage.send_some
        self.send_nowait = carriage.send_nowait
        self.close = carriage.close

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """See `Conduit.receive`."""
        return bytes(await self.receive_placed(max_bytes, _nowhere))

    async def receive_placed(self, max_bytes: int, place: Place) -> bytes | memoryview:
        """See `Conduit.receive_placed`."""
        self._unwaited += 1
        if self._unwaited >= DECRYPTIONS_MAX:
            self._unwaited = 0
            await trio.lowlevel.checkpoint()
        while (data := self._decrypt(max_bytes, place())) is None:
            self._unwaited = 0
            self._session.feed(await self._carriage.receive(max(READ_BYTES_MIN, min(max_bytes, TAKE_BYTES_MAX))))
        return data

    def seal(self, head: bytes, body: Buffer = b"") -> bytes:
        """See `Conduit.seal`; what fits one record becomes one."""
        if not body:
            return self._session.encrypt(head)
        if len(head) + len(body) <= RECORD_BYTES_MAX:
            return self._session.encrypt(head + body)
        room = RECORD_BYTES_MAX - len(head)
        return self._session.encrypt(b"".join((head, body[:room])), body[room:])

    def end(self) -> bytes:
        """See `Conduit.end`: TLS' own end of data."""
        return self._session.end()

    def _decrypt(self, max_bytes: int, room: memoryview | None) -> bytes | memoryview | None:
        try:
            return self._session.decrypt_placed(max_bytes, room)
        except RemoteProtocolError as error:
            raise anyio.BrokenResourceError(str(error)) from error


def _nowhere() -> None:
    return None


async def shake_hands(carriage: Carriage, session: TlsSession, check: Callable[[PeerId], None], work: Work) -> None:
    """Do a TLS handshake, what is computed for it as `work`.

    `check` sees who answers before the message that completes the handshake is sent.

    Raises `RemoteProtocolError`, what `check` raises, or `anyio.BrokenResourceError`.
    """
    try:
        while not await _stepped(session, work):
            await _send(carriage, session.output())
            session.feed(await carriage.receive())
        check(session.peer)
    except (RemoteProtocolError, WrongPeerError):
        carriage.send_nowait(session.output())  # an alert, for whom it may still reach
        raise
    await _send(carriage, session.output())


async def _stepped(session: TlsSession, work: Work) -> bool:
    async with work:
        return session.handshake()


async def _send(carriage: Carriage, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[await carriage.send_some(rest) :]
