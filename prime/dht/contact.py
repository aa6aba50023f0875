"""A contact: a peer and where it can be dialled, in its own signed words. Pure.

Who hands a contact on cannot change it, so nobody can be made to dial an address that its peer did not name itself.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import attrs

from prime.actor.contract import PeerId
from prime.dht.groups import Scope, scope_of
from prime.dht.key import Key, key_of_peer
from prime.dht.sealed import Signer, seal, unseal
from prime.errors import ConfigError, DecodeError
from prime.transport.multiaddr import parse_address

DOMAIN: Final = b"prime-dht-contact:1:"
ADDRESSES_MAX: Final = 8
SIZE_BYTES_MAX: Final = 1536
_HINT: Final = "its peer, or who handed it on, is broken or hostile: nothing of it was used"


@attrs.frozen
class Contact:
    """A peer, its addresses (multiaddrs that end in `/p2p/` and its id) and when it said so (ms since 1970, its own clock).

    `sealed` are its signed bytes; of two contacts of one peer the later counts.
    """

    peer: PeerId
    addresses: tuple[str, ...]
    stamp_ms: int
    sealed: bytes = attrs.field(repr=False)
    key: Key = attrs.field(init=False, repr=False, eq=False)

    @key.default
    def _key(self) -> Key:
        return key_of_peer(self.peer)

    @functools.cached_property
    def reach(self) -> Scope:
        """From how far away it can be reached at the best of its addresses."""
        return max(map(scope_of, self.addresses), default=Scope.NEVER)

    @functools.cached_property
    def exposes(self) -> Scope:
        """The nearest of its addresses: who may vouch for that one may for all."""
        return min(map(scope_of, self.addresses), default=Scope.PUBLIC)


def make_contact(signer: Signer, addresses: tuple[str, ...], stamp_ms: int) -> Contact:
    """Return what the owner of a key says of itself now; of its addresses the first eight."""
    named = tuple(str(parse_address(address).expecting(signer.peer)) for address in addresses[:ADDRESSES_MAX])
    return Contact(signer.peer, named, stamp_ms, seal(DOMAIN, signer, [list(named), stamp_ms]))


@functools.lru_cache(maxsize=4096)  # the same contacts come answer after answer
def read_contact(data: bytes) -> Contact:
    """Return the contact in signed bytes. Raises `DecodeError`, `SignatureError`."""
    peer, fields = unseal(DOMAIN, data, SIZE_BYTES_MAX)
    addresses, stamp_ms = _fields(fields)
    try:
        for address in addresses:
            parse_address(address).expecting(peer)
    except ConfigError as error:
        raise DecodeError(f"a contact of {peer} that names no address of its own: {error}", hint=_HINT) from error
    return Contact(peer, tuple(addresses), stamp_ms, data)


def _fields(fields: list[Any]) -> tuple[list[str], int]:
    addresses, stamp_ms = fields[:2] if len(fields) >= 2 else (None, None)
    if type(addresses) is not list or len(addresses) > ADDRESSES_MAX or type(stamp_ms) is not int:
        raise DecodeError("a contact of another shape", hint=_HINT)
    if not 0 <= stamp_ms < 2**63 or not all(type(address) is str for address in addresses):
        raise DecodeError("a contact of another shape", hint=_HINT)
    return addresses, stamp_ms
