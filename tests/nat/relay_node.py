"""Run by the tests in a host: a relay, a node behind one, or one that calls it and says how it got there."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

import prime
from prime.transport.facts import CircuitMoved, HolePunchFailed


@prime.message(tag=0x7C82)
class Count:
    number: int


@prime.message(tag=0x7C83)
class Counted(prime.Ask[tuple[int, bool]]):
    """Ask how many came, and whether each came once and in order."""


class Counter(prime.Actor[Count | Counted]):
    def __init__(self) -> None:
        self.next = 0
        self.right = True

    @prime.on(Count)
    def count(self, m: Count) -> None:
        self.right = self.right and m.number == self.next
        self.next = m.number + 1

    @prime.on(Counted)
    def counted(self, _: Counted) -> tuple[int, bool]:
        return self.next, self.right


TRANSPORTS = {"tcp": prime.Tcp, "libp2p": prime.Libp2p}


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def until_told() -> None:
    await trio.to_thread.run_sync(sys.stdin.readline)


async def relay(kind: str) -> None:
    transport = TRANSPORTS[kind]("/ip4/0.0.0.0/tcp/4001")
    async with prime.open_system(transport=transport, relay=prime.RelayLimits(), reachability=True) as system:
        say(system.addresses[0])
        await until_told()


async def behind(kind: str, via: str) -> None:
    transport = TRANSPORTS[kind]("/ip4/0.0.0.0/tcp/4001")
    async with (
        prime.open_system(transport=transport, via=[via], reachability=True) as system,
        system.supervisor("desk") as supervisor,
    ):
        await supervisor.spawn(Counter, "counter")
        judge = system.network.reachability
        with trio.move_on_after(20):
            while not judge.evidence or judge.outcome.value in {"unknown", "client-only"}:  # noqa: ASYNC110 - as it says
                await trio.sleep(0.1)
        circuits = system.network.announced("circuits")
        say({"outcome": judge.outcome.value, "why": judge.why, "seen": judge.seen, "circuits": circuits,
             "addresses": system.addresses})  # fmt: skip
        await until_told()


async def call(kind: str, address: str, seconds: str) -> None:
    transport = TRANSPORTS[kind]("/ip4/0.0.0.0/tcp/4001")
    facts: list[Any] = []
    async with prime.open_system(transport=transport) as system:
        system.subscribe(facts.append)
        peer = await system.network.dial(address)
        counter = system.ref(peer, "/desk/counter", Counter)
        number = 0
        with trio.move_on_after(float(seconds)):
            while not any(isinstance(fact, CircuitMoved | HolePunchFailed) for fact in facts):
                await counter.tell(Count(number))
                number += 1
                await trio.sleep(0.002)
        for number in range(number, number + 100):  # noqa: B020 - it goes on
            await counter.tell(Count(number))
        count, right = await counter.ask(Counted(), timeout=10)
        say(
            {
                "sent": number + 1,
                "count": count,
                "right": right,
                "relayed": system.network.carrier(peer).relayed,
                "moved": [fact.remote for fact in facts if isinstance(fact, CircuitMoved)],
                "failed": [fact.reason for fact in facts if isinstance(fact, HolePunchFailed)],
                "down": [type(fact).__name__ for fact in facts if type(fact).__name__ == "LinkDown"],
            }
        )


if __name__ == "__main__":
    trio.run({"relay": relay, "behind": behind, "call": call}[sys.argv[1]], *sys.argv[2:])
