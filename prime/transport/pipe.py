"""One direction of bytes between two tasks of one process: bounded, and without a copy where the bytes cannot change."""

from __future__ import annotations

from collections import deque

import anyio
import trio

from prime.transport.contract import Buffer

BUFFER_BYTES_MAX = 1 << 20


class Pipe:
    """A bounded buffer with one writer and one reader at a time.

    Bytes that nobody can change (a `bytes` object, or a memoryview of one) travel by reference; others are copied,
    because the sender may reuse its buffer as soon as `put` has returned.
    """

    def __init__(self, bytes_max: int = BUFFER_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._pieces: deque[memoryview] = deque()
        self._size = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._putting = anyio.ResourceGuard("sending to")
        self._getting = anyio.ResourceGuard("receiving from")
        self._ended = False  # nothing more will be put; what is buffered may still be got
        self._torn = False  # a put was cancelled half-way: the rest of the stream has no meaning
        self._abandoned = False  # nobody will get any more
        self._closed_by_writer = False
        self._closed_by_reader = False

    async def put(self, item: Buffer) -> None:
        """Hand over all bytes; waits for room. A cancelled put that had begun tears the stream."""
        await trio.lowlevel.checkpoint()
        with self._putting:
            rest = memoryview(item).cast("B")
            begun = False
            try:
                while rest:
                    await self._room()
                    piece, rest = rest[: self._bytes_max - self._size], rest[self._bytes_max - self._size :]
                    self._append(piece)
                    begun = True
            except trio.Cancelled:
                if begun:
                    self.tear()
                raise
            self._check_writable()

    async def get(self, max_bytes: int) -> bytes:
        """Return between 1 and `max_bytes` bytes, as soon as there are any."""
        await trio.lowlevel.checkpoint()
        with self._getting:
            while not self._pieces or self._closed_by_reader:
                self._check_readable()
                await self._changed.park()
            return self._take(max_bytes)

    def get_nowait(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes that are there now; none if there are none, or the stream has ended."""
        return b"" if self._torn or not self._pieces else self._take(max_bytes)

    def tear(self) -> None:
        """Break the stream: a part of it is missing, so what is left has no meaning."""
        self._torn = True
        self._pieces.clear()
        self._size = 0
        self._changed.unpark_all()

    @property
    def broken(self) -> bool:
        """Whether the stream was torn, or nobody will get any more."""
        return self._torn or self._abandoned

    @property
    def ended(self) -> bool:
        """Whether the writer has ended the stream as it should."""
        return self._ended

    async def finish(self) -> None:
        """Say that nothing more will be put; as `end`, for a writer that may have closed its channel already."""
        await trio.lowlevel.checkpoint()
        if self._closed_by_writer:
            raise anyio.ClosedResourceError
        self.end()

    def end(self, *, closed: bool = False) -> None:
        """Say that nothing more will be put; `closed` when the writer has closed its whole channel."""
        self._ended = True
        self._closed_by_writer = self._closed_by_writer or closed
        self._changed.unpark_all()

    def abandon(self) -> None:
        """Say that nobody will get any more: what is buffered is dropped, and `put` fails from now on."""
        self._abandoned = self._closed_by_reader = True
        self._pieces.clear()
        self._size = 0
        self._changed.unpark_all()

    async def _room(self) -> None:
        self._check_writable()
        while self._size >= self._bytes_max:
            await self._changed.park()
            self._check_writable()

    def _append(self, piece: memoryview) -> None:
        unchanging = piece.readonly and isinstance(piece.obj, bytes)
        self._pieces.append(piece if unchanging else memoryview(bytes(piece)))
        self._size += len(piece)
        self._changed.unpark_all()

    def _take(self, max_bytes: int) -> bytes:
        piece = self._pieces.popleft()
        if len(piece) > max_bytes:
            self._pieces.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        self._size -= len(piece)
        self._changed.unpark_all()
        whole = piece.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(piece) else bytes(piece)

    def _check_writable(self) -> None:
        if self._closed_by_writer:
            raise anyio.ClosedResourceError
        if self._abandoned or self._torn:
            raise anyio.BrokenResourceError
        if self._ended:
            raise anyio.ClosedResourceError

    def _check_readable(self) -> None:
        if self._closed_by_reader:
            raise anyio.ClosedResourceError
        if self._torn:
            raise anyio.BrokenResourceError
        if self._ended:
            raise anyio.EndOfStream
