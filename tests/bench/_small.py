"""A small message to bytes and back, against bare cbor2 on the same positional array.

Ours is what the runtime does for each message that travels: `to_plain` checks the fields, `encode_body` makes the bytes;
on the way back `read_body` checks each byte, the fields, and that the bytes are the one encoding there is.
cbor2 makes bytes of a list that is there, and a list of bytes, and looks at nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import cbor2
from _blocks import plain, rate_sync

import prime
from prime.wire import from_plain, loads, to_plain
from prime.wire.message import encode_body, read_body

BATCH = 1000


@prime.message(tag=0x7BA5)
class Order:
    """A small message: an integer, a text, bytes, a float and a flag."""

    number: int
    name: str
    digest: bytes
    weight: float
    urgent: bool


ORDER = Order(1_234_567, "swarm/coordinator", bytes(range(32)), 0.1, True)
PLAIN = to_plain(ORDER, [])
BYTES = encode_body(Order, PLAIN)
assert cbor2.dumps(PLAIN) == BYTES
assert from_plain(loads(BYTES)) == ORDER
assert read_body(BYTES) == (ORDER, len(BYTES), 0x7BA5)


def _encode() -> float:
    def batch() -> None:
        for _ in range(BATCH):
            encode_body(Order, to_plain(ORDER, []))

    return rate_sync(batch, BATCH)


def _encode_bare() -> float:
    def batch() -> None:
        dumps = cbor2.dumps
        for _ in range(BATCH):
            dumps(PLAIN)

    return rate_sync(batch, BATCH)


def _decode() -> float:
    def batch() -> None:
        for _ in range(BATCH):
            read_body(BYTES)

    return rate_sync(batch, BATCH)


def _decode_bare() -> float:
    def batch() -> None:
        load = cbor2.loads
        for _ in range(BATCH):
            load(BYTES)

    return rate_sync(batch, BATCH)


encode, encode_bare = plain(_encode), plain(_encode_bare)
decode, decode_bare = plain(_decode), plain(_decode_bare)
