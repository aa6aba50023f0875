"""Scenarios for the tests of searching, replaying and shrinking: one that holds, and one for each way to fail."""

from __future__ import annotations

import os
import signal

import trio

from prime import sim
from prime.sim.plan import draw


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


@sim.scenario(nodes=4, nodes_min=2, storm_s=20, quiet_s=10)
async def stumbles(world: sim.World) -> None:
    """Break when the second node stands still for a second, and there was enough work."""
    writes = world.choose("writes", 1, 50)

    def stands_still() -> bool:
        return any(event.kind == "pauses" and event.node == "n2" for event in world.history)

    world.start(sleeper)
    await world.storm()
    if stands_still() and writes >= 5:
        raise sim.ViolationError(f"nobody stumbles: after {writes} writes", name="nobody stumbles")


async def sleeper(node: sim.Node) -> None:
    """Do nothing for a long time."""
    await trio.sleep_forever()


@sim.scenario(nodes=2, kinds=frozenset({"pause", "skew"}), storm_s=5, quiet_s=5)
async def has_two_bugs(world: sim.World) -> None:
    """Break a second rule where nothing happens, so that shrinking may slip from the first to the second."""
    world.start(sleeper)
    await world.storm()
    if any(event.kind == "pauses" for event in world.history):
        raise sim.ViolationError("nobody pauses", name="nobody pauses")
    raise sim.ViolationError("something happens", name="something happens")


@sim.scenario(nodes=2, kinds=frozenset({"pause"}), storm_s=5, quiet_s=5)
async def is_brittle(world: sim.World) -> None:
    """Fail under the very plan that was drawn for seed 4, and no other."""
    await world.storm()
    assert world.plan.actions != IS_BRITTLE.actions, "brittle"


@sim.scenario(nodes=1, kinds=frozenset())
async def interrupts(world: sim.World) -> None:
    """Fail, after what Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)
    await trio.sleep(1)
    raise sim.ViolationError("never")


IS_BRITTLE = draw(4, is_brittle.space)
