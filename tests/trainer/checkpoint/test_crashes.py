"""A crash between any two calls to the disk, with all that a power loss does: the last good checkpoint is there after it."""

from __future__ import annotations

import errno
import hashlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prime.errors import ConfigError, ConflictError, CorruptedError, NotFoundError
from prime.sim.disk import Disk
from prime.sim.plan import DiskFaults
from prime.sim.streams import Streams
from prime.store.files import Files, SystemFiles, Work, finish
from prime.trainer.checkpoint import folders
from prime.trainer.checkpoint.folders import Checkpoint
from prime.trainer.checkpoint.manifest import About, Chunk, Manifest, Shard, StoredTensor, decoded, shard_name
from prime.trainer.checkpoint.names import ABOUT_NAME, FolderName
from prime.trainer.checkpoint.shard import Entry, header, write_shard

FOLDER = Path("/runs/a/checkpoints")
WORST = DiskFaults(unsynced=True, torn=True)
SEEDS = range(4)
ELEMENTS = 300  # of one byte each: the file crosses a sector's border


def disk_with(steps: list[int], seed: int = 0) -> Disk:
    disk = Disk("a", Streams(seed), WORST)
    for step in steps:
        finish(partial(saved, disk.files(), step))
    return disk


def saved(files: Files, step: int, ranks: int = 2, salt: int = 0) -> Work[Path]:
    """Save as the ranks do, one after the other."""
    draft = yield from folders.begin(files, FOLDER, FolderName(step, "draft", f"{salt:08x}"))
    shards = []
    for rank in range(ranks):
        shards += [(yield from write_shard(files, draft / shard_name(rank), *contents(step, rank, salt)))]
    return (yield from folders.publish(files, draft, manifest(step, shards)))


def contents(step: int, rank: int, salt: int) -> tuple[bytes, list[memoryview]]:
    data = hashlib.shake_256(f"{step} {rank} {salt}".encode()).digest(ELEMENTS)
    return header([Entry("w", "uint8", (ELEMENTS,), ELEMENTS)], {}), [memoryview(data[:100]), memoryview(data[100:])]


def manifest(step: int, shards: list[Shard]) -> Manifest:
    chunks = tuple(Chunk((ELEMENTS * at,), (ELEMENTS,), shard.name, "w") for at, shard in enumerate(shards))
    return Manifest(
        step=step,
        world=len(shards),
        saved_at_s=float(step),
        about=About(),
        versions={},
        files=tuple(shards),
        tensors={"model.w": StoredTensor("uint8", (ELEMENTS * len(shards),), chunks)},
        values={},
    )


def sound(files: Files) -> dict[int, Checkpoint]:
    """Return the whole checkpoints by step, after every byte of them was compared with its hash."""
    whole = {one.step: one for one in folders.counting(finish(lambda: folders.look(files, FOLDER))) if one.is_whole}
    for one in whole.values():
        assert finish(partial(folders.verify, files, one.path)) == []
    return whole


def crashes(
    prepare: Callable[[int], Disk], start: Callable[[Files], Work[Any]], *, power: bool = True
) -> Iterator[tuple[Disk, bool]]:
    """Yield the disk after a crash before each call of the work, with each seed, and whether the work was done."""
    for seed in SEEDS:
        for calls in itertools.count():
            disk = prepare(seed)
            is_done = advanced(start(disk.files()), calls)
            disk.crash(power=power)
            yield disk, is_done
            if is_done:
                break


def advanced(work: Work[Any], calls: int) -> bool:
    """Make some calls of a work, and tell whether it is done."""
    try:
        for _ in range(calls):
            next(work)
    except StopIteration:
        return True
    return False


def states(files: Files) -> set[str]:
    return {name.partition(".")[2].partition("-")[0] for name in files.names(FOLDER)}


