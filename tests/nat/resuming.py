"""One of two nodes that tell each other numbers reliably while the network between them is cut and healed.

`resuming.py TRANSPORT HOST SEED`; it prints its address, reads the other's, and sends from `send` to `stop`, when it says
as JSON how many it told and what it got, when (seconds of the machine's monotonic clock).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

import prime
from prime import Actor, KeyPair, System, on
from prime.actor.contract import PeerId
from prime.transport.links import LinkLimits

EVERY_S = 0.05


@prime.message(tag=0x7A6C)
class Step:
    number: int


class Sink(Actor[Step]):
    """Writes down what it gets, and when."""

    def __init__(self, got: list[tuple[float, int]]) -> None:
        self.got = got

    @on(Step)
    def step(self, m: Step) -> None:
        self.got.append((time.monotonic(), m.number))


async def line() -> str:
    return (await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)).strip()


async def send(system: System, peer: PeerId, stop: trio.Event) -> int:
    ref, number = system.ref(peer, "/s/sink", Sink, reliable=True), 0
    while not stop.is_set():
        await ref.tell(Step(number))
        number += 1
        await trio.sleep(EVERY_S)
    await ref.flushed(timeout=30)
    return number


async def main(kind: str, host: str, seed: str) -> None:
    transport: Any = {"tcp": prime.Tcp, "libp2p": prime.Libp2p}[kind](f"/ip4/{host}/tcp/4001")
    key = KeyPair.from_seed(seed.encode() * 32)
    got, told, stop = list[tuple[float, int]](), 0, trio.Event()
    limits = LinkLimits(reliable_give_up_s=600, reliable_messages=4096)
    async with prime.open_system(transport=transport, key=key, limits=limits) as system, system.supervisor("s") as sup:
        await sup.spawn(lambda: Sink(got), "sink")
        print(system.addresses[0], flush=True)
        address = await line()
        peer = PeerId(address.rpartition("/")[2])
        system.learn(peer, (address,))

        async def talk() -> None:
            nonlocal told
            told = await send(system, peer, stop)

        async with trio.open_nursery() as nursery:
            while (word := await line()) != "stop":
                if word == "send":
                    nursery.start_soon(talk)
            stop.set()
        print("told", flush=True)
        await line()  # the other has all, too
        print(json.dumps({"told": told, "got": got}), flush=True)


trio.run(main, *sys.argv[1:])
