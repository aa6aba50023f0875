"""Journal bytes: each record with its length and checksum, so that a torn tail and real damage can be told apart (pure).

A journal is `MAGIC`, then records: length (u64, big endian), CRC-32 of length and body (u32), body. A crash can only
tear the last record; a bad checksum with whole records behind it is damage.
"""

from __future__ import annotations

import struct
import zlib

import attrs

from prime.errors import CorruptedError

MAGIC = b"prime journal 1\n"

_HEAD = struct.Struct(">QI")


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
        length, checksum = _HEAD.unpack_from(view, at)
        if not any(view[at:]):
            break  # after a power loss a file's length can be on the disk before its bytes: torn, not damaged
        start, end = at + _HEAD.size, at + _HEAD.size + length
        if end > len(view):
            if _whole_record_after(view, at):
                raise _damage(name, at, "the length of a record is wrong")
            break
        body = view[start:end]
        if zlib.crc32(body, zlib.crc32(length.to_bytes(8, "big"))) != checksum:
            if end < len(view) or length == 0:
                raise _damage(name, at, "the checksum of a record is wrong")
            break
        records.append(bytes(body))
        at = end
    return Scan(tuple(records), at)


def _whole_record_after(view: memoryview, at: int) -> bool:
    """Tell whether a whole record stands anywhere behind a broken head: then the head was damaged, not torn."""
    for start in range(at + 1, min(len(view) - _HEAD.size, at + 4096)):
        length, checksum = _HEAD.unpack_from(view, start)
        end = start + _HEAD.size + length
        if length > 0 and end <= len(view):
            body = view[start + _HEAD.size : end]
            if zlib.crc32(body, zlib.crc32(length.to_bytes(8, "big"))) == checksum:
                return True
    return False


def _damage(name: str, at: int, what: str) -> CorruptedError:
    return CorruptedError(
        f"{name}: {what} (at byte {at})",
        hint="the disk damaged it: move the file away; the node then joins its run as a new member",
    )
