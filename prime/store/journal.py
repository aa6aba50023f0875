"""The journal on disk: what `append` returned from survives a crash of the process, the system and the power."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from prime.actor.contract import Entry, Staged, StagedRecord
from prime.errors import CorruptedError
from prime.store.files import Files, SystemFiles, Work, disk_errors, make_folders, write_all
from prime.store.framing import MAGIC, Scan, framed, scan
from prime.store.spool import Spool, body_of, pieces_of, start_of

T = TypeVar("T")


class MemoryJournal:
    """A journal for tests and simulations: it lives as long as the object."""

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self._staged: dict[Staged, bytes] = {}

    async def append(self, record: Entry) -> None:
        """See `contract.Journal.append`."""
        await trio.lowlevel.checkpoint()
        self._records.append(self._whole(record))

    async def stage(self, group: int, pieces: Sequence[tuple[bytes | memoryview, bytes]]) -> tuple[Staged, ...]:
        """See `contract.Journal.stage`."""
        await trio.lowlevel.checkpoint()
        places = enumerate(pieces, len(self._staged))
        found = {Staged(group, at, len(data), hash_): bytes(data) for at, (data, hash_) in places}
        self._staged.update(found)
        return tuple(found)

    async def replace(self, records: Sequence[Entry]) -> None:
        """See `contract.Journal.replace`."""
        await trio.lowlevel.checkpoint()
        named = {piece for record in records if isinstance(record, StagedRecord) for piece in record.pieces}
        self._records = [self._whole(record) for record in records]
        self._staged = {piece: data for piece, data in self._staged.items() if piece in named}

    def _whole(self, record: Entry) -> bytes:
        if isinstance(record, StagedRecord):
            return record.body + b"".join(self._staged[piece] for piece in record.pieces)
        return bytes(record)

    def records(self) -> list[bytes]:
        """See `contract.Journal.records`."""
        return list(self._records)

    @property
    def size_bytes(self) -> int:
        """See `contract.Journal.size_bytes`."""
        return sum(map(len, (*self._records, *self._staged.values())))


class FileJournal:
    """An append-only file, fsynced at every append. One process at a time may have it open.

    What is staged lies in the folder beside it whose name ends in `.spool`.

    `files` is the disk it lies on. A journal outlives a disk that fails for a time: an append or replace that fails is
    undone, at once or before the next one, and may be there after a crash only if not even that came to the disk.
    """

    def __init__(self, path: Path, files: Files, handle: int, size_bytes: int, spool: Spool) -> None:
        self._path = path
        self._spool = spool
        self._files = files
        self._handle = handle
        self._size_bytes = size_bytes
        self._lock = trio.Lock()
        self._spool_lock = trio.Lock()
        self._has_rest = False
        """Whether something of a failed append may stand behind the last record."""
        self._is_renamed = False
        """Whether the file has a new name of which the disk may not know."""

    @classmethod
    async def open(cls, path: Path, files: Files | None = None) -> FileJournal:
        """Open or make the journal at `path`; a torn last record is cut off.

        Raises `CorruptedError` for damage anywhere else and `WorldError` where the disk refuses.
        """
        disk = SystemFiles() if files is None else files
        with disk_errors(path):
            return await disk.run(lambda: cls._open(path, disk))

    @classmethod
    def _open(cls, path: Path, files: Files) -> Work[FileJournal]:
        yield from make_folders(files, path.parent)
        yield
        files.remove(_draft(path))
        yield
        data = files.read(path)
        found = scan(data, str(path))
        yield
        handle = files.open(path)
        try:
            yield
            files.truncate(handle, found.whole_bytes)
            yield from _rewritten(files, handle, data, found)
            yield
            files.sync(handle)
            yield
            files.sync_folder(path.parent)
            spool = Spool(spool_of(path), files)
            yield from spool.find(piece for body in found.records for piece in pieces_of(body))
        except BaseException:
            files.close(handle)
            raise
        return cls(path, files, handle, max(found.whole_bytes, len(MAGIC)), spool)

    async def append(self, record: Entry) -> None:
        """See `contract.Journal.append`. Raises `WorldError` when the disk is full or gone; nothing is half kept."""
        if isinstance(record, StagedRecord):
            await self._run(lambda: self._spool.sync(record.pieces), self._spool_lock)
        await self._run(lambda: self._append(body_of(record)), self._lock)

    async def stage(self, group: int, pieces: Sequence[tuple[bytes | memoryview, bytes]]) -> tuple[Staged, ...]:
        """See `contract.Journal.stage`. Raises `WorldError` as `append` does."""
        return await self._run(lambda: self._spool.write(group, pieces), self._spool_lock)

    def _append(self, record: bytes | memoryview) -> Work[None]:
        yield from self._mend()
        self._has_rest = True
        try:
            end = yield from write_all(self._files, self._handle, framed(record), self._size_bytes)
            end = yield from write_all(self._files, self._handle, record, end)
            yield
            self._files.sync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell; the next call tries again
                yield from self._mend()
            raise
        self._size_bytes, self._has_rest = end, False

    def _mend(self) -> Work[None]:
        """Finish what an earlier call could not: nothing may be promised behind a rest, or under an unsynced name."""
        if self._has_rest:
            yield
            self._files.truncate(self._handle, self._size_bytes)
            yield  # else a crash could bring the rest back behind what is written over its beginning
            self._files.sync(self._handle)
            self._has_rest = False
        if self._is_renamed:
            yield
            self._files.sync_folder(self._path.parent)
            self._is_renamed = False

    async def replace(self, records: Sequence[Entry]) -> None:
        """See `contract.Journal.replace`: a fresh file takes the old one's place, whole or not at all."""
        pieces = [piece for record in records if isinstance(record, StagedRecord) for piece in record.pieces]
        async with self._spool_lock:
            with self._work():
                await self._files.run(lambda: self._spool.sync(pieces))
            await self._run(lambda: self._replace([body_of(record) for record in records]), self._lock)
            with self._work():
                await self._files.run(lambda: self._spool.keep({piece.spool for piece in pieces}))

    def _replace(self, records: Sequence[bytes | memoryview]) -> Work[None]:
        draft = _draft(self._path)
        yield
        handle = self._files.open(draft)
        try:
            size_bytes = yield from self._write_draft(handle, records)
            yield
            self._files.replace(draft, self._path)
        except BaseException:
            self._files.close(handle)
            raise
        old, self._handle, self._size_bytes = self._handle, handle, size_bytes
        self._has_rest, self._is_renamed = False, True
        self._files.close(old)
        yield from self._mend()

    def _write_draft(self, handle: int, records: Sequence[bytes | memoryview]) -> Work[int]:
        yield
        self._files.truncate(handle, 0)
        end = yield from write_all(self._files, handle, MAGIC, 0)
        for record in records:
            end = yield from write_all(self._files, handle, framed(record), end)
            end = yield from write_all(self._files, handle, record, end)
        yield
        self._files.sync(handle)
        return end

    def records(self) -> list[bytes]:
        """See `contract.Journal.records`: read from the disk, again at every call.

        Raises `CorruptedError` if what was written is there no more, and `WorldError` where the disk refuses.
        """
        with disk_errors(self._path):
            data = self._files.read(self._path)
        if self._lock.locked():  # a worker thread changes the file just now
            return self._whole(scan(data, str(self._path)))
        found = scan(memoryview(data)[: self._size_bytes], str(self._path))
        if found.whole_bytes != self._size_bytes:
            raise CorruptedError(
                f"{self._path}: {self._size_bytes} bytes were written and {found.whole_bytes} are sound",
                hint="the disk damaged it, or another program wrote to it: look at the disk, start the node again",
            )
        return self._whole(found)

    def _whole(self, found: Scan) -> list[bytes]:
        with disk_errors(self._path):
            return [self._joined(body) for body in found.records]

    def _joined(self, body: bytes) -> bytes:
        pieces = (self._spool.read(piece, self._path) for piece in pieces_of(body))
        return b"".join([start_of(body), *pieces])

    @property
    def size_bytes(self) -> int:
        """See `contract.Journal.size_bytes`."""
        return self._size_bytes + self._spool.size_bytes

    def close(self) -> None:
        """Close the file; raises `WorldError` where the disk refuses, and then it is closed too."""
        with disk_errors(self._path):
            self._spool.close()
            self._files.close(self._handle)

    async def _run(self, start: Callable[[], Work[T]], lock: trio.Lock) -> T:
        async with lock:
            with self._work():
                return await self._files.run(start)

    @contextlib.contextmanager
    def _work(self) -> Iterator[None]:
        with disk_errors(self._path), trio.CancelScope(shield=True):
            yield


def spool_of(path: Path) -> Path:
    """Return the folder of what is staged for a journal."""
    return path.with_name(path.name + ".spool")


def _draft(path: Path) -> Path:
    """Return where a journal is written anew."""
    return path.with_name(path.name + ".new")


def _rewritten(files: Files, handle: int, data: bytes, found: Scan) -> Work[None]:
    """Write the last record again, or the beginning of a new journal, so that the sync behind it puts that on the disk.

    A process that ended in an append may have left a record in the system's memory alone, where it is found again. If
    its sync had failed, another sync would not write it: only bytes that are written once more are tried once more.
    """
    if found.records:
        at = found.whole_bytes - len(framed(b"")) - len(found.records[-1])
        yield from write_all(files, handle, memoryview(data)[at : found.whole_bytes], at)
    else:
        yield from write_all(files, handle, MAGIC, 0)
