"""The replication actor: it answers who asks for records, and takes in what publishers and other holders hand it.

What it answers as stored is on the disk: records that come while one write is under way share the next one. The archive
outlives the actor, so whichever await it ends at, it loses no record that it had answered for.
"""

from __future__ import annotations

from typing import Final

import attrs

from prime.actor import Actor, Later, on
from prime.dht import facts
from prime.dht import key as keys
from prime.dht import messages as m
from prime.dht.archive import Archive
from prime.dht.peering import Peering
from prime.dht.record import Record, read_record
from prime.dht.shelf import Answer
from prime.errors import DecodeError, RefusedError, WorldError

WAITING_MAX: Final = 512
"""Records that wait for their turn to be written; further ones are refused."""
BATCH_MAX: Final = 128
"""Records that share one write."""


@attrs.frozen
class _Offer:
    record: Record
    group: str
    later: Later


class HoldingActor(Actor[m.GetRecord | m.StoreRecord]):
    """Holds records for the swarm."""

    def __init__(self, peering: Peering, archive: Archive) -> None:
        self._peering = peering
        self._archive = archive
        self._waiting: list[_Offer] = []
        self._writing = False

    @on(m.GetRecord)
    def get(self, q: m.GetRecord) -> m.RecordFound:
        """Show the record of a key, and who is nearer."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.key))
        peering.hear(sender, q.asker)
        key = keys.from_bytes(q.key)
        record = self._archive.shelf.get(key, peering.now_ms())
        return m.RecordFound(None if record is None else record.sealed, peering.closer(key, sender))

    @on(m.StoreRecord)
    def store(self, q: m.StoreRecord) -> Later:
        """Hold a record; the answer comes once it is on the disk."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.record))
        try:
            record = read_record(q.record)
        except DecodeError as error:
            peering.note_refused(sender, f"a record: {error}")
            raise RefusedError(f"that is no record: {error}", hint=error.hint) from error
        if len(self._waiting) >= WAITING_MAX:
            raise RefusedError("more records come than can be written", hint="try again, or another holder")
        later = self.ctx.defer()
        self._waiting.append(_Offer(record, peering.share_of(sender), later))
        if not self._writing:
            self._writing = True
            self.ctx.start_soon(self._write)
        return later

    async def _write(self) -> None:
        """Write what waits, until nothing does."""
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            try:
                answers = await self._archive.hold(
                    [(each.record, each.group) for each in batch], self._peering.now_ms()
                )
            except WorldError as error:
                for each in batch:
                    each.later.reply(m.RecordStored("refused", f"its disk: {error}"))
            else:
                for each, answer in zip(batch, answers, strict=True):
                    each.later.reply(reply_of(answer))
                    self._tell(each.record, answer)
        self._writing = False

    def _tell(self, record: Record, answer: Answer) -> None:
        key = keys.to_bytes(record.key).hex()
        if answer.equivocation is not None:
            self.ctx.emit(facts.Equivocation(key, record.publisher, record.seq))
        if answer.outcome == "stored":
            self.ctx.emit(facts.RecordHeld(key, record.publisher, record.seq, len(record.sealed)))


def reply_of(answer: Answer) -> m.RecordStored:
    """Return an answer of the shelf as it goes to who handed a record on."""
    return m.RecordStored(answer.outcome, answer.why, None if answer.held is None else answer.held.sealed)
