"""Messages on a stream of libp2p: each behind its length, an unsigned varint, with a deadline for all that is waited for."""

from __future__ import annotations

from typing import Final

import anyio
import trio

from prime.dht.ipfs.message import read_size
from prime.errors import DeadlineError, RemoteProtocolError
from prime.transport.contract import Channel

_CHUNK_BYTES: Final = 1 << 16


class Messages:
    """The messages that go over one stream, as bytes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def send(self, sized: bytes, within_s: float) -> None:
        """Send bytes that have their length before them. Raises `DeadlineError`, and what `Channel.send` raises."""
        with trio.move_on_after(within_s):
            await self._channel.send(sized)
            return
        raise DeadlineError(
            f"{self._channel.peer} took nothing for {within_s:g} s", hint="it is overloaded, or hostile: ask another"
        )

    async def receive(self, size_bytes_max: int, within_s: float) -> bytes | None:
        """Return the next message, without its length; `None` where the other side has said all.

        Raises `DeadlineError`, `DecodeError` for one that is too long, `RemoteProtocolError` for one that is cut short,
        and `anyio.BrokenResourceError`.
        """
        with trio.move_on_after(within_s):
            size = await self._size(size_bytes_max)
            return None if size is None else await self._exactly(size)
        raise DeadlineError(
            f"{self._channel.peer} said nothing for {within_s:g} s", hint="it is overloaded, or hostile: ask another"
        )

    async def _size(self, size_bytes_max: int) -> int | None:
        prefix = b""
        while (size := read_size(prefix, size_bytes_max)) is None:
            try:
                prefix += await self._channel.receive(1)
            except anyio.EndOfStream:
                if not prefix:
                    return None
                raise _cut(self._channel) from None
        return size

    async def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        left = size
        while left:
            try:
                parts.append(await self._channel.receive(min(left, _CHUNK_BYTES)))
            except anyio.EndOfStream:
                raise _cut(self._channel) from None
            left -= len(parts[-1])
        return b"".join(parts)


def _cut(channel: Channel) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"a message of {channel.peer} ends too early", hint="it broke off: ask it again, or another"
    )
