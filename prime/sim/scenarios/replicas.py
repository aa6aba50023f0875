"""The copies of records in a simulated swarm: how many there are after a storm, and what is read while nodes crash.

Nodes crash with and without their disks, leave, join and are parted from each other, while records are put, changed and
read. After the quiet each record that anybody still had is held, in its latest version, by as many of the nearest nodes
as it should be, and no node has ever shown a version lower than one that was on its disk. `storm` plays that for a seed;
`measure_churn` measures what readers get while a share of the nodes crashes every hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

import attrs

from prime.actor.contract import PeerId
from prime.dht import lookup as lk
from prime.dht import replication as rp
from prime.dht.contact import Contact
from prime.dht.key import Key
from prime.dht.record import TTL_S_MAX, Record, is_live, precedes, version_of
from prime.dht.settings import DhtSettings
from prime.dht.shelf import Answer, Plan
from prime.sim.heap import HeapNode
from prime.sim.invariants import require
from prime.sim.scenarios.finder import Finder, Question, Reply, Storing, Swarm
from prime.sim.scenarios.lookups import SWARM, address, all_merged, new_record, quiet, seat

LOOK_S: Final = 10.0
"""How often a node looks at who of its table answers, and at what has expired."""
HASTY: Final = attrs.evolve(SWARM, replicate_s=1200.0, refresh_s=1800.0)
"""A swarm in which more happens in an hour."""
QUIET_TURNS: Final = 2.6
"""How long the quiet takes, in intervals of replication: two turns of the slowest."""


class Holder(Finder):
    """A node that holds records and cares for their copies: `Finder`, with the plan of production."""

    def __init__(
        self, copies: Copies, contact: Contact, told_of: Sequence[Contact] = (), *, joins: bool = True
    ) -> None:
        super().__init__(copies.swarm, contact, told_of, joins=joins)
        self.copies = copies
        self.seen: dict[Key, int] = {}
        self.replication: rp.Replication
        self._around = rp.Neighbourhood()
        self._alarm = 0

    def started(self, node: HeapNode) -> None:
        """Begin with what the disk has."""
        random = node.random("replication").random
        self.replication = rp.Replication(self.contact.peer, self.settings, self._near, random)
        super().started(node)
        for record in self.shelf.records(self.swarm.now_ms()):
            self._replicate(rp.Taken(record.key, None))
        node.later(LOOK_S * random(), self._look)

    def reply(self, peer: PeerId, message: Question | Storing) -> Reply:
        """Answer; to a record that is older than what is here, with that."""
        if isinstance(message, Storing):
            answer = self.keep(message.record, peer)
            return Reply(message.number, self.contact, record=answer.held, stored=answer.outcome == "stored")
        shown = super().reply(peer, message)
        self.copies.shown(self, message.key, shown.record)
        return shown

    def keep(self, record: Record, by: PeerId) -> Answer:
        """Hold a record that somebody handed over, if it is to be held."""
        if not self.swarm.is_sound(record):
            return Answer("refused", "forged")
        plan = self.shelf.hold(record, self._group(by), self.swarm.now_ms())
        if not self._write(plan):
            return Answer("refused", "the disk takes nothing")
        (answer,) = plan.answers
        if answer.outcome == "stored":
            self.copies.kept(self, record)
            self._replicate(rp.Taken(record.key, by))
        return answer

    def read(self, key: Key, done: Callable[[Record | None], None]) -> None:
        """Read a record as a program does, which is never shown a version lower than one that it has read."""
        seq_min = self.seen.get(key, 0)

        def ended(outcome: lk.Outcome) -> None:
            record = outcome.record
            if record is not None:
                require(self.swarm.is_sound(record), "a forged record was returned")
                require(is_live(record, self.swarm.now_ms()), "a record was returned that is over")
                require(record.seq >= seq_min, "a reader was shown an earlier version than before")
                self.seen[key] = max(record.seq, self.seen.get(key, 0))
                if self.copies.repairs:
                    self._store(record, outcome.stale[: self.settings.replicas], lambda _: None)
            done(record)

        self.look_up(lk.Value(key, self.settings.agreeing, seq_min), ended)

    # ---- within

    def _near(self, key: Key) -> list[Contact]:
        return self.table.closest(key, self.settings.replicas)

    def _write(self, plan: Plan) -> bool:
        """Do as production does: first the disk, in one piece, then the shelf."""
        try:
            for change in plan.changes:
                self.node.persist(change)
        except OSError:
            return False
        self.shelf.commit(plan)
        return True

    def _look(self) -> None:
        before = {record.key for record in self.shelf.records(0)}
        self._write(self.shelf.sweep(self.swarm.now_ms()))
        for key in before - {record.key for record in self.shelf.records(0)}:
            self._replicate(rp.Gone(key))
        for change in self._around.changes(self.table.closest(self.contact.key, len(self.table))):
            self._replicate(change)
        self.node.later(LOOK_S, self._look)

    def _replicate(self, event: rp.Event) -> None:
        if not self.copies.repairs:
            return
        for command in self.replication.step(event, self.node.now):
            match command:
                case rp.Locate(key):
                    self.look_up(lk.Nearest(key), partial(self._located, key))
                case rp.Hand(key, contact):
                    self._hand(key, contact)
                case rp.Drop(key):
                    self._write(self.shelf.drop([key]))
                case rp.Wake(at):
                    self._alarm += 1
                    self.node.later(max(at - self.node.now, 0.0), self._ring, self._alarm)

    def _ring(self, alarm: int) -> None:
        if alarm == self._alarm:
            self._replicate(rp.Tick())

    def _located(self, key: Key, outcome: lk.Outcome) -> None:
        self._replicate(rp.Located(key, outcome.closest))

    def _hand(self, key: Key, contact: Contact) -> None:
        record = self.shelf.get(key, self.swarm.now_ms())
        if record is None:
            self._replicate(rp.Gone(key))
            return
        self.copies.handed += 1

        def replied(reply: Reply | None) -> None:
            if reply is None:
                self._replicate(rp.Handed(key, contact.peer, "failed"))
                return
            if reply.record is not None:
                self.keep(reply.record, contact.peer)
            if reply.stored:
                self._replicate(rp.Handed(key, contact.peer, "stored"))
            else:
                self._replicate(rp.Handed(key, contact.peer, "refused" if reply.record is None else "older"))

        self._ask(contact, lambda number: Storing(number, record, self.contact), replied)


class Copies:
    """A swarm of holders, what was put there, and what each disk has had. Without `repairs` nobody cares for copies."""

    def __init__(self, swarm: Swarm, *, repairs: bool = True) -> None:
        self.swarm = swarm
        self.repairs = repairs
        self.random: Random = swarm.world.random("copies")
        self.last: dict[Key, Record] = {}
        self.settled: dict[Key, Record] = {}
        """The last version of each record that a quorum has taken."""
        self.owners: dict[Key, Contact] = {}
        self.handed = 0
        """Records that were handed on, by all holders together."""
        self.reads = self.right = 0
        self._had: dict[PeerId, dict[Key, tuple[int, int]]] = {}
        self._count = 0

    # ---- nodes

    def join(self) -> Contact:
        """Let a new node join; it is told of three that run."""
        contact = self.swarm.contact(f"n{self._count}", address(self._count))
        self._count += 1
        running = [one.contact for one in self.holders()]
        told_of = self.random.sample(running, min(3, len(running)))
        self.swarm.add(contact, partial(Holder, self, contact, told_of))
        return contact

    def seat(self, nodes: int) -> None:
        """Begin with nodes that have long been there."""
        contacts = [self.swarm.contact(f"n{number}", address(number)) for number in range(nodes)]
        self._count = nodes
        for contact in contacts:
            told_of = self.random.sample(contacts, 3)
            self.swarm.add(contact, partial(Holder, self, contact, told_of))
        ordered = sorted(contacts, key=lambda one: one.key)
        for contact in contacts:
            seat(self.swarm, contact, ordered)

    def holders(self) -> list[Holder]:
        """Return the nodes that run."""
        return [one for one in self.swarm.finders() if isinstance(one, Holder)]

    def crash(self, holder: Holder, down_s: float, *, lost: bool) -> None:
        """End a node; it comes back after a while, never for an infinite one, with its disk or without."""
        holder.node.crash(down_s, machine=True, disk="lost" if lost else "kept")
        if lost:
            self._had.pop(holder.contact.peer, None)

    # ---- records

    def put(self, name: str, *, removed: bool = False) -> None:
        """Put a record, or its next version, from the node that owns it, while that runs."""
        holders = self.holders()
        key = next((key for key, record in self.last.items() if record.salt == name.encode()), None)
        owner = self.random.choice(holders) if key is None else self._running(self.owners[key])
        if owner is None or not isinstance(owner, Holder):
            return
        seq = 0 if key is None else self.last[key].seq + 1
        record = new_record(self.swarm, owner, name, seq)
        if removed:
            record = self.swarm.sign(attrs.evolve(record, value=b"", removed=True, ttl_s=TTL_S_MAX))
        self.last[record.key], self.owners[record.key] = record, owner.contact

        def done(holders: int) -> None:
            if holders >= self.swarm.settings.quorum:
                self.settled[record.key] = record

        owner.put(record, done)

    def read(self) -> None:
        """Read a record from a node that runs, and count it if it is the last version that was settled, or a later one."""
        key = self.random.choice(list(self.last))
        wanted = self.settled.get(key)

        def done(record: Record | None) -> None:
            self.reads += 1
            self.right += record is not None and (wanted is None or not precedes(wanted, record))

        self.random.choice(self.holders()).read(key, done)

    def _running(self, contact: Contact) -> Finder | None:
        node = self.swarm.world.nodes[self.swarm.names[contact.peer]]
        return node.program if node.is_up and isinstance(node.program, Finder) else None

    # ---- what must hold

    def kept(self, holder: Holder, record: Record) -> None:
        """Take note of what is on a disk."""
        had = self._had.setdefault(holder.contact.peer, {})
        version = version_of(record)
        require(version >= had.get(record.key, version), "a holder took an earlier version back")
        had[record.key] = version

    def shown(self, holder: Holder, key: Key, record: Record | None) -> None:
        """Look at what a holder shows."""
        if record is not None:
            had = self._had.get(holder.contact.peer, {})
            require(is_live(record, self.swarm.now_ms()), "a record was shown that is over")
            require(version_of(record) >= had.get(key, version_of(record)), "a holder showed an earlier version")

    def surviving(self) -> dict[Key, Record]:
        """Return the latest version of each record that any running node holds."""
        found: dict[Key, Record] = {}
        for holder in self.holders():
            for record in holder.shelf.records(self.swarm.now_ms()):
                if record.key not in found or precedes(record, found[record.key]):
                    found[record.key] = record
        return found

    def count(self, record: Record) -> int:
        """Return how many running nodes hold this version."""
        now_ms = self.swarm.now_ms()
        return sum(one.shelf.get(record.key, now_ms) is record for one in self.holders())

    def short(self, records: dict[Key, Record]) -> list[Key]:
        """Return those that still hold and that fewer of the nearest nodes have than should."""
        now_ms = self.swarm.now_ms()
        live = {key: record for key, record in records.items() if is_live(record, now_ms)}
        return [key for key, record in live.items() if not self._is_all_around(record)]

    def _is_all_around(self, record: Record) -> bool:
        nearest = self.swarm.nearest(record.key, self.swarm.settings.replicas)
        now_ms = self.swarm.now_ms()
        held = [self.swarm.finder(contact).shelf.get(record.key, now_ms) for contact in nearest]
        return all(one is record for one in held)


# ---------------------------------------------------------------------------------------------------------- the storm


@attrs.frozen
class Storm:
    """What came of one. `records` outlived it; `lost` did not, as all their holders' disks went; `handed` in the quiet."""

    nodes: int
    replicas: int
    records: int
    lost: int
    holders_mean: float
    reads: int
    handed: int


