"""Prime's ends of the network bench: actors of two nodes, through the public API alone.

Run by the bench as `_net_ours.py far TRANSPORT WHAT` and `_net_ours.py near TRANSPORT WHAT ADDRESS`. With
`PRIME_BENCH_PROFILE=FILE` each end writes a profile to `FILE.far` and `FILE.near`: for who tunes, not for figures.
"""

from __future__ import annotations

import contextlib
import cProfile
import os
import pstats
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import trio
from _ends import ANSWER_S, BATCH_BYTES, MEBIBYTE, SMALL_BYTES, Watch, answer, questions

import prime
from prime import Actor, Ask, Ref, on
from prime.wire import Payload

LISTEN = "/ip4/127.0.0.1/tcp/0"
IN_FLIGHT = 64
DIALS = 5


@prime.message(tag=0x7BA1)
class Chunk:
    """A piece of something big."""

    data: Payload


@prime.message(tag=0x7BA2)
class Taken(Ask[int]):
    """How many bytes of chunks came."""


@prime.message(tag=0x7BA3)
class Echo(Ask[bytes]):
    """Say it again."""

    data: bytes


@prime.message(tag=0x7BA4)
class Next(Ask[int]):
    """What comes after a number."""

    number: int


class Far(Actor[Chunk | Taken | Echo | Next]):
    """Takes chunks and answers."""

    def __init__(self) -> None:
        self.taken_bytes = 0

    @on(Chunk)
    def chunk(self, m: Chunk) -> None:
        self.taken_bytes += len(m.data)

    @on(Taken)
    def taken(self, _: Taken) -> int:
        return self.taken_bytes

    @on(Echo)
    def echo(self, m: Echo) -> bytes:
        return m.data

    @on(Next)
    def next(self, m: Next) -> int:
        return m.number + 1


FarRef = Ref[Chunk | Taken | Echo | Next]


async def bulk(far: FarRef) -> float:
    """Return MB/s of payloads of 1 MiB, one way, from the first tell until all are handled at the far end."""
    watch = Watch()
    before = await far.ask(Taken(), timeout=ANSWER_S)
    while not watch.over:
        for _ in range(BATCH_BYTES // len(MEBIBYTE)):
            await far.tell(Chunk(MEBIBYTE))
        watch.sent_bytes += BATCH_BYTES
        handled = await far.ask(Taken(), timeout=ANSWER_S) - before
        assert handled == watch.sent_bytes, f"{watch.sent_bytes} bytes sent, {handled} handled"
    return watch.megabytes_a_second()


async def rtt(far: FarRef) -> float:
    """Return the median round trip of an ask and its answer, 100 bytes in each, in ms."""
    watch, data, took = Watch(), bytes(SMALL_BYTES), list[float]()
    while not watch.over:
        started = time.perf_counter()
        await far.ask(Echo(data), timeout=ANSWER_S)
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


async def ask_64(far: FarRef) -> float:
    """Return asks a second, 64 of them waiting at a time, each from a task of its own."""
    watch, asked = Watch(), 0

    async def keep_asking() -> None:
        nonlocal asked
        while not watch.over:
            await far.ask(Next(asked), timeout=ANSWER_S)
            asked += 1

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(keep_asking)
    return asked / watch.took_s


BLOCKS: dict[str, Callable[[FarRef], Awaitable[float]]] = {"bulk": bulk, "rtt": rtt, "ask_64": ask_64}


async def connect(transport: Any, address: str) -> float:
    """Return the median time that new nodes take to dial, until messages may go, in ms."""
    took = []
    for _ in range(DIALS):
        async with prime.open_system(transport=transport) as system:
            assert system.network is not None
            started = time.perf_counter()
            await system.network.dial(address)
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


async def near(transport: Any, what: str, address: str) -> None:
    """Be the near end."""
    if what == "connect":
        await _blocks(lambda: connect(transport, address))
        return
    async with prime.open_system(transport=transport) as system:
        assert system.network is not None
        far = system.ref(await system.network.dial(address), "/bench/far", Far)
        await _blocks(lambda: BLOCKS[what](far))


async def _blocks(block: Callable[[], Awaitable[float]]) -> None:
    answer("ready")
    async for _ in questions():
        answer(await block())


async def far(transport: Any) -> None:
    """Be the far end."""
    async with prime.open_system(transport=transport) as system, system.supervisor("bench") as supervisor:
        await supervisor.spawn(Far, "far")
        answer(system.addresses[0])
        async for _ in questions():
            pass


@contextlib.contextmanager
def profile(side: str) -> Iterator[None]:
    """Write a profile of one end, where that is wanted."""
    path = os.environ.get("PRIME_BENCH_PROFILE")
    if not path:
        yield
        return
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        yield
    finally:
        profiler.disable()
        with Path(f"{path}.{side}").open("w", encoding="utf-8") as file:
            pstats.Stats(profiler, stream=file).sort_stats("tottime").print_stats(50)


def main(side: str, transport_name: str, what: str, address: str = "") -> None:
    """Run one end until the bench is gone."""
    transport = {"tcp": prime.Tcp, "libp2p": prime.Libp2p}[transport_name](LISTEN)
    with profile(side):
        if side == "far":
            trio.run(far, transport)
        else:
            trio.run(near, transport, what, address)


if __name__ == "__main__":
    main(*sys.argv[1:])
