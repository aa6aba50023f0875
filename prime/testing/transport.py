"""The conformance suite of transports: what `prime.transport.contract` promises, as cases that anyone can run.

::

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
    async def test_conformance(case, kit):
        await case(kit)

A case is an async function of a `TransportKit`, raises `AssertionError` with the broken promise, and ends within its
own deadline whatever the transport does. All run under Trio over whatever the transport really uses.
"""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
import attrs
import trio
import trio.testing

from prime.errors import AddressInUseError, ConfigError, PrimeError, UnreachableError, WrongPeerError
from prime.transport.contract import Channel, Endpoint, Transport
from prime.transport.identity import KeyPair

CASE_TIMEOUT_S = 90.0
LARGE_BYTES = 8 << 20
BLOCKED_AFTER_S = 0.4  # a send that makes no progress for so long is blocked
HELD_BYTES_MAX = 24 << 20  # what a transport and the operating system may hold for a reader that does not read
_PIECE_BYTES = 100_003  # divides no buffer, so that a blocked send is blocked half-way

Case = Callable[["TransportKit"], Awaitable[None]]


@attrs.frozen
class TransportKit:
    """What the suite must know of a transport.

    `make` gives a transport that listens anywhere free and reaches what others from `make` listen at; `make_at` listens
    at an address that one of them had. At `nobody` nobody listens, and `foreign` is an address of another transport.
    `make_hurried` has a backlog of 2 and a dial deadline of half a second. `intrude` connects to an address without the
    transport's protocol, sends the bytes given and hangs up; without it that case checks nothing.
    """

    make: Callable[[], Transport]
    make_at: Callable[[str], Transport]
    make_hurried: Callable[[], Transport]
    nobody: str
    foreign: str
    intrude: Callable[[str, bytes], Awaitable[None]] | None = None


@attrs.frozen
class Meeting:
    """Two endpoints and a channel between them: `near` was dialled, `far` was accepted."""

    dialler: Endpoint
    listener: Endpoint
    near: Channel
    far: Channel


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


async def meet(dialler: Endpoint, listener: Endpoint) -> Meeting:
    """Dial one endpoint from the other and accept."""
    near = await dialler.dial(listener.addresses[0])
    return Meeting(dialler, listener, near, await listener.accept())


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


