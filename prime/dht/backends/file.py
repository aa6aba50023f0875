"""The SQLite file of a node's records, as blocking calls of one thread at a time; `sqlite.py` puts them behind `await`.

What a write returned from is on the disk: a write-ahead log, synced at every commit. All of it is read and checked when it
is opened: SQLite's own structure, a checksum over each row, and the mark, which counts the writes. Where something is
wrong the rows that check are moved to a new file, and the damaged one is put aside. A process that is killed on the way
leaves either the one or the other in place.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from prime.dht.backend import Entry, Loaded, Removal
from prime.errors import ActorUsageError, CorruptedError, WorldError
from prime.store.database import checksum
from prime.store.files import SystemFiles, finish, make_folders
from prime.store.mark import Mark
from prime.store.sqlite import begin_log, named_errors, transaction

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x50444854
"""`PDHT`, in the header of the file (SQLite's file format, 1.3.14): what has it is Prime's, damaged or not."""
_SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    "CREATE TABLE meta (id INTEGER PRIMARY KEY, version INTEGER, writes INTEGER, checksum INTEGER)",
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, kind BLOB, name BLOB, body BLOB, checksum INTEGER)",
    "CREATE UNIQUE INDEX places ON entries (kind, name)",
)
_TABLES: Final = {"meta", "entries"}
_INSERT: Final = "INSERT OR REPLACE INTO entries (kind, name, body, checksum) VALUES (?, ?, ?, ?)"
_PLACES: Final = (
    "SELECT kind, name, id FROM entries INDEXED BY places ORDER BY kind, name",
    "SELECT kind, name, id FROM entries INDEXED BY places ORDER BY kind DESC, name DESC",
)
_ROWS: Final = (
    "SELECT id, kind, name, body, checksum FROM entries NOT INDEXED ORDER BY id",
    "SELECT id, kind, name, body, checksum FROM entries NOT INDEXED ORDER BY id DESC",
)
_ROW: Final = "SELECT id, kind, name, body, checksum FROM entries WHERE id = ?"
_HINT: Final = "what can be read of it is kept when it is opened again, and the rest fetched from other nodes"

_Place = tuple[bytes, bytes]


@attrs.define
class _Saved:
    """What was read of a damaged file: sound bodies by their place, with the row that each had; and the places that were."""

    bodies: dict[_Place, tuple[int, bytes]] = attrs.field(factory=dict)
    places: set[_Place] = attrs.field(factory=set)
    writes: int = 0

    @property
    def loaded(self) -> Loaded:
        entries = tuple(Entry(kind.decode(), name, body) for (kind, name), (_, body) in self.bodies.items())
        lost = sorted(self.places - self.bodies.keys())
        return Loaded(entries, tuple(Removal(kind.decode(errors="replace"), name) for kind, name in lost))


class RecordsFile:
    """One file. `open` comes first; after `close` it may be opened again."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._files = SystemFiles()
        self._connection: sqlite3.Connection | None = None
        self._mark: Mark | None = None
        self._writes = 0

    # ---- calls

    def open(self) -> Loaded:
        """Open or make the file and return what is in it; see `Backend.open`."""
        if self._connection is not None:
            raise ActorUsageError(f"{self.path} is open", hint="close it before it is opened again")
        with named_errors(self.path, _HINT):
            finish(lambda: make_folders(self._files, self.path.parent))
            self._end_swap()
            try:
                return self._opened()
            except CorruptedError as damage:
                self.close()
                self._rescue(damage, saved := self._salvaged())
        self._opened()
        return saved.loaded

    def write(self, changes: Sequence[Entry | Removal]) -> None:
        """Make all these changes or none; see `Backend.write`."""
        if self._connection is None:
            raise ActorUsageError(f"{self.path} is not open", hint="open it before it is written to")
        with named_errors(self.path, _HINT), transaction(self._connection, "BEGIN IMMEDIATE"):
            for change in changes:
                _change(self._connection, change)
            _put_meta(self._connection, self._writes + 1)
        self._writes += 1
        self._note()

    def close(self) -> None:
        """Close the file; harmless the second time."""
        connection, self._connection = self._connection, None
        mark, self._mark = self._mark, None
        if connection is not None:
            connection.close()
        if mark is not None:
            mark.close()

    # ---- a sound file

    def _opened(self) -> Loaded:
        """Open it and read all of it. Raises `CorruptedError` if anything in it is not as it was written."""
        try:
            with named_errors(self.path, _HINT):
                self._connection = self._connect(self.path)
                return self._read(self._connection)
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path) -> sqlite3.Connection:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._files.sync_folder(path.parent)
        connection = sqlite3.connect(path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # until it is closed, or its process ends
            is_new = not _tables(connection)
            if not is_new:
                self._check_owner(connection)
            begin_log(connection, path)
            with transaction(connection, "BEGIN IMMEDIATE"):
                if is_new:
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    _put_meta(connection, 0)
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, connection: sqlite3.Connection) -> Loaded:
        version, self._writes = self._meta(connection)
        if version != SCHEMA_VERSION:
            raise WorldError(
                f"{self.path}: its layout is version {version}, this program knows {SCHEMA_VERSION}",
                hint="another version of Prime wrote it: use that one, or another file",
            )
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise CorruptedError(f"{self.path}: {verdict}", hint=_HINT)
        rows = connection.execute("SELECT kind, name, body, checksum FROM entries").fetchall()
        if not all(_is_sound(*row) for row in rows):
            raise CorruptedError(f"{self.path}: a row is not as it was written", hint=_HINT)
        entries = tuple(Entry(kind.decode(), name, body) for kind, name, body, _ in rows)
        return Loaded(entries, lost_writes=self._lost(connection))

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        ours = _tables(connection) >= _TABLES
        if owner != APPLICATION_ID and not ours:
            raise WorldError(
                f"{self.path}: it is no store of records", hint="name another file: this one is not Prime's"
            )
        if owner != APPLICATION_ID or not ours:
            raise CorruptedError(f"{self.path}: its header is not as it was written", hint=_HINT)

    def _meta(self, connection: sqlite3.Connection) -> tuple[int, int]:
        row = connection.execute("SELECT version, writes, checksum FROM meta WHERE id = 1").fetchone()
        if row is None or not all(type(number) is int for number in row) or row[2] != checksum(b"meta", row[:2]):
            raise CorruptedError(f"{self.path}: its count of writes is not as it was written", hint=_HINT)
        return row[0], row[1]

    def _lost(self, connection: sqlite3.Connection) -> int:
        """Open the mark, and return how many writes it has seen that are not there; they are told once."""
        self._mark = _mark(self.path)
        lost = max(self._mark.count - self._writes, 0)
        if lost:
            self._writes = self._mark.count
            with transaction(connection, "BEGIN IMMEDIATE"):
                _put_meta(connection, self._writes)
        return lost

    def _note(self) -> None:
        """Let the mark follow. A mark that could not be written is lower, which is no harm: the write itself is there."""
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._mark.write(self._writes)

    # ---- a damaged file

    def _rescue(self, damage: CorruptedError, saved: _Saved) -> None:
        """Put a new file with what was saved in the place of the damaged one; raise if that is nothing."""
        if not saved.bodies and not saved.places:
            self._put_aside()
            _path(self.path, "-mark").unlink(missing_ok=True)
            self._files.sync_folder(self.path.parent)
            raise CorruptedError(
                f"{damage}; nothing of it can be read, and it is {self.path.name}-damaged now",
                hint="open again: an empty store is made, and what other nodes hold is fetched from them",
            ) from damage
        draft = _path(self.path, "-rescue-draft")
        connection = self._connect(draft)
        try:
            with transaction(connection, "BEGIN IMMEDIATE"):
                for (kind, name), (_, body) in saved.bodies.items():
                    connection.execute(_INSERT, (kind, name, body, checksum(kind + name, (len(kind),), body)))
                _put_meta(connection, saved.writes)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        _sync(draft)
        draft.replace(_path(self.path, "-rescue"))
        self._end_swap()

    def _end_swap(self) -> None:
        """Finish what a process that was killed had begun: a whole rescue takes the place of the damaged file."""
        for suffix in ("", "-wal", "-shm", "-journal"):
            _path(self.path, f"-rescue-draft{suffix}").unlink(missing_ok=True)
        rescue = _path(self.path, "-rescue")
        if rescue.exists():
            self._files.sync_folder(self.path.parent)
            self._put_aside()
            rescue.replace(self.path)
            self._files.sync_folder(self.path.parent)

    def _put_aside(self) -> None:
        """Give the damaged file and its log another name; the ones that had it are gone."""
        for suffix in ("-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                _path(self.path, suffix).replace(_path(self.path, f"-damaged{suffix}"))
        _path(self.path, "-shm").unlink(missing_ok=True)

    def _salvaged(self) -> _Saved:
        """Read what can be read, from both ends of the table and by its index, past pages that cannot be."""
        saved = _Saved()
        with contextlib.suppress(sqlite3.Error, CorruptedError):
            connection = sqlite3.connect(self.path, timeout=self._busy_timeout_s, isolation_level=None)
            try:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                _salvage(connection, saved)
                with contextlib.suppress(sqlite3.Error):
                    saved.writes = self._meta(connection)[1]
            finally:
                connection.close()
        mark = _mark(self.path)
        saved.writes = max(saved.writes, mark.count)
        mark.close()
        return saved


def _salvage(connection: sqlite3.Connection, saved: _Saved) -> None:
    rowids: set[int] = set()
    for query in _PLACES:
        for kind, name, rowid in _readable(connection, query):
            if _is_place(kind, name, rowid):
                saved.places.add((kind, name))
                rowids.add(rowid)
    for query in _ROWS:
        for row in _readable(connection, query):
            _save(saved, *row)
    for rowid in sorted(rowids - {rowid for rowid, _ in saved.bodies.values()}):
        for row in _readable(connection, _ROW, rowid):
            _save(saved, *row)


def _readable(connection: sqlite3.Connection, query: str, *arguments: Any) -> Iterator[tuple[Any, ...]]:
    """Yield rows up to the first page that cannot be read."""
    with contextlib.suppress(sqlite3.Error):
        yield from connection.execute(query, arguments)


def _save(saved: _Saved, rowid: Any, kind: Any, name: Any, body: Any, sum_: Any) -> None:
    """Keep a row that checks; of two under one name, the one that was written later."""
    if _is_place(kind, name, rowid) and _is_sound(kind, name, body, sum_):
        kept = saved.bodies.get((kind, name))
        if kept is None or kept[0] < rowid:
            saved.bodies[kind, name] = (rowid, body)


def _is_place(kind: Any, name: Any, rowid: Any) -> bool:
    return type(kind) is bytes and type(name) is bytes and type(rowid) is int


def _is_sound(kind: Any, name: Any, body: Any, sum_: Any) -> bool:
    """Tell whether a row is as it was written; a damaged one may hold anything."""
    if not all(type(data) is bytes for data in (kind, name, body)):
        return False
    return bool(sum_ == checksum(kind + name, (len(kind),), body))


def _change(connection: sqlite3.Connection, change: Entry | Removal) -> None:
    kind, name = change.kind.encode(), bytes(change.name)
    if isinstance(change, Removal):
        connection.execute("DELETE FROM entries WHERE kind = ? AND name = ?", (kind, name))
    else:
        body = bytes(change.body)
        connection.execute(_INSERT, (kind, name, body, checksum(kind + name, (len(kind),), body)))


def _put_meta(connection: sqlite3.Connection, writes: int) -> None:
    numbers = (SCHEMA_VERSION, writes)
    connection.execute("INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?)", (*numbers, checksum(b"meta", numbers)))


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def _mark(path: Path) -> Mark:
    """Open the mark of a file; one that is damaged says nothing, and starts over."""
    place = _path(path, "-mark")
    try:
        return Mark(place)
    except CorruptedError:
        place.unlink()
        return Mark(place)


def _path(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
