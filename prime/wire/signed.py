"""A message with a signature: the bytes that are signed, and their check over exactly the bytes that came. Pure.

The body of a signed message is `[tag, sealed, signature]`. `sealed` is the deterministic CBOR of `[scheme, signer, seq,
sent_at_ms, audience, [tag, fields...], digests]`, and the signature is over `DOMAIN` and these bytes as they are. So a
message that is handed on keeps the bytes that its signer wrote, also fields that whoever hands it on does not know.
Payloads stand beside it, as in any message; their SHA-256 digests are among what is signed. Rules:
`spec/protocols/signed.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import attrs

from prime.errors import DecodeError, MessageError, SignatureError
from prime.wire.cbor import dumps, loads
from prime.wire.limits import Limits

DOMAIN: Final = b"prime-signed-message:1:"
"""Stands before the bytes that are signed: a signature for another purpose, by the same key, is none of a message."""
ED25519: Final = 1
"""The scheme of Ed25519 (RFC 8032)."""
SCHEME_MAX: Final = 255
SIGNER_CHARS_MAX: Final = 512
NUMBER_MAX: Final = 2**63 - 1

_LIMITS: Final = Limits(header_size_bytes_max=2**32 - 1)  # whoever took the frame has held its header to a limit
_HINT_PEER: Final = "the message was changed on its way, or its sender is broken or hostile: nothing of it was used"

Verify = Callable[[str, bytes, bytes], bool]
"""`verify(signer, data, signature)`: whether the signature over the data was made by the key of the signer."""


class Signatory(Protocol):
    """Who signs what a node says: a key, and the numbers of what it has signed."""

    @property
    def scheme(self) -> int:
        """Return the number of its signature scheme."""
        ...

    @property
    def signer(self) -> str:
        """Return the peer id of its key."""
        ...

    def stamp(self) -> tuple[int, int]:
        """Return a number above every one before it, restarts included, and the time, in ms since 1970 (UTC)."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`."""
        ...


class _Schemes:
    """Which scheme verifies how. Filled at import time by the room that brings the scheme."""

    def __init__(self) -> None:
        self._verifiers: dict[int, Verify] = {}

    def add(self, scheme: int, verify: Verify) -> None:
        self._verifiers[scheme] = verify

    def get(self, scheme: int) -> Verify | None:
        return self._verifiers.get(scheme)


_schemes: Final = _Schemes()


def register_scheme(scheme: int, verify: Verify) -> None:
    """Teach this process a signature scheme, by its number (1 to 255). `verify` must not raise for any input.

    Raises `MessageError` for a number out of range, and for one that another scheme has.
    """
    if not 0 < scheme <= SCHEME_MAX:
        raise MessageError(f"{scheme} is no number of a scheme", hint=f"use one from 1 to {SCHEME_MAX}")
    if _schemes.get(scheme) not in (None, verify):
        raise MessageError(f"the signature scheme {scheme} is taken", hint="use another number; 1 is Ed25519")
    _schemes.add(scheme, verify)


@attrs.frozen
class Signed:
    """What a signature says of a message, and the signed bytes: evidence that can be kept and shown to others.

    `signer` is the node that made the message, by its peer id. `seq` rises with each message it signs, over its restarts
    too. `sent_at_ms` is when, by its own clock, in ms since 1970 (UTC). `audience` is the one node that the message is
    for, `None` for one that is for anyone. `sealed` and `signature` are the bytes as they came, `payloads` beside them.
    """

    signer: str
    seq: int
    sent_at_ms: int
    audience: str | None
    scheme: int = attrs.field(repr=False)
    sealed: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)
    payloads: tuple[memoryview, ...] = attrs.field(default=(), repr=False)


def seal(
    message: list[Any], payloads: Sequence[memoryview], signatory: Signatory, audience: str | None = None
) -> Signed:
    """Sign the positional array of a message and the payloads beside it."""
    seq, sent_at_ms = signatory.stamp()
    digests = [digest(payload) for payload in payloads]
    sealed = dumps([signatory.scheme, signatory.signer, seq, sent_at_ms, audience, message, digests])
    signature = signatory.sign(DOMAIN + sealed)
    return Signed(signatory.signer, seq, sent_at_ms, audience, signatory.scheme, sealed, signature, tuple(payloads))


def unseal(name: str, body: Any, payloads: Sequence[memoryview]) -> tuple[Signed, list[Any]]:
    """Verify the body of a signed message, called `name` in errors, and return its signature and positional array.

    Scheme and signer are read to know what to verify with; nothing else is looked at before the signature holds.
    Raises `SignatureError`, and `DecodeError` for bytes that are no deterministic CBOR.
    """
    sealed, signature = _parts(name, body)
    plain = loads(sealed, _LIMITS)
    if type(plain) is not list or len(plain) < 7:
        raise _malformed(name, "what is signed is not an array of at least 7")
    scheme, signer, seq, sent_at_ms, audience, message, digests = plain[:7]
    _check_signature(name, scheme, signer, DOMAIN + sealed, signature)
    if not (_is_number(seq) and _is_number(sent_at_ms)):
        raise _malformed(name, "seq and sent_at_ms are not integers from 0 to 2^63 - 1")
    if audience is not None and not _is_peer(audience):
        raise _malformed(name, "the audience is no peer id")
    if type(message) is not list or not message or message[:1] != body[:1] or type(message[0]) is not int:
        raise SignatureError(f"a signature of another message stands on {name}", hint=_HINT_PEER)
    _check_digests(name, digests, payloads)
    return Signed(signer, seq, sent_at_ms, audience, scheme, sealed, signature, tuple(payloads)), message


def digest(payload: memoryview) -> bytes:
    """Return the SHA-256 of a payload, computed here and now: 64 MiB take about 0.1 s."""
    return hashlib.sha256(payload).digest()


def _parts(name: str, body: Any) -> tuple[bytes, bytes]:
    if type(body) is not list or len(body) < 3 or type(body[1]) is not bytes or type(body[2]) is not bytes:
        raise SignatureError(
            f"{name} came without a signature",
            hint="its sender has another version of the class: update one of the two",
        )
    return body[1], body[2]


def _check_signature(name: str, scheme: Any, signer: Any, data: bytes, signature: bytes) -> None:
    if type(scheme) is not int or not 0 < scheme <= SCHEME_MAX:
        raise _malformed(name, f"the scheme is not an integer from 1 to {SCHEME_MAX}")
    verify = _schemes.get(scheme)
    if verify is None:
        raise SignatureError(
            f"{name} is signed with scheme {scheme}, which this node does not know",
            hint="update this node, or have the signer use Ed25519 (scheme 1)",
        )
    if not _is_peer(signer):
        raise _malformed(name, "the signer is no peer id")
    if not verify(signer, data, signature):
        raise SignatureError(f"the signature of {name} is not one of its signer's", hint=_HINT_PEER)


def _check_digests(name: str, digests: Any, payloads: Sequence[memoryview]) -> None:
    if type(digests) is not list or len(digests) != len(payloads):
        raise SignatureError(f"{name} was signed with another number of payloads than came", hint=_HINT_PEER)
    if any(known != digest(payload) for known, payload in zip(digests, payloads, strict=True)):
        raise SignatureError(f"a payload of {name} is not the one that was signed", hint=_HINT_PEER)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= NUMBER_MAX


def _is_peer(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= SIGNER_CHARS_MAX


def _malformed(name: str, what: str) -> DecodeError:
    return SignatureError(f"the signature of {name} is malformed: {what}", hint=_HINT_PEER)
