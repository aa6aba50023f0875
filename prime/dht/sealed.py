"""Bytes under a signature that anybody can hand on: what a peer says of itself, and what a publisher says of a key. Pure.

They are the deterministic CBOR of `[body, signature]`; `body` is that of `[scheme, signer, fields...]`, and the signature
is over a domain and the body's bytes as they are (RFC 8949, 4.2; RFC 8032). The domain keeps a signature for one purpose
from being shown for another. Further fields at the end are a later version's: they are kept, and ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, Protocol

from prime.actor.contract import PeerId
from prime.errors import ConfigError, DecodeError, SignatureError
from prime.transport.peer import verify
from prime.wire import Limits, dumps, loads
from prime.wire.signed import ED25519

_HINT: Final = "its signer, or who handed it on, is broken or hostile: nothing of it was used"
_LIMITS: Final = Limits()
_REMEMBERED_BYTES_MAX: Final = 2048
"""Longer bytes are checked each time, as remembering thousands of them would take too much memory."""


class Signer(Protocol):
    """A key pair, as far as it signs (`prime.KeyPair` is one)."""

    @property
    def peer(self) -> PeerId:
        """Return its peer id."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return its signature of `data`."""
        ...


def seal(domain: bytes, signer: Signer, fields: Sequence[Any]) -> bytes:
    """Return `fields` under the signature of `signer`."""
    body = dumps([ED25519, signer.peer, *fields])
    return dumps([body, signer.sign(domain + body)])


def unseal(domain: bytes, data: bytes, size_bytes_max: int) -> tuple[PeerId, list[Any]]:
    """Return who signed and the fields. Raises `DecodeError` for bytes that are no such thing, `SignatureError`."""
    if len(data) > size_bytes_max:
        raise DecodeError(f"{len(data)} signed bytes, where {size_bytes_max} are allowed", hint=_HINT)
    parts = _array(data, 2)
    body, signature = parts[:2]
    if type(body) is not bytes or type(signature) is not bytes:
        raise DecodeError("signed bytes of another shape", hint=_HINT)
    scheme, signer, *fields = _array(body, 2)
    if scheme != ED25519 or type(signer) is not str:
        raise DecodeError("a signature of an unknown scheme", hint="update this node, or have the signer use Ed25519")
    check = _held if len(body) <= _REMEMBERED_BYTES_MAX else _holds
    if not check(signer, domain + body, signature):
        raise SignatureError("the signature is not its signer's", hint=_HINT)
    return PeerId(signer), fields


def _array(data: bytes, length_min: int) -> list[Any]:
    plain = loads(data, _LIMITS)
    if type(plain) is not list or len(plain) < length_min:
        raise DecodeError("signed bytes of another shape", hint=_HINT)
    return plain


def _holds(signer: str, data: bytes, signature: bytes) -> bool:
    try:
        return verify(PeerId(signer), data, signature)
    except ConfigError:
        return False


_held = functools.lru_cache(maxsize=4096)(_holds)  # the same contacts come answer after answer; a check takes 0.1 ms
