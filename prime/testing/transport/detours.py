"""A way to a listener's socket on which a test holds, slows, cuts and reads the bytes."""

from __future__ import annotations

import itertools
import re
import socket as os_socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

_NUMBERS = itertools.count()
_READ_BYTES = 1 << 16
_RECORD_BYTES_MAX = 1 << 22
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


class Detour:
    """Forwards each connection to the listener behind it. `address` is where to dial instead of there.

    `sent` and `answered` are what passed in each direction so far, up to 4 MiB; `step_bytes` is the most that moves at
    once.
    """

    def __init__(self, address: str, connect: Callable[[], Awaitable[trio.SocketStream]]) -> None:
        self.address = address
        self.step_bytes = _READ_BYTES
        self.sent = bytearray()
        self.answered = bytearray()
        self._connect = connect
        self._streams: set[trio.SocketStream] = set()
        self._open = trio.Event()
        self._open.set()
        self._left: int | None = None
        self._resets = False

    @property
    def passed_bytes(self) -> int:
        """How many bytes passed, in both directions."""
        return len(self.sent) + len(self.answered)

    def hold(self) -> None:
        """Let nothing pass, as if the machine at the other end stood still."""
        self._open = trio.Event()

    def release(self) -> None:
        """Let all pass again."""
        self._open.set()

    def cut(self, after_bytes: int = 0, *, resets: bool = True) -> None:
        """End every connection once so many more bytes have passed: with a reset, or as if its end was meant."""
        self._resets = resets
        self._left = after_bytes
        if not after_bytes:
            self._end()

    def heal(self) -> None:
        """Cut nothing any more."""
        self._left = None

    async def serve(self, stream: trio.SocketStream) -> None:
        """Forward one connection until both its directions have ended."""
        with suppress(*_GONE, OSError):
            async with stream, await self._connect() as onward:
                self._streams |= {stream, onward}
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._move, stream, onward, self.sent)
                        nursery.start_soon(self._move, onward, stream, self.answered)
                finally:
                    self._streams -= {stream, onward}

    async def _move(self, source: trio.SocketStream, sink: trio.SocketStream, record: bytearray) -> None:
        with suppress(*_GONE):
            while data := await source.receive_some(self.step_bytes):
                await self._open.wait()
                await sink.send_all(self._allowed(data, record))
                if self._left == 0:
                    self._end()
            await sink.send_eof()

    def _allowed(self, data: bytes | bytearray, record: bytearray) -> bytes | bytearray:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        record += data[: _RECORD_BYTES_MAX - len(record)]
        return data

    def _end(self) -> None:
        for stream in tuple(self._streams):
            if self._resets and stream.socket.fileno() >= 0:
                with suppress(OSError):
                    stream.socket.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()


@asynccontextmanager
async def _serving(detour: Detour, listener: trio.SocketListener) -> AsyncIterator[Detour]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, detour.serve, [listener])
        yield detour
        nursery.cancel_scope.cancel()


async def knock_tcp(address: str) -> trio.SocketStream:
    """Connect to the port of an address on this machine."""
    return await trio.open_tcp_stream("127.0.0.1", _port(address))


@asynccontextmanager
async def detour_tcp(address: str) -> AsyncIterator[Detour]:
    """Open a way to an address with a TCP port on this machine."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    detour = Detour(address.replace(f"/tcp/{_port(address)}", f"/tcp/{port}"), lambda: knock_tcp(address))
    async with _serving(detour, listener):
        yield detour


def _port(address: str) -> int:
    found = re.search(r"/tcp/(\d+)", address)
    if found is None:
        raise AssertionError(f"{address} has no TCP port")
    return int(found[1])


async def knock_unix(address: str) -> trio.SocketStream:
    """Connect to the local socket of an address."""
    return await trio.open_unix_socket(_path(address))


@asynccontextmanager
async def detour_unix(address: str) -> AsyncIterator[Detour]:
    """Open a way to the address of a local socket, beside it."""
    path = Path(f"{_path(address)}.{next(_NUMBERS)}")
    socket = trio.socket.socket(os_socket.AF_UNIX, os_socket.SOCK_STREAM)
    await socket.bind(str(path))
    socket.listen(64)
    try:
        detour = Detour(address.replace(_path(address), str(path)), lambda: knock_unix(address))
        async with _serving(detour, trio.SocketListener(socket)):
            yield detour
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - at once, on the socket's own file


def _path(address: str) -> str:
    return address.removeprefix("/unix").rpartition("/p2p/")[0]
