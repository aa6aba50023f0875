"""Messages over a byte stream of a parent and its child process: frames, nothing else."""

from __future__ import annotations

from typing import Any

import trio

from prime.errors import DecodeError
from prime.wire import Limits, dumps, from_plain, loads, to_plain
from prime.wire.frame import FrameParser, pack

LIMITS = Limits(payload_size_bytes_max=2**32 - 1, frame_size_bytes_max=2**32)
_READ_BYTES = 1 << 20


class FramedStream:
    """Sends and receives whole messages; one sender at a time, one receiver at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._parser = FrameParser(LIMITS)
        self._sending = trio.Lock()

    async def send(self, message: Any) -> None:
        """Send one message with its payloads. A cancelled send leaves the stream unusable, as any half-sent frame."""
        payloads: list[memoryview] = []
        header = dumps(to_plain(message, payloads))
        async with self._sending:
            for piece in pack(header, payloads, LIMITS):
                await self._stream.send_all(piece)

    async def receive(self) -> Any | None:
        """Return the next message, or `None` at the end of the stream. Raises `DecodeError`."""
        while (frame := self._parser.next()) is None:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                return None
            self._parser.feed(data)
        message = from_plain(loads(frame.header, LIMITS), frame.payloads, LIMITS)
        if message is None:
            raise DecodeError("a frame without a message")
        return message