@pytest.mark.parametrize("power", [True, False])
def test_a_crash_anywhere_in_a_save_leaves_the_last_good_one(power: bool) -> None:
    outcomes = set()
    for disk, is_done in crashes(lambda seed: disk_with([1, 2], seed), lambda files: saved(files, 3), power=power):
        steps = set(sound(disk.files()))
        assert {1, 2} <= steps
        assert not is_done or 3 in steps, "what the call returned from survives"
        outcomes.add((3 in steps, is_done))
        finish(partial(saved, disk.files(), 4, salt=1))
        assert {1, 2, 4} <= sound(disk.files()).keys(), "and the run goes on"
        assert states(disk.files()) == {""}, "what the crash left is away"
        disk.crash()
        assert {1, 2, 4} <= sound(disk.files()).keys()
        assert len(folders.counting(finish(partial(folders.look, disk.files(), FOLDER)))) == len(sound(disk.files()))
    assert outcomes >= {(False, False), (True, True)}


def test_a_crash_anywhere_in_the_first_save_leaves_nothing_that_counts_or_all_of_it() -> None:
    for disk, is_done in crashes(lambda seed: disk_with([], seed), lambda files: saved(files, 1)):
        there = folders.counting(finish(partial(folders.look, disk.files(), FOLDER)))
        assert [one.step for one in there if one.is_whole] == list(sound(disk.files()))
        assert not is_done or len(there) == 1


def test_a_step_that_is_saved_again_is_whole_all_the_time() -> None:
    hashes = set()
    for disk, is_done in crashes(lambda seed: disk_with([1, 2], seed), lambda files: saved(files, 2, salt=1)):
        there = sound(disk.files())
        assert set(there) == {1, 2}
        manifest = there[2].manifest
        assert manifest is not None
        hashes.add((manifest.files[0].sha256, is_done))
    assert len({sha256 for sha256, _ in hashes}) == 2
    assert len([sha256 for sha256, is_done in hashes if is_done]) == 1


def test_a_crash_while_one_is_deleted_leaves_no_half_of_it() -> None:
    def discarded(files: Files) -> Work[None]:
        return folders.discard(files, FOLDER / str(FolderName(1)))

    for disk, is_done in crashes(lambda seed: disk_with([1, 2], seed), discarded):
        there = folders.counting(finish(partial(folders.look, disk.files(), FOLDER)))
        assert all(one.is_whole for one in there)
        assert 2 in sound(disk.files())
        assert not (is_done and 1 in sound(disk.files()))
        finish(partial(folders.tidy, disk.files(), FOLDER))
        assert states(disk.files()) == {""}


def test_a_roll_back_that_a_crash_cut_short_is_finished_by_the_next_and_can_be_undone() -> None:
    def rolled(files: Files) -> Work[Any]:
        return folders.roll_back(files, FOLDER, 1)

    for disk, is_done in crashes(lambda seed: disk_with([1, 2, 3], seed), rolled):
        left = set(sound(disk.files()))
        assert left in ({1}, {1, 2}, {1, 2, 3})
        assert not is_done or left == {1}
        finish(partial(rolled, disk.files()))
        assert set(sound(disk.files())) == {1}
        while "aside" in states(disk.files()):
            finish(partial(folders.undo, disk.files(), FOLDER))
        assert set(sound(disk.files())) == {1, 2, 3}


def test_an_undo_that_a_crash_cut_short_is_finished_by_the_next() -> None:
    def prepared(seed: int) -> Disk:
        disk = disk_with([1, 2, 3], seed)
        finish(partial(folders.roll_back, disk.files(), FOLDER, 1))
        return disk

    for disk, is_done in crashes(prepared, lambda files: folders.undo(files, FOLDER)):
        left = set(sound(disk.files()))
        assert left in ({1}, {1, 2}, {1, 2, 3})
        assert not is_done or left == {1, 2, 3}
        if "aside" in states(disk.files()):
            finish(partial(folders.undo, disk.files(), FOLDER))
        assert set(sound(disk.files())) == {1, 2, 3}


def test_a_disk_that_fills_up_at_any_call_of_a_save_leaves_the_last_good_one_and_no_draft() -> None:
    refused = 0
    for seed, calls in itertools.product(SEEDS, range(60)):
        disk = disk_with([1, 2], seed)
        work = saved(disk.files(), 3)
        if advanced(work, calls):
            continue
        disk.full = True
        try:
            list(work)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it is raised at some calls only
            refused += 1
            finish(partial(folders.discard_draft, disk.files(), FOLDER / str(FolderName(3, "draft", "00000000"))))
        disk.mend()
        assert {1, 2} <= sound(disk.files()).keys()
        assert states(disk.files()) == {""}
        finish(partial(saved, disk.files(), 4, salt=1))
        assert 4 in sound(disk.files())
    assert refused > len(SEEDS), "the disk said no in several places"


