"""Streams of protocols other than the actors', which rooms above answer and open without knowing libp2p."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio

pytest.importorskip("libp2p")

from prime.errors import RefusedError, UnreachableError, WrongPeerError
from prime.testing.transport import receive_all, receive_exactly
from prime.transport.contract import Channel, Protocols
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p

ECHO = "/test/echo/1"


async def echo(channel: Channel) -> None:
    async for data in channel:
        await channel.send(data)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Any, Any]]:
    with trio.fail_after(20):
        async with Libp2p().open(KeyPair.generate()) as near, Libp2p().open(KeyPair.generate()) as far:
            yield near, far


async def test_a_stream_is_answered_over_the_one_connection() -> None:
    async with two() as (near, far):
        assert isinstance(near, Protocols)
        far.answer(ECHO, echo)
        for turn in range(3):
            async with await near.open_stream(ECHO, far.peer, far.addresses) as channel:
                assert channel.peer == far.peer
                await channel.send(b"turn %d" % turn)
                assert await receive_exactly(channel, 6) == b"turn %d" % turn
        assert len(near.connections) == len(far.connections) == 1


async def test_the_acceptor_of_a_connection_opens_streams_over_it() -> None:
    async with two() as (near, far):
        near.answer(ECHO, echo)
        far.answer(ECHO, echo)
        first = await near.open_stream(ECHO, far.peer, far.addresses)
        async with await far.open_stream(ECHO, near.peer) as channel:
            await channel.send(b"back")
            assert await receive_exactly(channel, 4) == b"back"
        await first.aclose()
        assert len(near.connections) == 1


async def test_what_py_libp2p_has_negotiated_is_answered_too() -> None:
    async with two() as (near, far):
        far.answer(ECHO, echo)
        await (await near.open_stream(ECHO, far.peer, far.addresses)).aclose()
        from libp2p.peer.id import ID

        # A proposal of something else first, so that the stream is left to py-libp2p.
        stream = await near.host.new_stream(ID.from_string(far.peer), ["/test/unknown/1", ECHO])
        await stream.write(b"slowly")
        assert await stream.read(6) == b"slowly"
        await stream.close()


async def test_identify_tells_what_is_answered_and_where() -> None:
    async with two() as (near, far):
        stop = far.answer(ECHO, echo)
        await (await near.open_stream(ECHO, far.peer, far.addresses)).aclose()
        said = await near.identify(far.peer)
        assert ECHO in said.protocols
        assert [f"{each}/p2p/{far.peer}" for each in said.addresses] == list(far.addresses)
        assert said.remote == far.addresses[0].rpartition("/p2p/")[0]
        stop()
        assert ECHO not in (await near.identify(far.peer)).protocols
        with pytest.raises(UnreachableError, match=ECHO):
            await near.open_stream(ECHO, far.peer)


async def test_a_handler_that_raises_breaks_its_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(channel: Channel) -> None:
        if await channel.receive() == b"world":
            raise RefusedError("not today", hint="Come again tomorrow.")
        raise ZeroDivisionError

    async with two() as (near, far):
        far.answer(ECHO, echo)
        far.answer("/test/broken/1", broken)
        whole = await near.open_stream(ECHO, far.peer, far.addresses)
        for word in (b"world", b"bug"):
            channel = await near.open_stream("/test/broken/1", far.peer)
            await channel.send(word)
            with pytest.raises(anyio.BrokenResourceError):
                await channel.receive()
        await whole.send(b"still here")
        assert await receive_exactly(whole, 10) == b"still here"
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]


async def test_a_handler_that_returns_ends_its_stream() -> None:
    async def once(channel: Channel) -> None:
        await channel.send(await channel.receive())

    async with two() as (near, far):
        far.answer(ECHO, once)
        channel = await near.open_stream(ECHO, far.peer, far.addresses)
        await channel.send(b"all")
        assert await receive_all(channel) == b"all"


async def test_streams_are_bounded_and_room_comes_back() -> None:
    async with two() as (near, far):
        far.answer(ECHO, echo, peer_streams_max=2)
        held = [await near.open_stream(ECHO, far.peer, far.addresses) for _ in range(2)]
        for each in held:
            await each.send(b"x")
            await each.receive()
        assert not await is_echoed(near, far)
        await held.pop().aclose()
        while not await is_echoed(near, far):  # noqa: ASYNC110 (nobody tells when the far side has room again)
            await trio.sleep(0.01)


async def is_echoed(near: Any, far: Any) -> bool:
    try:
        async with await near.open_stream(ECHO, far.peer) as channel:
            await channel.send(b"y")
            return await receive_exactly(channel, 1) == b"y"
    except (UnreachableError, anyio.BrokenResourceError, anyio.EndOfStream):
        return False


async def test_stopping_ends_streams_that_are_open() -> None:
    async with two() as (near, far):
        stop = far.answer(ECHO, echo)
        channel = await near.open_stream(ECHO, far.peer, far.addresses)
        await channel.send(b"x")
        await channel.receive()
        stop()
        stop()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await channel.receive()


async def test_a_peer_without_a_known_address_is_unreachable() -> None:
    async with two() as (near, far):
        with pytest.raises(UnreachableError, match="no address"):
            await near.open_stream(ECHO, far.peer)
        with pytest.raises(UnreachableError, match="no address"):
            await near.identify(far.peer)


async def test_the_next_address_is_tried_and_another_peer_is_not_taken() -> None:
    async with two() as (near, far):
        far.answer(ECHO, echo)
        unused = f"/ip4/127.0.0.1/tcp/1/p2p/{far.peer}"
        async with await near.open_stream(ECHO, far.peer, (unused, *far.addresses)) as channel:
            await channel.send(b"x")
            assert await channel.receive() == b"x"
        other = KeyPair.generate().peer
        place = far.addresses[0].rpartition("/p2p/")[0]
        with pytest.raises(WrongPeerError):
            await near.open_stream(ECHO, other, (place,))


async def test_two_streams_at_once_to_a_new_peer_share_a_connection() -> None:
    async with two() as (near, far):
        far.answer(ECHO, echo)
        found = []

        async def one() -> None:
            found.append(await near.open_stream(ECHO, far.peer, far.addresses))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        assert len(found) == 4
        assert len(near.connections) == 1
