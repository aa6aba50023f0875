"""The store in a simulated world: both scenarios under many seeds, and the wiring of a node's disk to the plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from prime import sim
from prime.errors import CorruptedError, WorldError
from prime.sim.disk import SimulatedFiles
from prime.sim.plan import BitFlip, Crash, DiskFaults, DiskFull, DiskGone, Plan
from prime.sim.run import Scenario, load
from prime.sim.world import Node, World
from prime.store import FileJournal

JOURNALS = load("prime.sim.scenarios.store:journals")
ACCOUNTS = load("prime.sim.scenarios.store:accounts")


@pytest.mark.parametrize("seed", range(12))
def test_the_journal_outlives_every_fault_of_a_disk(seed: int) -> None:
    outcome = sim.run(seed, JOURNALS)
    assert outcome.ok, outcome.error


@pytest.mark.parametrize("seed", range(4))
def test_actors_that_persist_outlive_every_fault_of_a_disk(seed: int) -> None:
    outcome = sim.run(seed, ACCOUNTS)
    assert outcome.ok, outcome.error


@pytest.mark.parametrize(("seed", "scenario"), [(83, JOURNALS), (120, JOURNALS), (17, ACCOUNTS), (1025, ACCOUNTS)])
def test_seeds_that_once_failed(seed: int, scenario: Scenario) -> None:
    """A wrong bit in the last record cut it off, silently; a number is asked for before the first of a new disk;
    a visitor and the actor met the same damage at once.
    """
    outcome = sim.run(seed, scenario)
    assert outcome.ok, outcome.error


@pytest.mark.parametrize("call", ["sync", "sync_folder"])
def test_a_store_that_does_not_sync_is_found(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the scenarios are for: acknowledged is only what survives."""
    monkeypatch.setattr(SimulatedFiles, call, lambda _files, _what: None)
    assert any(sim.run(seed, JOURNALS).violated == "a journal holds what it acknowledged" for seed in range(60))


@pytest.mark.parametrize("scenario", [JOURNALS, ACCOUNTS])
def test_the_same_seed_is_the_same_run(scenario: Scenario) -> None:
    assert sim.run(3, scenario).trace == sim.run(3, scenario).trace != sim.run(4, scenario).trace


def played(body: Callable[[World], Awaitable[None]], plan: Plan) -> None:
    outcome = sim.run(0, sim.scenario(nodes=1, storm_s=plan.storm_s)(body), plan)
    assert outcome.ok, outcome.error


@attrs.define
class Seen:
    """What the lives of a node found."""

    lives: list[object] = attrs.field(factory=list)


@pytest.mark.parametrize(
    ("crash", "left"),
    [
        (Crash("n1", 2.0), [b"one"]),
        (Crash("n1", 2.0, machine=True), [b"one"]),
        (Crash("n1", 2.0, disk="lost"), []),
    ],
)
def test_a_node_comes_back_with_its_disk_or_without(crash: Crash, left: list[bytes]) -> None:
    seen = Seen()

    async def main(node: Node) -> None:
        journal = await node.disk.journal("j")
        seen.lives.append(journal.records())
        await journal.append(b"one")
        await trio.sleep_forever()

    async def body(world: World) -> None:
        world.start(main)
        await world.storm()
        await trio.sleep(1)

    played(body, Plan(disk=DiskFaults(unsynced=True, torn=True), actions=(crash,), storm_s=5.0))
    assert seen.lives == [[], left]


def test_a_disk_is_full_and_gone_for_a_time_and_flips_a_bit() -> None:
    seen = Seen()

    async def tried(journal: FileJournal) -> None:
        try:
            await journal.append(b"x" * 100)
            journal.records()
            seen.lives.append("well")
        except WorldError as error:
            seen.lives.append("damaged" if isinstance(error, CorruptedError) else str(error).rpartition(": ")[2])

    async def main(node: Node) -> None:
        journal = await node.disk.journal("j")
        for _ in range(7):
            await tried(journal)
            await trio.sleep(1)

    async def body(world: World) -> None:
        world.start(main)
        await world.storm()

    faults = (DiskFull("n1", 0.5, 1.0), DiskGone("n1", 2.5, 1.0), BitFlip("n1", 5.5))
    played(body, Plan(actions=faults, storm_s=10.0))
    assert seen.lives == ["well", "No space left on device", "well", "Input/output error", "well", "well", "damaged"]


def test_after_the_storm_the_disk_is_well() -> None:
    async def main(node: Node) -> None:
        await trio.sleep_forever()

    async def body(world: World) -> None:
        world.start(main)
        await trio.sleep(2)
        disk = world.node("n1").disk
        assert disk.gone and disk.full
        await world.storm()
        assert not disk.gone and not disk.full and disk.faults == DiskFaults()

    faults = (DiskFull("n1", 1.0, 100.0), DiskGone("n1", 1.0, 100.0))
    played(body, Plan(disk=DiskFaults(unsynced=True), actions=faults, storm_s=3.0))
