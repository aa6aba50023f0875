"""A node of the DHT on the fast engine: the cores of production, in a shell of calls.

Who asks whom is real, and what travels are opened objects: a signature is sound if its record or contact was made by
its owner, which the swarm knows (`Swarm.made`). So thousands of nodes join, look up, hold and lie in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import attrs

from prime.actor.contract import PeerId
from prime.dht import bootstrap as bs
from prime.dht import lookup as lk
from prime.dht.contact import Contact
from prime.dht.groups import counted_group, vouched
from prime.dht.key import Key, distance
from prime.dht.record import Record, is_live
from prime.dht.row import Row
from prime.dht.settings import DhtSettings
from prime.dht.shelf import Shelf
from prime.dht.table import Table, key_in
from prime.sim.heap import HeapNode, HeapWorld, Program
from prime.sim.plan import Plan
from prime.transport.peer import peer_from_public_key

EPOCH_MS: Final = 1_000_000_000_000
"""What wall clocks show when a world begins, in ms since 1970."""


# ---- what travels


@attrs.frozen
class Question:
    """Whom do you know near the key, and, if `value`, what do you hold there? `asker` may be put into a table."""

    number: int
    key: Key
    asker: Contact
    value: bool = False


@attrs.frozen
class Storing:
    """Hold this."""

    number: int
    record: Record
    asker: Contact


@attrs.frozen
class Reply:
    """The answer to the message of this number. `contact` is its sender's own."""

    number: int
    contact: Contact
    closer: tuple[Contact, ...] = ()
    record: Record | None = None
    stored: bool = False


@attrs.define(eq=False)
class _Waiting:
    """A request that is not answered yet."""

    peer: PeerId
    done: Callable[[Reply | None], None]


class Swarm:
    """All nodes, where each can be seen, and what its owner really signed."""

    def __init__(self, seed: int, settings: DhtSettings, plan: Plan) -> None:
        self.world = HeapWorld(seed, plan)
        self.settings = settings
        self.contacts: dict[PeerId, Contact] = {}
        self.names: dict[PeerId, str] = {}
        self.peers: dict[str, PeerId] = {}
        self.addresses: dict[PeerId, str] = {}
        self.made: set[int] = set()
        """The identity of each record that its publisher signed; `records` keeps them."""
        self.records: list[Record] = []

    def now_ms(self) -> int:
        """Return the wall time, ms since 1970."""
        return EPOCH_MS + int(self.world.now * 1000)

    def contact(self, name: str, address: str) -> Contact:
        """Return the contact of a new peer, which can be dialled at an address and is seen there."""
        peer = peer_from_public_key(self.world.streams.stream("peer", name).randbytes(32))
        made = Contact(peer, (f"{address}/p2p/{peer}",), EPOCH_MS, b"")
        self.contacts[peer], self.addresses[peer] = made, address
        self.names[peer], self.peers[name] = name, peer
        return made

    def add(self, contact: Contact, make: Callable[[], Program]) -> HeapNode:
        """Start a node."""
        return self.world.add(self.names[contact.peer], make)

    def sign(self, record: Record) -> Record:
        """Make a record a genuine one."""
        self.made.add(id(record))
        self.records.append(record)
        return record

    def is_sound(self, record: Record) -> bool:
        """Tell whether its publisher made it: what a signature is for."""
        return id(record) in self.made

    def finders(self) -> list[Finder]:
        """Return the honest nodes that run."""
        programs = (node.program for node in self.world.nodes.values() if node.is_up)
        return [one for one in programs if isinstance(one, Finder) and one.is_honest]

    def finder(self, contact: Contact) -> Finder:
        """Return the program of a node that runs."""
        return cast("Finder", self.world.nodes[self.names[contact.peer]].program)

    def nearest(self, key: Key, count: int) -> list[Contact]:
        """Return the honest nodes nearest to a key, by brute force: the oracle."""
        return sorted((one.contact for one in self.finders()), key=lambda one: distance(one.key, key))[:count]


