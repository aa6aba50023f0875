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
from prime.store.files import SystemFiles
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
    assert (await folder.find("run~1-00c0ffee")).state is not None, "a successor goes on from it"


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


class Counting(SystemFiles):
    """Counts the bytes written."""

    written = 0

    def write(self, handle: int, data: bytes | memoryview, at: int) -> int:
        taken = super().write(handle, data, at)
        self.written += taken
        return taken


def touched(round_: int, chunks: int = 8) -> ChunkedState:
    """Return a state of which each round changes the next quarter."""
    theta = np.zeros(chunks * CHUNK_SIZE_BYTES // 4, np.float32)
    for each in range(1, round_ + 1):
        start = (each % 4) * theta.size // 4
        theta[start : start + theta.size // 4] = each
    return chunked("run", OuterState(round_, 4, theta, ()))


async def test_of_a_state_that_changed_in_part_only_that_part_is_written(tmp_path: Path) -> None:
    files = Counting()
    folder = StateFolder(tmp_path, files)
    sizes = []
    for round_ in range(1, 10):
        before = files.written
        await folder.save(touched(round_))
        sizes.append((files.written - before) // CHUNK_SIZE_BYTES)
        found = await StateFolder(tmp_path).find("run")
        assert found.faults == ()
        assert found.state is not None
        assert found.state.state_hash() == touched(round_).manifest.state_hash
    assert sizes == [8, 8, *[4] * 7]  # the file of the round before the last lacks two quarters
    assert set(files.names(tmp_path)) == {f"{round_:012d}-round-{round_}.state" for round_ in (8, 9)}
    files.remove(tmp_path / "000000000009-round-9.state")
    found = await StateFolder(tmp_path).find("run")
    assert found.state is not None
    assert found.state.round == 8  # it is whole as well


@pytest.mark.parametrize("power", [True, False])
async def test_a_crash_while_a_part_is_written_leaves_a_state_of_the_last_rounds(
    power: bool, autojump_clock: object
) -> None:
    calls = 0
    outcomes: set[int] = set()
    while 4 not in outcomes:
        disk = Disk("a", Streams(calls), WORST)
        folder = StateFolder(Path("/states"), disk.files())
        for round_ in (2, 3):
            await folder.save(touched(round_))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_save_quietly, folder, touched(4))
            await trio.sleep(WORST.latency_s * (calls + 0.5))
            disk.crash(power=power)
        found = await StateFolder(Path("/states"), disk.files()).find("run")
        assert found.state is not None
        assert found.faults == ()
        assert found.state.round in (3, 4)
        assert found.state.state_hash() == touched(found.state.round).manifest.state_hash
        outcomes.add(found.state.round)
        calls += 1
    assert outcomes == {3, 4}
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
