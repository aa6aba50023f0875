"""A journal's spool: bytes that are written before the record is that they belong to, in files beside the journal.

A spool is written once, from its beginning on. A record names pieces of it only after it was synced, so a crash tears
nothing that a record names; what none names is removed when the journal is opened, or written anew. Where a sync fails
that file is given up: what the system dropped then, no later sync would write.

The stored form of such a record is `MAGIC`, the number of pieces (u32), for each its spool, place and size (u64) and
SHA-256, all big endian, and the record's beginning. A record that itself begins with `MAGIC` is stored with no pieces.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from prime.actor.contract import Entry, Staged, StagedRecord
from prime.errors import CorruptedError
from prime.store.files import Files, Work, make_folders, write_all

MAGIC = b"prime staged 1\n"

_COUNT = struct.Struct(">I")
_PIECE = struct.Struct(">QQQ32s")


def body_of(entry: Entry) -> bytes | memoryview:
    """Return what a journal writes for an entry."""
    if isinstance(entry, StagedRecord):
        return _packed(entry.body, entry.pieces)
    return _packed(entry, ()) if entry[: len(MAGIC)] == MAGIC else entry


def _packed(body: bytes | memoryview, pieces: Sequence[Staged]) -> bytes:
    said = [_PIECE.pack(one.spool, one.at, one.size_bytes, one.hash) for one in pieces]
    return b"".join([MAGIC, _COUNT.pack(len(said)), *said, body])


def pieces_of(body: bytes) -> tuple[Staged, ...]:
    """Return the pieces that a stored record names."""
    if not body.startswith(MAGIC):
        return ()
    (count,) = _COUNT.unpack_from(body, len(MAGIC))
    first = len(MAGIC) + _COUNT.size
    return tuple(Staged(*_PIECE.unpack_from(body, first + index * _PIECE.size)) for index in range(count))


def start_of(body: bytes) -> bytes:
    """Return the beginning of a stored record: what was not staged of it."""
    if not body.startswith(MAGIC):
        return body
    return body[len(MAGIC) + _COUNT.size + len(pieces_of(body)) * _PIECE.size :]


class Spool:
    """The spools of one journal, in a folder of their own; only the newest is written to. Its calls do not overlap."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._sizes: dict[int, int] = {}
        self._synced: dict[int, int] = {}
        self._serial = 0
        self._group: int | None = None
        self._handle: int | None = None

    @property
    def size_bytes(self) -> int:
        """Return how much all spools take."""
        return sum(self._sizes.values())

    def find(self, named: Iterable[Staged]) -> Work[None]:
        """Keep what a crash left of the spools in which these pieces are, and remove the others."""
        yield
        for name in self._files.names(self._folder):
            if name.isdecimal():
                self._sizes[int(name)] = self._files.size_bytes(self._path(int(name))) or 0
        self._serial = max(self._sizes, default=0)
        self._synced = dict(self._sizes)
        yield from self.keep({one.spool for one in named})

    def write(self, group: int, pieces: Sequence[tuple[bytes | memoryview, bytes]]) -> Work[tuple[Staged, ...]]:
        """Write pieces behind those of their group, and begin to put them on the disk."""
        if self._handle is None or group != self._group:
            yield from self._begin(group)
        assert self._handle is not None  # noqa: S101 - begun above
        start = at = self._sizes[self._serial]
        found = []
        for data, hash_ in pieces:
            found.append(Staged(self._serial, at, len(data), hash_))
            at = yield from write_all(self._files, self._handle, data, at)
        self._sizes[self._serial] = at
        yield
        self._files.begin_sync(self._handle, start, at - start)
        return tuple(found)

    def _begin(self, group: int) -> Work[None]:
        with contextlib.suppress(OSError):  # then what is in it is not to be had any more
            yield from self._sync()
        self._give_up()
        yield from make_folders(self._files, self._folder)
        yield
        serial = self._serial + 1
        handle = self._files.open(self._path(serial))
        self._handle, self._serial, self._group = handle, serial, group
        self._sizes[serial] = 0

    def sync(self, pieces: Sequence[Staged]) -> Work[None]:
        """Put these pieces on the disk, their spools' names too. Raises `OSError`, once one was given up each time."""
        if any(one.spool == self._serial and one.at + one.size_bytes > self._safe(one.spool) for one in pieces):
            yield from self._sync()
        if any(one.at + one.size_bytes > self._safe(one.spool) for one in pieces):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _safe(self, serial: int) -> int:
        return self._synced.get(serial, 0)

    def _sync(self) -> Work[None]:
        if self._handle is None or self._safe(self._serial) == self._sizes[self._serial]:
            return
        size_bytes = self._sizes[self._serial]
        try:
            yield
            self._files.sync(self._handle)
            yield
            self._files.sync_folder(self._folder)
        except OSError:
            self._give_up()
            raise
        self._synced[self._serial] = size_bytes

    def _give_up(self) -> None:
        """Write nothing more to the newest spool."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._files.close(handle)

    def keep(self, serials: Collection[int]) -> Work[None]:
        """Remove all spools but these; one that the disk does not let go is tried again the next time."""
        for serial in [one for one in self._sizes if one not in serials]:
            if serial == self._serial:
                self._give_up()
            yield
            with contextlib.suppress(OSError):
                self._files.remove(self._path(serial))
                del self._sizes[serial]
                self._synced.pop(serial, None)

    def read(self, piece: Staged, journal: Path) -> bytes:
        """Return a piece. Raises `CorruptedError` where it is not what was written."""
        data = b""
        with contextlib.suppress(FileNotFoundError):
            data = self._files.read_part(self._path(piece.spool), piece.at, piece.size_bytes)
        if len(data) != piece.size_bytes or hashlib.sha256(data).digest() != piece.hash:
            raise CorruptedError(
                f"{self._path(piece.spool)}: a piece that {journal} names is damaged (at byte {piece.at})",
                hint="the disk damaged it: move the journal away; the node then joins its run as a new member",
            )
        return data

    def close(self) -> None:
        """Close the file that is open."""
        self._give_up()

    def _path(self, serial: int) -> Path:
        return self._folder / str(serial)
