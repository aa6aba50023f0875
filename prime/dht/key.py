"""Keys: the points of a space of 256 bits that peers, records and chunks share, and the distance between them. Pure.

The key of a peer is the SHA-256 of its peer id's bytes (libp2p specifications, "kad-dht", section "Distance"), never the
id itself: ids of one kind begin with the same bytes, and would all fall into the same few buckets. The distance of two
keys is their XOR (Kademlia, section 2.1).
"""

from __future__ import annotations

import functools
import hashlib
import reprlib
from typing import Final, NewType

from prime.actor.contract import PeerId
from prime.errors import DecodeError, UsageError
from prime.transport.peer import peer_bytes

BITS: Final = 256
SIZE_BYTES: Final = BITS // 8

Key = NewType("Key", int)
"""A number from 0 to 2^256 - 1. On the wire it has 32 bytes, big-endian."""


def key_of(data: bytes) -> Key:
    """Return the key of what `data` names: its SHA-256."""
    return Key(int.from_bytes(hashlib.sha256(data).digest(), "big"))


def checked(key: object) -> Key:
    """Return what a program gave as a key. Raises `UsageError` for what is none."""
    if not isinstance(key, int) or not 0 <= key < 1 << BITS:
        raise UsageError(
            f"{reprlib.repr(key)} is no key of the DHT",
            hint="`prime.dht.key.key_of` makes one of bytes, `prime.dht.name.read_key` of text",
        )
    return Key(key)


@functools.lru_cache(maxsize=1 << 14)
def key_of_peer(peer: PeerId) -> Key:
    """Return where a peer stands. Raises `ConfigError` for no peer id."""
    return key_of(peer_bytes(peer))


def distance(one: Key, other: Key) -> int:
    """Return how far two keys are from each other: 0 for the same, and alike both ways."""
    return one ^ other


def bucket_of(own: Key, other: Key) -> int:
    """Return the bucket of `other` as seen from `own`, 0 to 255: distances from 2^i up to 2^(i+1) are bucket i; -1 is itself."""
    return (own ^ other).bit_length() - 1


def to_bytes(key: Key) -> bytes:
    """Return the 32 bytes of a key."""
    return key.to_bytes(SIZE_BYTES, "big")


def from_bytes(data: bytes) -> Key:
    """Return the key with these 32 bytes. Raises `DecodeError`."""
    if len(data) != SIZE_BYTES:
        raise DecodeError(f"a key has {SIZE_BYTES} bytes, not {len(data)}", hint="its sender is broken or hostile")
    return Key(int.from_bytes(data, "big"))