def storm(seed: int, *, hours: float = 1.0, settings: DhtSettings = HASTY) -> Storm:
    """Play a storm and the quiet after it. Raises `ViolationError` for what must not be."""
    random = Random(seed)  # noqa: S311 - a seed's own
    replicas, nodes = random.choice([2, 3, 5, 20]), random.randint(3, 30)
    settings = attrs.evolve(settings, replicas=replicas, agreeing=min(settings.agreeing, replicas))
    copies = Copies(Swarm(seed, settings, quiet()))
    world = copies.swarm.world
    for _ in range(nodes):
        copies.join()
        world.run(1.0)
    world.eventually("every node has merged", lambda: all_merged(copies.swarm), 300.0)
    until = world.now + 3600.0 * hours
    while world.now < until:
        _strike(copies, random)
        world.run(random.uniform(5.0, 240.0))
    world.calm()
    world.run(30.0)
    surviving = copies.surviving()
    handed = copies.handed
    world.run(QUIET_TURNS * settings.replicate_s)
    short = copies.short(surviving)
    require(
        not short, f"{len(short)} of {len(surviving)} records are not held by all the nearest nodes after the quiet"
    )
    reads = _read_all(copies, surviving)
    lost = len(copies.last.keys() - surviving.keys())
    mean = sum(map(copies.count, surviving.values())) / max(len(surviving), 1)
    return Storm(len(copies.holders()), replicas, len(surviving), lost, mean, reads, copies.handed - handed)


