"""Scenarios for the tests of searching, replaying and shrinking: one that holds, and one for each way to fail."""

from __future__ import annotations

import os
import signal

import trio

from prime import sim


@sim.scenario(nodes=2, kinds=frozenset({"crash", "pause", "jitter"}), storm_s=5, quiet_s=5)
async def holds(world: sim.World) -> None:
    """Note a number now and then, whatever happens."""
    print("a scenario may print")
    for _ in range(3):
        world.note("draws", number=world.random("numbers").randint(0, 99))
        await trio.sleep(world.random("times").random())


@sim.scenario(nodes=1, kinds=frozenset())
async def fails_on_7(world: sim.World) -> None:
    """Fail on each seed that ends with 7."""
    await trio.sleep(1.5)
    assert world.seed % 10 != 7, "sevens are unlucky"


@sim.scenario(nodes=1, kinds=frozenset())
async def kills_itself(world: sim.World) -> None:
    """Die as the kernel kills what takes too much memory, on seed 3."""
    if world.seed == 3:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


@sim.scenario(nodes=1, kinds=frozenset())
async def hangs(world: sim.World) -> None:
    """Run on and on without an await, on seed 2."""
    while world.seed == 2:
        pass


@sim.scenario(nodes=1, kinds=frozenset())
async def follows_the_hash(world: sim.World) -> None:
    """Depend on something that differs between processes: the order of a set of texts."""
    world.note("draws", order=",".join({"a", "b", "c", "d", "e", "f", "g"}))


NOT_ONE = 3
