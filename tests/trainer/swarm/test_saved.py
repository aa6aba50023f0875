"""Saved states: whole or not there, whatever crashes when, and never taken where a bit is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from prime.errors import WorldError
from prime.sim.disk import Disk
from prime.sim.plan import DiskFaults
from prime.sim.streams import Streams
from prime.trainer.swarm.saved import StateFolder
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, ChunkedState, OuterState, chunked

SIZE = CHUNK_SIZE_BYTES // 4 + 9
WORST = DiskFaults(unsynced=True, torn=True, latency_s=0.01)


def cut_of(round_: int, run: str = "run", size: int = SIZE) -> ChunkedState:
    theta, *slots = np.random.default_rng(round_).standard_normal((3, size), np.float32)
    return chunked(run, OuterState(round_, 4, theta, tuple(slots)))


def hash_of(round_: int, size: int = SIZE) -> bytes:
    return cut_of(round_, size=size).manifest.state_hash


async def test_the_last_state_comes_back_with_its_round_and_epoch(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "deep" / "states")
    assert (await folder.find("run")).state is None
    for round_ in (3, 7, 5):  # a run that was founded anew begins with lower rounds again
        await folder.save(cut_of(round_))
    state = (await folder.find("run")).state
    assert state is not None
    assert (state.round, state.epoch, state.state_hash()) == (5, 4, hash_of(5))
    assert state.theta.flags.writeable  # torch takes no other
    assert len(list((tmp_path / "deep" / "states").iterdir())) == 2
    assert (await folder.find("other")).state is None
    assert (await folder.find("run~1")).state is not None, "a successor goes on from it"


async def test_a_damaged_state_is_named_and_the_one_before_it_taken(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    for round_ in (3, 4):
        await folder.save(cut_of(round_))
    newest = tmp_path / "000000000002-round-4.state"
    whole = newest.read_bytes()
    for at in (0, 25, 60, 200, len(whole) // 2, len(whole) - 1):
        newest.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = await folder.find("run")
        assert found.state is not None
        assert found.state.state_hash() == hash_of(3)
        assert len(found.faults) == 1
        assert str(newest) in found.faults[0]
    for length in (0, 10, len(whole) - 1):
        newest.write_bytes(whole[:length])
        assert len((await folder.find("run")).faults) == 1
    newest.write_bytes(whole)
    found = await folder.find("run")
    assert found.state is not None
    assert (found.state.round, found.faults) == (4, ())


@pytest.mark.parametrize("power", [True, False])
async def test_a_crash_at_any_call_leaves_the_state_before_or_the_new_one(power: bool, autojump_clock: object) -> None:
    calls, small = 0, 100
    outcomes = set()
    while 4 not in outcomes:
        disk = Disk("a", Streams(calls), WORST)
        folder = StateFolder(Path("/states"), disk.files())
        await folder.save(cut_of(3, size=small))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_save_quietly, folder, cut_of(4, size=small))
            await trio.sleep(WORST.latency_s * (calls + 0.5))
            disk.crash(power=power)
        found = await StateFolder(Path("/states"), disk.files()).find("run")
        assert found.state is not None
        assert found.faults == ()
        assert found.state.state_hash() == hash_of(found.state.round, size=small)
        outcomes.add(found.state.round)
        calls += 1
    assert 3 in outcomes
    assert calls < 60


async def _save_quietly(folder: StateFolder, cut: ChunkedState) -> None:
    try:
        await folder.save(cut)
    except WorldError:
        return


async def test_a_disk_that_refuses_says_so(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("in the way")
    with pytest.raises(WorldError, match="states") as caught:
        await StateFolder(tmp_path / "states" / "run").save(cut_of(3))
    assert "free space" in caught.value.hint
