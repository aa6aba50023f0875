"""The file of events under crashes and damage: what was acknowledged is there, or an error says that it is not."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
import trio

from prime.errors import ActorUsageError, ConflictError, CorruptedError, PrimeError, WorldError
from prime.store import SqliteEventStore
from prime.store.database import Database, checksum
from prime.store.mark import Mark, highest, slot

ROOT = Path(__file__).parents[2]
NAME = "events.db"
SUFFIXES = ("", "-wal", "-mark")
KEYS = ("a", "b")


@attrs.frozen
class Files:
    """The bytes of an open store's files at one moment, and what it had acknowledged by then."""

    data: dict[str, bytes]
    acknowledged: dict[str, list[bytes]]

    def with_(self, suffix: str, data: bytes) -> Files:
        return attrs.evolve(self, data={**self.data, suffix: data})

    def write(self, folder: Path) -> Path:
        for path in folder.iterdir():
            path.unlink()
        for suffix, data in self.data.items():
            (folder / (NAME + suffix)).write_bytes(data)
        return folder / NAME


def contents(path: Path) -> dict[str, list[bytes]]:
    """Open what is there and read all of it: each key's snapshot, then the events behind it."""
    database = Database(path, 1.0)
    try:
        return {key: events_of(database, key) for key in KEYS}
    finally:
        database.close()


def events_of(database: Database, key: str) -> list[bytes]:
    saved = database.snapshot(key)
    found = [] if saved is None else saved.body.split(b"\n")
    while page := database.events(key, len(found), 3, 1 << 20):
        found += page
    assert database.last(key) == len(found)
    return found


def history(folder: Path, count: int = 14) -> Iterator[Files]:
    """Yield the files after each acknowledged call; checkpoints, snapshots and deletes happen on the way."""
    path = folder / NAME
    database = Database(path, 1.0)
    database.open().execute("PRAGMA wal_autocheckpoint = 9")
    acknowledged: dict[str, list[bytes]] = {key: [] for key in KEYS}

    def now() -> Files:
        data = {suffix: path.with_name(NAME + suffix).read_bytes() for suffix in SUFFIXES}
        return Files(data, {key: list(events) for key, events in acknowledged.items()})

    try:
        yield now()
        for turn in range(count):
            key = KEYS[turn % 3 == 2]
            bodies = [b"%s%d.%d " % (key.encode(), turn, n) + b"x" * 400 * (turn % 4) for n in range(turn % 3 + 1)]
            database.append(key, len(acknowledged[key]), bodies)
            acknowledged[key] += bodies
            yield now()
            if turn == 8:
                database.save_snapshot(key, len(acknowledged[key]), b"\n".join(acknowledged[key]))
                yield now()
                database.delete_events(key, len(acknowledged[key]) - 1)
                yield now()
    finally:
        database.close()


