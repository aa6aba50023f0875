"""A peer id as text: the public half of a node's identity, the same over every transport.

It is the identity multihash of the protobuf-encoded Ed25519 public key in base58btc (libp2p specifications, "Peer Ids
and Keys"), `12D3KooW…`. It contains the public key, so a signature is checked with nothing but the id: importing this
module teaches the wire to check those of Ed25519. Pure.
"""

from __future__ import annotations

import functools

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from prime.actor.contract import PeerId
from prime.errors import ConfigError
from prime.wire.signed import ED25519, register_scheme

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # base58btc
_PUBLIC_KEY_HEADER = bytes.fromhex("08011220")  # protobuf: Type = Ed25519 (1), Data = 32 bytes
_MULTIHASH_HEADER = bytes.fromhex("0024")  # multihash: identity, 36 bytes
_PEER_TEXT_LENGTH = 52  # of every Ed25519 peer id
_FIELD = 2**255 - 19
_SMALL_ORDER = {
    0,
    1,
    _FIELD - 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
}
"""The y of Ed25519's eight points of small order: a signature of zeros by such a key holds for most of what there is."""


def verify(peer: PeerId, data: bytes, signature: bytes) -> bool:
    """Tell whether `signature` over `data` was made by the key of `peer`. Raises `ConfigError` for no peer id."""
    key = _key_of(peer)
    try:
        if key is not None:
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return key is not None


@functools.lru_cache(maxsize=1024)
def _key_of(peer: PeerId) -> Ed25519PublicKey | None:
    """Return the key inside a peer id; the same few peers sign most of what is verified. `None`: anybody signs for it."""
    public = public_key_of(peer)
    if int.from_bytes(public, "little") % 2**255 % _FIELD in _SMALL_ORDER:
        return None
    return Ed25519PublicKey.from_public_bytes(public)


def peer_from_public_key(public_key: bytes) -> PeerId:
    """Return the peer id of a raw 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise ConfigError(f"An Ed25519 public key has 32 bytes, not {len(public_key)}.", hint="Give the raw form.")
    return PeerId(_base58(_MULTIHASH_HEADER + encode_public_key(public_key)))


def public_key_of(peer: str) -> bytes:
    """Return the raw 32-byte public key inside a peer id. Raises `ConfigError`."""
    data = unbase58(peer) if len(peer) == _PEER_TEXT_LENGTH else b""
    header = _MULTIHASH_HEADER + _PUBLIC_KEY_HEADER
    if len(data) != len(header) + 32 or not data.startswith(header):
        raise ConfigError(
            f"{_shorten(peer)!r} is no peer id of an Ed25519 key.",
            hint="A peer id has 52 characters and begins with 12D3KooW; `prime status` prints a node's own.",
        )
    return data[len(header) :]


@functools.lru_cache(maxsize=1 << 14)
def peer_bytes(peer: str) -> bytes:
    """Return the bytes of a peer id: the multihash that its text writes in base58btc. Raises `ConfigError`."""
    return _MULTIHASH_HEADER + encode_public_key(public_key_of(peer))


@functools.lru_cache(maxsize=4096)
def peer_of_bytes(data: bytes) -> PeerId:
    """Return the peer id with these bytes. Raises `ConfigError` for those of another kind of key."""
    header = _MULTIHASH_HEADER + _PUBLIC_KEY_HEADER
    if len(data) != len(header) + 32 or not data.startswith(header):
        raise ConfigError(
            f"{data[:40].hex()} is no peer id of an Ed25519 key.", hint="Prime's transports prove no other keys."
        )
    return PeerId(_base58(data))


def parse_peer(text: str) -> PeerId:
    """Return `text` as a peer id after checking it in full. Raises `ConfigError`."""
    public_key_of(text)
    return PeerId(text)


def encode_public_key(public_key: bytes) -> bytes:
    """Return libp2p's protobuf form (36 bytes) of a raw Ed25519 public key."""
    return _PUBLIC_KEY_HEADER + public_key


def decode_public_key(data: bytes) -> bytes:
    """Return the raw key of libp2p's protobuf form; `ValueError` for any other key type or length."""
    if len(data) != 36 or not data.startswith(_PUBLIC_KEY_HEADER):
        raise ValueError("not the protobuf form of an Ed25519 public key")
    return data[len(_PUBLIC_KEY_HEADER) :]


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def unbase58(text: str) -> bytes:
    """Return the bytes that a text is in base58btc; empty for one outside the alphabet."""
    number = 0
    for character in text:
        digit = _ALPHABET.find(character)
        if digit < 0:
            return b""
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _verify_signed(signer: str, data: bytes, signature: bytes) -> bool:
    try:
        return verify(PeerId(signer), data, signature)
    except ConfigError:
        return False


register_scheme(ED25519, _verify_signed)


def _shorten(text: str) -> str:
    return text if len(text) <= 64 else text[:61] + "..."
