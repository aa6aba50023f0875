"""What this node has published and keeps alive: its own records, and the keys that it provides. Pure.

Whoever publishes says it anew before it expires: a record is signed again under the same seq, with a later start. Nobody else
can say who provides a key, so no holder hands that on as it does records: it is said anew as often as records are handed
on, and more rarely by who provides very many keys. What is to change is written first, then committed, as with the shelf; so a node that starts again goes on.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Final

import attrs

from prime.dht import key as keys
from prime.dht.backend import Entry, Removal
from prime.dht.key import Key
from prime.dht.providers import TTL_S_MAX
from prime.dht.record import Record, read_record
from prime.dht.settings import DhtSettings
from prime.dht.shares import take_out
from prime.errors import DecodeError
from prime.wire import Limits, dumps, loads

RECORD_KIND: Final = "published"
KEY_KIND: Final = "provided"
PACE_MS: Final = 5_000
"""A key is provided again this often at the most, whichever of them it is."""
WAIT_MS_MAX: Final = 500 * TTL_S_MAX
"""Whatever is kept alive is said again after half of the longest time, at the latest."""
_LIMITS: Final = Limits()


@attrs.frozen
class Published:
    """A record of this node's own that it keeps alive; `None`, or a removal, under a key that it keeps alive no longer."""

    key: Key
    record: Record | None

    @property
    def kind(self) -> str:
        """See `Entry.kind`."""
        return RECORD_KIND

    def entry(self) -> Entry | Removal:
        """Return what is written to the disk."""
        name = keys.to_bytes(self.key)
        if self.record is None or self.record.removed:
            return Removal(self.kind, name)
        return Entry(self.kind, name, self.record.sealed)


@attrs.frozen
class Provided:
    """A key that this node provides, and when it last said so (ms since 1970); `None`: it provides it no longer."""

    key: Key
    said_ms: int | None

    @property
    def kind(self) -> str:
        """See `Entry.kind`."""
        return KEY_KIND

    def entry(self) -> Entry | Removal:
        """Return what is written to the disk."""
        name = keys.to_bytes(self.key)
        return Removal(self.kind, name) if self.said_ms is None else Entry(self.kind, name, dumps(self.said_ms))


Publication = Published | Provided


class Publications:
    """What one node keeps alive. Times are ms since 1970, as its clock says."""

    def __init__(self, settings: DhtSettings) -> None:
        self._republish_ms = int(1000 * settings.republish_s)
        self._replicate_ms = int(1000 * settings.replicate_s)
        self._kept: dict[tuple[str, Key], Publication] = {}
        self._at: dict[tuple[str, Key], int] = {}
        self._due: list[tuple[int, str, Key]] = []

    def record(self, key: Key) -> Record | None:
        """Return the record of its own that it keeps alive under a key."""
        kept = self._kept.get((RECORD_KIND, key))
        return kept.record if isinstance(kept, Published) else None

    def records(self) -> list[Record]:
        """Return all its own records."""
        return [each.record for each in self._kept.values() if isinstance(each, Published) and each.record is not None]

    def provided(self) -> list[Key]:
        """Return all keys that it provides."""
        return [key for kind, key in self._kept if kind == KEY_KIND]

    def provides(self, key: Key) -> bool:
        """Tell whether it provides a key."""
        return (KEY_KIND, key) in self._kept

    @property
    def due_ms(self) -> int | None:
        """When something next has to be said anew."""
        return self._due[0][0] if self._due else None

    def due(self, now_ms: int, count_max: int) -> list[Publication]:
        """Return what has to be said anew by now, the longest overdue first. `commit` what was said, or `put_off` it.

        So has what is due later than anything said by now could be: it was said while this node's clock was ahead.
        """
        late = [(kind, key) for due_ms, kind, key in self._due[:count_max] if due_ms <= now_ms]
        ahead = [(kind, key) for due_ms, kind, key in self._due[-count_max:] if due_ms > now_ms + WAIT_MS_MAX]
        return [self._kept[place] for place in (*late, *ahead)[:count_max]]

    def commit(self, change: Publication) -> None:
        """Take what is on the disk now. A removal is not kept alive: it holds as long as what it removed."""
        ended = (
            change.record is None or change.record.removed if isinstance(change, Published) else change.said_ms is None
        )
        self._forget(change.kind, change.key)
        if not ended:
            self._kept[change.kind, change.key] = change
            self._set_due(change.kind, change.key, self._anew_ms(change))

    def put_off(self, publication: Publication, until_ms: int) -> None:
        """Say it anew at a later time, since it could not be said now; what is not kept any more stays so."""
        place = (publication.kind, publication.key)
        if place in self._kept:
            take_out(self._due, (self._at[place], *place))
            self._set_due(*place, until_ms)

    def restore(self, publications: Iterable[Publication]) -> None:
        """Take what was read from the disk."""
        for each in publications:
            self.commit(each)

    def _anew_ms(self, change: Publication) -> int:
        """Return when to say it again: as the settings say, and in any case at half of its time."""
        if isinstance(change, Published) and change.record is not None:
            return change.record.created_ms + min(self._republish_ms, 500 * change.record.ttl_s)
        said_ms = change.said_ms if isinstance(change, Provided) else 0
        every_ms = max(self._replicate_ms, PACE_MS * len(self._kept))
        return (said_ms or 0) + min(every_ms, self._republish_ms, WAIT_MS_MAX)

    def _set_due(self, kind: str, key: Key, at_ms: int) -> None:
        self._at[kind, key] = at_ms
        insort(self._due, (at_ms, kind, key))

    def _forget(self, kind: str, key: Key) -> None:
        if self._kept.pop((kind, key), None) is not None:
            take_out(self._due, (self._at.pop((kind, key)), kind, key))


def read_publication(entry: Entry) -> Publication:
    """Return the publication that was written. Raises `DecodeError`, `SignatureError` for what is none."""
    key = keys.from_bytes(entry.name)
    if entry.kind == KEY_KIND:
        said_ms = loads(entry.body, _LIMITS)
        if type(said_ms) is not int:
            raise DecodeError("a kept key of another shape", hint="provide it again: another program wrote it")
        return Provided(key, said_ms)
    record = read_record(entry.body)
    if record.key != key:
        raise DecodeError("a kept record under another key", hint="publish it again: another program wrote it")
    return Published(key, record)
