"""What is staged for a journal: there with its record after any crash, gone without one, and never half of it."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from prime.actor.contract import StagedRecord
from prime.errors import CorruptedError, WorldError
from prime.sim.disk import Disk
from prime.sim.plan import DiskFaults
from prime.sim.streams import Streams
from prime.store import FileJournal, MemoryJournal
from prime.store.journal import spool_of
from prime.store.spool import MAGIC

WORST = DiskFaults(unsynced=True, torn=True)
SEEDS = range(40)
PIECES = tuple(bytes([65 + index]) * size for index, size in enumerate((700, 1, 3000)))


def named(*pieces: bytes) -> list[tuple[bytes | memoryview, bytes]]:
    return [(memoryview(piece), hashlib.sha256(piece).digest()) for piece in pieces]


async def vote(journal: Any, group: int, body: bytes = b"vote:", pieces: tuple[bytes, ...] = PIECES) -> StagedRecord:
    """Stage pieces in two calls and return the record of them."""
    found = (*await journal.stage(group, named(*pieces[:1])), *await journal.stage(group, named(*pieces[1:])))
    return StagedRecord(body, found)


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_staged_record_reads_as_if_it_had_been_written_in_one(kind: str, tmp_path: Path) -> None:
    journal: Any = MemoryJournal() if kind == "memory" else await FileJournal.open(tmp_path / "j")
    record = await vote(journal, 1)
    await journal.append(b"one")
    await journal.append(record)
    await journal.append(MAGIC + b"a record that looks like a staged one")
    whole = b"vote:" + b"".join(PIECES)
    assert journal.records() == [b"one", whole, MAGIC + b"a record that looks like a staged one"]
    await vote(journal, 2)
    before = journal.size_bytes
    await journal.replace([record, b"two"])
    assert journal.records() == [whole, b"two"]
    assert journal.size_bytes < before - sum(map(len, PIECES))


async def test_a_crash_while_a_vote_is_staged_or_written_keeps_all_of_it_or_nothing() -> None:
    """At each of the disk's calls, with any sectors of what was not synced on the disk, and others not."""
    kept = 0
    for seed in range(120):
        disk = Disk("a", Streams(seed), WORST)
        journal = await disk.journal("j")
        await journal.append(await vote(journal, 1, b"old:"))
        calls = seed % 24
        left = [calls]
        for call in ("write", "sync", "sync_folder", "open", "begin_sync", "make_folder"):
            setattr(disk.files(), call, _Counted(disk, getattr(disk.files(), call), left))
        promised = False
        try:
            record = await vote(journal, 2)
            await journal.append(record)
            promised = True
        except WorldError:
            pass
        disk.crash()
        found = (await disk.journal("j")).records()
        old, new = b"old:" + b"".join(PIECES), b"vote:" + b"".join(PIECES)
        assert found in ([old], [old, new])
        assert not promised or len(found) == 2
        kept += len(found) - 1
    assert 0 < kept < 120


class _Counted:
    """A call to the disk that is the last of its life after a number of calls."""

    def __init__(self, disk: Disk, call: Any, left: list[int]) -> None:
        self.disk, self.call, self.left = disk, call, left

    def __call__(self, *arguments: Any) -> Any:
        if not self.left[0]:
            self.disk.gone = True
        self.left[0] -= 1
        try:
            return self.call(*arguments)
        finally:
            self.disk.gone = False


async def test_half_a_spool_is_dropped_and_what_a_record_names_is_kept(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path / "j")
    await journal.append(await vote(journal, 1))
    await journal.stage(2, named(b"x" * 5000))
    journal.close()
    folder = spool_of(tmp_path / "j")
    assert len(list(folder.iterdir())) == 2
    journal = await FileJournal.open(tmp_path / "j")
    assert len(list(folder.iterdir())) == 1
    assert journal.records() == [b"vote:" + b"".join(PIECES)]
    await journal.append(await vote(journal, 2, b"next:"))
    assert journal.records()[1] == b"next:" + b"".join(PIECES)
    journal.close()


@pytest.mark.parametrize("at", [0, 699, 700, 701, sum(map(len, PIECES)) - 1])
@pytest.mark.parametrize("cut", [False, True])
async def test_a_damaged_piece_is_named(at: int, cut: bool, tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path / "j")
    await journal.append(await vote(journal, 1))
    (spool,) = spool_of(tmp_path / "j").iterdir()
    data = bytearray(spool.read_bytes())
    data[at] ^= 4
    spool.write_bytes(data[:at] if cut else data)
    with pytest.raises(CorruptedError, match="damaged") as caught:
        journal.records()
    assert caught.value.hint
    journal.close()


async def test_a_full_disk_takes_no_vote_and_takes_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await FileJournal.open(tmp_path / "j")
    await journal.append(b"one")
    real = os.pwrite

    def full(handle: int, data: Any, at: int) -> int:
        if len(data) > 1000:
            real(handle, data[:50], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(WorldError, match="No space left"):
            await vote(journal, 1)
    await journal.append(await vote(journal, 1))
    assert journal.records() == [b"one", b"vote:" + b"".join(PIECES)]
    journal.close()


async def test_what_a_failed_sync_may_have_dropped_is_never_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second sync of the same bytes succeeds, and they are not on the disk: they have to be staged once more."""
    for seed in SEEDS:
        disk = Disk("a", Streams(seed), WORST)
        journal = await disk.journal("j")
        record = await vote(journal, 1)
        disk.gone = True
        with pytest.raises(WorldError):
            await journal.append(record)
        disk.gone = False
        with pytest.raises(WorldError):
            await journal.append(record)
        await journal.append(await vote(journal, 1))
        disk.crash()
        assert (await disk.journal("j")).records() == [b"vote:" + b"".join(PIECES)]


async def test_the_spools_of_many_rounds_take_no_more_room_than_the_last(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path / "j")
    for round_ in range(10):
        record = await vote(journal, round_)
        await journal.append(record)
        await journal.replace([record])
        assert len(list(spool_of(tmp_path / "j").iterdir())) == 1
    assert journal.records() == [b"vote:" + b"".join(PIECES)]
    await journal.replace([b"nothing staged"])
    assert not list(spool_of(tmp_path / "j").iterdir())
    journal.close()