def pattern(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes in which a missing, doubled or misplaced piece shows."""
    line = b"".join((seed * 1_000_003 + n).to_bytes(8, "big") for n in range(min(size, 1 << 20) // 8 + 1))
    return (line * (size // len(line) + 1))[:size]


# ------------------------------------------------------------------------------------------------------------ identity


async def proves_identity_on_both_sides(kit: TransportKit) -> None:
    """Each side knows the other's true id, and addresses end in it."""
    async with met(kit) as m:
        _check(m.near.peer == m.listener.peer, "the dialler does not know who answered")
        _check(m.far.peer == m.dialler.peer, "the listener does not know who dialled")
        _check(
            all(each.endswith(f"/p2p/{m.listener.peer}") for each in m.listener.addresses)
            and m.listener.addresses != (),
            f"addresses without the peer id: {m.listener.addresses}",
        )


async def refuses_a_wrong_peer(kit: TransportKit) -> None:
    """Dialling somebody else raises `WrongPeerError` naming who answered; the listener goes on."""
    async with met(kit) as m:
        bare = m.listener.addresses[0].rpartition("/p2p/")[0]
        stranger = KeyPair.generate().peer
        for address, peer in ((bare, stranger), (f"{bare}/p2p/{stranger}", None)):
            with _raises(WrongPeerError, m.listener.peer, stranger):
                await m.dialler.dial(address, peer)
        await _echo(await meet(m.dialler, m.listener), b"still here")


async def refuses_contradictions(kit: TransportKit) -> None:
    """An address that names another peer than the one asked for is the caller's mistake."""
    async with met(kit) as m:
        with _raises(ConfigError):
            await m.dialler.dial(m.listener.addresses[0], KeyPair.generate().peer)


async def dials_without_knowing_the_peer(kit: TransportKit) -> None:
    """Without a `/p2p/` part anybody may answer, and the channel says who did."""
    async with met(kit) as m:
        near = await m.dialler.dial(m.listener.addresses[0].rpartition("/p2p/")[0])
        _check(near.peer == m.listener.peer, "the dialler does not know who answered")


# ------------------------------------------------------------------------------------------------------------- dialling


async def says_that_nobody_answers(kit: TransportKit) -> None:
    """An address without a listener, or of another transport, raises `UnreachableError`; no address `ConfigError`."""
    async with met(kit) as m:
        for address in (kit.nobody, kit.foreign):
            with _raises(UnreachableError):
                await m.dialler.dial(address)
        for text in ("", "nonsense", "/ip4/127.0.0.1", "/ip4/1.2.3.4/tcp/99999", "/ip4/1.2.3.4/tcp/1/p2p/12D3Koo"):
            with _raises(ConfigError):
                await m.dialler.dial(text)


async def dials_twenty_at_once(kit: TransportKit) -> None:
    """Twenty concurrent dials give twenty channels, each with its own bytes."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener), trio.open_nursery() as nursery:
            nursery.start_soon(_serve_echo, listener, 20)
            for number in range(20):
                nursery.start_soon(_dial_and_echo, dialler, listener.addresses[0], pattern(10_000, number))


async def dials_both_ways_at_once(kit: TransportKit) -> None:
    """Two endpoints that dial each other at the same time both get their channel."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (first, second), trio.open_nursery() as nursery:
            for here, there in ((first, second), (second, first)):
                nursery.start_soon(_serve_echo, here, 1)
                nursery.start_soon(_dial_and_echo, here, there.addresses[0], pattern(100_000))


async def survives_a_cancelled_dial(kit: TransportKit) -> None:
    """A dial that is given up leaves the endpoint, and channels that are open, as they were."""
    async with met(kit) as m:
        for delay_s in (0.0, 0.001, 0.01):
            with trio.move_on_after(delay_s):
                await m.dialler.dial(m.listener.addresses[0])
        await _echo(m, b"still here")
        near = await m.dialler.dial(m.listener.addresses[0])
        await near.send(b"x")


async def bounds_its_backlog(kit: TransportKit) -> None:
    """A listener that does not accept leaves no dial hanging, and works once it accepts again."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make_hurried(), kit.make_hurried()) as (dialler, listener):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(_dial_if_possible, dialler, listener.addresses[0])
            await trio.sleep(0.7)  # past the deadline of whatever still waits to be accepted
            while True:
                with trio.move_on_after(0.2) as scope:
                    await (await listener.accept()).aclose()
                if scope.cancelled_caught:
                    break
            await _echo(await meet(dialler, listener), b"accepting again")


async def survives_strangers(kit: TransportKit) -> None:
    """Garbage, a half handshake and a caller that hangs up at once disturb nobody."""
    if kit.intrude is None:
        return
    async with met(kit) as m:
        for garbage in (b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", pattern(200_000)):
            await kit.intrude(m.listener.addresses[0], garbage)
        await _echo(m, b"undisturbed")
        await _echo(await meet(m.dialler, m.listener), b"accepting still")


# ---------------------------------------------------------------------------------------------------------------- bytes


async def echoes(kit: TransportKit) -> None:
    """Small sends arrive in order, in both directions."""
    async with met(kit) as m:
        for size in (1, 2, 100, 65_507, 65_536, 70_000):
            await _echo(m, pattern(size, size))
            await _echo(attrs.evolve(m, near=m.far, far=m.near), pattern(size, size + 1))


async def carries_large_data_both_ways_at_once(kit: TransportKit) -> None:
    """8 MiB in each direction at the same time arrive whole."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        for sender, receiver, seed in ((m.near, m.far, 1), (m.far, m.near, 2)):
            nursery.start_soon(_send_and_end, sender, pattern(LARGE_BYTES, seed))
            nursery.start_soon(_expect, receiver, pattern(LARGE_BYTES, seed))


async def takes_any_buffer(kit: TransportKit) -> None:
    """Bytes, bytearrays and memoryviews can be sent, and reused as soon as `send` has returned."""
    async with met(kit) as m:
        buffer = bytearray(b"first")
        await m.near.send(buffer)
        buffer[:] = b"XXXXX"
        await m.near.send(memoryview(b"-second-")[1:-1])
        await m.near.send(b"")
        _check(await receive_exactly(m.far, 11) == b"firstsecond", "a buffer was read after send had returned")


async def never_receives_more_than_asked(kit: TransportKit) -> None:
    """`receive(n)` gives 1 to n bytes."""
    async with met(kit) as m:
        await m.near.send(pattern(1000))
        parts: list[bytes] = []
        while sum(len(part) for part in parts) < 1000:
            parts.append(await m.far.receive(7))
        _check(all(1 <= len(part) <= 7 for part in parts), "a part was empty or too long")
        _check(b"".join(parts) == pattern(1000), "bytes were lost or mixed")


async def lets_one_task_receive(kit: TransportKit) -> None:
    """A second concurrent `receive` is refused, not mixed up with the first."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(_receive_and_drop, m.near)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with _raises(anyio.BusyResourceError):
            await m.near.receive()
        nursery.cancel_scope.cancel()


async def slows_a_sender_whose_peer_does_not_read(kit: TransportKit) -> None:
    """What is on its way is bounded; when the reader reads again, all of it arrives."""
    async with met(kit) as m:
        sent = await _fill(m.near)
        _check(sent < HELD_BYTES_MAX, f"{sent} bytes were taken for a reader that does not read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(m.near.aclose)
            got = b"".join([part async for part in _until_the_end(m.far)])
        _check((pattern(_PIECE_BYTES) * (sent // _PIECE_BYTES + 1)).startswith(got), "bytes were lost or mixed")


async def sends_on_when_a_slow_reader_reads_again(kit: TransportKit) -> None:
    """A sender that waits for its reader goes on when the reader does, and nothing is lost."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(_send_and_end, m.near, pattern(HELD_BYTES_MAX))
        await trio.sleep(BLOCKED_AFTER_S)
        await _expect(m.far, pattern(HELD_BYTES_MAX))


async def blocks_no_other_channel(kit: TransportKit) -> None:
    """A channel whose reader sleeps does not hold up another between the same two."""
    async with met(kit) as m:
        other = await meet(m.dialler, m.listener)
        await _fill(m.near)
        await _echo(other, pattern(300_000))


# --------------------------------------------------------------------------------------------------------- cancellation


async def loses_nothing_to_a_cancelled_receive(kit: TransportKit) -> None:
    """A receive that is cancelled, before or while bytes arrive, leaves them to the next."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        with trio.move_on_after(0.02):
            await m.far.receive()
        nursery.start_soon(_send_slowly, m.near, pattern(100_000))
        parts: list[bytes] = []
        while sum(len(part) for part in parts) < 100_000:
            with trio.move_on_after(0.0005):
                parts.append(await m.far.receive(3000))
        _check(b"".join(parts) == pattern(100_000), "bytes were lost or mixed")


async def never_tears_a_cancelled_send(kit: TransportKit) -> None:
    """After a cancelled send the peer has all of it or none, or else the channel is broken: never a part and then more."""
    async with met(kit) as m:
        whole = await _fill(m.near) // _PIECE_BYTES  # the last, cancelled one is not counted
        marker = b"after" * 1000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_if_usable, m.near, marker)
            got = b"".join([part async for part in _until_the_end(m.far)])
        allowed = pattern(_PIECE_BYTES) * (whole + 1)
        if got.endswith(marker):
            body = got[: -len(marker)]
            _check(body in {allowed, allowed[:-_PIECE_BYTES]}, "a part of a cancelled send is followed by another send")
        else:
            _check(
                (allowed + marker).startswith(got) or (allowed[:-_PIECE_BYTES] + marker).startswith(got),
                "bytes were mixed",
            )


# --------------------------------------------------------------------------------------------------------------- ending


async def ends_after_all_bytes(kit: TransportKit) -> None:
    """After `send_eof` the peer gets every byte, then `EndOfStream`, again and again; our own send is refused."""
    async with met(kit) as m:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_and_end, m.near, pattern(200_000))
            await _expect(m.far, pattern(200_000))
        with _raises(anyio.EndOfStream):
            await m.far.receive()
        with _raises(anyio.ClosedResourceError):
            await m.near.send(b"x")


async def keeps_the_other_direction_open(kit: TransportKit) -> None:
    """`send_eof` ends one direction only, also when bytes are already on their way back."""
    async with met(kit) as m:
        await m.far.send(pattern(20_000))
        await m.near.send_eof()
        _check(await receive_all(m.far) == b"", "bytes came from nowhere")
        await m.far.send(pattern(20_000))
        await m.far.send_eof()
        _check(await receive_all(m.near) == pattern(20_000) * 2, "bytes were lost or mixed after our end")


async def closes(kit: TransportKit) -> None:
    """After `aclose`, also twice: our calls raise `ClosedResourceError`, the peer reads all and then the end."""
    async with met(kit) as m:
        await m.near.send(pattern(20_000))
        await m.near.aclose()
        await m.near.aclose()
        for call in (m.near.receive(), m.near.send(b"x"), m.near.send_eof()):
            with _raises(anyio.ClosedResourceError):
                await call
        _check(await receive_all(m.far) == pattern(20_000), "bytes before the close were lost")


async def wakes_its_own_reader(kit: TransportKit) -> None:
    """`aclose` while another task of ours receives: that task gets `ClosedResourceError`."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(_expect_closed, m.near)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await m.near.aclose()


async def breaks_a_sender_whose_peer_is_gone(kit: TransportKit) -> None:
    """Sending to a peer that has closed raises `BrokenResourceError` before long."""
    async with met(kit) as m:
        await m.far.aclose()
        with _raises(anyio.BrokenResourceError):
            while True:
                await m.near.send(pattern(_PIECE_BYTES))


async def closes_in_bounded_time(kit: TransportKit) -> None:
    """`aclose` returns soon, though the peer does not read and a send hangs."""
    async with met(kit) as m:
        await _fill(m.near)
        with trio.fail_after(4):
            await m.near.aclose()


async def closes_with_its_endpoint(kit: TransportKit) -> None:
    """Leaving the endpoint's context closes its channels and ends `accept` and `dial`; the peer notices."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with kit.make().open(KeyPair.generate()) as dialler:
            async with kit.make().open(KeyPair.generate()) as listener:
                m = await meet(dialler, listener)
            for call in (listener.accept(), listener.dial(dialler.addresses[0])):
                with _raises(anyio.ClosedResourceError):
                    await call
            with _raises(anyio.ClosedResourceError):
                await m.far.receive()
            with _raises(anyio.EndOfStream, or_else=anyio.BrokenResourceError):
                await m.near.receive()
            with _raises(UnreachableError):
                await dialler.dial(listener.addresses[0])


async def takes_an_address_once(kit: TransportKit) -> None:
    """A taken address raises `AddressInUseError`; after the listener has closed it can be had again, at once."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with kit.make().open(KeyPair.generate()) as first:
            address = first.addresses[0].rpartition("/p2p/")[0]
            with _raises(AddressInUseError):
                async with kit.make_at(address).open(KeyPair.generate()):
                    pass
            async with kit.make().open(KeyPair.generate()) as other:
                await _echo(await meet(other, first), b"not disturbed")
        async with kit.make_at(address).open(KeyPair.generate()) as second:
            _check(second.addresses[0].rpartition("/p2p/")[0] == address, "it listens elsewhere")


async def lets_errors_through(kit: TransportKit) -> None:
    """An error of the code inside the context leaves it as it is, in no exception group."""
    with trio.fail_after(CASE_TIMEOUT_S), _raises(LookupError):
        async with kit.make().open(KeyPair.generate()):
            raise LookupError


CASES: tuple[Case, ...] = (
    proves_identity_on_both_sides,
    refuses_a_wrong_peer,
    refuses_contradictions,
    dials_without_knowing_the_peer,
    says_that_nobody_answers,
    dials_twenty_at_once,
    dials_both_ways_at_once,
    survives_a_cancelled_dial,
    bounds_its_backlog,
    survives_strangers,
    echoes,
    carries_large_data_both_ways_at_once,
    takes_any_buffer,
    never_receives_more_than_asked,
    lets_one_task_receive,
    slows_a_sender_whose_peer_does_not_read,
    sends_on_when_a_slow_reader_reads_again,
    blocks_no_other_channel,
    loses_nothing_to_a_cancelled_receive,
    never_tears_a_cancelled_send,
    ends_after_all_bytes,
    keeps_the_other_direction_open,
    closes,
    wakes_its_own_reader,
    breaks_a_sender_whose_peer_is_gone,
    closes_in_bounded_time,
    closes_with_its_endpoint,
    takes_an_address_once,
    lets_errors_through,
)
"""Every promise, one case each."""


def _check(kept: bool, broken_promise: str) -> None:  # noqa: FBT001 (reads like assert)
    if not kept:
        raise AssertionError(broken_promise)


@contextmanager
def _raises(kind: type[Exception], *named: str, or_else: type[Exception] | None = None) -> Iterator[None]:
    kinds = (kind, or_else) if or_else else (kind,)
    try:
        yield
    except kinds as error:
        missing = [name for name in named if name not in str(error)]
        _check(not missing, f"{error!r} does not name {missing}")
        _check(not isinstance(error, PrimeError) or bool(error.hint), f"{error!r} has no hint")
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def _echo(m: Meeting, data: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(m.near.send, data)
        there = await receive_exactly(m.far, len(data))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(m.far.send, there)
        _check(await receive_exactly(m.near, len(data)) == data, "the echo differs")


async def _serve_echo(listener: Endpoint, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(_echo_back, await listener.accept())


async def _echo_back(channel: Channel) -> None:
    await channel.send(await receive_all(channel))
    await channel.send_eof()


async def _dial_and_echo(dialler: Endpoint, address: str, data: bytes) -> None:
    channel = await dialler.dial(address)
    await channel.send(data)
    await channel.send_eof()
    _check(await receive_all(channel) == data, "the echo differs")


async def _dial_if_possible(dialler: Endpoint, address: str) -> None:
    with suppress(UnreachableError):
        await (await dialler.dial(address)).aclose()


async def _send_and_end(channel: Channel, data: bytes) -> None:
    await channel.send(data)
    await channel.send_eof()


async def _expect(channel: Channel, data: bytes) -> None:
    _check(await receive_all(channel) == data, "bytes were lost or mixed")


async def _expect_closed(channel: Channel) -> None:
    with _raises(anyio.ClosedResourceError):
        await channel.receive()


async def _receive_and_drop(channel: Channel) -> None:
    await channel.receive()


async def _send_slowly(channel: Channel, data: bytes) -> None:
    for start in range(0, len(data), 1000):
        await channel.send(data[start : start + 1000])
        await trio.lowlevel.checkpoint()


async def _send_if_usable(channel: Channel, data: bytes) -> None:
    with suppress(anyio.BrokenResourceError):
        await channel.send(data)
        await channel.send_eof()
        return
    await channel.aclose()


async def _fill(channel: Channel) -> int:
    """Send pieces until one blocks, cancel that one, and return how many bytes were taken before it."""
    taken = 0
    piece = pattern(_PIECE_BYTES)
    while taken < HELD_BYTES_MAX:
        with trio.move_on_after(BLOCKED_AFTER_S) as scope:
            await channel.send(piece)
        if scope.cancelled_caught:
            break
        taken += len(piece)
    return taken


async def _until_the_end(channel: Channel) -> AsyncIterator[bytes]:
    while True:
        try:
            yield await channel.receive(1 << 20)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return
