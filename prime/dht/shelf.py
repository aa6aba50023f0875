"""The shelf: the records that a node holds for the swarm, in memory and within quotas. Pure.

What is to change is planned first, then written by the node's backend, then committed: a reader never sees what a crash
could take back, and after a refused write nothing has changed. Of a key's versions the latest counts, and none that is
lower is taken back, also when the later one has expired: its floor stands until the lower ones have expired too.

Nobody fills it alone: the records that one IP group handed on, and those of one publisher, are counted. When the bytes
run out, the group that has the most here gives up first, and of its records the one farthest from this node.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import attrs

from prime.actor.contract import PeerId
from prime.dht.backend import Entry, Removal
from prime.dht.draft import Draft
from prime.dht.key import Key, distance
from prime.dht.record import Record, is_equivocation, is_live, precedes, version_of
from prime.dht.row import Gone, Row, make_row
from prime.dht.settings import DhtSettings
from prime.dht.shares import OWN_GROUP, Shares, take_out
from prime.errors import PrimeInternalError

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


class Shelf:
    """The records of one node. `own` is where the node stands; times are ms since 1970, as this node's clock says."""

    def __init__(self, own: Key, settings: DhtSettings) -> None:
        self._own = own
        self._settings = settings
        self._rows: dict[Key, Row] = {}
        self._shares: Shares[tuple[bool, int]] = Shares()  # bare floors first, then records; each from near to far
        self._publishers: dict[PeerId, int] = {}
        self._due: list[tuple[int, Key]] = []  # when a row has to be looked at, soonest first
        self._count = 0
        self._version = 0

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
        return self._count

    @property
    def size_bytes(self) -> int:
        """What is here, as it counts against the bound."""
        return self._shares.size_bytes

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
        draft = Draft(self._put)
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
        draft = Draft(self._put)
        while self.size_bytes > self._settings.store_bytes_max and (victim := self._victim()) is not None:
            draft.make(victim.emptied() if victim.record is not None else Gone(victim.key))
        self._version += 1
        return Plan((), draft.end(), self._version)

    def _offered(self, record: Record, group: str, now_ms: int, draft: Draft[Row | Gone]) -> Answer:
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

    def _taken(
        self, record: Record, row: Row | None, group: str, now_ms: int, draft: Draft[Row | Gone]
    ) -> Answer | None:
        """Make room and put a record there, or return why not, with nothing changed."""
        if why := self._over_quota(record, row, group):
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

    def _over_quota(self, record: Record, row: Row | None, group: str) -> str:
        """Return which quota has no room; a later version has the room of the one before, where its publisher has it."""
        most = self._settings.group_records_max
        if group == OWN_GROUP:
            return ""
        if row is None and self._shares.count(group) >= most:
            return f"{most} records came from {group}: that is its quota"
        anew = row is None or row.publisher != record.publisher  # anybody may sign an immutable value
        if anew and self._publishers.get(record.publisher, 0) >= most:
            return f"{most} records of {record.publisher} are here: that is its quota"
        return ""

    def _victim(self) -> Row | None:
        """Return what goes first when the bytes run out: of the group with the most, its farthest record, then floor."""
        place = self._shares.first_to_go()
        return None if place is None else self._rows[Key(place[1] ^ self._own)]

    # ---- changing

    def _put(self, change: Row | Gone) -> Row | Gone:
        """Make one change; return the one that would undo it."""
        before = self._rows.pop(change.key, None)
        if before is not None:
            self._shares.remove(before.group, self._place(before), before.size_bytes)
            take_out(self._due, (before.due_ms, before.key))
            self._tally(before, -1)
        if isinstance(change, Row):
            self._rows[change.key] = change
            self._shares.add(change.group, self._place(change), change.size_bytes)
            insort(self._due, (change.due_ms, change.key))
            self._tally(change, 1)
        return Gone(change.key) if before is None else before

    def _place(self, row: Row) -> tuple[bool, int]:
        return (row.record is not None, distance(self._own, row.key))

    def _tally(self, row: Row, more: int) -> None:
        self._count += more * (row.record is not None)
        count = self._publishers.get(row.publisher, 0) + more
        if count:
            self._publishers[row.publisher] = count
        else:
            del self._publishers[row.publisher]


def _swept(row: Row, now_ms: int) -> Row | Gone:
    left = row.emptied() if row.record is not None else Gone(row.key)
    return left if isinstance(left, Gone) or left.due_ms > now_ms else Gone(row.key)
