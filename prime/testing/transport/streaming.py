"""Cases: bytes, in order and bounded."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import anyio
import attrs
import trio
import trio.testing

from prime.testing.transport.kit import (
    BLOCKED_AFTER_S,
    CASE_TIMEOUT_S,
    HELD_BYTES_MAX,
    PIECE_BYTES,
    TransportKit,
    check,
    dial_and_echo,
    echo,
    expect,
    fill,
    meet,
    met,
    opened,
    pattern,
    raises,
    receive_exactly,
    send_and_end,
    serve_echo,
    until_the_end,
)
from prime.transport.contract import Channel

LARGE_BYTES = 8 << 20
MANY = 50


async def echoes(kit: TransportKit) -> None:
    """Small sends arrive in order, in both directions."""
    async with met(kit) as m:
        for size in (1, 2, 100, 65_507, 65_536, 70_000):
            await echo(m, pattern(size, size))
            await echo(attrs.evolve(m, near=m.far, far=m.near), pattern(size, size + 1))


async def carries_large_data_both_ways_at_once(kit: TransportKit) -> None:
    """8 MiB in each direction at the same time arrive whole."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        for sender, receiver, seed in ((m.near, m.far, 1), (m.far, m.near, 2)):
            nursery.start_soon(send_and_end, sender, pattern(LARGE_BYTES, seed))
            nursery.start_soon(expect, receiver, pattern(LARGE_BYTES, seed))


async def takes_any_buffer(kit: TransportKit) -> None:
    """Bytes, bytearrays and memoryviews can be sent, and reused as soon as `send` has returned."""
    async with met(kit) as m:
        buffer = bytearray(b"first")
        await m.near.send(buffer)
        buffer[:] = b"XXXXX"
        await m.near.send(memoryview(b"-second-")[1:-1])
        await m.near.send(b"")
        check(await receive_exactly(m.far, 11) == b"firstsecond", "a buffer was read after send had returned")


async def never_receives_more_than_asked(kit: TransportKit) -> None:
    """`receive(n)` gives 1 to n bytes."""
    async with met(kit) as m:
        await m.near.send(pattern(1000))
        parts: list[bytes] = []
        while sum(len(part) for part in parts) < 1000:
            parts.append(await m.far.receive(7))
        check(all(1 <= len(part) <= 7 for part in parts), "a part was empty or too long")
        check(b"".join(parts) == pattern(1000), "bytes were lost or mixed")


async def lets_one_task_receive(kit: TransportKit) -> None:
    """A second concurrent `receive` is refused, not mixed up with the first."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(_receive_and_drop, m.near)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with raises(anyio.BusyResourceError):
            await m.near.receive()
        nursery.cancel_scope.cancel()


async def slows_a_sender_whose_peer_does_not_read(kit: TransportKit) -> None:
    """What is on its way is bounded; when the reader reads again, all of it arrives."""
    async with met(kit) as m:
        sent = await fill(m.near)
        check(sent < HELD_BYTES_MAX, f"{sent} bytes were taken for a reader that does not read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(m.near.aclose)
            got = b"".join([part async for part in until_the_end(m.far)])
        check((pattern(PIECE_BYTES) * (sent // PIECE_BYTES + 1)).startswith(got), "bytes were lost or mixed")


async def sends_on_when_a_slow_reader_reads_again(kit: TransportKit) -> None:
    """A sender that waits for its reader goes on when the reader does, and nothing is lost."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, m.near, pattern(HELD_BYTES_MAX))
        await trio.sleep(BLOCKED_AFTER_S)
        await expect(m.far, pattern(HELD_BYTES_MAX))


async def blocks_no_other_channel(kit: TransportKit) -> None:
    """A channel whose reader sleeps does not hold up another between the same two."""
    async with met(kit) as m:
        other = await meet(m.dialler, m.listener)
        await fill(m.near)
        await echo(other, pattern(300_000))


async def reads_a_byte_at_a_time(kit: TransportKit) -> None:
    """A reader that takes one byte at a time gets every byte, while the sender goes on as it can."""
    async with met(kit) as m, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, m.near, pattern(20_000))
        parts = [await m.far.receive(1) for _ in range(20_000)]
        check(b"".join(parts) == pattern(20_000), "bytes were lost or mixed")
        with raises(anyio.EndOfStream):
            await m.far.receive(1)


async def carries_many_channels_at_once(kit: TransportKit) -> None:
    """Fifty channels between the same two carry their own bytes, both ways at once, and none is mixed with another."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener), trio.open_nursery() as nursery:
            nursery.start_soon(serve_echo, listener, MANY)
            for number in range(MANY):
                nursery.start_soon(dial_and_echo, dialler, listener.addresses[0], pattern(30_000, number))


async def waits_a_minute_for_its_reader(kit: TransportKit) -> None:
    """A reader that sleeps for a minute finds all that was sent, and the sender waits as long as it takes."""
    with trio.fail_after(3 * CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener):
            m = await meet(dialler, listener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_and_end, m.near, pattern(HELD_BYTES_MAX))
                await trio.sleep(60)
                await expect(m.far, pattern(HELD_BYTES_MAX))


async def _receive_and_drop(channel: Channel) -> None:
    await channel.receive()
