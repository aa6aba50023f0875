"""The fields of a protocol buffer, read and written (Protocol Buffers, "Encoding"). Pure.

Only what the messages of libp2p need: varints and length-delimited fields are read, fields of a fixed width are passed
over, groups are refused. Whatever the bytes are, what is read is in proportion to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prime.errors import DecodeError

VARINT_BYTES_MAX: Final = 10
_HINT: Final = "the peer that sent it is broken or hostile: nothing of it was used"
_VARINT, _WIDE, _DELIMITED, _NARROW = 0, 1, 2, 5
_WIDTHS: Final = {_WIDE: 8, _NARROW: 4}


def varint(value: int) -> bytes:
    """Return an unsigned LEB128 of a number below 2^64."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned LEB128 at a position, and where it ends. Raises `DecodeError`."""
    value = 0
    for index, byte in enumerate(data[at : at + VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + index + 1
    raise DecodeError("a varint without an end, or above 64 bits", hint=_HINT)


def field(number: int, value: int | bytes) -> bytes:
    """Return one field: a varint, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3 | _VARINT) + varint(value)
    return varint(number << 3 | _DELIMITED) + varint(len(value)) + value


def optional(number: int, value: int | bytes) -> bytes:
    """Return one field, or nothing for a zero or empty one (proto3)."""
    return field(number, value) if value else b""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field's number with its value: an `int` of a varint, or `bytes`. Raises `DecodeError`."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise DecodeError("a field without a number", hint=_HINT)
        if kind == _VARINT:
            value, at = read_varint(data, at)
            yield number, value
            continue
        size, at = read_varint(data, at) if kind == _DELIMITED else (_width(kind), at)
        if size > len(data) - at:
            raise DecodeError("a field that is longer than its message", hint=_HINT)
        if kind == _DELIMITED:
            yield number, data[at : at + size]
        at += size


def _width(kind: int) -> int:
    if kind not in _WIDTHS:
        raise DecodeError(f"a field of the unknown kind {kind}", hint=_HINT)
    return _WIDTHS[kind]


def as_int(value: int | bytes) -> int:
    """Return a field's number. Raises `DecodeError` for bytes."""
    if isinstance(value, bytes):
        raise DecodeError("bytes where a number belongs", hint=_HINT)
    return value


def as_bytes(value: int | bytes) -> bytes:
    """Return a field's bytes. Raises `DecodeError` for a number."""
    if isinstance(value, int):
        raise DecodeError("a number where bytes belong", hint=_HINT)
    return value