@pytest.fixture
def states(tmp_path: Path) -> list[Files]:
    (tmp_path / "origin").mkdir()
    return list(history(tmp_path / "origin"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "copy").mkdir()
    return tmp_path / "copy"


def test_the_history_uses_both_files_and_all_of_it_is_read(states: list[Files], copy: Path) -> None:
    """What the tests below rest on: the log starts over, the main file grows, and there is much to lose."""
    assert all(contents(files.write(copy)) == files.acknowledged for files in states)
    assert len({files.data[""] for files in states}) >= 3
    logs = [files.data["-wal"] for files in states]
    assert any(not later.startswith(log) for log, later in itertools.pairwise(logs))
    assert sum(map(len, states[-1].acknowledged.values())) > 20


# ----------------------------------------------------------------------------------------------------------- crashes


def mixed(old: bytes, new: bytes, cut: int) -> bytes:
    return new[:cut] + old[cut:]


def crashes(before: Files, after: Files, random: Random, count: int) -> Iterator[Files]:
    """Yield what a crash between two acknowledgements may leave of the log and, while a checkpoint runs, of the file."""
    old, new = before.data["-wal"], after.data["-wal"]
    first = next((at for at, (x, y) in enumerate(zip(old, new, strict=False)) if x != y), min(len(old), len(new)))
    for _ in range(count):
        cut = random.randint(first, len(new))
        yield before.with_("-wal", mixed(old, new, cut))
        hole = random.randint(first, len(new)) // 512 * 512  # the length reached the disk, some sectors did not
        torn = new[: max(hole, first)] + bytes(max(0, min(512, len(new) - hole))) + new[max(hole, first) + 512 :]
        yield before.with_("-wal", torn if len(old) <= first else mixed(old, new, cut))
    yield before.with_("-wal", new)
    if before.data[""] != after.data[""]:
        for _ in range(count):
            cut = random.randint(0, len(after.data[""]) // 512) * 512
            yield before.with_("-wal", new).with_("", mixed(before.data[""], after.data[""], cut))


def test_a_crash_at_any_byte_of_an_append_keeps_every_acknowledged_event(states: list[Files], copy: Path) -> None:
    random = Random(1)
    kept = lost = 0
    for before, after in itertools.pairwise(states):
        for files in crashes(before, after, random, 6):
            found = contents(files.write(copy))
            assert found in (before.acknowledged, after.acknowledged)
            kept += found == after.acknowledged
            lost += found == before.acknowledged
    assert kept > 10
    assert lost > 10


def test_a_log_that_was_never_synced_ends_early_but_has_no_gap(states: list[Files], copy: Path) -> None:
    """Without the mark, as after a power loss on a disk that lies about syncing: a state of the past, and whole."""
    last = states[-1]
    pasts = [files.acknowledged for files in states]
    for cut in range(0, len(last.data["-wal"]), 997):
        files = last.with_("-wal", last.data["-wal"][:cut]).with_("-mark", b"")
        assert contents(files.write(copy)) in pasts


# ------------------------------------------------------------------------------------------------------------ damage


def outcome(files: Files, copy: Path) -> str:
    """Return `whole` or `named`; anything else is a failure of the test."""
    damage: CorruptedError | None = None
    try:
        found = contents(files.write(copy))
    except CorruptedError as error:
        damage = error
    if damage is None:
        assert found == files.acknowledged
        return "whole"
    assert str(copy / NAME) in str(damage)
    assert damage.hint
    return "named"


def damages(data: bytes, random: Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        at = random.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        yield data[:at] + bytes([random.randrange(256)]) * 8 + data[at + 8 :]
        yield data[:at]
        page = at // 512 * 512
        yield data[:page] + bytes(512) + data[page + 512 :]


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("which", [7, -1])
def test_damage_anywhere_is_named_or_harmless(states: list[Files], copy: Path, suffix: str, which: int) -> None:
    files = states[which]
    outcomes = [outcome(files.with_(suffix, data), copy) for data in damages(files.data[suffix], Random(2), 60)]
    assert outcomes.count("named") > 10


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_each_byte_of_the_headers_may_be_damaged(states: list[Files], copy: Path, suffix: str) -> None:
    """The first bytes say how the rest is to be read: version, encoding, page size, whether there is a log at all."""
    files = states[-1]
    data = files.data[suffix]
    for at in range(120):
        for value in {0, 1, data[at] ^ 1, data[at] ^ 0x80, 255} - {data[at]}:
            outcome(files.with_(suffix, data[:at] + bytes([value]) + data[at + 1 :]), copy)


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("seed", range(8))
def test_damage_at_very_many_places(states: list[Files], copy: Path, suffix: str, seed: int) -> None:
    random = Random(seed)
    for files in random.sample(states, 3):
        for data in damages(files.data[suffix] or b"\0", random, 400):
            outcome(files.with_(suffix, data), copy)


@pytest.mark.parametrize("gone", [("-wal",), ("",), ("", "-wal")])
def test_files_that_are_gone_are_noticed(states: list[Files], copy: Path, gone: tuple[str, ...]) -> None:
    path = states[-1].write(copy)
    for suffix in gone:
        path.with_name(NAME + suffix).unlink()
    for _ in range(2):  # looking does not make it good
        with pytest.raises(CorruptedError, match="its end was lost") as caught:
            contents(path)
        assert "events.db-mark" in caught.value.hint


def test_a_damaged_mark_is_named_and_a_missing_one_is_no_evidence(states: list[Files], copy: Path) -> None:
    files = states[-1]
    mark = files.data["-mark"]
    assert outcome(files.with_("-mark", b""), copy) == "whole"
    assert outcome(files.with_("-mark", bytes(len(mark))), copy) == "whole"  # its length was there before its bytes
    assert outcome(files.with_("-mark", mark[:12] + b"torn" + mark[16:]), copy) == "whole"
    assert outcome(files.with_("-mark", b"rubbish that is long enough"), copy) == "named"


def test_a_mark_says_the_highest_count_and_survives_one_torn_write(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "mark")
    for count in range(1, 6):
        mark.write(count)
    mark.close()
    data = (tmp_path / "mark").read_bytes()
    again = Mark(tmp_path / "mark")
    again.close()
    assert highest(data, "mark") == again.count == 5
    for cut in range(12):
        torn = data[:12] + slot(7)[:cut] + data[12 + cut :]
        assert highest(torn, "mark") in (4, 5)


def rows(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE events SET body = x'00' WHERE key = x'61' AND sequence = 4", "event number 4 is not as it was stored"),
        ("UPDATE events SET body = 'text' WHERE sequence = 4", "event number 4 is not as it was stored"),
        ("UPDATE events SET checksum = NULL WHERE sequence = 4", "event number 4 is not as it was stored"),
        ("DELETE FROM events WHERE key = x'61' AND sequence = 4", "event number 4 is not as it was stored"),
        ("DELETE FROM events WHERE key = x'61' AND sequence >= 7", "event number 7 was lost"),
        ("DELETE FROM events WHERE key = x'61'", "event number 1 was lost"),
        ("DELETE FROM heads WHERE key = x'61'", "its head was lost"),
        ("UPDATE heads SET last = last - 1 WHERE key = x'61'", "its head is not as it was stored"),
        ("UPDATE heads SET deleted = 'no' WHERE key = x'61'", "its head is not as it was stored"),
        ("DELETE FROM snapshots", "the snapshot at number 5 is not as it was stored"),
        ("UPDATE snapshots SET sequence = 4", "the snapshot at number 5 is not as it was stored"),
        ("UPDATE snapshots SET body = x'00'", "the snapshot at number 5 is not as it was stored"),
        ("UPDATE meta SET writes = writes - 1", "it is no event store"),
        ("DELETE FROM meta", "it is no event store"),
        ("DROP TABLE meta", "it is no event store"),
        ("DROP TABLE events", "no such table: events"),
    ],
)
def test_each_row_that_is_not_as_it_was_stored_is_named(tmp_path: Path, statement: str, match: str) -> None:
    path = tmp_path / NAME
    database = Database(path, 1.0)
    database.append("a", 0, [b"%d" % number for number in range(8)])
    database.append("b", 0, [b"%d" % number for number in range(8)])
    database.save_snapshot("b", 5, b"five")
    database.close()
    rows(path, statement)
    with pytest.raises(CorruptedError, match=match) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert ("key '" in str(caught.value)) == ("store" not in match.split() and "table" not in match)


def read_all(path: Path) -> None:
    database = Database(path, 1.0)
    try:
        database.events("a", 0, 100, 1 << 20)
        database.snapshot("b")
    finally:
        database.close()


def test_a_head_from_an_older_page_does_not_hide_events(tmp_path: Path) -> None:
    """A head that checks, but is older than the events behind it: they are seen, not skipped or overwritten."""
    path = tmp_path / NAME
    database = Database(path, 1.0)
    database.append("a", 0, [b"1", b"2", b"3"])
    database.close()
    rows(path, "UPDATE heads SET last = 2, checksum = ?", checksum(b"a", (2, 0, 0)))
    database = Database(path, 1.0)
    with pytest.raises(CorruptedError, match="event number 3"):
        database.events("a", 0, 100, 1 << 20)
    with pytest.raises(CorruptedError, match="event number 3"):
        database.events("a", 2, 100, 1 << 20)
    with pytest.raises(CorruptedError, match="UNIQUE"):
        database.append("a", 2, [b"3 again"])
    database.close()


def test_a_batch_that_fails_in_its_middle_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / NAME
    database = Database(path, 1.0)
    database.append("a", 0, [b"1", b"2", b"3", b"4"])
    database.close()
    rows(path, "DELETE FROM events WHERE sequence = 3")
    rows(path, "UPDATE heads SET last = 2, checksum = ?", checksum(b"a", (2, 0, 0)))
    database = Database(path, 1.0)
    with pytest.raises(CorruptedError, match="UNIQUE"):
        database.append("a", 2, [b"new 3", b"new 4"])
    database.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT body FROM events ORDER BY sequence").fetchall() == [(b"1",), (b"2",), (b"4",)]
    connection.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    """No test without a power switch sees a missing sync, so the setting itself is held."""
    database = Database(tmp_path / NAME, 1.0)
    connection = database.open()
    settings = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert settings == {"journal_mode": "wal", "synchronous": 2}
    database.close()


# --------------------------------------------------------------------------------------------- a world that refuses


@pytest.mark.parametrize("what", [b"something else entirely", b"SQLite format 3\0" + bytes(84), bytes(4096)])
async def test_another_file_is_named(tmp_path: Path, what: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(what)
    with pytest.raises(CorruptedError, match=str(path)):
        await SqliteEventStore.open(path)
    assert path.read_bytes() == what


async def test_another_programs_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / NAME
    rows(path, "CREATE TABLE notes (text TEXT)")
    with pytest.raises(CorruptedError, match="it is no event store"):
        await SqliteEventStore.open(path)


async def test_another_version_of_the_layout_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / NAME
    await (await SqliteEventStore.open(path)).aclose()
    rows(path, "UPDATE meta SET version = 2, checksum = ?", checksum(b"meta", (2, 1)))
    with pytest.raises(WorldError, match="its layout is version 2") as caught:
        await SqliteEventStore.open(path)
    assert not isinstance(caught.value, CorruptedError)
    assert "another version of Prime" in caught.value.hint


async def test_a_full_disk_is_named_and_keeps_what_was_there(tmp_path: Path) -> None:
    async with await SqliteEventStore.open(tmp_path / NAME) as store:
        await store.append("a", 0, [b"one"])
        connection = store._database.open()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(WorldError, match="full") as caught:
            await store.append("a", 1, [b"x" * 100_000])
        assert "free space" in caught.value.hint
        assert await store.last("a") == 1
        connection.execute("PRAGMA max_page_count = 100000")
        assert await store.append("a", 1, [b"x" * 100_000]) == 2
    async with await SqliteEventStore.open(tmp_path / NAME) as store:
        assert await store.events("a", 0) == [b"one", b"x" * 100_000]


async def test_a_file_that_another_program_holds_is_said_so_and_waited_for_a_while(tmp_path: Path) -> None:
    async with await SqliteEventStore.open(tmp_path / NAME, busy_timeout_s=0.05) as store:
        await store.append("a", 0, [b"one"])
        other = sqlite3.connect(tmp_path / NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(WorldError, match="locked") as caught:
            await store.append("a", 1, [b"two"])
        assert "another program" in caught.value.hint
        assert await store.events("a", 0) == [b"one"]  # reading needs no lock
        other.execute("ROLLBACK")
        other.close()
        assert await store.append("a", 1, [b"two"]) == 2


async def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(WorldError, match=NAME) as caught:
        await SqliteEventStore.open(tmp_path / NAME)
    assert caught.value.hint


async def test_one_that_is_only_made_opens_at_its_first_call_and_again_after_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"a file in its place")
    store = SqliteEventStore(tmp_path / "folder" / NAME)
    with pytest.raises(WorldError, match="folder"):
        await store.append("a", 0, [b"one"])
    (tmp_path / "folder").unlink()
    assert await store.append("a", 0, [b"one"]) == 1
    await store.aclose()
    with pytest.raises(ActorUsageError, match="is closed"):
        await store.last("a")
    never = SqliteEventStore(tmp_path / "never" / NAME)
    await never.aclose()
    assert not (tmp_path / "never").exists()


async def test_two_programs_on_one_file_see_each_others_events(tmp_path: Path) -> None:
    async with (
        await SqliteEventStore.open(tmp_path / NAME) as one,
        await SqliteEventStore.open(tmp_path / NAME) as two,
    ):
        await one.append("a", 0, [b"1"])
        await two.append("a", 1, [b"2"])
        with pytest.raises(PrimeError, match="another writer"):
            await one.append("a", 1, [b"stale"])
        assert await one.events("a", 0) == [b"1", b"2"]


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with await SqliteEventStore.open(tmp_path / "deep" / NAME) as store:
        await store.append("a", 0, [b"one"])
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "deep").iterdir()}
    assert modes == {NAME + suffix: 0o600 for suffix in ("", "-wal", "-shm", "-mark")}


async def test_a_closed_store_says_so_to_those_who_wait_too(tmp_path: Path) -> None:
    store = await SqliteEventStore.open(tmp_path / NAME)
    refused: list[str] = []

    async def append(key: str) -> None:
        try:
            await store.append(key, 0, [b"one"])
        except ActorUsageError as error:
            refused.append(str(error))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.aclose)
            await trio.testing.wait_all_tasks_blocked()
            for key in KEYS:
                nursery.start_soon(append, key)
    await store.aclose()
    assert [text.endswith("is closed") for text in refused] == [True, True]


