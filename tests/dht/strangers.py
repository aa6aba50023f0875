"""Contacts of peers that nobody is: what a pure core takes, without a key pair or a signature for each."""

from __future__ import annotations

import hashlib

from prime.dht.contact import Contact
from prime.dht.record import Record
from prime.transport.peer import PeerId, peer_from_public_key


def peer(number: int) -> PeerId:
    return peer_from_public_key(hashlib.sha256(b"stranger %d" % number).digest())


def address(number: int) -> str:
    """Return a public address; no two numbers under 2^16 share a group."""
    return f"/ip4/{20 + number // 256 % 80}.{number % 256}.0.1/tcp/4001"


def contact(number: int, *, stamp_ms: int = 0) -> Contact:
    return Contact(peer(number), (f"{address(number)}/p2p/{peer(number)}",), stamp_ms, b"")


def record(value: bytes, seq: int = 0, *, salt: bytes | None = b"salt") -> Record:
    return Record(peer(0), salt, seq if salt is not None else 0, 0, 3600, value)
