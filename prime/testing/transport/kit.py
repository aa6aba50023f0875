"""What the cases of the conformance suite share: the kit, a meeting of two endpoints, and small moves on channels."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress

import anyio
import attrs
import trio

from prime.errors import ConfigError, PrimeError, UnreachableError
from prime.testing.transport.detours import Detour
from prime.transport.admission import Admission, AdmissionLimits
from prime.transport.contract import Channel, Endpoint, Guarded, Transport
from prime.transport.identity import KeyPair

CASE_TIMEOUT_S = 90.0
BLOCKED_AFTER_S = 0.25  # a send that makes no progress for so long is blocked
HELD_BYTES_MAX = 24 << 20  # what a transport and the operating system may hold for a reader that does not read
PIECE_BYTES = 100_003  # divides no buffer, so that a blocked send is blocked half-way

Case = Callable[["TransportKit"], Awaitable[None]]


@attrs.frozen
class WireKit:
    """What the suite must know of a transport over sockets, for the cases that interfere with its wire.

    `knock` connects to an address without the transport's protocol. `detour` opens a way to an address on which a case
    holds, slows, cuts and reads the bytes; `tcp_wire` and `unix_wire` make both. `encrypts` says that who reads the wire
    learns nothing, `tells_cuts` that a connection which is cut is never taken for one that has ended.
    """

    knock: Callable[[str], Awaitable[trio.SocketStream]]
    detour: Callable[[str], AbstractAsyncContextManager[Detour]]
    encrypts: bool = True
    tells_cuts: bool = True


@attrs.frozen
class TransportKit:
    """What the suite must know of a transport.

    `make` gives a transport that listens anywhere free and reaches what others from `make` listen at; `make_at` listens
    at an address that one of them had. At `nobody` nobody listens, and `foreign` is an address of another transport.
    `make_hurried` has a backlog of 2 and a dial deadline of half a second. `wire` is there for a transport over sockets.
    """

    make: Callable[[], Transport]
    make_at: Callable[[str], Transport]
    make_hurried: Callable[[], Transport]
    nobody: str
    foreign: str
    wire: WireKit | None = None


@attrs.frozen
class Meeting:
    """Two endpoints and a channel between them: `near` was dialled, `far` was accepted."""

    dialler: Endpoint
    listener: Endpoint
    near: Channel
    far: Channel


def wire_of(kit: TransportKit) -> WireKit:
    """Return the kit's wire. Raises `ConfigError` where it has none."""
    if kit.wire is None:
        raise ConfigError("This case interferes with a wire.", hint="Give the kit a wire, or run only CASES.")
    return kit.wire


@asynccontextmanager
async def opened(transport: Transport, other: Transport) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    """Open two transports, each with a key of its own."""
    async with transport.open(KeyPair.generate()) as first, other.open(KeyPair.generate()) as second:
        yield first, second