async def test_an_append_whose_turn_has_come_is_whole_though_its_caller_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled at some moment of many: each append returned and is there, or raised `Cancelled` and is not."""
    monkeypatch.setattr("prime.store.events.BATCH_MAX", 3)
    returned: list[int] = []
    async with await SqliteEventStore.open(tmp_path / NAME) as store:

        async def append(number: int) -> None:
            await store.append(f"k{number}", 0, [b"one", b"two"])
            returned.append(number)
            if len(returned) == 5:
                scope.cancel()

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(append, number)
        there = [number for number in range(20) if await store.last(f"k{number}")]
        assert sorted(returned) == there
        assert 5 <= len(there) < 20
        assert all([await store.last(f"k{number}") == 2 for number in there])
        assert await store.append("k0", await store.last("k0"), [b"the line goes on"])


@pytest.mark.parametrize("seed", range(12))
async def test_appends_and_cancellations_in_any_order_leave_the_line_moving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each append settles one way; the store knows of just those that returned; nobody waits for ever."""
    random = Random(seed)
    monkeypatch.setattr("prime.store.events.BATCH_MAX", random.randint(1, 5))
    outcomes: dict[int, str] = {}
    async with await SqliteEventStore.open(tmp_path / NAME) as store:

        async def append(number: int, patience: int, expected: int) -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(impatient, scope, patience)
                    try:
                        await store.append(f"k{number}", expected, [b"%d" % number] * random.randint(1, 3))
                        outcomes[number] = "stored"
                    except ConflictError:
                        outcomes[number] = "refused"
                    nursery.cancel_scope.cancel()
            outcomes.setdefault(number, "cancelled")

        async def impatient(scope: trio.CancelScope, patience: int) -> None:
            for _ in range(patience):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        with trio.fail_after(60):
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(len(outcomes), len(outcomes) + 12):
                        patience, expected = random.choice([0, 1, 2, 5, 20, 10_000]), random.choice([0, 0, 0, 1])
                        nursery.start_soon(append, number, patience, expected)
        stored = {number for number in outcomes if await store.last(f"k{number}")}
    assert len(outcomes) == 36
    assert stored == {number for number, outcome in outcomes.items() if outcome == "stored"}
    assert stored


