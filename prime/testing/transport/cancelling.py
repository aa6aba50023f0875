"""Cases: whatever is cancelled, and wherever."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import itertools

import anyio
import trio
import trio.lowlevel

from prime.testing.cancellation import cancelled_at
from prime.testing.transport.kit import (
    PIECE_BYTES,
    Meeting,
    TransportKit,
    check,
    echo,
    fill,
    meet_again,
    met,
    pattern,
    raises,
    receive_exactly,
    send_and_end,
    send_if_usable,
    spread,
    until_the_end,
)
from prime.transport.contract import Channel, Endpoint

AWAITS = 6  # of those of one call, spread over all
AWAITS_ALL = 1000


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
        check(b"".join(parts) == pattern(100_000), "bytes were lost or mixed")


async def never_tears_a_cancelled_send(kit: TransportKit) -> None:
    """After a cancelled send the peer has all of it or none, or else the channel is broken: never a part and then more."""
    async with met(kit) as m:
        whole = await fill(m.near) // PIECE_BYTES  # the last, cancelled one is not counted
        marker = b"after" * 1000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_if_usable, m.near, marker)
            got = b"".join([part async for part in until_the_end(m.far)])
        allowed = pattern(PIECE_BYTES) * (whole + 1)
        if got.endswith(marker):
            body = got[: -len(marker)]
            check(body in {allowed, allowed[:-PIECE_BYTES]}, "a part of a cancelled send is followed by another send")
        else:
            check(
                (allowed + marker).startswith(got) or (allowed[:-PIECE_BYTES] + marker).startswith(got),
                "bytes were mixed",
            )


async def dials_anew_wherever_a_dial_was_cancelled(kit: TransportKit) -> None:
    """A dial that is cancelled at any of its awaits leaves both endpoints and their other channels as they were."""
    await _dials(kit, AWAITS)


async def loses_no_channel_to_a_cancelled_accept(kit: TransportKit) -> None:
    """An accept that is cancelled, before or while a channel arrives, leaves it to the next."""
    async with met(kit) as m:
        for late in (False, True):
            found: list[Channel] = []
            with trio.move_on_after(0.02):
                await m.listener.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_dial_and_hold, m.dialler, m.listener.addresses[0])
                for step in itertools.count():
                    await cancelled_at(1 + step % 3, _accept_into, m.listener, found, late=late)
                    if found:
                        break
                    await trio.sleep(0.001)
                check(await receive_exactly(found[0], 4) == b"held", "another channel was accepted")
                nursery.cancel_scope.cancel()


async def loses_nothing_wherever_a_receive_was_cancelled(kit: TransportKit) -> None:
    """A receive that is cancelled at any of its awaits, also with bytes at hand, leaves them to the next."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(_send_slowly, m.near, pattern(100_000))
        parts: list[bytes] = []
        with raises(anyio.EndOfStream):
            for step in itertools.count():
                await cancelled_at(1 + step % 4, _receive_into, m.far, parts, late=step % 2 == 0)
                await trio.lowlevel.checkpoint()
        check(b"".join(parts) == pattern(100_000), "bytes were lost or mixed")


async def loses_nothing_wherever_a_receive_into_a_room_was_cancelled(kit: TransportKit) -> None:
    """The same of `receive_into`, by turns with `receive`, with rooms that are smaller and bigger than what comes."""
    data = pattern(2_000_000)
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, m.near, data)
        parts: list[bytes] = []
        with raises(anyio.EndOfStream):
            for step in itertools.count():
                take = (_receive_into, _fill_small_room, _fill_big_room)[step % 3]
                await cancelled_at(1 + step % 4, take, m.far, parts, late=step % 2 == 0)
                await trio.lowlevel.checkpoint()
        check(b"".join(parts) == data, "bytes were lost or mixed")


async def never_tears_wherever_a_send_was_cancelled(kit: TransportKit) -> None:
    """A send that is cancelled at any of its awaits went whole or not at all, or the channel is broken."""
    await _sends(kit, AWAITS)


async def ends_wherever_a_close_was_cancelled(kit: TransportKit) -> None:
    """A close that is cancelled at any of its awaits has closed the channel, and the peer sees that it ends."""
    await _closes(kit, AWAITS)


