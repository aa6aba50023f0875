"""The DHT in a simulated swarm: what lookups find, among liars, over partitions and while nodes come and go.

Each figure is a plain function of a seed, for tests and benches: `measure_hops`, `measure_liars`, `measure_churn`,
`measure_merge`. The scenarios, for `prime sim run`, are the same in small, with the network's faults drawn from the seed.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from prime.dht import lookup as lk
from prime.dht.contact import Contact
from prime.dht.key import BITS, Key
from prime.dht.record import Record
from prime.dht.settings import PRESETS, DhtSettings
from prime.sim.invariants import require
from prime.sim.plan import NetworkFaults, Plan
from prime.sim.scenarios.finder import Finder, Swarm
from prime.sim.scenarios.liars import LIES, Lie, Ring, join_ring, near

NETWORK: Final = NetworkFaults(latency_s=0.02, jitter_s=0.02)
SWARM: Final = PRESETS["swarm"]
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
) -> Reads:
    """Put two versions of records and read them, while a share of the nodes lies in all ways there are.

    `sybils` more liars stand nearer to each key than anybody else, all in one group of addresses.
    """
    swarm, ring = settled(nodes, seed, liars=int(share * nodes), lies=lies)
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
