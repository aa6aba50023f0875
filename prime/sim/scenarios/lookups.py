"""The DHT in a simulated swarm: what lookups find, among liars, and once the parts of a swarm can reach each other again.

Each figure is a plain function of a seed, for tests and benches: `measure_hops`, `measure_liars`, `measure_split`,
`measure_late_bootstrap`. The scenarios, for `prime sim run`, play two dozen nodes on the fast engine under the faults
that the seed draws.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from prime.dht import lookup as lk
from prime.dht.contact import Contact
from prime.dht.key import BITS, Key
from prime.dht.record import Record
from prime.dht.settings import PRESETS, DhtSettings
from prime.sim.invariants import require
from prime.sim.plan import Kind, NetworkFaults, Plan
from prime.sim.run import scenario
from prime.sim.scenarios.finder import Finder, Swarm
from prime.sim.scenarios.liars import LIES, Lie, Ring, join_ring, near
from prime.sim.world import World

NETWORK: Final = NetworkFaults(latency_s=0.02, jitter_s=0.02)
SWARM: Final = PRESETS["swarm"]
MERGED_S: Final = 1800.0
"""How long parts that can reach each other may take to become one."""
BOOTSTRAP: Final = 3
"""The first nodes, of which all others are told."""
_FOREVER_S: Final = 1e9


def address(number: int) -> str:
    """Return the public address of a node; under 20,000 each has a group of its own."""
    return f"/ip4/{20 + number // 256}.{number % 256}.0.1/tcp/4001"


def quiet(storm_s: float = _FOREVER_S, *, network: NetworkFaults = NETWORK) -> Plan:
    """Return a plan in which only the network's own latency matters."""
    return Plan(network=network, storm_s=storm_s)


# ------------------------------------------------------------------------------------------------------ building swarms


def settled(
    nodes: int,
    seed: int,
    *,
    settings: DhtSettings = SWARM,
    liars: int = 0,
    lies: Sequence[Lie] = LIES,
    plan: Plan | None = None,
) -> tuple[Swarm, Ring]:
    """Return a swarm that has long been there: each table has whom it would have, drawn at random from each bucket.

    So ten thousand nodes need not join one after the other. `liars` of the nodes lie, each in one of the ways of `lies`.
    """
    swarm, ring = Swarm(seed, settings, plan or quiet()), Ring()
    contacts = [swarm.contact(f"n{number}", address(number)) for number in range(nodes)]
    shuffled = list(contacts)
    swarm.world.random("liars").shuffle(shuffled)
    for number, contact in enumerate(shuffled[:liars]):
        join_ring(swarm, ring, contact, lies[number % len(lies)])
    for contact in shuffled[liars:]:
        swarm.add(contact, partial(Finder, swarm, contact, joins=False))
    ordered = sorted(contacts, key=lambda one: one.key)
    for contact in contacts:
        seat(swarm, contact, ordered)
    return swarm, ring


def seat(swarm: Swarm, contact: Contact, ordered: Sequence[Contact]) -> None:
    """Fill a table from those who stand in each of its buckets; `ordered` is everybody, by key."""
    table, random, k = swarm.finder(contact).table, swarm.world.random("tables"), swarm.settings.k
    for bucket in range(BITS - 1, -1, -1):
        there = _between(ordered, (contact.key >> bucket ^ 1) << bucket, bucket)
        chosen = random.sample(there, k) if len(there) > k else there
        closest = heapq.nsmallest(k, there, key=lambda one: one.key ^ contact.key) if len(there) < 4 * k else ()
        for one in (*closest, *chosen):
            if one.peer not in table:
                table.answered(one, 0.0, seen_at=swarm.addresses[one.peer])
        if len(_between(ordered, contact.key >> bucket << bucket, bucket)) == 1:
            break


def _between(ordered: Sequence[Contact], low: int, bits: int) -> Sequence[Contact]:
    """Return those whose keys begin as `low`, with any `bits` last bits."""
    return ordered[_place(ordered, low) : _place(ordered, low + (1 << bits))]


def _place(ordered: Sequence[Contact], key: int) -> int:
    return bisect_left(ordered, key, key=lambda one: one.key)


def joined(
    nodes: int, seed: int, *, settings: DhtSettings = SWARM, every_s: float = 0.05, plan: Plan | None = None
) -> Swarm:
    """Return a swarm whose nodes have joined one after the other, told of the first three."""
    swarm = Swarm(seed, settings, plan or quiet())
    contacts = [swarm.contact(f"n{number}", address(number)) for number in range(nodes)]
    for number, contact in enumerate(contacts):
        make = partial(Finder, swarm, contact, contacts[: min(number, BOOTSTRAP)])
        swarm.world.at(number * every_s, swarm.add, contact, make)
    swarm.world.run(nodes * every_s)
    swarm.world.eventually("every node has merged", lambda: all_merged(swarm), 300.0)
    return swarm


