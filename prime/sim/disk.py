"""A node's simulated disk: what was not synced may be lost, and it can be full, gone, slow, and change a bit by itself.

It stands behind `prime.store.files.Files`, so the journal on it is the one of production. SQLite cannot be simulated: it
makes its own calls to the system's files, in a thread. Actors that persist use `Disk.event_store` in a simulation.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import attrs
import trio

from prime.sim.event_store import JournalEventStore
from prime.sim.plan import DiskFaults
from prime.sim.platter import Folder, StoredFile
from prime.sim.streams import Streams
from prime.store.files import Files, Work
from prime.store.journal import FileJournal

T = TypeVar("T")


@attrs.frozen
class Flip:
    """A bit that changed by itself: which of which byte of which file."""

    path: str
    at: int
    bit: int


class Disk:
    """The disk of one node. `full` and `gone` say what is wrong with it now, `faults` what a power loss does to it."""

    def __init__(self, name: str, streams: Streams, faults: DiskFaults | None = None) -> None:
        self.name = name
        self.faults = DiskFaults() if faults is None else faults
        self.full = False
        self.gone = False
        self.flips: list[Flip] = []
        """The bits that changed since the disk was new."""
        self.serial = 1
        """Which disk of the node this is: one more after each that was lost."""
        self._random = streams.stream("disk", name)
        self._root = Folder()
        self._life = SimulatedFiles(self, self._root, self._random)

        self.guard: Callable[[], None] = lambda: None
        """Raises for who may not touch the disk, such as what is left of a life that has crashed."""

    def files(self) -> Files:
        """Return the disk as the node sees it in its present life."""
        self.guard()
        return self._life

    async def journal(self, name: str) -> FileJournal:
        """Open or make a journal; raises as `FileJournal.open` does."""
        return await FileJournal.open(Path("/", name), self.files())

    def event_store(self, name: str = "events") -> JournalEventStore:
        """Return an event store in one journal of the disk, which it opens at its first call."""
        return JournalEventStore(Path("/", name), self.files())

    def crash(self, *, power: bool = True) -> None:
        """End the present life: its calls fail from now on. Without `power` lost, the system keeps what was written."""
        self._life.end()
        if power:
            self._root.lose_power(self._random, self.faults)
        self._life = SimulatedFiles(self, self._root, self._random)

    def wipe(self) -> None:
        """End the present life and put a new, empty disk in this one's place."""
        self._life.end()
        self._root = Folder()
        self.flips = []
        self.serial += 1
        self._life = SimulatedFiles(self, self._root, self._random)

    def mend(self) -> None:
        """Make it well, quick and faithful from now on."""
        self.full = self.gone = False
        self.faults = DiskFaults()

    def flip(self) -> Flip | None:
        """Change one bit of what was synced, and return where; `None` on a disk that has nothing such."""
        files = [(path, file) for path, file in self._root.files() if file.is_synced and file.data]
        if not files:
            return None
        path, file = self._random.choices(files, [len(file.data) for _, file in files])[0]
        flip = Flip(path, self._random.randrange(len(file.data)), self._random.randrange(8))
        file.flip(flip.at, flip.bit)
        self.flips.append(flip)
        return flip