class Finder(Program):
    """An honest node. With `joins` false it stays with the table that it is given."""

    is_honest = True

    def __init__(self, swarm: Swarm, contact: Contact, told_of: Sequence[Contact] = (), *, joins: bool = True) -> None:
        self.swarm = swarm
        self.contact = contact
        self.settings = swarm.settings
        self.told_of = tuple(told_of)
        self.joins = joins
        self.table = Table(contact.key, swarm.settings, 0.0)
        self.shelf = Shelf(contact.key, swarm.settings)
        self.told_alive: dict[PeerId, Contact] = {}
        self.requests = 0
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._lookups: dict[int, tuple[lk.Lookup, Callable[[lk.Outcome], None]]] = {}
        self._introducing: set[PeerId] = set()

    # ---- as the engine calls it

    def started(self, node: HeapNode) -> None:
        """See `Program.started`."""
        self.node = node
        self.table = Table(self.contact.key, self.settings, node.now)
        self.bootstrap = bs.Bootstrap(
            self.table,
            told_of=len(self.told_of),
            settings=self.settings,
            bits=node.random("bootstrap").getrandbits,
            now=node.now,
        )
        rows: dict[Key, Row] = {}
        for change in node.disk.records:
            rows.pop(change.key, None)
            if isinstance(change, Row):
                rows[change.key] = change
        self.shelf.restore(list(rows.values()))
        self._join(bs.Woken())

    def heard(self, source: str, message: Any) -> None:
        """See `Program.heard`."""
        peer = self.swarm.peers[source]
        if isinstance(message, Reply):
            self._replied(peer, message)
            return
        self.node.send(source, self.reply(peer, message))
        self._meet(peer, message.asker)

    def woken(self, now: float) -> None:
        """See `Program.woken`."""
        for number, (lookup, _) in list(self._lookups.items()):
            if lookup.wakes_at <= now:
                self._step(number, lk.Woken())
        if self.bootstrap.wakes_at <= now:
            self._join(bs.Woken())
        self._set_alarm()

    # ---- what it answers

    def reply(self, peer: PeerId, message: Question | Storing) -> Reply:
        """Return the answer to a message; a liar overrides it."""
        if isinstance(message, Storing):
            return Reply(message.number, self.contact, stored=self.hold(message.record, self._group(peer)))
        near = self.table.closest(message.key, self.settings.k + 1)
        closer = tuple([one for one in near if one.peer != peer][: self.settings.k])
        record = self.shelf.get(message.key, self.swarm.now_ms()) if message.value else None
        return Reply(message.number, self.contact, closer, record)

    def hold(self, record: Record, group: str) -> bool:
        """Hold a record, and tell whether it is there now."""
        if not self.swarm.is_sound(record):
            return False
        plan = self.shelf.hold(record, group, self.swarm.now_ms())
        for change in plan.changes:
            self.node.persist(change)
        self.shelf.commit(plan)
        return plan.answers[0].outcome == "stored"

    # ---- what it may be asked to do

    def look_up(
        self,
        want: lk.Want,
        done: Callable[[lk.Outcome], None],
        *,
        paths: int | None = None,
        also: Iterable[Contact] = (),
    ) -> None:
        """Look something up; `done` hears the outcome."""
        now, settings = self.node.now, self.settings
        count = max(settings.k, (settings.paths if paths is None else paths) * settings.alpha)
        starts = self.table.closest(want.key, count)
        if len(starts) < settings.k:
            starts = self.table.closest(want.key, count, doubtful=True)
        self.table.looked_up(want.key, now)
        self._number += 1
        lookup = lk.Lookup(want, settings, [*starts, *also], own=self.contact.peer, now=now, paths=paths)
        self._lookups[self._number] = (lookup, done)
        self._step(self._number, lk.Begun())

    def put(self, record: Record, done: Callable[[int], None], *, paths: int | None = None) -> None:
        """Store a record at the peers nearest to its key; `done` hears how many hold it."""
        self.look_up(lk.Nearest(record.key), lambda outcome: self._store(record, outcome.closest, done), paths=paths)

    def get(self, key: Key, done: Callable[[lk.Outcome], None], *, critical: bool = False) -> None:
        """Read a record, and give it to those near it that lack it; `done` hears the outcome."""
        settings = self.settings
        agreeing, paths = (0, settings.paths_critical) if critical else (settings.agreeing, settings.paths)
        floor = self.shelf.get(key, self.swarm.now_ms())

        def ended(outcome: lk.Outcome) -> None:
            if outcome.record is not None:
                self._store(outcome.record, outcome.stale[: settings.replicas], lambda _: None)
            done(outcome)

        self.look_up(lk.Value(key, agreeing, 0 if floor is None else floor.seq), ended, paths=paths)

    # ---- within

    def _group(self, peer: PeerId) -> str:
        address = self.swarm.addresses[peer]
        return counted_group(address) or address

    def _store(self, record: Record, holders: Sequence[Contact], done: Callable[[int], None]) -> None:
        holders = holders[: self.settings.replicas]
        replies: list[bool] = []

        def replied(reply: Reply | None) -> None:
            replies.append(reply is not None and reply.stored)
            if len(replies) == len(holders):
                done(sum(replies))

        if not holders:
            done(0)
        for holder in holders:
            self._ask(holder, lambda number: Storing(number, record, self.contact), replied)

    def _ask(
        self, contact: Contact, message: Callable[[int], Question | Storing], done: Callable[[Reply | None], None]
    ) -> None:
        self._number += 1
        self.requests += 1
        number = self._number
        self._waiting[number] = _Waiting(contact.peer, done)
        self.node.send(self.swarm.names[contact.peer], message(number))
        self.node.later(self.settings.request_s, self._give_up, number)

    def _give_up(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self.table.failed(waiting.peer, self.node.now)
            waiting.done(None)

    def _replied(self, peer: PeerId, reply: Reply) -> None:
        waiting = self._waiting.get(reply.number)
        if waiting is None or waiting.peer != peer:
            return
        del self._waiting[reply.number]
        if self.swarm.contacts.get(peer) == reply.contact:
            self._welcome(reply.contact)
        waiting.done(reply)

    def _welcome(self, contact: Contact) -> None:
        """Take in a peer that has answered."""
        was_alone = not self.table.live
        old = self.table.answered(contact, self.node.now, seen_at=self.swarm.addresses[contact.peer])
        if old is not None:
            self._introduce(old, lambda _: None)
        if was_alone and self.table.live:
            self._join(bs.Woken())

    def _meet(self, peer: PeerId, asker: Contact) -> None:
        """Ask a peer that has asked something to introduce itself, if there is a place for it."""
        if asker.peer == peer and self.table.heard(asker, self.node.now, seen_at=self.swarm.addresses[peer]):
            self._introduce(asker, lambda _: None)

    def _introduce(self, contact: Contact, done: Callable[[Reply | None], None]) -> None:
        if contact.peer in self._introducing:
            return
        self._introducing.add(contact.peer)

        def ended(reply: Reply | None) -> None:
            self._introducing.discard(contact.peer)
            done(reply)

        self._ask(contact, lambda number: Question(number, self.contact.key, self.contact), ended)

    def _step(self, number: int, event: lk.Event) -> None:
        found = self._lookups.get(number)
        if found is None:
            return
        lookup, done = found
        for command in lookup.step(event, self.node.now):
            match command:
                case lk.Request(contact):
                    self._request(number, lookup.want, contact)
                case lk.Finished(outcome):
                    del self._lookups[number]
                    done(outcome)
        self._set_alarm()

    def _request(self, number: int, want: lk.Want, contact: Contact) -> None:
        is_value = isinstance(want, lk.Value)

        def replied(reply: Reply | None) -> None:
            self._step(
                number, lk.Failed(contact.peer) if reply is None else self._opened(want.key, contact.peer, reply)
            )

        self._ask(contact, lambda it: Question(it, want.key, self.contact, value=is_value), replied)

    def _opened(self, key: Key, peer: PeerId, reply: Reply) -> lk.Answered | lk.Failed:
        """Check what came, as a shell does: signatures, keys, times, and addresses."""
        record = reply.record
        if record is not None and not (self.swarm.is_sound(record) and record.key == key):
            return lk.Failed(peer, forged=True)
        if record is not None and not is_live(record, self.swarm.now_ms()):
            record = None
        seen_at = self.swarm.addresses[peer]
        closer = [one for one in reply.closer if vouched(one.addresses, seen_at)]
        for one in closer:
            self.table.learned(one)
        return lk.Answered(peer, closer, record, group=counted_group(seen_at))

    def _join(self, event: bs.Event) -> None:
        if not self.joins:
            return
        for command in self.bootstrap.step(event, self.node.now):
            match command:
                case bs.IntroduceToAll():
                    self._introduce_to_all()
                case bs.IntroduceTo(contact):
                    self._introduce(contact, lambda _: None)
                case bs.LookUp(bucket):
                    self._look_around(bucket)
        self._set_alarm()

    def _introduce_to_all(self) -> None:
        settled: list[bool] = []

        def ended(contact: Contact, reply: Reply | None) -> None:
            settled.append(reply is not None)
            if reply is not None:
                self.told_alive[contact.peer] = contact
            if len(settled) == len(self.told_of):
                self._join(bs.Introduced(sum(settled)))

        for contact in self.told_of:
            self._ask(
                contact,
                lambda number: Question(number, self.contact.key, self.contact),
                lambda reply, contact=contact: ended(contact, reply),  # type: ignore[misc]
            )

    def _look_around(self, bucket: int) -> None:
        key = self.contact.key
        if bucket != bs.OWN:
            key = key_in(key, bucket, self.node.random("refresh").getrandbits)
        also = self.told_alive.values() if bucket == bs.OWN else ()
        self.look_up(
            lk.Nearest(key),
            lambda outcome: self._join(bs.LookedUp(bucket, outcome.answered)),
            paths=1 if bucket != bs.OWN else None,
            also=also,
        )

    def _set_alarm(self) -> None:
        times = [lookup.wakes_at for lookup, _ in self._lookups.values()]
        if self.joins:
            times.append(self.bootstrap.wakes_at)
        if times:
            self.node.wake_at(min(times))
