"""The journal on disk: what `append` returned from survives a crash of the process, the system and the power."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from prime.errors import WorldError
from prime.store.framing import MAGIC, framed, scan


class MemoryJournal:
    """A journal for tests and simulations: it lives as long as the object."""

    def __init__(self) -> None:
        self._records: list[bytes] = []

    async def append(self, record: bytes | memoryview) -> None:
        """See `contract.Journal.append`."""
        await trio.lowlevel.checkpoint()
        self._records.append(bytes(record))

    async def replace(self, records: Sequence[bytes | memoryview]) -> None:
        """See `contract.Journal.replace`."""
        await trio.lowlevel.checkpoint()
        self._records = [bytes(record) for record in records]

    def records(self) -> list[bytes]:
        """See `contract.Journal.records`."""
        return list(self._records)

    @property
    def size_bytes(self) -> int:
        """See `contract.Journal.size_bytes`."""
        return sum(len(record) for record in self._records)


class FileJournal:
    """An append-only file, fsynced at every append. One process at a time may have it open."""

    def __init__(self, path: Path, handle: int, size_bytes: int) -> None:
        self._path = path
        self._handle = handle
        self._size_bytes = size_bytes
        self._lock = trio.Lock()
        self._broken = False

    @classmethod
    async def open(cls, path: Path) -> FileJournal:
        """Open or make the journal at `path`; a torn last record is cut off.

        Raises `CorruptedError` for damage anywhere else and `WorldError` where the disk refuses.
        """
        journal: FileJournal = await _on_disk(path, functools.partial(cls._open, path))
        return journal

    @classmethod
    def _open(cls, path: Path) -> FileJournal:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.with_suffix(".new").unlink(missing_ok=True)
        found = scan(path.read_bytes() if path.exists() else b"", str(path))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size_bytes = found.whole_bytes
        os.ftruncate(handle, size_bytes)
        os.lseek(handle, size_bytes, os.SEEK_SET)
        if size_bytes == 0:
            _write(handle, MAGIC)
            size_bytes = len(MAGIC)
        os.fsync(handle)
        sync_folder(path.parent)
        return cls(path, handle, size_bytes)

    async def append(self, record: bytes | memoryview) -> None:
        """See `contract.Journal.append`. Raises `WorldError` when the disk is full or gone; nothing is half kept."""
        async with self._lock:
            with trio.CancelScope(shield=True):
                await _on_disk(self._path, functools.partial(self._append, record))

    def _append(self, record: bytes | memoryview) -> None:
        if self._broken:
            raise OSError(errno.EIO, "an earlier write could not be undone: start the node again")
        head = framed(record)
        try:
            _write(self._handle, head)
            _write(self._handle, record)
            os.fsync(self._handle)
        except OSError:
            self._broken = True  # until the half-written record is gone again
            os.ftruncate(self._handle, self._size_bytes)
            os.lseek(self._handle, self._size_bytes, os.SEEK_SET)
            self._broken = False
            raise
        self._size_bytes += len(head) + len(record)

    async def replace(self, records: Sequence[bytes | memoryview]) -> None:
        """See `contract.Journal.replace`: a fresh file takes the old one's place, whole or not at all."""
        async with self._lock:
            with trio.CancelScope(shield=True):
                await _on_disk(self._path, functools.partial(self._replace, records))

    def _replace(self, records: Sequence[bytes | memoryview]) -> None:
        draft = self._path.with_suffix(".new")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size_bytes = _write(handle, MAGIC)
            for record in records:
                size_bytes += _write(handle, framed(record)) + _write(handle, record)
            os.fsync(handle)
            draft.replace(self._path)
        except OSError:
            os.close(handle)
            raise
        old, self._handle, self._size_bytes = self._handle, handle, size_bytes
        self._broken = False
        os.close(old)
        sync_folder(self._path.parent)

    def records(self) -> list[bytes]:
        """See `contract.Journal.records`: read from the disk, again at every call."""
        return list(scan(self._path.read_bytes(), str(self._path)).records)

    @property
    def size_bytes(self) -> int:
        """See `contract.Journal.size_bytes`."""
        return self._size_bytes

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


async def _on_disk(path: Path, work: Callable[[], Any]) -> Any:
    try:
        return await trio.to_thread.run_sync(work)
    except OSError as error:
        raise WorldError(
            f"{path}: {error.strerror or error}", hint="free space on that disk, or move the node's state folder"
        ) from error


def _write(handle: int, data: bytes | memoryview) -> int:
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    written = 0
    while written < len(view):
        written += os.write(handle, view[written : written + (1 << 30)])
    return written


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a crash too; raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