def test_any_bit_that_turns_over_is_found_and_its_file_named() -> None:
    for seed in range(200):
        disk = disk_with([1], seed)
        flip = disk.flip()
        assert flip is not None
        found = finish(partial(folders.verify, disk.files(), FOLDER / str(FolderName(1))))
        assert [damage.file for damage in found] == [Path(flip.path).name], flip


def test_every_bit_of_the_about_file_counts(tmp_path: Path) -> None:
    path = finish(lambda: saved_in(tmp_path))
    about = (path / ABOUT_NAME).read_bytes()
    for at, bit in itertools.product(range(len(about)), range(8)):
        wrong = bytearray(about)
        wrong[at] ^= 1 << bit
        with pytest.raises(CorruptedError, match=ABOUT_NAME):
            decoded(bytes(wrong), ABOUT_NAME)


@pytest.mark.parametrize("name", [ABOUT_NAME, shard_name(0), shard_name(1)])
def test_a_file_that_is_cut_off_anywhere_or_missing_makes_it_not_whole_and_is_named(tmp_path: Path, name: str) -> None:
    path = finish(lambda: saved_in(tmp_path))
    data = (path / name).read_bytes()
    for size_bytes in range(len(data)):
        (path / name).write_bytes(data[:size_bytes])
        assert [damage.file for damage in finish(lambda: folders.verify(SystemFiles(), path))] == [name]
        assert name in finish(lambda: folders.examine(SystemFiles(), tmp_path, FolderName(1))).complaint
    (path / name).unlink()
    assert finish(lambda: folders.verify(SystemFiles(), path)) == [folders.Damage(name, "it is missing")]
    assert name in finish(lambda: folders.examine(SystemFiles(), tmp_path, FolderName(1))).complaint
    (path / name).write_bytes(data)
    assert finish(lambda: folders.verify(SystemFiles(), path)) == []


def test_a_shard_that_another_host_wrote_elsewhere_stops_the_save() -> None:
    disk = disk_with([])
    draft = finish(lambda: folders.begin(disk.files(), FOLDER, FolderName(1, "draft", "0")))
    lost = Shard(shard_name(0), 10, "0" * 64)
    with pytest.raises(ConfigError, match="is not there") as raised:
        finish(lambda: folders.publish(disk.files(), draft, manifest(1, [lost])))
    assert "shared file system" in raised.value.hint


def test_a_roll_back_needs_a_whole_one_and_an_undo_a_free_place() -> None:
    disk = disk_with([1, 2, 3])
    files = disk.files()
    with pytest.raises(NotFoundError, match="no step 5") as missing:
        finish(lambda: folders.roll_back(files, FOLDER, 5))
    assert missing.value.hint == "these are whole: 1, 2, 3"
    with pytest.raises(NotFoundError, match="nothing was moved aside"):
        finish(lambda: folders.undo(files, FOLDER))
    assert finish(lambda: folders.roll_back(files, FOLDER, 1)) == [2, 3]
    finish(lambda: saved(files, 2, salt=1))
    with pytest.raises(ConflictError, match="steps 2 were saved again") as taken:
        finish(lambda: folders.undo(files, FOLDER))
    assert "before 2" in taken.value.hint
    finish(lambda: folders.roll_back(files, FOLDER, 1))
    assert finish(lambda: folders.undo(files, FOLDER)) == [2], "the last roll back is undone first"
    files.remove(FOLDER / str(FolderName(1)) / shard_name(0))
    with pytest.raises(NotFoundError, match=r"step 1 is not whole \(rank-00000.safetensors: it is missing"):
        finish(lambda: folders.roll_back(files, FOLDER, 1))


def saved_in(folder: Path) -> Work[Path]:
    """Save step 1 on the real disk."""
    files = SystemFiles()
    draft = yield from folders.begin(files, folder, FolderName(1, "draft", "0"))
    shards = []
    for rank in range(2):
        shards += [(yield from write_shard(files, draft / shard_name(rank), *contents(1, rank, 0)))]
    return (yield from folders.publish(files, draft, manifest(1, shards)))
