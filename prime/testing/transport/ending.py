"""Cases: ends, closes, and what is left open."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import anyio
import trio
import trio.testing

from prime.errors import AddressInUseError, UnreachableError
from prime.testing.transport.kit import (
    CASE_TIMEOUT_S,
    PIECE_BYTES,
    TransportKit,
    check,
    echo,
    expect,
    fill,
    meet,
    met,
    pattern,
    raises,
    receive_all,
    send_and_end,
)
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair


async def ends_after_all_bytes(kit: TransportKit) -> None:
    """After `send_eof` the peer gets every byte, then `EndOfStream`, again and again; our own send is refused."""
    async with met(kit) as m:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, m.near, pattern(200_000))
            await expect(m.far, pattern(200_000))
        with raises(anyio.EndOfStream):
            await m.far.receive()
        with raises(anyio.ClosedResourceError):
            await m.near.send(b"x")


async def keeps_the_other_direction_open(kit: TransportKit) -> None:
    """`send_eof` ends one direction only, also when bytes are already on their way back."""
    async with met(kit) as m:
        await m.far.send(pattern(20_000))
        await m.near.send_eof()
        check(await receive_all(m.far) == b"", "bytes came from nowhere")
        await m.far.send(pattern(20_000))
        await m.far.send_eof()
        check(await receive_all(m.near) == pattern(20_000) * 2, "bytes were lost or mixed after our end")


async def closes(kit: TransportKit) -> None:
    """After `aclose`, also twice: our calls raise `ClosedResourceError`, the peer reads all and then the end."""
    async with met(kit) as m:
        await m.near.send(pattern(20_000))
        await m.near.aclose()
        await m.near.aclose()
        for call in (m.near.receive(), m.near.send(b"x"), m.near.send_eof()):
            with raises(anyio.ClosedResourceError):
                await call
        check(await receive_all(m.far) == pattern(20_000), "bytes before the close were lost")


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
        with raises(anyio.BrokenResourceError):
            while True:
                await m.near.send(pattern(PIECE_BYTES))


async def closes_in_bounded_time(kit: TransportKit) -> None:
    """`aclose` returns soon, though the peer does not read and a send hangs."""
    async with met(kit) as m:
        await fill(m.near)
        with trio.fail_after(4):
            await m.near.aclose()


async def closes_with_its_endpoint(kit: TransportKit) -> None:
    """Leaving the endpoint's context closes its channels and ends `accept` and `dial`; the peer notices."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with kit.make().open(KeyPair.generate()) as dialler:
            async with kit.make().open(KeyPair.generate()) as listener:
                m = await meet(dialler, listener)
            for call in (listener.accept(), listener.dial(dialler.addresses[0])):
                with raises(anyio.ClosedResourceError):
                    await call
            with raises(anyio.ClosedResourceError):
                await m.far.receive()
            with raises(anyio.EndOfStream, or_else=anyio.BrokenResourceError):
                await m.near.receive()
            with raises(UnreachableError):
                await dialler.dial(listener.addresses[0])


async def takes_an_address_once(kit: TransportKit) -> None:
    """A taken address raises `AddressInUseError`; after the listener has closed it can be had again, at once."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with kit.make().open(KeyPair.generate()) as first:
            address = first.addresses[0].rpartition("/p2p/")[0]
            with raises(AddressInUseError):
                async with kit.make_at(address).open(KeyPair.generate()):
                    pass
            async with kit.make().open(KeyPair.generate()) as other:
                await echo(await meet(other, first), b"not disturbed")
        async with kit.make_at(address).open(KeyPair.generate()) as second:
            check(second.addresses[0].rpartition("/p2p/")[0] == address, "it listens elsewhere")


async def lets_errors_through(kit: TransportKit) -> None:
    """An error of the code inside the context leaves it as it is, in no exception group."""
    with trio.fail_after(CASE_TIMEOUT_S), raises(LookupError):
        async with kit.make().open(KeyPair.generate()):
            raise LookupError


async def _expect_closed(channel: Channel) -> None:
    with raises(anyio.ClosedResourceError):
        await channel.receive()
