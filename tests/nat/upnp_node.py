"""Run by the tests in a host: a node whose port the router maps. Says its addresses; each line asks for them again."""

from __future__ import annotations

import json
import sys

import trio

import prime
from prime.transport.tcp import Tcp
from prime.transport.upnp import Mapped


@prime.message(tag=0x7A31)
class Greet(prime.Ask[str]):
    name: str


class Greeter(prime.Actor[Greet]):
    @prime.on(Greet)
    def greet(self, m: Greet) -> str:
        return f"hello {m.name}"


async def listen(address: str) -> None:
    transport = Mapped(Tcp(address), on_change=lambda text: print(text, file=sys.stderr, flush=True))
    async with prime.open_system(transport=transport) as system, system.supervisor("desk") as supervisor:
        await supervisor.spawn(Greeter, "greeter")
        while True:
            print(json.dumps(system.addresses), flush=True)
            if not (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
                return


async def call(address: str) -> None:
    async with prime.open_system(transport=Tcp()) as system:
        assert system.network is not None
        peer = await system.network.dial(address)
        greeter = system.ref(peer, "/desk/greeter", Greeter)
        print(json.dumps(await greeter.ask(Greet("stranger"), timeout=10)), flush=True)


if __name__ == "__main__":
    trio.run({"listen": listen, "call": call}[sys.argv[1]], sys.argv[2])