def all_merged(swarm: Swarm) -> bool:
    """Tell whether each honest node says that it has merged."""
    return all(one.bootstrap.phase == "merged" for one in swarm.finders())


# ------------------------------------------------------------------------------------------------------------ questions


def look_up(swarm: Swarm, finder: Finder, want: lk.Want, *, paths: int | None = None) -> lk.Outcome:
    """Look something up, and let time go on until it has ended."""
    ended: list[lk.Outcome] = []
    finder.look_up(want, ended.append, paths=paths)
    _until(swarm, ended, "a lookup ends")
    return ended[0]


def put(swarm: Swarm, finder: Finder, record: Record, *, critical: bool = False) -> int:
    """Store a record; return how many hold it."""
    ended: list[int] = []
    finder.put(record, ended.append, paths=swarm.settings.paths_critical if critical else None)
    _until(swarm, ended, "a put ends")
    return ended[0]


def get(swarm: Swarm, finder: Finder, key: Key, *, critical: bool = False) -> lk.Outcome:
    """Read a record."""
    ended: list[lk.Outcome] = []
    finder.get(key, ended.append, critical=critical)
    _until(swarm, ended, "a get ends")
    return ended[0]


def _until(swarm: Swarm, ended: Sequence[object], name: str) -> None:
    swarm.world.eventually(name, lambda: bool(ended), 2 * swarm.settings.lookup_s)


def new_record(swarm: Swarm, publisher: Finder, name: str, seq: int = 0) -> Record:
    """Return a record that its publisher signed now, of a version."""
    peer, value = publisher.contact.peer, f"{name}, version {seq}".encode()
    return swarm.sign(Record(peer, name.encode(), seq, swarm.now_ms(), swarm.settings.ttl_s, value))


def agrees(swarm: Swarm, finder: Finder, key: Key, outcome: lk.Outcome) -> bool:
    """Tell whether a lookup found exactly those that brute force finds."""
    k = swarm.settings.k
    expected = [one for one in swarm.nearest(key, k + 1) if one.peer != finder.contact.peer]
    return list(outcome.closest) == expected[:k]


# -------------------------------------------------------------------------------------------------------------- figures


@attrs.frozen
class Hops:
    """How far lookups went. `greatest` is held against `limit`: half of log2 of the nodes, rounded up, and two."""

    nodes: int
    lookups: int
    mean: float
    greatest: int
    limit: float
    agreement: float
    """The share of lookups that found exactly the k nearest that brute force finds."""
    requests_mean: float


def measure_hops(nodes: int = 1000, lookups: int = 300, seed: int = 0, *, swarm: Swarm | None = None) -> Hops:
    """Look up random keys from random nodes, without faults or lies."""
    swarm = swarm or settled(nodes, seed)[0]
    random, finders = swarm.world.random("lookups"), swarm.finders()
    hops, requests, agreed = [], 0, 0
    for _ in range(lookups):
        key, finder = Key(random.getrandbits(BITS)), random.choice(finders)
        outcome = look_up(swarm, finder, lk.Nearest(key))
        agreed += agrees(swarm, finder, key, outcome)
        hops.append(outcome.hops)
        requests += outcome.asked
    limit = math.ceil(math.log2(len(finders))) / 2 + 2
    return Hops(len(finders), lookups, sum(hops) / lookups, max(hops), limit, agreed / lookups, requests / lookups)


@attrs.frozen
class Reads:
    """What came of reading records. `wrong`: another version than the last that was put."""

    reads: int
    right: int
    wrong: int
    lost: int
    forged_seen: int
    puts_short: int
    """Puts that fewer than a quorum of holders took."""

    @property
    def share(self) -> float:
        """The share of reads that brought the last version."""
        return self.right / self.reads


