"""How a person names what is in libp2p's DHT: `ipfs:` and a CID, a peer's id or a key of a value. Pure.

::

    ipfs:bafkreih…, ipfs:QmYwAP…, ipfs:1220…    content, by its CID (version 1 or 0) or the hex digits of its multihash
    ipfs:12D3KooW…                              a peer
    ipfs:/pk/12D3KooW…                          a peer's public key
    ipfs:/prime/64 hex digits                   a record of Prime's own DHT, by its key
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from typing import Final

from prime.dht.ipfs.protobuf import read_varint
from prime.errors import DecodeError, PrimeError, UsageError
from prime.transport.peer import peer_of_bytes, unbase58

PREFIX: Final = "ipfs:"
_PUBLIC_KEY: Final = "/pk/"
_HINT: Final = "write ipfs:CID for content, ipfs:PEER for a peer, ipfs:/pk/PEER or ipfs:/prime/HEX for a value"


def is_ipfs(text: str) -> bool:
    """Tell whether a text names something in libp2p's DHT."""
    return text.startswith(PREFIX)


def read_multihash(text: str) -> bytes:
    """Return the multihash that a text names after `ipfs:`. Raises `UsageError`."""
    try:
        data = _cid_bytes(text.removeprefix(PREFIX))
        _check_multihash(data)
    except (ValueError, binascii.Error, DecodeError):
        raise UsageError(f"{text!r} names no content", hint=_HINT) from None
    return data


def read_value_key(text: str) -> bytes:
    """Return the key of a value that a text names after `ipfs:`. Raises `UsageError`."""
    name = text.removeprefix(PREFIX)
    if not name.startswith("/") or name.count("/") < 2:
        raise UsageError(f"{text!r} is no key of a value", hint=_HINT)
    if not name.startswith(_PUBLIC_KEY):
        return name.encode()
    peer = unbase58(name.removeprefix(_PUBLIC_KEY))
    try:
        _check_multihash(peer)
    except DecodeError:
        raise UsageError(f"{text!r} names no peer's public key", hint=_HINT) from None
    return _PUBLIC_KEY.encode() + peer


def words_of(key: bytes) -> str:
    """Return the key of a value as a person reads it."""
    prefix = _PUBLIC_KEY.encode()
    if key.startswith(prefix):
        with contextlib.suppress(PrimeError):
            return _PUBLIC_KEY + peer_of_bytes(key.removeprefix(prefix))
    text = key.decode("utf-8", "replace")
    return text if text.isprintable() else repr(key)


def _cid_bytes(text: str) -> bytes:
    """Return the multihash in a CID (multiformats, "CID"), or in hex digits."""
    if text.startswith("Qm"):
        return unbase58(text)
    match text[:1]:
        case "b":
            return _of_version_1(base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8)))
        case "z":
            return _of_version_1(unbase58(text[1:]))
        case "f":
            return _of_version_1(bytes.fromhex(text[1:]))
    return bytes.fromhex(text)


def _of_version_1(data: bytes) -> bytes:
    version, at = read_varint(data, 0)
    if version != 1:
        raise DecodeError("a CID of another version", hint=_HINT)
    _, at = read_varint(data, at)
    return data[at:]


def _check_multihash(data: bytes) -> None:
    _, at = read_varint(data, 0)
    size, at = read_varint(data, at)
    if not size or size != len(data) - at:
        raise DecodeError("no multihash", hint=_HINT)
