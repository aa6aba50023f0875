"""Each store against the contract of all, and what only SQLite's file can meet with."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from prime.dht.backend import Entry, Loaded, Removal
from prime.dht.backends import MemoryBackend, SqliteBackend
from prime.errors import CorruptedError, WorldError
from prime.store.database import checksum
from prime.testing.backend import CASES, DISK_CASES, LONG_DISK_CASES, BackendKit, Case
from prime.testing.backend.child import made_by
from prime.testing.backend.kit import entry

EXAMPLE = f"{Path(__file__).parents[2] / 'examples' / '10_dht_backend.py'}:TextBackend"


def named(case: Case) -> str:
    return case.__name__


def on_disk(folder: Path) -> BackendKit:
    path = folder / "records" / "records.db"
    return BackendKit(lambda: SqliteBackend(path, busy_timeout_s=0.05), "prime.dht.backends:SqliteBackend", path)


def in_text(folder: Path) -> BackendKit:
    path = folder / "records" / "records.txt"
    return BackendKit(lambda: made_by(EXAMPLE)(str(path)), EXAMPLE, path)


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_memory(case: Case) -> None:
    backend = MemoryBackend()
    await case(BackendKit(lambda: backend))


@pytest.mark.parametrize("case", [*CASES, *DISK_CASES], ids=named)
async def test_sqlite(case: Case, tmp_path: Path) -> None:
    await case(on_disk(tmp_path))


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_example(case: Case, tmp_path: Path) -> None:
    await case(in_text(tmp_path))


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [*DISK_CASES, *LONG_DISK_CASES], ids=named)
async def test_example_on_a_disk(case: Case, tmp_path: Path) -> None:
    await case(in_text(tmp_path))


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", LONG_DISK_CASES, ids=named)
async def test_sqlite_for_long(case: Case, tmp_path: Path) -> None:
    await case(on_disk(tmp_path))


class Forgetful(MemoryBackend):
    """Drops the last change of each write."""

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        await super().write(changes[:-1])


class Mixing(MemoryBackend):
    """Takes all kinds for one."""

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        await super().write([type(each)("k", *list(vars_of(each))) for each in changes])


def vars_of(change: Entry | Removal) -> Sequence[bytes]:
    return (change.name, change.body) if isinstance(change, Entry) else (change.name,)


class Persistent(MemoryBackend):
    """Says that it is damaged when it is not."""

    async def open(self) -> Loaded:
        return Loaded((await super().open()).entries, lost_writes=1)


@pytest.mark.parametrize("broken", [Forgetful, Mixing, Persistent])
async def test_a_store_that_breaks_a_promise_fails_its_cases(broken: type[MemoryBackend]) -> None:
    kept = 0
    for case in CASES:
        backend = broken()
        with contextlib.suppress(AssertionError):
            await case(BackendKit(lambda backend=backend: backend))  # type: ignore[misc]
            kept += 1
    assert kept <= len(CASES) - 2


# ---- only SQLite's file


async def test_a_file_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    await filled(path)
    numbers = (2, 1)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET version = 2, writes = 1, checksum = ?", (checksum(b"meta", numbers),))
    before = path.read_bytes()
    with pytest.raises(WorldError, match="layout is version 2") as caught:
        await SqliteBackend(path).open()
    assert "another version of Prime" in caught.value.hint
    assert path.read_bytes() == before


async def test_another_program_s_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()
    with pytest.raises(WorldError, match="no store of records") as caught:
        await SqliteBackend(path).open()
    assert caught.value.hint
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["theirs.db"]


async def test_what_is_no_database_is_put_aside_and_an_empty_one_begins(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"a text of somebody's" * 500)
    backend = SqliteBackend(path)
    with pytest.raises(CorruptedError, match="records.db-damaged") as caught:
        await backend.open()
    assert "empty store" in caught.value.hint
    assert (tmp_path / "records.db-damaged").read_bytes() == b"a text of somebody's" * 500
    assert await backend.open() == Loaded(())
    await backend.aclose()


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def filled(path: Path, count: int = 40) -> None:
    backend = SqliteBackend(path)
    await backend.open()
    for number in range(count):
        await backend.write([entry(number, 2000)])
    await backend.aclose()


async def test_a_damaged_page_costs_the_entries_on_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    await filled(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"7:" + bytes(2000))
    page = at // 4096 * 4096
    data[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    backend = SqliteBackend(path)
    loaded = await backend.open()
    await backend.aclose()
    lost = {each.name for each in loaded.damaged}
    assert 1 <= len(lost) <= 2
    assert {each.name for each in loaded.entries} == {b"%d" % number for number in range(40)} - lost
    assert (await backend.open()).damaged == ()
    await backend.aclose()


async def test_a_log_that_was_lost_is_told_once(tmp_path: Path) -> None:
    path, copy = tmp_path / "records.db", tmp_path / "copy" / "records.db"
    copy.parent.mkdir()
    backend = SqliteBackend(path)
    await backend.open()
    await backend.write([entry(1)])
    await backend.aclose()
    await backend.open()
    await backend.write([entry(2)])
    await backend.write([entry(3)])
    for suffix in ("", "-mark"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    await backend.aclose()
    again = SqliteBackend(copy)
    loaded = await again.open()
    assert (loaded.entries, loaded.lost_writes) == ((entry(1),), 2)
    await again.aclose()
    assert (await again.open()).lost_writes == 0
    await again.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: files cannot be moved under an open handle")
@pytest.mark.parametrize("moved", [[], ["-wal"], ["-wal", ""]])
async def test_a_rescue_that_was_killed_on_the_way_is_finished(tmp_path: Path, moved: list[str]) -> None:
    """Before a whole rescue takes its place the damaged file and its log are moved away, one after the other."""
    path = tmp_path / "records.db"
    await filled(path, 5)
    path.replace(tmp_path / "records.db-rescue")
    for suffix in ("-wal", ""):
        (tmp_path / f"records.db{suffix}").write_bytes(b"damaged")
    for suffix in moved:
        path.with_name(f"records.db{suffix}").replace(f"{path}-damaged{suffix}")
    (tmp_path / "records.db-rescue-draft").write_bytes(b"half")
    backend = SqliteBackend(path)
    loaded = await backend.open()
    await backend.aclose()
    assert loaded == Loaded(tuple(entry(number, 2000) for number in range(5)))
    assert names_in(tmp_path) == [
        "records.db",
        "records.db-damaged",
        "records.db-damaged-wal",
        "records.db-mark",
    ]