async def takes_a_cancel_at_each_await(kit: TransportKit) -> None:
    """The same of dials, sends and closes, at each await that they have."""
    for cancels in (_dials, _sends, _closes):
        await cancels(kit, AWAITS_ALL)


async def _dials(kit: TransportKit, most: int) -> None:
    async with met(kit) as m:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept_and_close, m.listener)
            address = m.listener.addresses[0]
            for step in spread(await cancelled_at(0, _dial_and_close, m.dialler, address), most):
                for late in (False, True):
                    await cancelled_at(step, _dial_and_close, m.dialler, address, late=late)
            nursery.cancel_scope.cancel()
        await echo(m, b"still here")
        await echo(await meet_again(m.dialler, m.listener), b"and again")


async def _sends(kit: TransportKit, most: int) -> None:
    data, marker = pattern(1_500_000), b"after" * 1000
    async with met(kit) as m:
        for step in spread(await _cancelled_send(m, data, 0, []), most):
            for late in (False, True):
                got: list[bytes] = []
                await _cancelled_send(await meet_again(m.dialler, m.listener), data, step, got, marker, late=late)
                whole = b"".join(got)
                unbroken = whole in {data + marker, marker}
                check(unbroken or data.startswith(whole) or (data + marker).startswith(whole), "bytes were mixed")
        await echo(await meet_again(m.dialler, m.listener), b"still here")


async def _closes(kit: TransportKit, most: int) -> None:
    async with met(kit) as m:
        for step in spread(max(1, await _cancelled_close(m, 0)), most):
            for late in (False, True):
                await _cancelled_close(await meet_again(m.dialler, m.listener), step, late=late)
        await echo(await meet_again(m.dialler, m.listener), b"still here")


async def _dial_and_close(dialler: Endpoint, address: str) -> None:
    await (await dialler.dial(address)).aclose()


async def _dial_and_hold(dialler: Endpoint, address: str) -> None:
    channel = await dialler.dial(address)
    await channel.send(b"held")
    await trio.sleep_forever()


async def _accept_and_close(listener: Endpoint) -> None:
    while True:
        await (await listener.accept()).aclose()


async def _accept_into(listener: Endpoint, found: list[Channel]) -> None:
    found.append(await listener.accept())


async def _receive_into(channel: Channel, parts: list[bytes]) -> None:
    parts.append(await channel.receive(3000))


async def _fill_small_room(channel: Channel, parts: list[bytes]) -> None:
    parts.append(await _in_room(channel, 1000))


async def _fill_big_room(channel: Channel, parts: list[bytes]) -> None:
    parts.append(await _in_room(channel, 200_000))


async def _in_room(channel: Channel, size: int) -> bytes:
    room = bytearray(size + 1)
    count = await channel.receive_into(memoryview(room)[:size])
    check(1 <= count <= size and not room[size], "a room was left empty, or its end passed over")
    return bytes(room[:count])


async def _cancelled_send(
    m: Meeting, data: bytes, step: int, got: list[bytes], marker: bytes = b"", *, late: bool = False
) -> int:
    """Send, cancelled at an await, and then a marker, to a reader; return how often the send waited."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_collect, m.far, got)
        waits = await cancelled_at(step, m.near.send, data, late=late)
        await send_if_usable(m.near, marker)
    await m.near.aclose()
    await m.far.aclose()
    return waits


async def _cancelled_close(m: Meeting, step: int, *, late: bool = False) -> int:
    await m.near.send(b"x" * 1000)
    waits = await cancelled_at(step, m.near.aclose, late=late)
    with raises(anyio.ClosedResourceError):
        await m.near.receive()
    got = b"".join([part async for part in until_the_end(m.far)])
    check((b"x" * 1000).startswith(got), "bytes were mixed")
    await m.far.aclose()
    return waits


async def _collect(channel: Channel, got: list[bytes]) -> None:
    async for part in until_the_end(channel):
        got.append(part)  # noqa: PERF401 - what came before it broke counts


async def _send_slowly(channel: Channel, data: bytes) -> None:
    for start in range(0, len(data), 1000):
        await channel.send(data[start : start + 1000])
        await trio.lowlevel.checkpoint()
    await channel.send_eof()
