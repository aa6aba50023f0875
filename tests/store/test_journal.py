"""The journal: what was appended is there again, a torn tail is cut off, damage is named, a full disk loses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prime.errors import CorruptedError, WorldError
from prime.store import FileJournal, MemoryJournal
from prime.store.framing import MAGIC, framed, scan


def written(records: list[bytes]) -> bytes:
    return MAGIC + b"".join(framed(record) + record for record in records)


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_a_cut_at_any_byte_leaves_the_whole_records_before_it(records: list[bytes], data: st.DataObject) -> None:
    whole = written(records)
    cut = data.draw(st.integers(0, len(whole)))
    found = scan(whole[:cut], "j")
    assert list(found.records) == records[: len(found.records)]
    assert whole[: found.whole_bytes] == (written(list(found.records)) if found.whole_bytes else b"")
    assert found.whole_bytes <= cut
    rest = written(records[: len(found.records) + 1])
    assert len(found.records) == len(records) or cut < len(rest)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=5), st.data())
def test_a_flipped_bit_before_the_last_record_is_named(records: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(written(records))
    last = len(written(records[:-1]))
    at = data.draw(st.integers(len(MAGIC), last - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptedError, match="at byte"):
        scan(bytes(whole), "j")


@given(st.integers(0, 5000), st.integers(1, 9000), st.sets(st.integers(0, 3)))
def test_pages_of_the_last_append_that_never_reached_the_disk_make_it_torn(
    before: int, size: int, holes: set[int]
) -> None:
    """Power loss in an append: the length is there, and any of the pages that it was to fill; the first one may lack."""
    kept = written([b"x" * before])
    whole = bytearray(kept + framed(b"y" * size) + b"y" * size)
    for page in holes:
        start, end = (len(kept) // 4096 + page) * 4096, (len(kept) // 4096 + page + 1) * 4096
        whole[max(start, len(kept)) : end] = bytes(len(whole[max(start, len(kept)) : end]))
    found = scan(bytes(whole), "j")
    assert found.records[0] == b"x" * before
    lost = len(found.records) == 1
    assert found.whole_bytes == (len(kept) if lost else len(whole))
    assert lost == (bytes(whole) != kept + framed(b"y" * size) + b"y" * size)


@given(st.integers(0, 3), st.lists(st.integers(0, 3000), min_size=1, max_size=4))
def test_a_page_of_zeros_before_a_whole_record_is_damage(page: int, sizes: list[int]) -> None:
    records = [b"x" * size for size in (5000, *sizes)]
    whole = bytearray(written(records))
    last = len(written(records[:-1]))
    start = len(written(records[:1])) + page * 7
    end = min((start // 4096 + 1) * 4096, last)
    assume(start + 12 <= last and any(whole[start:end]))
    whole[start:end] = bytes(end - start)
    with pytest.raises(CorruptedError):
        scan(bytes(whole), "j")


def test_what_is_no_journal_is_said_so() -> None:
    with pytest.raises(CorruptedError, match="it is no journal"):
        scan(b"something else entirely", "j")


async def test_append_reopen_replace(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rounds.journal"
    journal = await FileJournal.open(path)
    await journal.append(b"one")
    await journal.append(memoryview(b"two"))
    assert journal.records() == [b"one", b"two"]
    assert journal.size_bytes == path.stat().st_size
    journal.close()
    assert path.stat().st_mode & 0o777 == 0o600

    with path.open("ab") as file:
        file.write(framed(b"three")[:7])
    journal = await FileJournal.open(path)
    assert journal.records() == [b"one", b"two"]
    await journal.append(b"four")
    await journal.replace([b"five"])
    await journal.append(b"six")
    journal.close()
    journal = await FileJournal.open(path)
    assert journal.records() == [b"five", b"six"]
    journal.close()
    assert not path.with_name("rounds.journal.new").exists()


async def test_a_full_disk_is_named_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await FileJournal.open(tmp_path / "j")
    await journal.append(b"one")
    real = os.pwrite

    def full(handle: int, data: Any, at: int) -> int:
        if len(data) > 100:
            real(handle, data[:50], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WorldError, match="No space left") as caught:
        await journal.append(b"x" * 200)
    assert caught.value.hint
    with pytest.raises(WorldError):
        await journal.replace([b"y" * 200])
    await journal.append(b"two")
    assert journal.records() == [b"one", b"two"]
    journal.close()


async def test_behind_a_write_that_cannot_be_undone_nothing_is_promised_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await FileJournal.open(tmp_path / "j")
    await journal.append(b"one")

    def gone(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", gone)
        patch.setattr(os, "ftruncate", gone)
        with pytest.raises(WorldError, match="Input/output"):
            await journal.append(b"two")
        with pytest.raises(WorldError, match="Input/output"):
            await journal.append(b"three")
    assert journal.records() == [b"one"]
    await journal.append(b"four")
    journal.close()
    journal = await FileJournal.open(tmp_path / "j")
    assert journal.records() == [b"one", b"four"]
    journal.close()


async def test_in_memory_it_behaves_alike() -> None:
    journal = MemoryJournal()
    await journal.append(b"one")
    await journal.replace([b"two", b"three"])
    assert (journal.records(), journal.size_bytes) == ([b"two", b"three"], 8)
