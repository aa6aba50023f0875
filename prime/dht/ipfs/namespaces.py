"""What may stand under a key of `/ipfs/kad/1.0.0`: the first part of the key names a namespace, which judges it. Pure.

As the specification has it ("kad-dht", "Entry validation"): who holds a value checks it, and so does who reads it; of
several valid ones the namespace chooses. A key of no namespace that is known here is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from prime.dht.ipfs.protobuf import as_bytes, as_int, fields
from prime.dht.key import Key
from prime.dht.record import SIZE_BYTES_MAX, is_live, precedes, read_record
from prime.errors import RefusedError

KEY_BYTES_MAX: Final = 512
VALUE_BYTES_MAX: Final = SIZE_BYTES_MAX
_IDENTITY_BYTES_MAX: Final = 42
_KEY_KINDS: Final = range(4)
"""RSA, Ed25519, secp256k1, ECDSA (libp2p specifications, "Peer Ids and Keys")."""
_HINT: Final = "nothing of it was stored or used"


class Namespace(Protocol):
    """The judge of one namespace."""

    def validate(self, key: bytes, value: bytes, now_ms: int) -> None:
        """Return if `value` may stand under `key`, the namespace included. Raises `RefusedError`, or anything else."""
        ...

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Return which of these valid values counts, by its index. It must not depend on their order."""
        ...


class PublicKeys:
    """`/pk/<bytes of a peer id>`: the public key of that peer, of any kind, in libp2p's protocol buffer."""

    def validate(self, key: bytes, value: bytes, now_ms: int) -> None:  # noqa: ARG002 - a key does not age
        """See `Namespace.validate`."""
        found = dict(fields(value))
        if as_int(found.get(1, 0)) not in _KEY_KINDS or not as_bytes(found.get(2, b"")):
            raise RefusedError("this is no public key", hint=_HINT)
        if key.removeprefix(b"/pk/") not in _ids_of(value):
            raise RefusedError("this is another peer's public key", hint=_HINT)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:  # noqa: ARG002 - all valid ones are the same
        """See `Namespace.select`."""
        return 0


def _ids_of(public_key: bytes) -> set[bytes]:
    """Return the multihashes that stand for a key: its own bytes where they are few, else their SHA-256."""
    if len(public_key) <= _IDENTITY_BYTES_MAX:
        return {bytes([0, len(public_key)]) + public_key}
    return {b"\x12\x20" + hashlib.sha256(public_key).digest()}


class PrimeRecords:
    """`/prime/<key in hexadecimal>`: a signed record of Prime under its own key of the DHT, the latest version."""

    def validate(self, key: bytes, value: bytes, now_ms: int) -> None:
        """See `Namespace.validate`."""
        record = read_record(value)
        if record_name(record.key) != key:
            raise RefusedError("this record stands under another key", hint=_HINT)
        if not is_live(record, now_ms):
            raise RefusedError("this record has expired, or comes from the future", hint=_HINT)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:  # noqa: ARG002 - it is the same for all
        """See `Namespace.select`."""
        records = [read_record(value) for value in values]
        best = 0
        for index, record in enumerate(records):
            if precedes(record, records[best]):
                best = index
        return best


def record_name(key: Key) -> bytes:
    """Return under what name a record of Prime stands here."""
    return f"/prime/{key:064x}".encode()


class Namespaces:
    """All namespaces that a node knows: `pk`, `prime` and a user's own."""

    def __init__(self, own: Mapping[str, Namespace] | None = None) -> None:
        self._known: dict[str, Namespace] = {"pk": PublicKeys(), "prime": PrimeRecords(), **(own or {})}

    def check(self, key: bytes) -> None:
        """Raise `RefusedError` for a key of no known namespace."""
        self._of(key)

    def validate(self, key: bytes, value: bytes, now_ms: int) -> None:
        """Raise `RefusedError` for what may not stand under a key."""
        judge = self._of(key)
        if len(value) > VALUE_BYTES_MAX:
            raise RefusedError(f"a value of {len(value)} bytes, where {VALUE_BYTES_MAX} are allowed", hint=_HINT)
        try:
            judge.validate(key, value, now_ms)
        except RefusedError:
            raise
        except Exception as error:  # border: a namespace may be a user's own, and sees a stranger's bytes
            raise RefusedError(
                f"this value cannot stand here: {str(error) or type(error).__name__}", hint=_HINT
            ) from error

    def best(self, key: bytes, values: Sequence[bytes]) -> bytes:
        """Return the one of several valid values that counts. Raises `RefusedError` where its namespace cannot say."""
        judge = self._of(key)
        try:
            return values[judge.select(key, values)]
        except Exception as error:  # border, as above
            raise RefusedError(
                f"its namespace cannot choose: {str(error) or type(error).__name__}", hint=_HINT
            ) from error

    def _of(self, key: bytes) -> Namespace:
        if len(key) > KEY_BYTES_MAX:
            raise RefusedError(f"a key of {len(key)} bytes, where {KEY_BYTES_MAX} are allowed", hint=_HINT)
        name = key[1 : key.find(b"/", 1)].decode(errors="replace") if key.startswith(b"/") else ""
        judge = self._known.get(name)
        if judge is None:
            raise RefusedError(
                f"no namespace {name[:32]!r} is known here", hint="give open_ipfs a Namespace for it: namespaces={…}"
            )
        return judge