class Ledger:
    """The versions that were put, and what reads of them brought."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.last: dict[Key, Record] = {}
        self._counts: Counter[str] = Counter()

    def put(self, finder: Finder, record: Record, *, critical: bool = False) -> None:
        """Store a record."""
        self.last[record.key] = record
        holders = put(self.swarm, finder, record, critical=critical)
        self._counts["short"] += holders < self.swarm.settings.quorum

    def get(self, finder: Finder, key: Key, *, critical: bool = False) -> None:
        """Read a record, and note what came."""
        outcome = get(self.swarm, finder, key, critical=critical)
        self._counts["reads"] += 1
        self._counts["forged"] += outcome.forged
        kind = "lost" if outcome.record is None else "right" if outcome.record is self.last[key] else "wrong"
        self._counts[kind] += 1
        require(outcome.record is None or self.swarm.is_sound(outcome.record), "a forged record was returned")

    def reads(self) -> Reads:
        """Return what came of it."""
        names = ("reads", "right", "wrong", "lost", "forged", "short")
        return Reads(*(self._counts[name] for name in names))


def measure_liars(
    nodes: int = 1000,
    share: float = 0.2,
    records: int = 100,
    reads: int = 500,
    seed: int = 0,
    *,
    lies: Sequence[Lie] = LIES,
    sybils: int = 0,
    critical: bool = True,
    settings: DhtSettings = SWARM,
) -> Reads:
    """Put two versions of records and read them, while a share of the nodes lies in all ways there are.

    `sybils` more liars stand nearer to each key than anybody else, all in one group of addresses.
    """
    swarm, ring = settled(nodes, seed, settings=settings, liars=int(share * nodes), lies=lies)
    random, finders, ledger = swarm.world.random("reads"), swarm.finders(), Ledger(swarm)
    for number in range(records):
        owner = random.choice(finders)
        record = new_record(swarm, owner, f"record {number}")
        _stand_near(swarm, ring, record.key, sybils, lies)
        ledger.put(owner, record, critical=critical)
        ledger.put(owner, new_record(swarm, owner, f"record {number}", 1), critical=critical)
    keys = list(ledger.last)
    for number in range(reads):
        ledger.get(random.choice(finders), keys[number % len(keys)], critical=critical)
    return ledger.reads()


def _stand_near(swarm: Swarm, ring: Ring, key: Key, count: int, lies: Sequence[Lie]) -> None:
    """Let liars with ground ids stand next to a key, and get into the tables of those near it, as far as these let them."""
    for number in range(count):
        contact = near(swarm, key, f"sybil {key} {number}", 32, "/ip4/99.9.9.9/tcp/4001")
        join_ring(swarm, ring, contact, lies[number % len(lies)])
        for other in swarm.finders():
            other.table.answered(contact, swarm.world.now, seen_at=swarm.addresses[contact.peer])


# ------------------------------------------------------------------------------------------------------------- partings


@attrs.frozen
class Merge:
    """How two parts of a swarm became one: `merged_s` after they could reach each other, every lookup was right."""

    nodes: int
    knew_apart: float
    """The share of the right answers that lookups still gave while they were apart."""
    merged_s: float


def measure_split(nodes: int = 40, apart_s: float = 1800.0, seed: int = 0, *, settings: DhtSettings = SWARM) -> Merge:
    """Cut a swarm into halves for so long, and see how long it takes, once mended, until lookups are right again.

    All that its nodes were told of are in one half.
    """
    swarm = joined(nodes, seed, settings=settings)
    half = list(swarm.world.nodes)[nodes // 2 :]
    across = swarm.world.network.across(half, swarm.world.nodes)
    for source, target in across:
        swarm.world.cut(source, target)
    swarm.world.run(apart_s)
    apart = sample_agreement(swarm, 20)
    for source, target in across:
        swarm.world.mend(source, target)
    return _merge(swarm, apart)


def measure_late_bootstrap(nodes: int = 20, apart_s: float = 900.0, seed: int = 0) -> Merge:
    """Let two halves join each for itself, as the one node of which both were told comes later than they."""
    swarm = Swarm(seed, SWARM, quiet())
    contacts = [swarm.contact(f"n{number}", address(number)) for number in range(nodes)]
    common, *others = contacts
    for number, contact in enumerate(others):
        told_of = [others[number % 2], common] if number > 1 else [common]
        swarm.world.at(0.1 * number, swarm.add, contact, partial(Finder, swarm, contact, told_of))
    swarm.add(common, partial(Finder, swarm, common)).crash(apart_s)
    swarm.world.run(apart_s - 1)
    apart = sample_agreement(swarm, 20)
    swarm.world.run(1)
    return _merge(swarm, apart)


def _merge(swarm: Swarm, apart: float) -> Merge:
    began_s = swarm.world.now
    while not all_merged(swarm) or sample_agreement(swarm, 20) < 1.0:
        require(swarm.world.now < began_s + MERGED_S, f"two parts of a swarm have not merged within {MERGED_S:g} s")
        swarm.world.run(10.0)
    return Merge(len(swarm.finders()), apart, swarm.world.now - began_s)


def sample_agreement(swarm: Swarm, lookups: int) -> float:
    """Return the share of a few lookups that found exactly those that brute force finds."""
    random, finders = swarm.world.random("sample"), swarm.finders()
    agreed = 0
    for _ in range(lookups):
        key, finder = Key(random.getrandbits(BITS)), random.choice(finders)
        agreed += agrees(swarm, finder, key, look_up(swarm, finder, lk.Nearest(key)))
    return agreed / lookups


# ------------------------------------------------------------------------------------------------------------ scenarios

HASTY: Final = DhtSettings(k=6, replicas=6, request_s=2.0, lookup_s=20.0, refresh_s=20.0)
"""For a storm of a minute: what takes ten minutes elsewhere takes twenty seconds."""
_KINDS: Final[frozenset[Kind]] = frozenset(
    {"latency", "jitter", "loss", "duplication", "reordering", "cut", "partition", "crash", "pause"}
)
LOOK_S: Final = 1.0


@scenario(nodes=24, kinds=_KINDS, storm_s=60.0, quiet_s=600.0, actions_max=24, nodes_min=8)
async def lookups(world: World) -> None:
    """Let nodes join, look up and store in a storm; afterwards they are one swarm, and every lookup is right."""
    stage = Stage(world, liars=0)
    await stage.storm()
    await stage.until("every node has merged", lambda: all_merged(stage.swarm), 300.0)
    await stage.until("every lookup is right", lambda: sample_agreement(stage.swarm, 12) == 1.0, 120.0)
    stage.read_and_write(critical=False)


@scenario(nodes=24, kinds=_KINDS, storm_s=60.0, quiet_s=600.0, actions_max=24, nodes_min=12)
async def liars(world: World) -> None:
    """As `lookups`, while a few of the nodes lie: in the quiet each read brings the last version all the same."""
    stage = Stage(world, liars=world.choose("liars", 1, 4))
    await stage.storm()
    await stage.until("every honest node has merged", lambda: all_merged(stage.swarm), 300.0)
    stage.read_and_write(critical=True)


class Stage:
    """A swarm on the fast engine, played beside the scenario's own world: the same nodes, plan, time and history."""

    def __init__(self, world: World, liars: int) -> None:
        self.world = world
        self.swarm = Swarm(world.seed, HASTY, world.plan)
        self._ring = Ring()
        self._told = 0
        contacts = [self.swarm.contact(node.name, address(number)) for number, node in enumerate(world.nodes)]
        for number, contact in enumerate(contacts):
            told_of = contacts[: min(number, BOOTSTRAP)]
            start = self._lie if number >= len(contacts) - liars else self._find
            start(contact, told_of)

    def _find(self, contact: Contact, told_of: Sequence[Contact]) -> None:
        self.swarm.add(contact, partial(Finder, self.swarm, contact, told_of))

    def _lie(self, contact: Contact, told_of: Sequence[Contact]) -> None:
        lie = LIES[self.world.streams.number("lie", contact.peer) % len(LIES)]
        join_ring(self.swarm, self._ring, contact, lie, told_of)

    async def storm(self) -> None:
        """Let all nodes join, and look things up, until the storm is over."""
        random, engine, storm_s = self.world.random("storm"), self.swarm.world, self.world.plan.storm_s
        for _ in range(60):
            engine.at(random.uniform(5.0, max(5.0, storm_s)), self._stir)
        await self.until("the storm is over", lambda: engine.now > max(5.0, storm_s), storm_s + 10.0)

    def _stir(self) -> None:
        """Let a node put or get something, whatever comes of it."""
        swarm, random = self.swarm, self.world.random("stir")
        finder = random.choice(swarm.finders() or [None])
        if finder is None:
            return
        if not swarm.records or random.random() < 0.3:
            finder.put(new_record(swarm, finder, f"record {len(swarm.records)}"), lambda _: None)
        else:
            finder.get(random.choice(swarm.records).key, self._check, critical=random.random() < 0.5)

    def _check(self, outcome: lk.Outcome) -> None:
        require(outcome.record is None or self.swarm.is_sound(outcome.record), "a forged record was returned")

    async def until(self, name: str, done: Callable[[], bool], within_s: float) -> None:
        """Let both worlds go on side by side until a condition holds. Raises `ViolationError` if it does not in time."""
        engine = self.swarm.world
        ends_s = engine.now + within_s
        while not done():
            require(engine.now < ends_s, f"{name}: not within {within_s:g} s")
            engine.run(LOOK_S)
            for event in engine.history.events[self._told :]:
                self.world.record(event.node, event.kind, event.subject, event.detail)
            self._told = len(engine.history.events)
            await trio.sleep(max(0.0, engine.now - self.world.now))
        self.world.note("has come so far", name, trace=engine.trace)

    def read_and_write(self, *, critical: bool) -> None:
        """Put two versions of a few records and read them, in the quiet."""
        swarm, random, ledger = self.swarm, self.world.random("quiet"), Ledger(self.swarm)
        for number, version in itertools.product(range(6), range(2)):
            finder = swarm.finders()[number]
            ledger.put(finder, new_record(swarm, finder, f"quiet {number}", version), critical=critical)
        for key in list(ledger.last):
            ledger.get(random.choice(swarm.finders()), key, critical=critical)
        reads = ledger.reads()
        require(reads.right == reads.reads, f"in the quiet each read brings the last version: {reads}")
