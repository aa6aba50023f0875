"""What lies on a simulated disk, and what only in the system's memory yet: files, folders, and what a power loss leaves.

The model: a sector is written whole or not at all, and holds one of the contents that it had since its file was synced;
sectors reach the disk in any order. The length of a file is written apart from its bytes, so zeros may stand where
bytes were to be, and lengths and names change in the order of the calls, as in a file system with a journal. A name
survives once its folder was synced. A sync that fails gives up the bytes that it did not write: the system's memory
has them, the disk has not, and the next sync does not write them. Sources: Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014; Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import attrs

from prime.sim.plan import DiskFaults

SECTOR_BYTES = 512


@attrs.frozen(eq=False)
class _Image:
    """A sector as a write left it, and as it was before."""

    write: int
    sector: int
    before: bytes
    after: bytes


@attrs.frozen(eq=False)
class _Size:
    """A new length of the file; bytes behind it are gone."""

    write: int
    size_bytes: int


class StoredFile:
    """One file: `data` is what the system reads, `durable` what is on the disk."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._blocks = bytearray()
        self._size_bytes = 0
        self._pending: list[_Image | _Size] = []
        self._writes = 0

    @property
    def durable(self) -> bytes:
        """What a power loss leaves if it takes all that was not synced."""
        return bytes(self._blocks[: self._size_bytes]).ljust(self._size_bytes, b"\0")

    @property
    def is_synced(self) -> bool:
        """Tell whether no change waits for a sync."""
        return not self._pending

    def write(self, at: int, data: bytes) -> None:
        """Write into the system's memory; the bytes before `at` are zeros where there are none."""
        if not data:
            return
        self._writes += 1
        end, size_bytes = at + len(data), len(self.data)
        sectors = range(at // SECTOR_BYTES, -(-end // SECTOR_BYTES))
        before = [self._sector(sector) for sector in sectors]
        self.data.extend(bytes(max(0, end - size_bytes)))
        self.data[at:end] = data
        for sector, old in zip(sectors, before, strict=True):
            self._pending.append(_Image(self._writes, sector, old, self._sector(sector)))
        if end > size_bytes:
            self._pending.append(_Size(self._writes, end))

    def _sector(self, sector: int) -> bytes:
        """Return a sector of the system's memory, with zeros behind the file's end."""
        return bytes(self.data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")

    def truncate(self, size_bytes: int) -> None:
        """Set the length in the system's memory."""
        self._writes += 1
        if size_bytes != len(self.data):
            del self.data[size_bytes:]
            self.data.extend(bytes(size_bytes - len(self.data)))
            self._pending.append(_Size(self._writes, size_bytes))

    def sync(self) -> None:
        """Put all on the disk."""
        self._settle(self._pending)

    def fail_sync(self, random: Random) -> None:
        """Put some of the sectors on the disk and give the others up; the lengths are tried again."""
        written = {image.sector: random.random() < 0.5 for image in self._images()}
        sizes = self._sizes()
        self._settle([image for image in self._images() if written[image.sector]])
        self._pending.extend(sizes)

    def lose_power(self, random: Random, faults: DiskFaults) -> None:
        """Leave what is on the disk, with some of what was not synced yet."""
        if faults.unsynced:
            self._settle(self._any_sectors(random) if faults.torn else self._first_writes(random))
        else:
            self._settle(self._all_but_a_part(random) if faults.torn else self._pending)
        self.data = bytearray(self.durable)
        self._blocks = bytearray(self.data)

    def _first_writes(self, random: Random) -> list[_Image | _Size]:
        """Keep whole writes up to one."""
        last = random.randint(self._pending[0].write - 1, self._writes) if self._pending else 0
        return [change for change in self._pending if change.write <= last]

    def _all_but_a_part(self, random: Random) -> list[_Image | _Size]:
        """Keep all but the end of the last write, if it made the file longer."""
        sizes = [self._size_bytes, *(size.size_bytes for size in self._sizes())]
        if len(sizes) < 2 or not isinstance(self._pending[-1], _Size) or sizes[-1] < sizes[-2]:
            return self._pending
        return [*self._pending[:-1], _Size(self._writes, random.randint(sizes[-2], sizes[-1]))]

    def _any_sectors(self, random: Random) -> list[_Image | _Size]:
        """Keep any one content of each sector, and the lengths up to one."""
        keep = random.choice((0.0, 1.0, random.random()))
        versions: dict[int, list[_Image | None]] = {}
        for image in self._images():
            versions.setdefault(image.sector, [None]).append(image)
        kept = {
            sector: images[-1] if random.random() < keep else random.choice(images)
            for sector, images in versions.items()
        }
        sizes = self._sizes()
        last = sizes[: random.choice((0, len(sizes), random.randint(0, len(sizes))))][-1:]
        until = last[0].write if last else 0
        return [
            _cut(change, random) if isinstance(change, _Image) else change
            for change in self._pending
            if (kept[change.sector] is change if isinstance(change, _Image) else change.write <= until)
        ]

    def _images(self) -> list[_Image]:
        return [change for change in self._pending if isinstance(change, _Image)]

    def _sizes(self) -> list[_Size]:
        return [change for change in self._pending if isinstance(change, _Size)]

    def _settle(self, changes: list[_Image | _Size]) -> None:
        """Put these changes on the disk, in order, and forget the others."""
        self._pending = []
        for change in changes:
            if isinstance(change, _Image):
                start = change.sector * SECTOR_BYTES
                self._blocks.extend(bytes(max(0, start + SECTOR_BYTES - len(self._blocks))))
                self._blocks[start : start + SECTOR_BYTES] = change.after
            else:
                if change.size_bytes < self._size_bytes:
                    del self._blocks[change.size_bytes :]
                self._size_bytes = change.size_bytes

    def flip(self, at: int, bit: int) -> None:
        """Change a bit of what lies on the disk, and of what is read; `at` is a place in `durable`, all synced."""
        self._blocks[at] ^= 1 << bit
        self.data[at] ^= 1 << bit


def _cut(image: _Image, random: Random) -> _Image:
    """Return a sector as it was when it went to the disk while a write changed it, now and then."""
    if random.random() < 0.75:
        return image
    at = random.randint(0, SECTOR_BYTES)
    return attrs.evolve(image, after=image.after[:at] + image.before[at:])


class Folder:
    """A folder's names: as the system sees them, and as the disk has them."""

    def __init__(self) -> None:
        self.names: dict[str, StoredFile | Folder] = {}
        self._durable: dict[str, StoredFile | Folder] = {}
        self._pending: list[dict[str, StoredFile | Folder | None]] = []

    def change(self, names: dict[str, StoredFile | Folder | None]) -> None:
        """Give names to what has them from now on, all at once; `None` takes a name away."""
        _rename(self.names, names)
        self._pending.append(names)

    def sync(self) -> None:
        """Put all names on the disk."""
        self._durable, self._pending = dict(self.names), []

    def lose_power(self, random: Random, faults: DiskFaults) -> None:
        """Leave the names that are on the disk, with the first of the changes that were not synced."""
        kept = random.randint(0, len(self._pending)) if faults.unsynced else len(self._pending)
        for names in self._pending[:kept]:
            _rename(self._durable, names)
        self.names, self._pending = dict(self._durable), []
        for inside in self.names.values():
            inside.lose_power(random, faults)

    def files(self, above: str = "") -> Iterator[tuple[str, StoredFile]]:
        """Yield every file below, with its path."""
        for name, inside in self.names.items():
            if isinstance(inside, Folder):
                yield from inside.files(f"{above}/{name}")
            else:
                yield f"{above}/{name}", inside


def _rename(all_: dict[str, StoredFile | Folder], names: dict[str, StoredFile | Folder | None]) -> None:
    for name, inside in names.items():
        if inside is None:
            all_.pop(name, None)
        else:
            all_[name] = inside
