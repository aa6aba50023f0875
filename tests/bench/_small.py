"""A small message to bytes and back, against bare cbor2 on the same positional array.

Ours is what the runtime does for each message that travels: `to_plain` checks the fields, `encode_body` makes the bytes;
on the way back `read_body` checks each byte, the fields, and that the bytes are the one encoding there is.
cbor2 makes bytes of a list that is there, and a list of bytes, and looks at nothing.

Run by itself it prints what each part takes: processor time of the thread, the least of many repeats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from timeit import repeat

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import cbor2
from _blocks import plain, rate_sync

import prime
from prime.wire import from_plain, loads, to_plain
from prime.wire.cbor import encodes_to, peek
from prime.wire.message import decode_body, encode_body, read_body

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


def _long_way() -> object:
    plain_body = peek(BYTES)
    return decode_body(plain_body, plain_body, BYTES)


PARTS: Mapping[str, Callable[[], object]] = {
    "encode: cbor2.dumps alone": lambda: cbor2.dumps(PLAIN),
    "encode: all of ours": lambda: encode_body(Order, to_plain(ORDER, [])),
    "encode: of it, fields read and checked": lambda: to_plain(ORDER, []),
    "encode: of it, bytes made": lambda: encode_body(Order, PLAIN),
    "decode: cbor2.loads alone": lambda: cbor2.loads(BYTES),
    "decode: all of ours": lambda: read_body(BYTES),
    "decode: cbor2.loads with the options that make it strict": lambda: peek(BYTES),
    "decode: encoding again, to compare": lambda: encodes_to(PLAIN, BYTES, closed=True),
    "decode: the object, by its __init__": lambda: Order(*PLAIN[1:]),
    "decode: by the long way, which does these three": _long_way,
}


def main() -> None:
    """Print what each part takes, in nanoseconds."""
    for name, part in PARTS.items():
        took_s = min(repeat(part, number=BATCH, repeat=200, timer=time.thread_time)) / BATCH
        print(f"{name:58} {took_s * 1e9:6.0f} ns")


if __name__ == "__main__":
    main()
