"""An actor: tell, ask, a crash and its restart.

Run: python examples/01_hello.py
"""

from __future__ import annotations

import trio

import prime
from prime import Actor, Ask, Restart, on


@prime.message
class Greet:
    """Said with `tell`: nobody waits for an answer."""

    name: str


@prime.message
class CountGreeted(Ask[int]):
    """Said with `ask`: the message itself says that the answer is an int."""


class Greeter(Actor[Greet | CountGreeted]):
    """Handles one message at a time, so its state needs no lock."""

    def __init__(self) -> None:
        self.greeted = 0

    @on(Greet)
    def greet(self, m: Greet) -> None:
        if not m.name:
            raise ValueError("nobody to greet")
        self.greeted += 1
        print(f"Hello, {m.name}!")

    @on(CountGreeted)
    def count(self, _: CountGreeted) -> int:
        return self.greeted


async def main() -> None:
    # The supervisor owns its actors: when one fails it makes a fresh one, at most five times in ten seconds.
    async with (
        prime.open_system() as system,
        system.supervisor("hall", restart=Restart(max=5, within=10, backoff=(0.1, 1))) as hall,
    ):
        greeter = await hall.spawn(Greeter, "greeter")

        await greeter.tell(Greet("world"))
        await greeter.tell(Greet("Trio"))
        print("greeted:", await greeter.ask(CountGreeted(), timeout=5))

        await greeter.tell(Greet(""))  # the handler raises: this incarnation ends; mailbox and ref stay
        print("greeted, after a crash:", await greeter.ask(CountGreeted(), timeout=5))
        (hall_now,) = system.tree()
        (info,) = hall_now.children
        print(f"{info.path} was restarted {info.restarts} time: {info.last_failure}")


if __name__ == "__main__":
    trio.run(main)
