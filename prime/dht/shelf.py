"""The shelf: the records that a node holds for the swarm, in memory and within quotas. Pure.

What is to change is planned first, then written by the node's backend, then committed: a reader never sees what a crash
could take back, and after a refused write nothing has changed. Of a key's versions the latest counts, and none that is
lower is taken back, also when the later one has expired: its floor stands until the lower ones have expired too.

Nobody fills it alone: the records that one IP group handed on, and those of one publisher, are counted. When the bytes
run out, the group that has the most here gives up first, and of its records the one farthest from this node.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeVar

import attrs

from prime.actor.contract import PeerId
from prime.dht.backend import Entry, Removal
from prime.dht.key import Key, distance
from prime.dht.record import Record, is_equivocation, is_live, precedes, version_of
from prime.dht.row import OWN_GROUP, Gone, Row, make_row
from prime.dht.settings import DhtSettings
from prime.errors import PrimeInternalError

T = TypeVar("T", int, tuple[int, Key])

SWEPT_MAX: Final = 256
"""So many rows are swept at a time: the rest at the next."""


@attrs.frozen
class Equivocation:
    """A publisher signed two different things under one seq: a fact for whoever watches. `kept` counts, everywhere."""

    kept: Record
    other: Record


@attrs.frozen
class Answer:
    """What becomes of a record once its plan is committed; the words are those of `messages.RecordStored`.

    `held` is the live record that counts here instead, where that is another.
    """

    outcome: Literal["stored", "older", "refused"]
    why: str = ""
    held: Record | None = None
    equivocation: Equivocation | None = None


@attrs.frozen
class Plan:
    """Changes that wait to be written, and the answers to give once they are. `version` is the shelf that it was made for."""

    answers: tuple[Answer, ...]
    changes: tuple[Row | Gone, ...]
    version: int

    @property
    def writes(self) -> tuple[Entry | Removal, ...]:
        """What the backend has to write, all or nothing, before the plan is committed; nothing, if it is empty."""
        return tuple(change.entry() for change in self.changes)


@attrs.define
class _Share:
    """What one group has here: distances from this node, nearest first, of its records and of its bare floors."""

    records: list[int] = attrs.field(factory=list)
    floors: list[int] = attrs.field(factory=list)
    size_bytes: int = 0

    @property
    def count(self) -> int:
        return len(self.records) + len(self.floors)

    def places(self, row: Row) -> list[int]:
        return self.floors if row.record is None else self.records


class Shelf:
    """The records of one node. `own` is where the node stands; times are ms since 1970, as this node's clock says."""

    def __init__(self, own: Key, settings: DhtSettings) -> None:
        self._own = own
        self._settings = settings
        self._rows: dict[Key, Row] = {}
        self._shares: dict[str, _Share] = {}
        self._publishers: dict[PeerId, int] = {}
        self._due: list[tuple[int, Key]] = []  # when a row has to be looked at, soonest first
        self._version = 0
        self.size_bytes = 0

    # ---- reading

    def get(self, key: Key, now_ms: int) -> Record | None:
        """Return the record of a key that holds now; a removal is one too."""
        row = self._rows.get(key)
        record = None if row is None else row.record
        return record if record is not None and is_live(record, now_ms) else None

    def records(self, now_ms: int) -> list[Record]:
        """Return the records that hold now."""
        held = [row.record for row in self._rows.values() if row.record is not None]
        return [record for record in held if is_live(record, now_ms)]

    def __len__(self) -> int:
        """Return how many records there are, among them some that have expired and wait to be swept."""
        return sum(len(share.records) for share in self._shares.values())

    @property
    def due_ms(self) -> int | None:
        """When `sweep` next has something to do."""
        return self._due[0][0] if self._due else None

    # ---- planning

    def hold(self, record: Record, group: str, now_ms: int) -> Plan:
        """Plan to hold a verified record that came from somebody of an IP group, or from this node (`OWN_GROUP`)."""
        return self.hold_all([(record, group)], now_ms)

    def hold_all(self, offers: Iterable[tuple[Record, str]], now_ms: int) -> Plan:
        """Plan to hold several, in one write; each gets the answer that it would have had alone, after those before it."""
        draft = _Draft(self)
        try:
            answers = [self._offered(record, group, now_ms, draft) for record, group in offers]
        finally:
            changes = draft.end()
        return Plan(tuple(answers), changes, self._version)

    def drop(self, keys: Iterable[Key]) -> Plan:
        """Plan to hold records no longer, as others do; their floors stay."""
        rows = [self._rows[key] for key in keys if key in self._rows]
        return Plan((), tuple(row.emptied() for row in rows if row.record is not None), self._version)

    def sweep(self, now_ms: int, count_max: int = SWEPT_MAX) -> Plan:
        """Plan to forget what has expired, and the floors that have had their time."""
        late = [self._rows[key] for due_ms, key in self._due[:count_max] if due_ms <= now_ms]
        return Plan((), tuple(_swept(row, now_ms) for row in late), self._version)

    def commit(self, plan: Plan) -> None:
        """Do what was planned and is on the disk now. One plan at a time: each is made after the one before is committed."""
        if plan.version != self._version:
            raise PrimeInternalError("a plan was made for another state of the shelf", hint="please report it")
        for change in plan.changes:
            self._put(change)
        self._version += 1

    def restore(self, rows: Sequence[Row]) -> Plan:
        """Take what was read from the disk, all of it; return a plan to give up what no longer fits the settings."""
        for row in rows:
            self._put(row)
        draft = _Draft(self)
        while self.size_bytes > self._settings.store_bytes_max and (victim := self._victim()) is not None:
            draft.make(victim.emptied() if victim.record is not None else Gone(victim.key))
        self._version += 1
        return Plan((), draft.end(), self._version)

    def _offered(self, record: Record, group: str, now_ms: int, draft: _Draft) -> Answer:
        row = self._rows.get(record.key)
        held = self.get(record.key, now_ms)
        kept = None if row is None else row.record
        equivocation = None
        if kept is not None and is_equivocation(kept, record):
            equivocation = Equivocation(*((record, kept) if precedes(record, kept) else (kept, record)))
        if not is_live(record, now_ms):
            why = "it has expired" if now_ms >= record.expires_ms else "it comes from the future: compare the clocks"
            return Answer("refused", why, held, equivocation)
        if kept is not None and not precedes(record, kept):
            if precedes(kept, record):
                return Answer("older", "", held, equivocation)
            return Answer("stored")
        if row is not None and row.floor is not None and version_of(record) < row.floor.version:
            return Answer("older", f"version {row.floor.version[0]} was here, and is over", None, equivocation)
        return self._taken(record, row, group, now_ms, draft) or Answer("stored", equivocation=equivocation)

    def _taken(self, record: Record, row: Row | None, group: str, now_ms: int, draft: _Draft) -> Answer | None:
        """Make room and put a record there, or return why not, with nothing changed."""
        if row is None and (why := self._over_quota(record, group)):
            return Answer("refused", why)
        payer = group if row is None or group == OWN_GROUP else row.group
        begun = len(draft.changes)
        draft.make(make_row(record, payer, now_ms))
        while self.size_bytes > self._settings.store_bytes_max:
            victim = self._victim()
            if victim is None or victim.key == record.key:
                draft.undo(begun)
                return Answer("refused", "the store is full", self.get(record.key, now_ms))
            draft.make(victim.emptied() if victim.record is not None else Gone(victim.key))
        return None

    def _over_quota(self, record: Record, group: str) -> str:
        most = self._settings.group_records_max
        if group == OWN_GROUP:
            return ""
        if group in self._shares and self._shares[group].count >= most:
            return f"{most} records came from {group}: that is its quota"
        if self._publishers.get(record.publisher, 0) >= most:
            return f"{most} records of {record.publisher} are here: that is its quota"
        return ""

    def _victim(self) -> Row | None:
        """Return what goes first when the bytes run out: of the group with the most, its farthest record, then floor."""
        shares = [share for group, share in self._shares.items() if group != OWN_GROUP]
        if not shares:
            return None
        heaviest = max(shares, key=lambda share: share.size_bytes)
        return self._rows[Key((heaviest.records or heaviest.floors)[-1] ^ self._own)]

    # ---- changing

    def _put(self, change: Row | Gone) -> Row | Gone:
        """Make one change; return the one that would undo it."""
        before = self._rows.pop(change.key, None)
        if before is not None:
            self._count(before, out=True)
        if isinstance(change, Row):
            self._rows[change.key] = change
            self._count(change, out=False)
        return Gone(change.key) if before is None else before

    def _count(self, row: Row, *, out: bool) -> None:
        sign = -1 if out else 1
        share = self._shares.setdefault(row.group, _Share())
        _move(share.places(row), distance(self._own, row.key), out=out)
        _move(self._due, (row.due_ms, row.key), out=out)
        share.size_bytes += sign * row.size_bytes
        self.size_bytes += sign * row.size_bytes
        self._publishers[row.publisher] = self._publishers.get(row.publisher, 0) + sign
        if not share.count:
            del self._shares[row.group]
        if not self._publishers[row.publisher]:
            del self._publishers[row.publisher]