@asynccontextmanager
async def met(kit: TransportKit) -> AsyncIterator[Meeting]:
    """Two endpoints with a channel between them, within the case's deadline."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener):
            yield await meet(dialler, listener)


@asynccontextmanager
async def astray(kit: TransportKit, listener: Endpoint) -> AsyncIterator[tuple[Endpoint, Detour]]:
    """Open an endpoint that has not met the listener, and a detour by which it may.

    A transport may send many channels over one connection: who has met the listener already would not take the detour.
    """
    wire = wire_of(kit)
    async with kit.make().open(KeyPair.generate()) as third, wire.detour(listener.addresses[0]) as detour:
        yield third, detour


async def meet(dialler: Endpoint, listener: Endpoint, address: str = "") -> Meeting:
    """Dial one endpoint from the other, by its first address or another way to it, and accept."""
    near = await dialler.dial(address or listener.addresses[0])
    return Meeting(dialler, listener, near, await listener.accept())


async def meet_again(dialler: Endpoint, listener: Endpoint) -> Meeting:
    """As `meet`, where channels of dials that came to nothing may wait to be accepted: those are closed."""
    near = await dialler.dial(listener.addresses[0])
    await near.send(b"here")
    while True:
        far = await listener.accept()
        try:
            if await receive_exactly(far, 4) == b"here":
                return Meeting(dialler, listener, near, far)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            await far.aclose()


async def receive_exactly(channel: Channel, size: int) -> bytes:
    """Receive `size` bytes."""
    parts, missing = [], size
    while missing:
        part = await channel.receive(min(missing, 1 << 20))
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


async def receive_all(channel: Channel) -> bytes:
    """Receive until the stream ends."""
    parts = []
    with suppress(anyio.EndOfStream):
        while True:
            parts.append(await channel.receive(1 << 20))
    return b"".join(parts)


async def until_the_end(channel: Channel) -> AsyncIterator[bytes]:
    """Yield what comes until the stream ends or breaks."""
    while True:
        try:
            yield await channel.receive(1 << 20)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


def let_all_in(endpoint: Endpoint) -> None:
    """Have an endpoint take as many connections of one source as come, where it asks an admission."""
    if isinstance(endpoint, Guarded):
        endpoint.guard(Admission(limits=AdmissionLimits(source_connects_per_s=math.inf, source_proving_max=1000)))


def pattern(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes in which a missing, doubled or misplaced piece shows."""
    line = b"".join((seed * 1_000_003 + n).to_bytes(8, "big") for n in range(min(size, 1 << 20) // 8 + 1))
    return (line * (size // len(line) + 1))[:size]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 1 to `count`, evenly, the first and the last among them."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(place * (count - 1) / (most - 1)) for place in range(most)})


def check(kept: bool, broken_promise: str) -> None:  # noqa: FBT001 (reads like assert)
    """Raise `AssertionError` with the promise that was broken."""
    if not kept:
        raise AssertionError(broken_promise)


@contextmanager
def raises(kind: type[Exception], *named: str, or_else: type[Exception] | None = None) -> Iterator[None]:
    """Demand an error that names all of `named` and, if it is one of Prime's, has a hint."""
    kinds = (kind, or_else) if or_else else (kind,)
    try:
        yield
    except kinds as error:
        missing = [name for name in named if name not in str(error)]
        check(not missing, f"{error!r} does not name {missing}")
        check(not isinstance(error, PrimeError) or bool(error.hint), f"{error!r} has no hint")
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def echo(m: Meeting, data: bytes) -> None:
    """Send bytes there and back."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(m.near.send, data)
        there = await receive_exactly(m.far, len(data))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(m.far.send, there)
        check(await receive_exactly(m.near, len(data)) == data, "the echo differs")


async def serve_echo(listener: Endpoint, count: int) -> None:
    """Accept so many channels and send back what comes by each."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(_echo_back, await listener.accept())


async def _echo_back(channel: Channel) -> None:
    await channel.send(await receive_all(channel))
    await channel.send_eof()


async def dial_and_echo(dialler: Endpoint, address: str, data: bytes) -> None:
    """Dial somebody who serves the echo."""
    channel = await dialler.dial(address)
    await channel.send(data)
    await channel.send_eof()
    check(await receive_all(channel) == data, "the echo differs")


async def dial_if_possible(dialler: Endpoint, address: str) -> bool:
    """Dial and close; tell whether anybody answered."""
    with suppress(UnreachableError):
        await (await dialler.dial(address)).aclose()
        return True
    return False


async def send_and_end(channel: Channel, data: bytes) -> None:
    """Send all there is."""
    await channel.send(data)
    await channel.send_eof()


async def send_if_usable(channel: Channel, data: bytes) -> None:
    """Send all there is, unless the channel is broken; then close it."""
    with suppress(anyio.BrokenResourceError):
        await channel.send(data)
        await channel.send_eof()
        return
    await channel.aclose()


async def expect(channel: Channel, data: bytes) -> None:
    """Receive to the end and compare."""
    check(await receive_all(channel) == data, "bytes were lost or mixed")


async def fill(channel: Channel) -> int:
    """Send pieces until one blocks, cancel that one, and return how many bytes were taken before it."""
    taken = 0
    piece = pattern(PIECE_BYTES)
    while taken < HELD_BYTES_MAX:
        with trio.move_on_after(BLOCKED_AFTER_S) as scope:
            await channel.send(piece)
        if scope.cancelled_caught:
            break
        taken += len(piece)
    return taken
