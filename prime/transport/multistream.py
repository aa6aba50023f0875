"""multistream-select 1.0.0: how two libp2p peers agree on a protocol (libp2p `specs/connections`, "multistream-select").

Each message is a line behind its length. The dialler says which version it speaks and proposes protocols one by one; the
listener repeats the one that it takes and says `na` to others. Both read exactly what they are meant to: what follows
belongs to the protocol that was agreed on. Nothing here knows what carries the bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, TypeAlias

from prime.errors import RemoteProtocolError

VERSION: Final = "/multistream/1.0.0"
REFUSAL: Final = "na"
LIST: Final = "ls"
LINE_BYTES_MAX: Final = 1024
PROPOSALS_MAX: Final = 16
"""What a dialler proposes before it is taken for one that only wants to keep this side busy."""

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
Receive: TypeAlias = Callable[[int], Awaitable[bytes]]
"""Returns between 1 and so many bytes; raises at the end."""


def line(text: str) -> bytes:
    """Return the bytes of a message."""
    data = text.encode() + b"\n"
    size = len(data)
    prefix = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return prefix + data


def proposal(protocol: str) -> bytes:
    """Return what a dialler says that knows which protocol it wants: the version and the protocol, without a wait."""
    return line(VERSION) + line(protocol)


async def propose(send: Send, receive: Receive, protocols: Sequence[str]) -> str:
    """Agree on the first of `protocols` that the other side takes, as the side that dialled.

    Raises `RemoteProtocolError` if it takes none of them, or speaks something else.
    """
    await send(proposal(protocols[0]))
    await _expect_version(receive)
    for number, protocol in enumerate(protocols):
        if number:
            await send(line(protocol))
        answer = await read_line(receive)
        if answer == protocol:
            return protocol
        if answer != REFUSAL:
            raise RemoteProtocolError(f"it answered {answer[:64]!r} to the proposal of {protocol}")
    raise RemoteProtocolError(f"it speaks none of {', '.join(protocols)}")


async def answer(send: Send, receive: Receive, protocols: Collection[str]) -> str:
    """Agree on the first proposal that is one of `protocols`, as the side that was dialled.

    Raises `RemoteProtocolError` if there is none among the first 16.
    """
    await send(line(VERSION))
    await _expect_version(receive)
    for _ in range(PROPOSALS_MAX):
        proposed = await read_line(receive)
        if proposed in protocols:
            await send(line(proposed))
            return proposed
        await send(_listing(protocols) if proposed == LIST else line(REFUSAL))
    raise RemoteProtocolError(f"it proposed none of {', '.join(protocols)}")


async def read_line(receive: Receive) -> str:
    """Read one message and not a byte more. Raises `RemoteProtocolError`."""
    size = await _read_size(receive)
    data = b""
    while len(data) < size:
        data += await receive(size - len(data))
    if not data.endswith(b"\n"):
        raise RemoteProtocolError("a line of multistream-select has no end")
    try:
        return data[:-1].decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("a line of multistream-select is no text") from None


async def _read_size(receive: Receive) -> int:
    """Read an unsigned varint of one or two bytes: no line is longer."""
    first = (await receive(1))[0]
    size = first if first < 128 else first & 127 | (await receive(1))[0] << 7
    if not 0 < size <= LINE_BYTES_MAX:
        raise RemoteProtocolError(f"a line of multistream-select of {size} bytes")
    return size


async def _expect_version(receive: Receive) -> None:
    version = await read_line(receive)
    if version != VERSION:
        raise RemoteProtocolError(f"it speaks {version[:64]!r}, not {VERSION}")


def _listing(protocols: Collection[str]) -> bytes:
    """Answer `ls`: the protocols, each as a line of its own, in one message."""
    return line("".join(line(each).decode() for each in protocols))