def _strike(copies: Copies, random: Random) -> None:
    """Let something happen."""
    holders = copies.holders()
    match random.choice(["put", "put", "change", "change", "remove", "read", "read", "crash", "crash", "part", "join"]):
        case "put":
            copies.put(f"record {len(copies.last)}")
        case "change" if copies.last:
            copies.put(_name(copies, random))
        case "remove" if copies.last:
            copies.put(_name(copies, random), removed=True)
        case "read" if copies.last:
            copies.read()
        case "crash" if len(holders) > 2:
            down_s = random.choice([random.uniform(1, 60), random.uniform(60, 1800), float("inf")])
            copies.crash(random.choice(holders), down_s, lost=random.random() < 0.5)
        case "part":
            side = [one.node.name for one in holders if random.random() < 0.5]
            _part(copies, side, random.uniform(30.0, 1200.0))
        case "join":
            copies.join()


def _name(copies: Copies, random: Random) -> str:
    return (random.choice(list(copies.last.values())).salt or b"").decode()


def _part(copies: Copies, side: Sequence[str], for_s: float) -> None:
    world = copies.swarm.world
    ways = world.network.across(side, world.nodes)
    for source, target in ways:
        world.cut(source, target)
        world.at(for_s, world.mend, source, target)


def _read_all(copies: Copies, records: dict[Key, Record]) -> int:
    """Let three nodes read each record that still holds: they get the last version."""
    world, got = copies.swarm.world, []
    live = {key: record for key, record in records.items() if is_live(record, copies.swarm.now_ms())}
    asked = [
        (holder, key)
        for key in live
        for holder in copies.random.sample(copies.holders(), min(3, len(copies.holders())))
    ]
    for holder, key in asked:
        holder.read(key, lambda record, key=key: got.append(record is live[key]))  # type: ignore[misc]
    world.eventually("all reads end", lambda: len(got) == len(asked), 300.0)
    require(all(got), "after the quiet a reader got another version than the last, or none")
    return len(got)


