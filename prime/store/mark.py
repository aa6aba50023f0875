"""The high-water mark: how many writes a database had acknowledged, kept in a file beside it.

SQLite ends its log at the first frame that does not check, so damage to the log's end looks like a log that was never
longer. The mark is the second witness: a database with fewer writes than its mark has lost some. It is written after
the database has synced and is not synced itself: a mark that the power took is merely lower, which is no harm.

The file has two slots (count: u64, big endian; CRC-32 of it: u32), written in turn, so that a torn write spoils one.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from prime.errors import CorruptedError

_COUNT = struct.Struct(">Q")
_SLOT = struct.Struct(">QI")


def slot(count: int) -> bytes:
    """Return the bytes of one slot."""
    data = _COUNT.pack(count)
    return data + struct.pack(">I", zlib.crc32(data))


def highest(data: bytes, name: str) -> int:
    """Return the count that a mark's bytes say, 0 for none; raises `CorruptedError` when no slot checks."""
    counts = []
    for at in (0, _SLOT.size):
        if len(data) >= at + _SLOT.size:
            count, checksum = _SLOT.unpack_from(data, at)
            if checksum == zlib.crc32(_COUNT.pack(count)):
                counts.append(count)
    if not counts and any(data):
        raise CorruptedError(
            f"{name}: the mark is damaged",
            hint="the disk damaged it: check the disk; with this file away, a database that lost its end is not noticed",
        )
    return max(counts, default=0)


class Mark:
    """The open file of a mark."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; raises `OSError`, and `CorruptedError` as `highest` does."""
        self.count = highest(path.read_bytes() if path.exists() else b"", str(path))
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, count: int) -> None:
        """Say that `count` writes have been acknowledged; raises `OSError`."""
        os.pwrite(self._handle, slot(count), _SLOT.size * (count % 2))
        self.count = count

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
