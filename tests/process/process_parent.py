"""A program whose actor lives in a child process: `python process_parent.py`, or `python -m process_parent`.

It prints a line for each process it starts, and runs until it is killed.
"""

from __future__ import annotations

import sys

import trio

import prime
from prime import Actor, Ask, Restart, on


@prime.message(tag=0x7180)
class GetPid(Ask[int]):
    pass


class Here(Actor[GetPid]):
    """An actor of the program itself."""

    @on(GetPid)
    def get_pid(self, _: GetPid) -> int:
        import os

        return os.getpid()


async def main(name: str) -> None:
    """Start the actor and keep it."""
    async with prime.open_system() as system, system.supervisor("pool", restart=Restart(max=1000)) as sup:
        here = await sup.spawn_process(name or Here, "here")
        print(await here.ask(GetPid(), timeout=30), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "")
