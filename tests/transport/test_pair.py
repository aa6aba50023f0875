"""The pair: one channel between two ends, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio

from prime.errors import UnreachableError
from prime.transport.identity import KeyPair
from prime.transport.pair import PAIR_ADDRESS, Pair, PairEndpoint

WAIT_S = 10


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[PairEndpoint, PairEndpoint]]:
    """Yield the end that dials and the end that accepts."""
    ours, theirs = socket.socketpair()
    with trio.fail_after(WAIT_S):
        async with (
            Pair(ours, dials=True).open(KeyPair.generate()) as parent,
            Pair(theirs, dials=False).open(KeyPair.generate()) as child,
        ):
            yield parent, child


async def test_each_end_knows_the_others_name_and_bytes_pass_both_ways() -> None:
    async with ends() as (parent, child), trio.open_nursery() as nursery:
        channels = {}

        async def accept() -> None:
            channels["child"] = await child.accept()

        nursery.start_soon(accept)
        here = await parent.dial(PAIR_ADDRESS)
        assert here.peer == child.peer
        while "child" not in channels:
            await trio.lowlevel.checkpoint()
        there = channels["child"]
        assert there.peer == parent.peer
        await here.send(b"down")
        assert await there.receive() == b"down"
        await there.send(b"up")
        assert await here.receive() == b"up"
        await here.aclose()
        with pytest.raises(anyio.EndOfStream):
            await there.receive()
        await there.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await child.accept()  # nothing else will ever come


async def test_there_is_one_channel_and_no_third_end() -> None:
    async with ends() as (parent, child):
        with pytest.raises(UnreachableError, match="its other end alone"):
            await parent.dial("/memory/elsewhere")
        with pytest.raises(UnreachableError, match="its other end alone"):
            await child.dial(PAIR_ADDRESS)
        assert parent.addresses == child.addresses == ()
        child.close_nowait()
        with pytest.raises(UnreachableError, match="ended before it was reached"):
            await parent.dial(PAIR_ADDRESS)
        with pytest.raises(UnreachableError):
            await parent.dial(PAIR_ADDRESS)
