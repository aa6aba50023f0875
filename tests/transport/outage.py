"""A path that drops everything for a while, as a transport around another: what TCP makes of a black hole.

Nothing that was sent is lost and nothing breaks, but what waits goes out only at the times of TCP's retransmissions
(0.2 s after the first loss, then twice as long again and again, RFC 6298), and a dial's at 0, 1, 3, 7 and 15 s. So what is
left to itself goes on as late after the outage as the outage was long.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import trio

from prime.actor.contract import PeerId
from prime.transport.contract import Buffer, Channel
from prime.transport.identity import KeyPair


@attrs.define(eq=False)
class Path:
    """The way between all nodes."""

    down: bool = False

    async def cut(self, seconds: float) -> None:
        self.down = True
        await trio.sleep(seconds)
        self.down = False

    async def through(self, first_s: float) -> None:
        """Return at the first retransmission that gets through."""
        waits = backed_off(first_s)
        while self.down:  # noqa: ASYNC110 - only these times count
            await trio.sleep(next(waits))


def backed_off(first_s: float) -> Iterator[float]:
    while True:
        yield first_s
        first_s *= 2


@attrs.frozen
class OverPath:
    """`inner` over a path that can be cut."""

    inner: Any
    path: Path

    @property
    def name(self) -> str:
        return str(self.inner.name)

    @contextlib.asynccontextmanager
    async def open(self, own: KeyPair) -> AsyncIterator[Any]:
        async with self.inner.open(own) as endpoint, trio.open_nursery() as nursery:
            yield PathEndpoint(endpoint, self.path, nursery)
            nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class PathEndpoint:
    inner: Any
    path: Path
    nursery: trio.Nursery

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self.inner.addresses)

    @property
    def peer(self) -> PeerId:
        return PeerId(self.inner.peer)

    async def accept(self) -> Channel:
        return PathChannel(await self.inner.accept(), self.path, self.nursery)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        await trio.sleep(0.01)  # a dial takes its time, also where the way is free
        await self.path.through(1.0)
        return PathChannel(await self.inner.dial(address, peer), self.path, self.nursery)


class PathChannel(Channel):
    """A channel whose bytes wait in the kernel while they are not acknowledged."""

    def __init__(self, inner: Any, path: Path, nursery: trio.Nursery) -> None:
        self._inner, self._path, self._nursery = inner, path, nursery
        self._waiting: list[bytes] = []
        self._going = False
        self._closed = False

    @property
    def peer(self) -> PeerId:
        return PeerId(self._inner.peer)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return bytes(await self._inner.receive(max_bytes))

    async def send(self, item: Buffer) -> None:
        if not self._path.down and not self._going:
            await self._inner.send(item)
            return
        self._waiting.append(bytes(item))
        self._go_on_later()
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self._closed = True
        if self._path.down or self._going:
            self._go_on_later()
            await trio.lowlevel.checkpoint()
        else:
            await self._inner.aclose()

    def _go_on_later(self) -> None:
        if not self._going:
            self._going = True
            self._nursery.start_soon(self._go_on)

    async def _go_on(self) -> None:
        with contextlib.suppress(Exception):  # the other side is gone: so are the bytes
            await self._path.through(0.2)
            while self._waiting:
                await self._inner.send(self._waiting.pop(0))
        self._going = False
        if self._closed:
            await self._inner.aclose()
