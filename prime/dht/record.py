"""Records: small signed values under a key, and which of two counts. Pure.

A record is mutable, under the hash of its publisher and a salt, or immutable, under the hash of its value; both are signed,
so whoever holds one can neither make nor change one (BEP 44). A record that removes its key is one, too: it is kept until
no earlier one could come back.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from prime.actor.contract import PeerId
from prime.dht.key import Key, key_of
from prime.dht.sealed import Signer, seal, unseal
from prime.errors import DecodeError, UsageError

DOMAIN: Final = b"prime-dht-record:1:"
VALUE_BYTES_MAX: Final = 16 << 10
SALT_BYTES_MAX: Final = 64
TTL_S_MAX: Final = 48 * 3600
AHEAD_MS_MAX: Final = 5 * 60 * 1000
"""How far ahead of this node's clock a record may have been made."""
SEQ_MAX: Final = 2**63 - 1
SIZE_BYTES_MAX: Final = VALUE_BYTES_MAX + 512
_HINT: Final = "its publisher, or who handed it on, is broken or hostile: nothing of it was used"


@attrs.frozen
class Record:
    """A value under a key: `salt` is `None` for an immutable one. Of a mutable one's versions the greatest `seq` counts.

    `created_ms` is the publisher's clock (ms since 1970, UTC), `ttl_s` how long it holds from then on. `removed`: nothing is
    there from this version on. `sealed` are its signed bytes.
    """

    publisher: PeerId
    salt: bytes | None
    seq: int
    created_ms: int
    ttl_s: int
    value: bytes
    removed: bool = False
    sealed: bytes = attrs.field(default=b"", repr=False)
    key: Key = attrs.field(init=False, repr=False, eq=False)

    @key.default
    def _key(self) -> Key:
        return content_key(self.value) if self.salt is None else mutable_key(self.publisher, self.salt)

    @property
    def expires_ms(self) -> int:
        """When it holds no more, in ms since 1970."""
        return self.created_ms + 1000 * self.ttl_s


def mutable_key(publisher: PeerId, salt: bytes) -> Key:
    """Return the key of what a publisher keeps under a salt."""
    return key_of(b"prime-dht-mutable:1:" + publisher.encode() + b":" + salt)


def content_key(value: bytes) -> Key:
    """Return the key of an immutable value."""
    return key_of(b"prime-dht-content:1:" + value)


def make_record(
    signer: Signer,
    value: bytes,
    *,
    salt: bytes | None,
    seq: int,
    created_ms: int,
    ttl_s: int,
    removed: bool = False,
) -> Record:
    """Return a signed record. Raises `UsageError` for what no holder would take."""
    draft = Record(signer.peer, salt, seq, created_ms, ttl_s, value, removed)
    if fault := _fault(draft):
        raise UsageError(
            f"no such record can be: {fault}", hint="bigger values are blobs: `Blobs.push`, `prime model push`"
        )
    fields = [salt, seq, created_ms, ttl_s, value, removed]
    return attrs.evolve(draft, sealed=seal(DOMAIN, signer, fields))


def read_record(data: bytes) -> Record:
    """Return the record in signed bytes, expired or not. Raises `DecodeError`, `SignatureError`."""
    publisher, fields = unseal(DOMAIN, data, SIZE_BYTES_MAX)
    if len(fields) < 6 or not _is_shaped(fields):
        raise DecodeError("a record of another shape", hint=_HINT)
    salt, seq, created_ms, ttl_s, value, removed = fields[:6]
    record = Record(publisher, salt, seq, created_ms, ttl_s, value, removed, data)
    if fault := _fault(record):
        raise DecodeError(f"a record that cannot be: {fault}", hint=_HINT)
    return record


def _is_shaped(fields: list[Any]) -> bool:
    salt, *rest = fields[:6]
    kinds = (int, int, int, bytes, bool)
    return (salt is None or type(salt) is bytes) and all(type(x) is kind for x, kind in zip(rest, kinds, strict=True))


def _fault(record: Record) -> str:
    """Return what no record may be, or an empty text."""
    if len(record.value) > VALUE_BYTES_MAX:
        return f"a value of {len(record.value)} bytes, where {VALUE_BYTES_MAX} are allowed"
    if record.salt is not None and len(record.salt) > SALT_BYTES_MAX:
        return f"a salt of {len(record.salt)} bytes, where {SALT_BYTES_MAX} are allowed"
    if not 0 < record.ttl_s <= TTL_S_MAX:
        return f"it holds for {record.ttl_s} s, where 1 to {TTL_S_MAX} are allowed"
    if not (0 <= record.seq <= SEQ_MAX and 0 <= record.created_ms < 2**53):
        return "a seq or a time out of range"
    if record.salt is None and (record.removed or record.seq):
        return "what is stored under its own hash has no versions"
    unfit = record.removed and (record.value or record.ttl_s != TTL_S_MAX)
    return f"a removal has no value, and holds for {TTL_S_MAX} s, to outlive what it removes" if unfit else ""


def is_live(record: Record, now_ms: int) -> bool:
    """Tell whether a record holds at a time: neither expired nor from the future."""
    return now_ms < record.expires_ms and record.created_ms <= now_ms + AHEAD_MS_MAX


def precedes(one: Record, other: Record) -> bool:
    """Tell whether `one` counts before `other`, of the same key: the later version, and of one version the later end.

    Two mutable ones of one seq and different values are an equivocation of their publisher: the smaller hash counts, so
    every node settles it alike.
    """
    return (version_of(one), one.expires_ms) > (version_of(other), other.expires_ms)


def version_of(record: Record) -> tuple[int, int]:
    """Return what orders the versions of a key, whenever they end: an immutable value has one alone."""
    if record.salt is None:
        return (0, 0)
    return (record.seq, -int(key_of(record.value + bytes([record.removed]))))


def is_equivocation(one: Record, other: Record) -> bool:
    """Tell whether a publisher said two different things under one seq."""
    same = (one.key, one.seq) == (other.key, other.seq) and one.salt is not None
    return same and (one.value, one.removed) != (other.value, other.removed)


def later_of(*versions: Record | None) -> Record | None:
    """Return the one that counts of some versions of one key; `None` of none."""
    best: Record | None = None
    for each in versions:
        if each is not None and (best is None or precedes(each, best)):
            best = each
    return best
