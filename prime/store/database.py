"""An event store's SQLite file, as blocking calls of one thread at a time; `events.py` puts them behind `await`.

What a write returned from is on the disk: a write-ahead log, synced at every commit. What is read back is checked: each
row has a checksum that covers its key and its numbers, the events of a key are numbered without a gap up to the number
in its head, and the file has at least as many writes as its mark says. So damage is an error and never a shorter list.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs

from prime.actor.contract import SavedSnapshot
from prime.errors import ActorUsageError, CorruptedError, PrimeError, PrimeInternalError, WorldError
from prime.store.files import SystemFiles, finish, make_folders
from prime.store.head import Head, checked_bodies, checked_key
from prime.store.mark import Mark
from prime.store.sqlite import HINT_DAMAGED, begin_log, named_errors, transaction

SCHEMA_VERSION = 1

_SCHEMA = (
    "CREATE TABLE meta (id INTEGER PRIMARY KEY, version INTEGER, writes INTEGER, checksum INTEGER)",
    """CREATE TABLE heads (
        key BLOB PRIMARY KEY, last INTEGER, deleted INTEGER, snapshot INTEGER, checksum INTEGER) WITHOUT ROWID""",
    """CREATE TABLE events (
        key BLOB, sequence INTEGER, body BLOB, checksum INTEGER, PRIMARY KEY (key, sequence)) WITHOUT ROWID""",
    "CREATE TABLE snapshots (key BLOB PRIMARY KEY, sequence INTEGER, body BLOB, checksum INTEGER) WITHOUT ROWID",
)


def checksum(key: bytes, numbers: Sequence[int], body: bytes = b"") -> int:
    """Return the CRC-32 of a row: of its key, its numbers and its body."""
    head = struct.pack(f">I{len(numbers)}q", len(key), *numbers)
    return zlib.crc32(body, zlib.crc32(key, zlib.crc32(head)))


@attrs.define(slots=True, eq=False)
class Wish:
    """An append that somebody waits for, and what became of it: the `last` number, or an `error`."""

    key: str
    expected: int
    bodies: list[bytes]
    last: int | None = None
    error: PrimeError | None = None

    def result(self) -> int:
        """Return the last number or raise the error."""
        if self.last is None:
            raise self.error or PrimeInternalError("an append was neither stored nor refused")
        return self.last


class Database:
    """One file. Every call is a transaction of its own, and the first opens it; after `close` all raise."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._mark: Mark | None = None
        self._is_closed = False

    def open(self) -> sqlite3.Connection:
        """Open or make the file, unless it is open; raises `CorruptedError`, `WorldError`."""
        if self._is_closed:
            raise ActorUsageError(f"{self.path} is closed", hint="use the store inside its `async with` block")
        if self._connection is None:
            with named_errors(self.path):
                try:
                    return self._connect()
                except BaseException:
                    self._release()
                    raise
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        files = SystemFiles()
        finish(lambda: make_folders(files, self.path.parent))
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._mark = Mark(self.path.with_name(self.path.name + "-mark"))
        files.sync_folder(self.path.parent)
        self._connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        self._prepare(self._connection, self._mark)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection, mark: Mark) -> None:
        begin_log(connection, self.path)
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            self._check_mark(mark, 0)
            with self._writing() as writer:
                self._create(writer)
        with self._reading() as reader:
            _, writes = self._meta(reader)
        self._check_mark(mark, writes)

    def _check_mark(self, mark: Mark, writes: int) -> None:
        if writes < mark.count:
            raise CorruptedError(
                f"{self.path}: {mark.count} writes were acknowledged and {writes} are there: its end was lost",
                hint=f"{HINT_DAMAGED}; to accept the loss, move {self.path.name}-mark away",
            )

    def _create(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return  # another program was quicker
        for statement in _SCHEMA:
            connection.execute(statement)
        numbers = (SCHEMA_VERSION, 0)
        connection.execute("INSERT INTO meta VALUES (1, ?, ?, ?)", (*numbers, checksum(b"meta", numbers)))

    def close(self) -> None:
        """Close the file; harmless the second time."""
        self._is_closed = True
        self._release()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        mark, self._mark = self._mark, None
        if connection is not None:
            connection.close()
        if mark is not None:
            mark.close()

    # ------------------------------------------------------------------------------------------------------- calls

    def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        """See `contract.EventStore.append`."""
        wish = Wish(key, expected, checked_bodies(events))
        self.append_all([wish])
        return wish.result()

    def append_all(self, wishes: Sequence[Wish]) -> None:
        """Grant wishes in order, with one sync for all of them; each gets the result that it would have had alone."""
        try:
            with self._writing() as connection:
                for wish in wishes:
                    self._grant(connection, wish)
        except PrimeError as error:
            if len(wishes) == 1:
                wishes[0].last, wishes[0].error = None, error
                return
            for wish in wishes:  # one of them spoiled it: nothing of any is stored, so find out which
                wish.error = None
                self.append_all([wish])

    def _grant(self, connection: sqlite3.Connection, wish: Wish) -> None:
        """Insert the events of one wish; a refusal that comes before anything is written is kept with it."""
        try:
            id_ = checked_key(wish.key)
            head = self._head(connection, wish.key)
            grown = head.appended(self._name(wish.key), wish.expected, len(wish.bodies))
        except PrimeError as error:
            wish.error = error
            return
        rows = [(id_, n, body, checksum(id_, (n,), body)) for n, body in enumerate(wish.bodies, head.last + 1)]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        self._put_head(connection, id_, grown)
        wish.last = grown.last

    def last(self, key: str) -> int:
        """See `contract.EventStore.last`."""
        with self._reading() as connection:
            return self._head(connection, key).last

    def events(self, key: str, after: int, count_max: int, size_bytes_max: int) -> list[bytes]:
        """See `contract.EventStore.events`."""
        with self._reading() as connection:
            head = self._head(connection, key)
            head.readable(self._name(key), after)
            return self._page(connection, key, after, head.last, count_max, size_bytes_max)

    def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        """See `contract.EventStore.save_snapshot`."""
        (id_, (kept,)) = checked_key(key), checked_bodies([body])
        with self._writing() as connection:
            head = self._head(connection, key).snapshotted(self._name(key), sequence)
            row = (id_, sequence, kept, checksum(id_, (sequence,), kept))
            connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", row)
            self._put_head(connection, id_, head)

    def snapshot(self, key: str) -> SavedSnapshot | None:
        """See `contract.EventStore.snapshot`."""
        id_ = checked_key(key)
        with self._reading() as connection:
            head = self._head(connection, key)
            row = connection.execute("SELECT sequence, body, checksum FROM snapshots WHERE key = ?", (id_,)).fetchone()
        if row is None and head.snapshot == 0:
            return None
        if row is None or row[0] != head.snapshot or not _checks(row[2], id_, row[:1], row[1]):
            self._damaged(key, f"the snapshot at number {head.snapshot} is not as it was stored")
        return SavedSnapshot(row[0], row[1])

    def delete_events(self, key: str, up_to: int) -> None:
        """See `contract.EventStore.delete_events`."""
        id_ = checked_key(key)
        with self._writing() as connection:
            head = self._head(connection, key).trimmed(self._name(key), up_to)
            connection.execute("DELETE FROM events WHERE key = ? AND sequence <= ?", (id_, up_to))
            self._put_head(connection, id_, head)

    def forget(self, key: str) -> None:
        """See `contract.EventStore.forget`."""
        id_ = checked_key(key)
        with self._writing() as connection:
            connection.execute("DELETE FROM events WHERE key = ?", (id_,))
            connection.execute("DELETE FROM snapshots WHERE key = ?", (id_,))
            connection.execute("DELETE FROM heads WHERE key = ?", (id_,))

    # -------------------------------------------------------------------------------------------------------- rows

    def _meta(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return the schema's version and the count of writes."""
        try:
            row = connection.execute("SELECT version, writes, checksum FROM meta WHERE id = 1").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            row = None  # no such table, or no such column
        if row is None or not _checks(row[2], b"meta", row[:2]):
            raise CorruptedError(f"{self.path}: it is no event store", hint=HINT_DAMAGED)
        version, writes = row[:2]
        if version != SCHEMA_VERSION:
            raise WorldError(
                f"{self.path}: its layout is version {version}, this program knows {SCHEMA_VERSION}",
                hint="another version of Prime wrote it: use that one, or another file",
            )
        return version, writes

    def _head(self, connection: sqlite3.Connection, key: str) -> Head:
        id_ = checked_key(key)
        row = connection.execute("SELECT last, deleted, snapshot, checksum FROM heads WHERE key = ?", (id_,)).fetchone()
        if row is None:
            self._check_unknown(connection, key, id_)
            return Head()
        if not _checks(row[3], id_, row[:3]) or not Head(*row[:3]).is_sound:
            self._damaged(key, "its head is not as it was stored")
        return Head(*row[:3])

    def _check_unknown(self, connection: sqlite3.Connection, key: str, id_: bytes) -> None:
        found = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM events WHERE key = ?) OR EXISTS (SELECT 1 FROM snapshots WHERE key = ?)",
            (id_, id_),
        ).fetchone()
        if found != (0,):
            self._damaged(key, "its head was lost")

    def _put_head(self, connection: sqlite3.Connection, id_: bytes, head: Head) -> None:
        numbers = (head.last, head.deleted, head.snapshot)
        row = (id_, *numbers, checksum(id_, numbers))
        connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?)", row)

    def _page(
        self, connection: sqlite3.Connection, key: str, after: int, last: int, count_max: int, size_bytes_max: int
    ) -> list[bytes]:
        id_ = checked_key(key)
        rows = connection.execute(
            "SELECT sequence, body, checksum FROM events WHERE key = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (id_, after, max(count_max, 1) + 1),
        )
        page: list[bytes] = []
        size_bytes = 0
        for sequence, body, stored in rows:
            number = after + len(page) + 1
            if number > last or sequence != number or not _checks(stored, id_, (sequence,), body):
                self._damaged(key, f"event number {number} is not as it was stored")
            size_bytes += len(body)
            if page and (len(page) >= count_max or size_bytes > size_bytes_max):
                return page
            page.append(body)
        if after + len(page) != last:
            self._damaged(key, f"event number {after + len(page) + 1} was lost")
        return page

    # ----------------------------------------------------------------------------------------------- transactions

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one write, counted; the mark follows once the block is on the disk."""
        with named_errors(self.path):
            with self._transaction("BEGIN IMMEDIATE") as connection:
                yield connection
                version, writes = self._meta(connection)
                numbers = (version, writes + 1)
                row = (writes + 1, checksum(b"meta", numbers))
                connection.execute("UPDATE meta SET writes = ?, checksum = ? WHERE id = 1", row)
            if self._mark is not None:  # a pair with `_transaction`, which opened both
                self._mark.write(writes + 1)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self.open()
        with named_errors(self.path), transaction(connection, begin):
            yield connection

    def _name(self, key: str) -> str:
        return f"{self.path}, key {key!r}"

    def _damaged(self, key: str, what: str) -> NoReturn:
        raise CorruptedError(f"{self._name(key)}: {what}", hint=HINT_DAMAGED)


def _checks(stored: Any, key: bytes, numbers: Sequence[Any], body: Any = b"") -> bool:
    """Tell whether a row is as it was stored; a damaged row may hold anything."""
    return (
        all(type(number) is int for number in (stored, *numbers))
        and type(body) is bytes
        and stored == checksum(key, numbers, body)
    )
