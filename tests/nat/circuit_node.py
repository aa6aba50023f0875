"""Run by the tests in a host: a node that is dialled through a standard libp2p relay, and one that dials it."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

import prime
from prime.transport.facts import LinkUp
from prime.transport.libp2p import Libp2p


@prime.message(tag=0x7A32)
class Repeat(prime.Ask[str]):
    text: str


class Echo(prime.Actor[Repeat]):
    @prime.on(Repeat)
    def repeat(self, m: Repeat) -> str:
        return m.text


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def listen(*relays: str) -> None:
    transport = Libp2p("/ip4/0.0.0.0/tcp/4001", via=relays)
    async with prime.open_system(transport=transport) as system, system.supervisor("s") as supervisor:
        await supervisor.spawn(Echo, "echo")
        said: list[str] = []
        while True:
            circuits = [address for address in system.addresses if "/p2p-circuit/" in address]
            if circuits != said:
                say(circuits)
                said = circuits
            await trio.sleep(0.05)


async def call(address: str) -> None:
    """Dial, then for each line that comes ask with a text of so many letters."""
    ways: list[bool] = []
    async with prime.open_system(transport=Libp2p("/ip4/0.0.0.0/tcp/4001")) as system:
        system.subscribe(lambda fact: ways.append(fact.relayed) if isinstance(fact, LinkUp) else None)
        assert system.network is not None
        peer = await system.network.dial(address)
        echo: Any = system.ref(peer, "/s/echo", Echo)
        while line := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
            text = "x" * int(line)
            say([ways, await echo.ask(Repeat(text), timeout=10) == text])


if __name__ == "__main__":
    trio.run({"listen": listen, "call": call}[sys.argv[1]], *sys.argv[2:])
