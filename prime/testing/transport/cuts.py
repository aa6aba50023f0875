"""Cases: a wire that is slow, stands still or is cut, and what can be read on it. They need the kit's wire."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import secrets

import anyio
import trio

from prime.errors import UnreachableError
from prime.testing.transport.kit import (
    CASE_TIMEOUT_S,
    TransportKit,
    astray,
    check,
    echo,
    expect,
    fill,
    let_all_in,
    meet,
    meet_again,
    met,
    pattern,
    raises,
    send_and_end,
    spread,
    wire_of,
)
from prime.transport.contract import Channel, Endpoint
from prime.transport.identity import KeyPair

CUTS = 8
MESSAGE_BYTES = 150_000


async def carries_bytes_that_come_one_by_one(kit: TransportKit) -> None:
    """Handshake and messages pass over a wire that moves one byte at a time."""
    async with met(kit) as m, astray(kit, m.listener) as (third, detour):
        detour.step_bytes = 1
        await echo(await meet(third, m.listener, detour.address), pattern(500))


async def waits_out_a_wire_that_stands_still(kit: TransportKit) -> None:
    """While the other machine stands still nothing is lost, and all goes on when it does."""
    async with met(kit) as m, astray(kit, m.listener) as (third, detour):
        held = await meet(third, m.listener, detour.address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, held.near, pattern(3 << 20))
            nursery.start_soon(send_and_end, held.far, pattern(3 << 20, 1))
            await trio.sleep(0.01)
            detour.hold()
            await trio.sleep(0.4)
            detour.release()
            nursery.start_soon(expect, held.near, pattern(3 << 20, 1))
            await expect(held.far, pattern(3 << 20))


async def gives_up_a_dial_that_stands_still(kit: TransportKit) -> None:
    """A dial into a wire on which nothing moves is unreachable after its deadline; others do not notice."""
    async with met(kit) as m, wire_of(kit).detour(m.listener.addresses[0]) as detour:
        detour.hold()
        async with kit.make_hurried().open(KeyPair.generate()) as hurried:
            with trio.fail_after(8), raises(UnreachableError):
                await hurried.dial(detour.address)
        await echo(m, b"undisturbed")


async def closes_over_a_wire_that_stands_still(kit: TransportKit) -> None:
    """Channels and endpoints close in bounded time, though nothing that they say arrives."""
    with trio.fail_after(30):
        async with kit.make().open(KeyPair.generate()) as listener, astray(kit, listener) as (third, detour):
            m = await meet(third, listener, detour.address)
            detour.hold()
            await fill(m.near)
            for channel in (m.near, m.far):
                with trio.fail_after(4):
                    await channel.aclose()


async def shows_a_cut_handshake_as_unreachable(kit: TransportKit) -> None:
    """A dial whose wire is cut is unreachable, or a channel that breaks at once; the listener goes on."""
    async with met(kit) as m:
        async with astray(kit, m.listener) as (third, detour):
            await (await meet(third, m.listener, detour.address)).near.aclose()
            size = detour.passed_bytes
        for place in spread(size, CUTS):
            await _dial_and_be_cut(kit, m.listener, place, resets=bool(place % 2))
        await echo(m, b"undisturbed")
        await echo(await meet_again(m.dialler, m.listener), b"accepting still")


async def takes_no_cut_for_more_than_came(kit: TransportKit) -> None:
    """Cut anywhere in a message, the reader has what came before it and hears of the end; nobody waits for ever."""
    async with met(kit) as m:
        for place in spread(MESSAGE_BYTES, CUTS):
            await _send_and_be_cut(kit, m.listener, place, pattern(MESSAGE_BYTES))
        await echo(m, b"undisturbed")


async def takes_no_cut_at_any_byte_for_more_than_came(kit: TransportKit) -> None:
    """The same at each byte of a small message."""
    with trio.fail_after(10 * CASE_TIMEOUT_S):
        async with kit.make().open(KeyPair.generate()) as listener:
            let_all_in(listener)
            for place in range(1, 600):
                await _send_and_be_cut(kit, listener, place, pattern(400))


async def cuts_one_connection_alone(kit: TransportKit) -> None:
    """A connection that is cut takes no other with it, and the same two may meet again."""
    async with met(kit) as m, astray(kit, m.listener) as (third, detour):
        lost = await meet(third, m.listener, detour.address)
        await echo(lost, b"before")
        detour.cut()
        for channel in (lost.near, lost.far):
            with raises(anyio.BrokenResourceError, or_else=anyio.EndOfStream):
                await channel.receive()
        await echo(m, b"undisturbed")
        await echo(await meet(third, m.listener), b"dialled anew")


async def hides_what_it_carries(kit: TransportKit) -> None:
    """Of what two machines send each other nothing can be read on the wire between them."""
    if not wire_of(kit).encrypts:
        return
    marks = [secrets.token_bytes(64), b"a plain text that stands out, again and again" * 100]
    async with met(kit) as m, astray(kit, m.listener) as (third, detour):
        watched = await meet(third, m.listener, detour.address)
        for mark in marks:
            await echo(watched, mark)
        for passed in (bytes(detour.sent), bytes(detour.answered)):
            check(len(passed) > sum(map(len, marks)), "the bytes went another way")
            check(not any(mark[:16] in passed or mark[-16:] in passed for mark in marks), "plaintext was on the wire")


async def _dial_and_be_cut(kit: TransportKit, listener: Endpoint, after_bytes: int, *, resets: bool) -> None:
    async with astray(kit, listener) as (third, detour):
        detour.cut(after_bytes, resets=resets)
        with trio.fail_after(20):
            try:
                channel = await third.dial(detour.address)
            except UnreachableError as error:
                check(bool(error.hint), f"{error!r} has no hint")
                return
            detour.cut()
            with raises(anyio.BrokenResourceError, or_else=anyio.EndOfStream):
                await channel.receive()
            await channel.aclose()


async def _send_and_be_cut(kit: TransportKit, listener: Endpoint, place: int, data: bytes) -> None:
    """Send over a wire that is cut after so many bytes of it, by a reset or as if it was the end."""
    async with astray(kit, listener) as (third, detour):
        near = await third.dial(detour.address)
        await near.send(b"here")
        far = await _accepted(listener)
        detour.cut(place, resets=bool(place % 2))
        got, ended = bytearray(), [False]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_gather, far, got, ended)
                await _send_until_broken(near, data)
        check(data.startswith(bytes(got)), "bytes were mixed")
        check(bytes(got) == data or not ended[0] or not wire_of(kit).tells_cuts, "a cut was taken for the end")
        for channel in (near, far):
            await channel.aclose()


async def _accepted(listener: Endpoint) -> Channel:
    """Return the channel of the peer that said so, not one that was cut before."""
    while True:
        channel = await listener.accept()
        try:
            if await channel.receive(4) == b"here":
                return channel
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            await channel.aclose()


async def _gather(channel: Channel, got: bytearray, ended: list[bool]) -> None:
    try:
        while True:
            got += await channel.receive()
    except anyio.EndOfStream:
        ended[0] = True
    except anyio.BrokenResourceError:
        pass


async def _send_until_broken(channel: Channel, data: bytes) -> None:
    try:
        await channel.send(data)
        await channel.send_eof()
    except anyio.BrokenResourceError:
        pass
