"""The replication actor: it answers who asks for records, takes in what others hand it, and sees to it that copies stay.

What it answers as stored is on the disk: records that come while one write is under way share the next one. The archive
outlives the actor, so whichever await it ends at, it loses no record that it had answered for; a new incarnation takes
its duties from the archive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import attrs

from prime.actor import Actor, Later, on
from prime.actor.actor import Once
from prime.actor.contract import PeerId
from prime.dht import facts
from prime.dht import key as keys
from prime.dht import messages as m
from prime.dht import replication as core
from prime.dht.archive import Archive
from prime.dht.batches import Batches
from prime.dht.contact import Contact
from prime.dht.key import Key
from prime.dht.lookup import Nearest, Value
from prime.dht.peering import Missed, Peering
from prime.dht.record import Record, read_record
from prime.dht.replication import Replication
from prime.dht.shelf import Answer, Plan
from prime.errors import DecodeError, PrimeError, RefusedError, WorldError
from prime.wire import Ask, message

if TYPE_CHECKING:
    from prime.dht.looking import Lookups

SWEEP_S: Final = 30.0
"""How often it is looked whether something has expired."""


@message
class Keep(Ask[m.RecordStored]):
    """Hold this record of this node's own, or one that it has read; `group` is what it counts against."""

    record: Record
    group: str


@message
class Neighbour:
    """Somebody has come into the table, or left it."""

    event: core.Joined | core.Left


@message
class Turn:
    """The time of the core has come."""


@message
class Sweep:
    """See what has expired."""


@attrs.frozen
class _Offer:
    record: Record
    group: str
    by: PeerId
    later: Later


