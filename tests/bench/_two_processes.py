"""Rates between two operating-system processes over the `unix` transport, through the public API alone.

Each function starts a child process, measures for about `SECONDS_S` after a warm-up, and ends the child. `echo_rate` is
what the machine itself allows: one small frame to and fro over a socket, with Trio and nothing else.

Run as a program it prints them all, in turns: python tests/bench/_two_processes.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import trio

import prime
from prime import Actor, Ask, Ref, on

SECONDS_S = 1.0
START_S = 60.0
WARM_UP = 500
BURST = 1000
FRAME_BYTES = 48


@prime.message(tag=0x7B01)
class Note:
    """A small message that wants no answer."""

    number: int


@prime.message(tag=0x7B02)
class Count(Ask[int]):
    """How many notes came."""

    number: int


class Counter(Actor[Note | Count]):
    """Counts notes."""

    def __init__(self) -> None:
        self.notes = 0

    @on(Note)
    def note(self, _: Note) -> None:
        self.notes += 1

    @on(Count)
    def count(self, _: Count) -> int:
        return self.notes


CounterRef = Ref[Note | Count]


def ask_rate(in_flight: int) -> float:
    """Return asks a second with so many of them waiting at a time, each from a task of its own."""
    return _measured(lambda far: _ask_for_a_while(far, in_flight))


def tell_rate() -> float:
    """Return tells a second from one task, until the last one is handled at the other side."""
    return _measured(_tell_for_a_while)


def echo_rate() -> float:
    """Return small frames a second to another process and back, through Trio over a local socket."""
    return trio.run(_echo)


def local_channel_rate() -> float:
    """Return messages a second through a Trio memory channel, from one task to another."""
    return trio.run(_through_channel)


# ------------------------------------------------------------------------------------------------------ the near side


def _measured(work: Callable[[CounterRef], Awaitable[float]]) -> float:
    return trio.run(_with_far_counter, work)


async def _with_far_counter(work: Callable[[CounterRef], Awaitable[float]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            _child("counter", folder) as address,
            prime.open_system(transport=prime.Unix(str(Path(folder, "near", "socket")))) as system,
        ):
            assert system.network is not None
            peer = await system.network.dial(address)
            return await work(system.ref(peer, "/bench/counter", Counter))


async def _ask_for_a_while(far: CounterRef, in_flight: int) -> float:
    for _ in range(WARM_UP):
        await far.ask(Count(0), timeout=START_S)
    asked = 0
    started = trio.current_time()

    async def keep_asking() -> None:
        nonlocal asked
        while trio.current_time() - started < SECONDS_S:
            await far.ask(Count(asked), timeout=START_S)
            asked += 1

    with _profile("near"):
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(keep_asking)
    return asked / (trio.current_time() - started)


async def _tell_for_a_while(far: CounterRef) -> float:
    for _ in range(WARM_UP):
        await far.tell(Note(0))
    before = await far.ask(Count(0), timeout=START_S)
    told = 0
    started = trio.current_time()
    with _profile("near"):
        while trio.current_time() - started < SECONDS_S:
            for number in range(BURST):
                await far.tell(Note(number))
            told += BURST
        handled = await far.ask(Count(0), timeout=START_S) - before
    assert handled == told, f"{told} sent, {handled} handled"
    return told / (trio.current_time() - started)


async def _echo() -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with _child("echo", folder) as address, await trio.open_unix_socket(address) as stream:
            frame = bytes(FRAME_BYTES)
            for _ in range(WARM_UP):
                await _to_and_fro(stream, frame)
            turns = 0
            started = trio.current_time()
            while trio.current_time() - started < SECONDS_S:
                await _to_and_fro(stream, frame)
                turns += 1
            return turns / (trio.current_time() - started)


async def _to_and_fro(stream: trio.SocketStream, frame: bytes) -> None:
    await stream.send_all(frame)
    missing = len(frame)
    while missing:
        missing -= len(await stream.receive_some(65536))


async def _through_channel() -> float:
    sender, receiver = trio.open_memory_channel[int](1024)
    sent = 0

    async def drain() -> None:
        async with receiver:
            async for _ in receiver:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        started = trio.current_time()
        async with sender:
            while trio.current_time() - started < SECONDS_S:
                for number in range(BURST):
                    await sender.send(number)
                sent += BURST
    return sent / (trio.current_time() - started)


@contextlib.asynccontextmanager
async def _child(role: str, folder: str) -> AsyncIterator[str]:
    """Run this file as a child; give what it prints first, and end it with the block."""
    command = [sys.executable, __file__, "--child", role, folder]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            functools.partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        with trio.fail_after(START_S):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some() or b"\n"
        yield line.decode().strip()
        await process.stdin.aclose()
        with trio.move_on_after(START_S):
            await process.wait()
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------------- the far side


async def _serve(role: str, folder: str) -> None:
    await (_serve_counter if role == "counter" else _serve_echo)(folder)


async def _serve_counter(folder: str) -> None:
    transport = prime.Unix(str(Path(folder, "far", "socket")))
    async with prime.open_system(transport=transport) as system, system.supervisor("bench") as supervisor:
        await supervisor.spawn(Counter, "counter")
        print(system.addresses[0], flush=True)
        with _profile("far"):
            await _parent_left()


async def _serve_echo(folder: str) -> None:
    path = str(Path(folder, "echo"))
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen(1)
        print(path, flush=True)
        stream = trio.SocketStream((await listener.accept())[0])
        while data := await stream.receive_some(65536):
            await stream.send_all(data)


async def _parent_left() -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        while await stdin.receive_some():
            pass


# -------------------------------------------------------------------------------------------------------- as a program


@contextlib.contextmanager
def _profile(side: str) -> Iterator[None]:
    """Write a profile of one side to `$PRIME_BENCH_PROFILE.<side>`, where that is set: for who tunes, not for figures."""
    path = os.environ.get("PRIME_BENCH_PROFILE")
    if not path:
        yield
        return
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        with Path(f"{path}.{side}").open("w") as file:
            pstats.Stats(profile, stream=file).sort_stats("tottime").print_stats(60)


CASES: dict[str, Callable[[], float]] = {
    "echo": echo_rate,
    "ask": lambda: ask_rate(1),
    "ask_64": lambda: ask_rate(64),
    "tell": tell_rate,
    "local_channel": local_channel_rate,
}


def main() -> None:
    """Print the median of each rate over rounds that take turns."""
    parser = argparse.ArgumentParser(description="Rates between two processes over the unix transport.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--child", nargs=2, metavar=("ROLE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        trio.run(_serve, *options.child)
        return
    names = options.cases.split(",")
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            rates[name].append(CASES[name]())
    medians = {name: statistics.median(each) for name, each in rates.items()}
    for name, rate in medians.items():
        against = "local_channel" if name == "tell" else "echo"
        ratio = f"{rate / medians[against]:6.2f} x {against}" if against in medians else ""
        print(f"{name:14} {rate:10,.0f}/s {ratio}   {', '.join(f'{each:,.0f}' for each in rates[name])}")


if __name__ == "__main__":
    main()