async def test_appends_that_wait_together_share_a_sync_and_fail_apart(tmp_path: Path) -> None:
    results: dict[str, object] = {}
    async with await SqliteEventStore.open(tmp_path / NAME) as store:
        await store.append("spoiled", 0, [b"1", b"2"])
        connection = store._database.open()
        connection.execute("UPDATE heads SET last = 1, checksum = ?", (checksum(b"spoiled", (1, 0, 0)),))
        mark = store._database._mark
        assert mark is not None
        writes = mark.count

        async def append(key: str, expected: int, body: bytes) -> None:
            try:
                results[key + str(expected)] = await store.append(key, expected, [body])
            except PrimeError as error:
                results[key + str(expected)] = type(error)

        async with trio.open_nursery() as nursery:
            for wish in (("a", 0, b"1"), ("b", 0, b"1"), ("c", 7, b"no"), ("", 0, b"no")):
                nursery.start_soon(append, *wish)
        assert results == {"a0": 1, "b0": 1, "c7": ConflictError, "0": ActorUsageError}
        assert mark.count == writes + 1
        results.clear()
        async with trio.open_nursery() as nursery:
            for wish in (("d", 0, b"1"), ("spoiled", 1, b"2 again"), ("e", 0, b"1")):
                nursery.start_soon(append, *wish)
        assert results == {"d0": 1, "spoiled1": CorruptedError, "e0": 1}
        assert await store.events("e", 0) == [b"1"]


