"""What a node keeps under one key of the DHT: a record, or only the floor below which it takes none back. Pure.

A row is also what is written to the disk: an `Entry` of kind `record`, whose body is the CBOR of
`[group, publisher, floor, sealed]`. What is read back is decoded and verified as if a stranger had sent it.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from prime.actor.contract import PeerId
from prime.dht import key as keys
from prime.dht.backend import Entry, Removal
from prime.dht.key import Key
from prime.dht.record import AHEAD_MS_MAX, TTL_S_MAX, Record, read_record, version_of
from prime.errors import DecodeError
from prime.wire import Limits, dumps, loads

KIND: Final = "record"
SIZE_BYTES: Final = 512
"""What a row counts beside its record's bytes: about what it takes in memory, and on the disk with its index."""
_DIGEST_BYTES: Final = 32
_LIMITS: Final = Limits()
_HINT: Final = "another program wrote it, or the disk damaged it: what other nodes hold is fetched from them"


@attrs.frozen
class Floor:
    """The lowest version that is taken, and until when (ms since 1970) that matters: later, what is lower has expired."""

    version: tuple[int, int]
    until_ms: int


@attrs.frozen
class Row:
    """What is kept under a key: who handed it on (`group`), who signed it, and the record while it holds.

    An immutable value has no floor: it has one version, and its row ends with its record.
    """

    key: Key
    group: str
    publisher: PeerId
    floor: Floor | None
    record: Record | None

    @property
    def size_bytes(self) -> int:
        """What it counts against a node's bound."""
        return SIZE_BYTES + (0 if self.record is None else len(self.record.sealed))

    @property
    def due_ms(self) -> int:
        """When it has to be looked at: its record expires, or its floor has had its time."""
        if self.record is not None:
            return self.record.expires_ms
        return 0 if self.floor is None else self.floor.until_ms

    def emptied(self) -> Row | Gone:
        """Return what is left of it without its record."""
        return Gone(self.key) if self.floor is None else attrs.evolve(self, record=None)

    def entry(self) -> Entry:
        """Return what is written to the disk."""
        floor = None
        if self.floor is not None:
            seq, digest = self.floor.version
            floor = [seq, (-digest).to_bytes(_DIGEST_BYTES, "big"), self.floor.until_ms]
        sealed = None if self.record is None else self.record.sealed
        return Entry(KIND, keys.to_bytes(self.key), dumps([self.group, self.publisher, floor, sealed]))


@attrs.frozen
class Gone:
    """Nothing is kept under this key any more."""

    key: Key

    def entry(self) -> Removal:
        """Return what is written to the disk."""
        return Removal(KIND, keys.to_bytes(self.key))


def make_row(record: Record, group: str, now_ms: int) -> Row:
    """Return the row of a record that is taken now.

    Its floor stands until all that its publisher had signed by now has expired, whatever the clocks said: a record that
    is taken was made no later than `AHEAD_MS_MAX` from now, and holds for `TTL_S_MAX` at the most.
    """
    until_ms = now_ms + AHEAD_MS_MAX + 1000 * TTL_S_MAX
    floor = None if record.salt is None else Floor(version_of(record), until_ms)
    return Row(record.key, group, record.publisher, floor, record)


def read_row(entry: Entry) -> Row:
    """Return the row that was written. Raises `DecodeError`, `SignatureError` for what is none, or is not as it was."""
    plain = loads(entry.body, _LIMITS)
    if type(plain) is not list or len(plain) != 4 or not all(type(text) is str for text in plain[:2]):
        raise DecodeError("a kept record of another shape", hint=_HINT)
    group, publisher, floor, sealed = plain
    record = None if sealed is None else read_record(sealed) if type(sealed) is bytes else _refuse()
    row = Row(keys.from_bytes(entry.name), group, PeerId(publisher), _floor(floor), record)
    if record is None and row.floor is None:
        _refuse()
    if record is not None and (record.key, record.publisher) != (row.key, row.publisher):
        _refuse()
    if record is not None and (None if row.floor is None else row.floor.version) != _version(record):
        _refuse()
    return row


def _version(record: Record) -> tuple[int, int] | None:
    return None if record.salt is None else version_of(record)


def _floor(plain: Any) -> Floor | None:
    if plain is None:
        return None
    if type(plain) is not list or [type(item) for item in plain] != [int, bytes, int] or len(plain[1]) != _DIGEST_BYTES:
        _refuse()
    return Floor((plain[0], -int.from_bytes(plain[1], "big")), plain[2])


def _refuse() -> Any:
    raise DecodeError("a kept record that does not fit its key", hint=_HINT)
