"""What Prime's SQLite files have in common: how they are opened, and the errors of theirs by whose fault they are."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prime.errors import CorruptedError, PrimeError, WorldError

LOG_SIZE_BYTES_MAX: Final = 64 << 20
"""To what the write-ahead log is cut once its content is in the main file."""
PRAGMAS: Final = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: what fsync alone does not promise there
    "PRAGMA checkpoint_fullfsync = ON",
    f"PRAGMA journal_size_limit = {LOG_SIZE_BYTES_MAX}",
)
HINT_DAMAGED: Final = "the disk damaged it, or files of two backups were mixed: restore all files of one backup"
_HINTS: Final = {
    sqlite3.SQLITE_FULL: "free space on that disk, or move the file",
    sqlite3.SQLITE_BUSY: "another program holds the file: one program at a time should write to it",
    sqlite3.SQLITE_LOCKED: "another program holds the file: one program at a time should write to it",
    sqlite3.SQLITE_READONLY: "let this user write to the file and to its folder",
    sqlite3.SQLITE_PERM: "let this user write to the file and to its folder",
    sqlite3.SQLITE_CANTOPEN: "let this user write to the file and to its folder",
    sqlite3.SQLITE_IOERR: "look at the disk: the system's log says what failed",
    sqlite3.SQLITE_NOMEM: "give the program more memory",
    sqlite3.SQLITE_PROTOCOL: "another program holds the file: one program at a time should write to it",
}


@contextlib.contextmanager
def named_errors(path: Path, hint_damaged: str = HINT_DAMAGED) -> Iterator[None]:
    """Tell the world's errors from damage within the block, and name the file in both."""
    try:
        yield
    except PrimeError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code not in _HINTS:
            raise CorruptedError(f"{path}: {error}", hint=hint_damaged) from error
        raise WorldError(f"{path}: {error}", hint=_HINTS[code]) from error
    except OSError as error:
        hint = "free space on that disk" if error.errno == errno.ENOSPC else "look at the file's folder and its disk"
        raise WorldError(f"{path}: {error.strerror or error}", hint=hint) from error


def begin_log(connection: sqlite3.Connection, path: Path) -> None:
    """Have a connection keep a write-ahead log, synced at every commit. Raises `WorldError` where there can be none."""
    for pragma in PRAGMAS:
        connection.execute(pragma)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise WorldError(f"{path}: no write-ahead log ({mode})", hint="use a file on a local disk")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Run a block as one transaction: all of it is there afterwards, or, if anything is raised, nothing."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
            connection.execute("ROLLBACK")
        raise