class SimulatedFiles:
    """The disk in one life of its node; see `prime.store.files.Files`. After that life every call fails."""

    def __init__(self, disk: Disk, root: Folder, random: Random) -> None:
        self._disk = disk
        self._root = root
        self._random = random
        self._open: dict[int, StoredFile] = {}
        self._handles = 0
        self._end = trio.Event()

    def end(self) -> None:
        """Let every call fail from now on, and those that wait for the disk too."""
        self._end.set()

    async def run(self, start: Callable[[], Work[T]]) -> T:
        """See `Files.run`: work takes `DiskFaults.latency_s` for each of its calls, and others run between them."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            work = start()
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    result: T = end.value
                    break
                await self._wait()
        return result

    async def _wait(self) -> None:
        with trio.move_on_after(self._disk.faults.latency_s):
            await self._end.wait()
        await trio.lowlevel.checkpoint()

    def has(self, path: Path) -> bool:
        """See `Files.has`."""
        self._check()
        return self._find(path) is not None

    def make_folder(self, folder: Path) -> None:
        """See `Files.make_folder`."""
        self._check()
        if not isinstance(self._find(folder), Folder):
            self._check_room()
            self._folder(folder.parent).change({folder.name: Folder()})

    def sync_folder(self, folder: Path) -> None:
        """See `Files.sync_folder`."""
        self._check()
        self._folder(folder).sync()

    def read(self, path: Path) -> bytes:
        """See `Files.read`."""
        self._check()
        found = self._find(path)
        return bytes(found.data) if isinstance(found, StoredFile) else b""

    def read_part(self, path: Path, at: int, size_bytes: int) -> bytes:
        """See `Files.read_part`."""
        self._check()
        return bytes(self._file_at(path).data[at : at + size_bytes])

    def names(self, folder: Path) -> list[str]:
        """See `Files.names`."""
        self._check()
        found = self._find(folder)
        return sorted(found.names) if isinstance(found, Folder) else []

    def size_bytes(self, path: Path) -> int | None:
        """See `Files.size_bytes`."""
        self._check()
        found = self._find(path)
        return len(found.data) if isinstance(found, StoredFile) else None

    def open(self, path: Path) -> int:
        """See `Files.open`."""
        self._check()
        found = self._find(path)
        if not isinstance(found, StoredFile):
            self._check_room()
            found = StoredFile()
            self._folder(path.parent).change({path.name: found})
        self._handles += 1
        self._open[self._handles] = found
        return self._handles

    def write(self, handle: int, data: bytes | memoryview, at: int) -> int:
        """See `Files.write`."""
        self._check()
        file = self._file(handle)
        room = len(data)
        if self._disk.full and at + len(data) > len(file.data):
            free = max(0, len(file.data) - at)
            room = self._random.choice((free, self._random.randint(free, len(data) - 1)))
            if not room:
                self._check_room()
        file.write(at, bytes(data[:room]))
        return room

    def truncate(self, handle: int, size_bytes: int) -> None:
        """See `Files.truncate`."""
        self._check()
        self._file(handle).truncate(size_bytes)

    def sync(self, handle: int) -> None:
        """See `Files.sync`. On a full disk it may fail too, as where a file system looks for room only then."""
        file = self._file(handle)
        late = self._disk.full and not file.is_synced and self._random.random() < 0.25
        if self._end.is_set() or self._disk.gone or late:
            if not self._end.is_set():
                file.fail_sync(self._random)
            self._check()
            self._check_room()
        file.sync()

    def begin_sync(self, handle: int, at: int, size_bytes: int) -> None:  # noqa: ARG002 - it may be there anyhow
        """See `Files.begin_sync`: sectors reach this disk before their sync in any order, asked for or not."""
        self._check()
        self._file(handle)

    def close(self, handle: int) -> None:
        """See `Files.close`. It never fails: the system forgets the handle first."""
        self._open.pop(handle, None)

    def replace(self, source: Path, target: Path) -> None:
        """See `Files.replace`."""
        self._check()
        found, taken = self._find(source), self._find(target)
        if found is None:
            raise _error(errno.ENOENT)
        if isinstance(found, Folder) and taken is not None:
            raise _error(errno.ENOTEMPTY)
        self._folder(source.parent).change({source.name: None, target.name: found})

    def remove(self, path: Path) -> None:
        """See `Files.remove`."""
        self._check()
        if self._find(path) is not None:
            self._folder(path.parent).change({path.name: None})

    def remove_folder(self, folder: Path) -> None:
        """See `Files.remove_folder`."""
        self._check()
        found = self._find(folder)
        if isinstance(found, Folder):
            if found.names:
                raise _error(errno.ENOTEMPTY)
            self._folder(folder.parent).change({folder.name: None})

    def _check(self) -> None:
        if self._end.is_set() or self._disk.gone:
            raise _error(errno.EIO)

    def _check_room(self) -> None:
        if self._disk.full:
            raise _error(errno.ENOSPC)

    def _file(self, handle: int) -> StoredFile:
        file = self._open.get(handle)
        if file is None:
            raise _error(errno.EBADF)
        return file

    def _file_at(self, path: Path) -> StoredFile:
        found = self._find(path)
        if not isinstance(found, StoredFile):
            raise _error(errno.ENOENT)
        return found

    def _folder(self, path: Path) -> Folder:
        found = self._find(path)
        if not isinstance(found, Folder):
            raise _error(errno.ENOENT)
        return found

    def _find(self, path: Path) -> StoredFile | Folder | None:
        inside: StoredFile | Folder | None = self._root
        for name in path.parts[1:]:
            inside = inside.names.get(name) if isinstance(inside, Folder) else None
        return inside


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
