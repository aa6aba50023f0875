"""The calls to a disk that the store makes, as one contract: the system's own files, and a simulated disk elsewhere.

Work on a disk is a generator: it makes blocking calls and yields before each. Where it yields a crash may come between
two calls, time passes on a simulated disk, and the real one goes on at once, in a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import trio

from prime.errors import WorldError

T = TypeVar("T")

Work: TypeAlias = Generator[None, None, T]
"""Blocking calls with a `yield` before each, and what they come to."""

_FULL_HINT = "free space on that disk, or move the node's state folder"
_CHUNK_BYTES = 1 << 30
"""What one call is asked to write at most; Linux writes 2 GiB at once at most."""


@contextlib.contextmanager
def disk_errors(path: Path, hint: str = _FULL_HINT) -> Iterator[None]:
    """Raise a disk's refusal within the block as a `WorldError` that names the place and the next step."""
    try:
        yield
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror or error}", hint=hint) from error


class Files(Protocol):
    """One disk. Each call but `run` blocks, and raises `OSError` where the disk refuses."""

    async def run(self, start: Callable[[], Work[T]]) -> T:
        """Do work to its end, off the event loop, and return what it comes to; cancelled only before it begins."""
        ...

    def has(self, path: Path) -> bool:
        """Tell whether a file or a folder has this name."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Make a folder for this user alone, in one that is there; harmless if it exists."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Put the names in a folder on the disk: those that came, went and changed."""
        ...

    def read(self, path: Path) -> bytes:
        """Return what is in a file; nothing if there is none."""
        ...

    def read_part(self, path: Path, at: int, size_bytes: int) -> bytes:
        """Return a part of a file that is there: less than `size_bytes` at its end, nothing behind it."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; nothing if there is none."""
        ...

    def size_bytes(self, path: Path) -> int | None:
        """Return how long a file is; `None` if no file has this name."""
        ...

    def open(self, path: Path) -> int:
        """Open or make a file for this user alone, and return its handle."""
        ...

    def write(self, handle: int, data: bytes | memoryview, at: int) -> int:
        """Write at a place in a file and return how many bytes were taken: as few as one, on a disk that fills up."""
        ...

    def truncate(self, handle: int, size_bytes: int) -> None:
        """Cut a file's end off, or add zeros to it."""
        ...

    def sync(self, handle: int) -> None:
        """Put a file's bytes and its length on the disk; what was not there before a failure may never get there."""
        ...

    def begin_sync(self, handle: int, at: int, size_bytes: int) -> None:
        """Begin to put a part of a file on the disk, so that `sync` has less to do; it promises nothing."""
        ...

    def close(self, handle: int) -> None:
        """Close a file."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Give a file the name of another in the same folder, whose place it takes; or a folder a name that is free."""
        ...

    def remove(self, path: Path) -> None:
        """Take a file's name away; harmless if there is none."""
        ...

    def remove_folder(self, folder: Path) -> None:
        """Take an empty folder's name away; harmless if there is none."""
        ...


class SystemFiles:
    """The files of the operating system; work runs in a worker thread."""

    async def run(self, start: Callable[[], Work[T]]) -> T:
        """See `Files.run`."""
        return await trio.to_thread.run_sync(finish, start)

    def has(self, path: Path) -> bool:
        """See `Files.has`."""
        return path.exists()

    def make_folder(self, folder: Path) -> None:
        """See `Files.make_folder`."""
        folder.mkdir(mode=0o700, exist_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """See `Files.sync_folder`."""
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, path: Path) -> bytes:
        """See `Files.read`."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""

    def read_part(self, path: Path, at: int, size_bytes: int) -> bytes:
        """See `Files.read_part`."""
        # Not to wait for whoever writes to it, should it be a pipe by now: nothing could break that off.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise FileNotFoundError(errno.ENOENT, "no file any more", str(path))
            file.seek(at)
            return file.read(size_bytes)

    def names(self, folder: Path) -> list[str]:
        """See `Files.names`."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []

    def size_bytes(self, path: Path) -> int | None:
        """See `Files.size_bytes`."""
        return path.stat().st_size if path.is_file() else None

    def open(self, path: Path) -> int:
        """See `Files.open`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, data: bytes | memoryview, at: int) -> int:
        """See `Files.write`."""
        return os.pwrite(handle, data, at)

    def truncate(self, handle: int, size_bytes: int) -> None:
        """See `Files.truncate`."""
        os.ftruncate(handle, size_bytes)

    def sync(self, handle: int) -> None:
        """See `Files.sync`."""
        os.fsync(handle)

    def begin_sync(self, handle: int, at: int, size_bytes: int) -> None:
        """See `Files.begin_sync`: what a process says that it will not read soon, Linux begins to write."""
        if sys.platform == "linux":
            os.posix_fadvise(handle, at, size_bytes, os.POSIX_FADV_DONTNEED)

    def close(self, handle: int) -> None:
        """See `Files.close`."""
        os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        """See `Files.replace`."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """See `Files.remove`."""
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        """See `Files.remove_folder`."""
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def put_text(path: Path, text: str) -> None:
    """Make a text what is in a file, whole or not at all, and on the disk when this returns; blocks. Raises `OSError`."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    files = SystemFiles()
    files.replace(draft, path)
    files.sync_folder(path.parent)


def finish(start: Callable[[], Work[T]]) -> T:
    """Do work to its end at once, and return what it comes to."""
    work = start()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def write_all(files: Files, handle: int, data: bytes | memoryview, at: int) -> Work[int]:
    """Write all of `data` at a place in a file, and return where it ends."""
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while view:
        yield
        taken = files.write(handle, view[:_CHUNK_BYTES], at)
        view, at = view[taken:], at + taken
    return at


def write_file(files: Files, path: Path, data: bytes | memoryview) -> Work[None]:
    """Make these bytes what is in a file, and put them on the disk; its name is not."""
    yield
    handle = files.open(path)
    try:
        yield
        files.truncate(handle, 0)
        yield from write_all(files, handle, data, 0)
        yield
        files.sync(handle)
    finally:
        files.close(handle)


def make_folders(files: Files, folder: Path) -> Work[None]:
    """Make a folder and those above it, so that they survive a crash as what will be in them does."""
    missing: list[Path] = []
    above = folder
    while not files.has(above):
        missing.append(above)
        above = above.parent
    for made in reversed(missing):
        yield
        files.make_folder(made)
        yield
        files.sync_folder(made.parent)
    if not missing:
        yield
        with contextlib.suppress(PermissionError):  # it is there, made by whoever may look into the one above it
            files.sync_folder(folder.parent)  # or by a process that ended before it could do this