class _Draft:
    """Changes that are tried on a shelf and taken back, so that each is planned upon those before it."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.changes: list[Row | Gone] = []
        self._undo: list[Row | Gone] = []

    def make(self, change: Row | Gone) -> None:
        self.changes.append(change)
        self._undo.append(self._shelf._put(change))  # noqa: SLF001 - the shelf's own draft

    def undo(self, down_to: int) -> None:
        """Take changes back, the last one first, down to so many: they are no longer part of the plan."""
        self._take_back(down_to)
        del self.changes[down_to:]

    def end(self) -> tuple[Row | Gone, ...]:
        """Leave the shelf as it was, and return what is planned."""
        self._take_back(0)
        return tuple(self.changes)

    def _take_back(self, down_to: int) -> None:
        while len(self._undo) > down_to:
            self._shelf._put(self._undo.pop())  # noqa: SLF001


def _move(places: list[T], item: T, *, out: bool) -> None:
    """Put an item into its place in a sorted list, or take it out."""
    if out:
        del places[bisect_left(places, item)]
    else:
        insort(places, item)


def _swept(row: Row, now_ms: int) -> Row | Gone:
    left = row.emptied() if row.record is not None else Gone(row.key)
    return left if isinstance(left, Gone) or left.due_ms > now_ms else Gone(row.key)