# -------------------------------------------------------------------------------------------------------------- churn


@attrs.frozen
class Churn:
    """What readers got. `share` of their reads brought the last version; each hour so many records were handed on."""

    nodes: int
    hours: float
    crashes: int
    reads: int
    share: float
    handed_per_node_h: float


def measure_churn(
    nodes: int = 100,
    share: float = 0.25,
    *,
    hours: float = 4.0,
    records: int = 50,
    reads: int = 1000,
    seed: int = 0,
    settings: DhtSettings = SWARM,
    repairs: bool = True,
) -> Churn:
    """Read records while a share of the nodes crashes each hour, spread evenly over it.

    Half of those come back with their disks within 20 minutes; the others never do, and a new node with nothing joins
    in their place. Owners that run put a new version of each record twice in the time. A read is right if it brings the
    last version that a quorum had taken when it began.
    """
    copies = Copies(Swarm(seed, settings, quiet()), repairs=repairs)
    world, random = copies.swarm.world, copies.random
    copies.seat(nodes)
    for number in range(records):
        copies.put(f"record {number}")
    world.run(60.0)
    handed, crashes, span_s = copies.handed, int(nodes * share * hours), 3600.0 * hours
    happenings: list[Callable[[], None]] = [partial(_churn, copies)] * crashes + [copies.read] * reads
    happenings += [partial(copies.put, f"record {number % records}") for number in range(2 * records)]
    for happen in happenings:
        world.at(random.uniform(0.0, span_s), happen)
    world.run(span_s + 2 * settings.lookup_s)
    per_node_h = (copies.handed - handed) / nodes / hours
    return Churn(nodes, hours, crashes, copies.reads, copies.right / copies.reads, per_node_h)


def _churn(copies: Copies) -> None:
    holder = copies.random.choice(copies.holders())
    if copies.random.random() < 0.5:
        copies.crash(holder, copies.random.uniform(10.0, 1200.0), lost=False)
    else:
        copies.crash(holder, float("inf"), lost=True)
        copies.join()