class HoldingActor(Actor[m.GetRecord | m.StoreRecord | Keep | Neighbour | Turn | Sweep]):
    """Holds records for the swarm."""

    def __init__(self, peering: Peering, archive: Archive, lookups: Lookups) -> None:
        self._peering = peering
        self._archive = archive
        self._lookups = lookups
        self._batches = Batches(self._write)
        self._timer: Once | None = None

    async def started(self) -> None:
        """Take up the duties for what is held."""
        peering = self._peering
        count = peering.settings.replicas + 1
        self._core = Replication(
            peering.peer,
            peering.settings,
            near=lambda key: peering.table.closest(key, count),
            chance=self.ctx.system.random.random,
        )
        for record in tuple(self._archive.shelf.records(peering.now_ms())):
            self._feed(core.Taken(record.key, None))
        self.ctx.every(SWEEP_S, Sweep())
        if self._archive.unsure:
            self.ctx.start_soon(self._mend)

    # ---- what others ask

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
        return self._offer(record, peering.share_of(sender), sender)

    @on(Keep)
    def keep(self, q: Keep) -> Later:
        """Hold a record that this node has made, or read."""
        return self._offer(q.record, q.group, self._peering.peer)

    def _offer(self, record: Record, group: str, by: PeerId) -> Later:
        self._batches.check_room()
        later = self.ctx.defer()
        self._batches.add(_Offer(record, group, by, later), self.ctx.start_soon)
        return later

    async def _write(self, batch: list[_Offer]) -> None:
        try:
            plan = await self._archive.hold([(each.record, each.group) for each in batch], self._peering.now_ms())
        except WorldError as error:
            refusal = self._peering.disk_refuses(error)
            for each in batch:
                why = f"its disk: {error}" if each.by == self._peering.peer else str(refusal)
                each.later.reply(m.RecordStored("refused", why))
            return
        for each, answer in zip(batch, plan.answers, strict=True):
            each.later.reply(reply_of(answer))
            self._note(each.record, each.by, answer)
        self._forget(plan)

    def _note(self, record: Record, by: PeerId, answer: Answer) -> None:
        key = keys.to_bytes(record.key).hex()
        if answer.equivocation is not None:
            self._peering.dispute(facts.Equivocation(key, record.publisher, record.seq))
        if answer.outcome == "stored":
            self.ctx.emit(facts.RecordHeld(key, record.publisher, record.seq, len(record.sealed)))
            self._feed(core.Taken(record.key, by))

    def _forget(self, plan: Plan) -> None:
        """Owe nobody what is not held any more."""
        for key in gone(plan):
            self._feed(core.Gone(key))

    # ---- copies

    @on(Neighbour)
    def neighbour(self, event: Neighbour) -> None:
        """See who should hold what now."""
        self._feed(event.event)

    @on(Turn)
    def turn(self, _: Turn) -> None:
        """Let the core see that time has passed."""
        self._timer = None
        self._feed(core.Tick())

    @on(Sweep)
    async def sweep(self, _: Sweep) -> None:
        """Forget what has expired; a disk that refuses is asked again the next time."""
        try:
            for plan in await self._archive.sweep(self._peering.now_ms()):
                self._forget(plan)
        except WorldError as error:
            self._peering.disk_refuses(error)

    def _feed(self, event: core.Event) -> None:
        for command in self._core.step(event, self.ctx.now()):
            match command:
                case core.Locate(key):
                    self.ctx.start_soon(self._locate, key)
                case core.Hand(key, contact):
                    self.ctx.start_soon(self._hand, key, contact)
                case core.Drop(key):
                    self.ctx.start_soon(self._drop, key, self._held(key))
                case core.Wake(at):
                    self._wake(at)

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.ctx.after(max(0.0, at - self.ctx.now()), Turn())

    def _held(self, key: Key) -> Record | None:
        return self._archive.shelf.get(key, self._peering.now_ms())

    async def _locate(self, key: Key) -> None:
        """Find who should hold a record."""
        nearest: tuple[Contact, ...] = ()
        with contextlib.suppress(PrimeError):  # nobody answers: it is tried again
            nearest = (await self._lookups.run(Nearest(key))).closest
        self._feed(core.Located(key, nearest))

    async def _hand(self, key: Key, contact: Contact) -> None:
        """Hand a record on."""
        peering, peer, record = self._peering, contact.peer, self._held(key)
        outcome: m.Outcome = "refused"
        later: Record | None = None
        if record is not None:
            peering.teach(contact)
            try:
                answer = await peering.ask(peer, m.RECORDS_PATH, HoldingActor, m.StoreRecord(record.sealed))
                outcome, later = answer.outcome, peering.read_record(answer.held, key)
            except RefusedError:
                pass
            except PrimeError:
                peering.tell_routing(Missed(peer))
                self._feed(core.Handed(key, peer, "failed"))
                return
        if later is not None:
            with contextlib.suppress(WorldError):  # the own disk's: the peer is not to blame
                await self._take(later, peer)
        self._feed(core.Handed(key, peer, outcome))

    async def _mend(self) -> None:
        """Ask other nodes for what the store had lost, one record at a time; what they do not have is gone."""
        unsure, peering = self._archive.unsure, self._peering
        await peering.joined.wait()
        while unsure:
            with contextlib.suppress(PrimeError):
                outcome = await self._lookups.run(Value(unsure[-1], 0))
                if outcome.record is not None:
                    source = outcome.holders[0].peer if outcome.holders else peering.peer
                    await self._take(outcome.record, source)
            unsure.pop()

    async def _take(self, record: Record, source: PeerId) -> None:
        """Hold a record that another node has shown. Raises `WorldError`."""
        peering = self._peering
        plan = await self._archive.hold([(record, peering.share_of(source))], peering.now_ms())
        self._note(record, source, plan.answers[0])
        self._forget(plan)

    async def _drop(self, key: Key, record: Record | None) -> None:
        """Give up a record, unless another version of it has come."""
        if record is not None:
            try:
                await self._archive.drop(record, self._peering.now_ms())
            except WorldError:
                self._feed(core.Taken(key, None))


def reply_of(answer: Answer) -> m.RecordStored:
    """Return an answer of the shelf as it goes to who handed a record on."""
    return m.RecordStored(answer.outcome, answer.why, None if answer.held is None else answer.held.sealed)


def gone(plan: Plan) -> Iterable[Key]:
    """Return the keys of which a plan leaves no record."""
    left = {change.key: change for change in plan.changes}  # of several changes of one key the last
    return [key for key, change in left.items() if getattr(change, "record", None) is None]
