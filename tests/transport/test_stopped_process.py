"""A process that the system stops and lets go on: its peers wait, lose nothing, and close when they want to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trio

from prime.testing.transport import pattern, receive_all
from prime.transport.choice import transport_named
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair

PROGRAM = Path(__file__).with_name("echo_process.py")
SIZE_BYTES = 24 << 20


@asynccontextmanager
async def dialled(name: str, folder: Path) -> AsyncIterator[tuple[Channel, int]]:
    """Start the program and dial it; yields the channel and the process id."""
    places = {"unix": (f"/unix{folder}/far", f"/unix{folder}/near")}.get(name, ("", ""))
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROGRAM), name, places[0]],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        address = (await process.stdout.receive_some()).decode().strip()
        async with transport_named(name, places[1]).open(KeyPair.generate()) as endpoint:
            yield await endpoint.dial(address), process.pid
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()


async def send_all(channel: Channel) -> None:
    await channel.send(pattern(SIZE_BYTES))
    await channel.send_eof()


EACH = pytest.mark.parametrize("name", ["unix", "tcp", pytest.param("libp2p", marks=pytest.mark.nightly)])


@EACH
async def test_what_was_on_its_way_to_a_stopped_process_arrives_when_it_goes_on(name: str, tmp_path: Path) -> None:
    pytest.importorskip("libp2p" if name == "libp2p" else "trio")
    with trio.fail_after(90):
        async with dialled(name, tmp_path) as (channel, pid), trio.open_nursery() as nursery:
            nursery.start_soon(send_all, channel)
            await trio.sleep(0.02)
            os.kill(pid, signal.SIGSTOP)
            await trio.sleep(0.5)
            os.kill(pid, signal.SIGCONT)
            assert await receive_all(channel) == pattern(SIZE_BYTES)


@EACH
async def test_a_channel_to_a_stopped_process_can_be_closed_and_one_to_a_killed_process_breaks(
    name: str, tmp_path: Path
) -> None:
    pytest.importorskip("libp2p" if name == "libp2p" else "trio")
    with trio.fail_after(60):
        async with dialled(name, tmp_path) as (channel, pid):
            os.kill(pid, signal.SIGSTOP)
            with trio.move_on_after(0.3):
                await channel.send(pattern(SIZE_BYTES))
            with trio.fail_after(4):
                await channel.aclose()
        async with dialled(name, tmp_path) as (channel, pid):
            os.kill(pid, signal.SIGKILL)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await channel.receive()
