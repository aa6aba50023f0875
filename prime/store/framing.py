"""Journal bytes: each record with its length and checksum, so that a torn tail and real damage can be told apart (pure).

A journal is `MAGIC`, then records: length (u64, big endian), CRC-32 of length and body (u32), body. A crash can only
tear the last record: the file may end early, and any of its sectors may be missing, wholly or from a byte on, with
zeros in its place. What that does not explain is damage: a broken record with a whole one behind it, one whose
sectors are all there, and one that is right again when a single bit is turned over.
"""

from __future__ import annotations

import re
import struct
import zlib

import attrs

from prime.errors import CorruptedError
from prime.store.flip import flipped_bit

MAGIC = b"prime journal 1\n"

_HEAD = struct.Struct(">QI")
_HEAD_LIKE = re.compile(rb"(?=\0{4}(?!\0{8}))")
"""Where a head may begin: four zeros are the first half of a length below 4 GiB, and a head is never all zeros."""
_SECTOR_BYTES = 512
"""What a disk writes at once, or a divisor of it."""
_NEAR_BYTES = 4096
"""How far a whole record is looked for behind a head that is there: the body may hold one by chance, or a journal."""
_FLIP_BYTES_MAX = 128 << 10
"""In what a wrong bit is looked for: in one torn record of n bits in 2^32 there seems to be one that is not."""


def framed(body: bytes | memoryview) -> bytes:
    """Return the head that goes before a body."""
    return _HEAD.pack(len(body), _checksum(len(body), body))


@attrs.frozen
class Scan:
    """What a journal holds: its whole records, and how many bytes of it they take; the rest is a torn tail."""

    records: tuple[bytes, ...]
    whole_bytes: int


def scan(data: bytes | memoryview, name: str) -> Scan:
    """Read a journal's bytes. Raises `CorruptedError`, naming it and the place, for anything but a torn tail."""
    view = memoryview(data)
    if view[: len(MAGIC)] != MAGIC:
        if len(view) <= len(MAGIC) and MAGIC.startswith(bytes(view).rstrip(b"\0")):
            return Scan((), 0)  # the crash was in the making of it
        raise _damage(name, 0, "it is no journal")
    at, records = len(MAGIC), []
    while at + _HEAD.size <= len(view):
        end = _whole_until(view, at)
        if end is None:
            problem = _problem(view, at)
            if problem:
                raise _damage(name, at, problem)
            break
        records.append(bytes(view[at + _HEAD.size : end]))
        at = end
    return Scan(tuple(records), at)


def _whole_until(view: memoryview, at: int) -> int | None:
    """Return where the record that begins at `at` ends, or `None` if no whole one does."""
    length, checksum = _HEAD.unpack_from(view, at)
    end = at + _HEAD.size + length
    if end > len(view) or zlib.crc32(view[at + _HEAD.size : end], zlib.crc32(view[at : at + 8])) != checksum:
        return None
    return int(end)


def _problem(view: memoryview, at: int) -> str:
    """Say what is wrong with a broken record that a crash cannot have torn; an empty text where it can."""
    length, checksum = _HEAD.unpack_from(view, at)
    end = at + _HEAD.size + length
    is_head_there = not _ends_a_sector_with_zeros(view, at, at + _HEAD.size)
    if is_head_there and (end < len(view) or (end == len(view) and not _has_gap(view, at))):
        return "the checksum of a record is wrong"
    if _whole_record_after(view, at, at + _NEAR_BYTES if is_head_there else len(view)):
        return "the length of a record is wrong" if is_head_there else "a record was lost"
    return "a bit of a record is wrong" if _is_flipped(view, at, length, checksum) else ""


def _ends_a_sector_with_zeros(view: memoryview, start: int, end: int) -> bool:
    """Tell whether a sector with a part of this may have been written up to a byte of it only, or not at all."""
    while start < end:
        border = (start // _SECTOR_BYTES + 1) * _SECTOR_BYTES
        if not any(view[min(end, border) - 1 : border]):
            return True
        start = border
    return False


def _has_gap(view: memoryview, at: int) -> bool:
    """Tell whether a sector of the last record may be missing, wholly or from a byte on: then it ends with a zero."""
    border = (at // _SECTOR_BYTES + 1) * _SECTOR_BYTES
    return view[-1] == 0 or 0 in view[border - 1 :: _SECTOR_BYTES]


def _is_flipped(view: memoryview, at: int, length: int, checksum: int) -> bool:
    """Tell whether one bit of the last record was turned over: in its length, its checksum or its body."""
    body = view[at + _HEAD.size :]
    for bit in range(64):
        other = length ^ 1 << bit
        if other <= len(body) and _checksum(other, body[:other]) == checksum:
            return True
    if length > len(body) or length > _FLIP_BYTES_MAX:
        return False  # of what is not all there, as of what is too long to say, a tear is the better guess
    difference = _checksum(length, body[:length]) ^ checksum
    return difference.bit_count() == 1 or flipped_bit(difference, 8 + length) is not None


def _checksum(length: int, body: memoryview | bytes) -> int:
    return zlib.crc32(body, zlib.crc32(length.to_bytes(8, "big")))


def _whole_record_after(view: memoryview, at: int, until: int) -> bool:
    """Tell whether a whole record begins behind a broken one, before `until`: then that one was damaged, not torn."""
    for found in _HEAD_LIKE.finditer(view, at + 1):
        if found.start() >= min(until, len(view) - _HEAD.size + 1):
            break
        if _whole_until(view, found.start()) is not None:
            return True
    return False


def _damage(name: str, at: int, what: str) -> CorruptedError:
    return CorruptedError(
        f"{name}: {what} (at byte {at})",
        hint="the disk damaged it: move the file away; the node then joins its run as a new member",
    )