# ----------------------------------------------------------------------------------------------------------- SIGKILL

CHILD = """
import os, sys, trio
from prime.store import SqliteEventStore

async def main():
    async with await SqliteEventStore.open(sys.argv[1]) as store:
        number = await store.last("k")
        os.write(1, b"%d\\n" % number)
        while True:
            number = await store.append("k", number, [b"event %d" % (number + 1)])
            os.write(1, b"%d\\n" % number)
            if number % 50 == 0:
                await store.save_snapshot("k", number, b"%d" % number)
                await store.delete_events("k", number - 20)

trio.run(main)
"""


def acknowledged_before_its_death(path: Path, more: int) -> int:
    """Run a child that appends for ever, kill it once it has acknowledged `more` events; return the last number."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        bufsize=0,
    )
    try:
        assert child.stdout is not None
        for _ in range(more + 1):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines()
        assert child.wait(timeout=60) == -signal.SIGKILL
        return int(rest[-1]) if rest else 0
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_what_a_killed_program_acknowledged_is_there(tmp_path: Path) -> None:
    path = tmp_path / NAME
    last = 0
    for more in (3, 60, 140):
        acknowledged = max(acknowledged_before_its_death(path, more), last + more)
        database = Database(path, 1.0)
        saved = database.snapshot("k")
        after = saved.sequence if saved else 0
        events = database.events("k", after, 10_000, 1 << 20)
        last = database.last("k")
        database.close()
        assert acknowledged <= last <= acknowledged + 1
        assert events == [b"event %d" % number for number in range(after + 1, last + 1)]
        assert after >= (acknowledged - 1) // 50 * 50
        assert saved is None or saved.body == b"%d" % after
