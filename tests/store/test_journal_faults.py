"""Faults of the disk that a journal once did not outlive, each by itself."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from prime.errors import CorruptedError, WorldError
from prime.sim.disk import Disk
from prime.sim.plan import DiskFaults
from prime.sim.streams import Streams
from prime.store import FileJournal
from prime.store.flip import flipped_bit
from prime.store.framing import MAGIC, framed, scan

WORST = DiskFaults(unsynced=True, torn=True)
SEEDS = range(40)


def refusing() -> Callable[..., Any]:
    """Return a call to the disk that fails."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    return refuse


class LateRefusal:
    """A sync that comes to the disk, once, and says that it did not."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self.sync, self.has_refused = sync, False

    def __call__(self, handle: int) -> None:
        self.sync(handle)
        if not self.has_refused:
            self.has_refused = True
            raise OSError(errno.EIO, "Input/output error")


async def test_an_append_behind_a_replace_whose_name_was_not_synced_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename could be undone by a crash, and with it all that was appended to the file under its new name."""
    for seed in SEEDS:
        disk = Disk("a", Streams(seed), WORST)
        journal = await disk.journal("j")
        await journal.append(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(disk.files(), "sync_folder", refusing())
            with pytest.raises(WorldError):
                await journal.replace([b"new"])
        await journal.append(b"more")
        disk.crash()
        assert (await disk.journal("j")).records() == [b"new", b"more"]


async def test_what_is_left_of_a_failed_append_never_comes_back_behind_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cut was not synced, so a crash in the next append could leave it with the failed one's end behind it."""
    for seed in SEEDS:
        disk = Disk("a", Streams(seed), DiskFaults(unsynced=True, torn=True, latency_s=0.0))
        journal = await disk.journal("j")
        with monkeypatch.context() as patch:
            patch.setattr(disk.files(), "sync", LateRefusal(disk.files().sync))
            with pytest.raises(WorldError):
                await journal.append(b"a" * 3000)
        with monkeypatch.context() as patch:
            patch.setattr(disk.files(), "sync", refusing())
            with pytest.raises(WorldError):
                await journal.append(b"b" * 100)
        disk.crash()
        assert (await disk.journal("j")).records() in ([], [b"b" * 100])


async def test_the_folders_that_were_made_for_a_journal_survive_with_it() -> None:
    for seed in SEEDS:
        disk = Disk("a", Streams(seed), WORST)
        journal = await FileJournal.open(Path("/a/b/c/j"), disk.files())
        await journal.append(b"one")
        disk.crash()
        assert (await FileJournal.open(Path("/a/b/c/j"), disk.files())).records() == [b"one"]


async def test_what_a_life_found_there_is_there_for_the_next_though_its_sync_had_failed() -> None:
    """A process that ended behind a failed sync leaves a record in the system's memory which no other sync writes."""
    for seed in SEEDS:
        disk = Disk("a", Streams(seed), WORST)
        journal = await disk.journal("j")
        files = disk.files()
        handle = files.open(Path("/j"))
        files.write(handle, framed(b"doubt") + b"doubt", journal.size_bytes)
        disk.gone = True
        with pytest.raises(OSError):
            files.sync(handle)
        disk.gone = False
        disk.crash(power=False)
        found = (await disk.journal("j")).records()
        assert found == [b"doubt"]
        disk.crash()
        assert (await disk.journal("j")).records() == found


@pytest.mark.parametrize("names", [("j.new", "i"), ("rounds.a", "rounds.b")])
async def test_a_journal_may_have_any_name_and_leaves_its_neighbours_alone(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """The draft of a replace had the journal's name without its ending."""
    first, second = [await FileJournal.open(tmp_path / name) for name in names]
    await first.append(b"kept")
    await second.append(b"other")
    await second.replace([b"fresh"])
    first.close()
    second.close()
    first, second = [await FileJournal.open(tmp_path / name) for name in names]
    assert (first.records(), second.records()) == ([b"kept"], [b"fresh"])
    first.close()
    second.close()


async def test_a_disk_that_is_gone_is_the_worlds_fault_for_a_reader_too() -> None:
    disk = Disk("a", Streams(1))
    journal = await disk.journal("j")
    disk.gone = True
    with pytest.raises(WorldError, match="Input/output"):
        journal.records()
    disk.gone = False
    assert journal.records() == []


async def test_records_that_were_written_and_are_there_no_more_are_missed() -> None:
    disk = Disk("a", Streams(1))
    journal = await disk.journal("j")
    await journal.append(b"one")
    files = disk.files()
    files.truncate(files.open(Path("/j")), len(MAGIC))
    with pytest.raises(CorruptedError, match="bytes were written"):
        journal.records()


@pytest.mark.parametrize("data", [MAGIC[:n] + bytes(m) for n in range(16) for m in (0, 16 - n)])
def test_a_new_journal_that_a_crash_tore_is_empty(data: bytes) -> None:
    assert scan(data, "j").whole_bytes == 0


@given(st.integers(0, 600), st.sampled_from([0, 1, 30, 1500, 66_000, 70_000]), st.integers(0, 2**20), st.booleans())
@example(before=472, size=70_000, seed=1, zeros=False)  # its head stands on the border of two sectors
def test_an_append_torn_at_any_sector_is_cut_off_and_never_damage(
    before: int, size: int, seed: int, zeros: bool
) -> None:
    """Any of its sectors may be missing, also the first alone, in which its head is."""
    random = Random(seed)
    kept = MAGIC + framed(b"k" * before) + b"k" * before
    body = bytes(size) if zeros else random.randbytes(size)
    whole = bytearray(kept + framed(body) + body)
    for start in range(len(kept) // 512 * 512, len(whole), 512):
        if random.random() < 0.5:
            first, last = max(start, len(kept)), min(start + 512, len(whole))
            first += random.choice((0, 0, random.randint(0, last - first)))
            whole[first:last] = bytes(last - first)
    try:
        found = scan(bytes(whole), "j")
    except CorruptedError as error:
        if size <= 1500 or "a bit of a record is wrong" not in str(error):
            raise
        reject()  # one in 2**32 for each bit of the record: promised so, and among so many examples it comes
    assert found.records in [(b"k" * before,), (b"k" * before, body)]


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=3), st.integers(0, 2**20), st.data())
def test_a_single_wrong_bit_is_named_wherever_it_is(sizes: list[int], seed: int, data: st.DataObject) -> None:
    """In the last record too, where it once read as a torn append."""
    random = Random(seed)
    bodies = [random.choice((bytes, random.randbytes))(size) for size in sizes]
    whole = bytearray(MAGIC + b"".join(framed(body) + body for body in bodies))
    at = data.draw(
        st.one_of(st.integers(0, len(whole) - 1), st.integers(len(whole) - len(bodies[-1]) - 12, len(whole) - 1))
    )
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptedError):
        scan(bytes(whole), "j")


@given(st.binary(min_size=1, max_size=5000), st.data())
def test_the_place_of_a_wrong_bit_follows_from_the_checksums(text: bytes, data: st.DataObject) -> None:
    distance = data.draw(st.integers(0, len(text) * 8 - 1))
    wrong = bytearray(text)
    wrong[len(text) - 1 - distance // 8] ^= 0x80 >> distance % 8
    assert flipped_bit(zlib.crc32(wrong) ^ zlib.crc32(text), len(text)) == distance
    assert flipped_bit(0, len(text)) is None
