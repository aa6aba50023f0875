"""Journal bytes: each record with its length and checksum, so that a torn tail and real damage can be told apart (pure).

A journal is `MAGIC`, then records: length (u64, big endian), CRC-32 of length and body (u32), body. A crash can only
tear the last record; a bad checksum with whole records behind it is damage.
"""

from __future__ import annotations

import re
import struct
import zlib

import attrs

from prime.errors import CorruptedError

MAGIC = b"prime journal 1\n"

_HEAD = struct.Struct(">QI")
_HEAD_LIKE = re.compile(rb"(?=\0{4}(?!\0{8}))")
"""Where a head may begin: four zeros are the first half of a length below 4 GiB, and a head is never all zeros."""
_PAGE_BYTES = 4096
"""What a file system writes at once, or a divisor of it."""


def framed(body: bytes | memoryview) -> bytes:
    """Return the head that goes before a body."""
    length = len(body).to_bytes(8, "big")
    return _HEAD.pack(len(body), zlib.crc32(body, zlib.crc32(length)))


@attrs.frozen
class Scan:
    """What a journal holds: its whole records, and how many bytes of it they take; the rest is a torn tail."""

    records: tuple[bytes, ...]
    whole_bytes: int


def scan(data: bytes | memoryview, name: str) -> Scan:
    """Read a journal's bytes. Raises `CorruptedError`, naming it and the place, for anything but a torn tail."""
    view = memoryview(data)
    if len(view) < len(MAGIC):
        if MAGIC.startswith(bytes(view)):
            return Scan((), 0)
        raise _damage(name, 0, "it is no journal")
    if view[: len(MAGIC)] != MAGIC:
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
    if not any(view[at : (at // _PAGE_BYTES + 1) * _PAGE_BYTES]):
        # After a power loss a file's length can be on the disk before its bytes, and later pages before the first.
        return "a record was lost" if _whole_record_after(view, at, len(view)) else ""
    length, _ = _HEAD.unpack_from(view, at)
    if at + _HEAD.size + length < len(view) or not length:
        return "the checksum of a record is wrong"
    return "the length of a record is wrong" if _whole_record_after(view, at, at + _PAGE_BYTES) else ""


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
