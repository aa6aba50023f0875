"""Laws of the shelf and of the providers under any order of events, against books that are kept beside them."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prime import KeyPair
from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.key import Key, key_of
from prime.dht.providers import KEY_PROVIDERS_MAX, SIZE_BYTES, STORE_SHARE, Ended, Known, Providers, Provision
from prime.dht.record import AHEAD_MS_MAX, TTL_S_MAX, Record, is_live, precedes, version_of
from prime.dht.row import Gone, Row
from prime.dht.settings import DhtSettings
from prime.dht.shares import OWN_GROUP
from prime.dht.shelf import Plan, Shelf

OWN = key_of(b"own")
NOW = 1_800_000_000_000
PEERS = [KeyPair.from_seed(bytes([number]) * 32).peer for number in range(6)]
GROUPS = [OWN_GROUP, "10.0", "10.1", "66.6"]
MOST = 5
BYTES_MAX = 12_000


def drawn(random: Random) -> Record:
    """Return a record that is taken for verified; mostly one of now, at times of a wrong clock or of long ago."""
    value = bytes([random.randrange(3)]) * random.choice([0, 1, 1500])
    immutable = random.random() < 0.2
    return Record(
        random.choice(PEERS[:3]),
        None if immutable else bytes([random.randrange(8)]),
        0 if immutable else random.randrange(4),
        random.choice([0, 0, 0, 0, 200, -1, -600, -3600, 600, -50 * 3600]),
        random.choice([1, 600, 3600, TTL_S_MAX]),
        value,
        sealed=value,
    )


class ShelfMachine(RuleBasedStateMachine):
    """A shelf whose store refuses some writes, and which is read again from its store."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = DhtSettings(group_records_max=MOST, store_bytes_max=BYTES_MAX)
        self.shelf = Shelf(OWN, self.settings)
        self.now_ms = NOW
        self.disk: dict[Key, Row] = {}
        self.lowest: dict[Key, tuple[tuple[int, int], int]] = {}
        """Below which version nothing may come back, and until when."""

    def write(self, plan: Plan, *, refused: bool) -> None:
        before = self.seen()
        if refused:
            assert self.seen() == before
            return
        for change in plan.changes:
            if isinstance(change, Gone):
                self.disk.pop(change.key, None)
                floored = self.lowest.pop(change.key, None)
                assert plan.answers or floored is None or floored[1] <= self.now_ms, "a floor is gone before its time"
            else:
                self.disk[change.key] = change
        self.shelf.commit(plan)

    def seen(self) -> dict[Key, Record]:
        return {record.key: record for record in self.shelf.records(self.now_ms)}

    @rule(seed=st.integers(0, 2**32), refused=st.sampled_from([False, False, True]))
    def offer(self, seed: int, refused: bool) -> None:
        random = Random(seed)
        for _ in range(8):
            count = random.choice([1, 1, 2, 3])
            self.offer_all([(drawn(random), random.choice(GROUPS)) for _ in range(count)], refused)

    def offer_all(self, offers: list[tuple[Record, str]], refused: bool) -> None:
        made = [(at(record, self.now_ms), group) for record, group in offers]
        before = self.seen()
        plan = self.shelf.hold_all(made, self.now_ms)
        assert self.seen() == before, "a plan has changed something"
        self.write(plan, refused=refused)
        for (record, _), answer in zip(made, plan.answers, strict=True):
            self.quotas_hold()
            assert answer.held is None or answer.held.key == record.key
            assert (answer.outcome == "refused") <= bool(answer.why)
            if answer.outcome == "stored" and not refused:
                assert is_live(record, self.now_ms)
                version = version_of(record)
                assert version >= self.lowest.get(record.key, (version, 0))[0], "an earlier version came back"
                row = self.disk.get(record.key)
                if record.salt is not None and row is not None and row.record is record:
                    until_ms = self.now_ms + 1000 * TTL_S_MAX + AHEAD_MS_MAX
                    self.lowest[record.key] = (version, until_ms)

    @rule(which=st.integers(0, 9))
    def drop(self, which: int) -> None:
        keys = sorted(self.seen())
        self.write(self.shelf.drop(keys[which : which + 1]), refused=False)

    @rule(seconds=st.sampled_from([0, 1, 300, 3000, 24 * 3600, 49 * 3600]), sweeps=st.booleans())
    def wait(self, seconds: int, sweeps: bool) -> None:
        self.now_ms += 1000 * seconds
        if sweeps:
            while self.shelf.due_ms is not None and self.shelf.due_ms <= self.now_ms:
                self.write(self.shelf.sweep(self.now_ms, 2), refused=False)

    @rule()
    def start_again(self) -> None:
        before = self.seen()
        self.shelf = Shelf(OWN, self.settings)
        assert self.shelf.restore(list(self.disk.values())).changes == ()
        assert self.seen() == before

    @invariant()
    def nothing_is_shown_that_is_over_or_was_overtaken(self) -> None:
        seen = self.seen()
        assert all(self.shelf.get(key, self.now_ms) is seen.get(key) for key in self.disk)
        for key, record in seen.items():
            assert is_live(record, self.now_ms)
            assert self.shelf.get(key, self.now_ms) is record
            assert version_of(record) >= self.lowest.get(key, (version_of(record), 0))[0]

    @invariant()
    def quotas_hold(self) -> None:
        rows = list(self.disk.values())
        assert self.shelf.size_bytes == sum(row.size_bytes for row in rows)
        assert self.shelf.size_bytes <= BYTES_MAX
        assert len(self.shelf) == sum(row.record is not None for row in rows)
        groups = Counter(row.group for row in rows)
        assert all(count <= MOST for group, count in groups.items() if group != OWN_GROUP)
        publishers = Counter(row.publisher for row in rows if row.group != OWN_GROUP)
        assert all(count <= MOST for count in publishers.values())
        assert self.shelf.due_ms == min((row.due_ms for row in rows), default=None)


def at(record: Record, now_ms: int) -> Record:
    """Return a drawn record as one of now: what was drawn is how far from now it was made, in seconds."""
    return Record(
        record.publisher,
        record.salt,
        record.seq,
        now_ms + 1000 * record.created_ms,
        record.ttl_s,
        record.value,
        sealed=record.sealed,
    )


CONTACTS = [Contact(peer, (), stamp, b"") for peer in PEERS for stamp in (1, 2)]
KEYS = [key_of(bytes([number])) for number in range(4)]


class ProvidersMachine(RuleBasedStateMachine):
    """Providers whose store refuses some writes, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = DhtSettings(group_records_max=MOST, store_bytes_max=STORE_SHARE * SIZE_BYTES * 9)
        self.providers = Providers(OWN, self.settings)
        self.now_ms = NOW
        self.rows: dict[Any, Provision] = {}
        self.contacts: dict[Any, Contact] = {}

    def write(self, plan: Any) -> None:
        for change in plan.changes:
            match change:
                case Provision():
                    self.rows[change.id] = change
                case Ended():
                    del self.rows[change.id]
                case Known(peer, None):
                    del self.contacts[peer]
                case Known(peer, contact):
                    self.contacts[peer] = contact
        self.providers.commit(plan)

    @rule(seed=st.integers(0, 2**32), refused=st.sampled_from([False, False, True]))
    def provide(self, seed: int, refused: bool) -> None:
        random = Random(seed)
        for _ in range(8):
            contact = random.choice(CONTACTS)
            by = random.choice([contact.peer, contact.peer, PEERS[0]])
            ttl_s = random.choice([0, 1, 3600, 10 * TTL_S_MAX])
            self.provide_one(random.choice(KEYS), contact, by, random.choice(GROUPS), ttl_s, refused)

    def provide_one(self, key: Key, contact: Contact, by: PeerId, group: str, ttl_s: int, refused: bool) -> None:
        before = self.providers.find(key, self.now_ms, KEY_PROVIDERS_MAX)
        plan = self.providers.hold(key, contact, by, group, ttl_s, self.now_ms)
        assert self.providers.find(key, self.now_ms, KEY_PROVIDERS_MAX) == before
        assert by == contact.peer or (plan.outcome, plan.changes) == ("refused", ())
        if not refused:
            self.write(plan)
            if plan.outcome == "stored" and ttl_s:
                assert contact.peer in {each.peer for each in self.providers.find(key, self.now_ms)}
            self.quotas_hold()

    @rule(seconds=st.sampled_from([1, 3599, 24 * 3600]), sweeps=st.booleans())
    def wait(self, seconds: int, sweeps: bool) -> None:
        self.now_ms += 1000 * seconds
        while sweeps and self.providers.due_ms is not None and self.providers.due_ms <= self.now_ms:
            self.write(self.providers.sweep(self.now_ms, 2))

    @rule()
    def start_again(self) -> None:
        self.providers = Providers(OWN, self.settings)
        assert self.providers.restore(list(self.rows.values()), list(self.contacts.values())).changes == ()

    @invariant()
    def only_those_are_found_that_provide_now(self) -> None:
        for key in KEYS:
            live = {row.peer for row in self.rows.values() if row.key == key and self.now_ms < row.expires_ms}
            found = self.providers.find(key, self.now_ms, KEY_PROVIDERS_MAX)
            assert {each.peer for each in found} == live
            assert all(self.contacts[each.peer] is each for each in found)

    @invariant()
    def quotas_hold(self) -> None:
        assert len(self.providers) == len(self.rows)
        assert self.contacts.keys() == {row.peer for row in self.rows.values()}
        assert self.providers.size_bytes == SIZE_BYTES * len(self.rows) <= SIZE_BYTES * 9
        groups = Counter(row.group for row in self.rows.values())
        assert all(count <= MOST for group, count in groups.items() if group != OWN_GROUP)
        assert all(row.expires_ms <= self.now_ms + 1000 * TTL_S_MAX for row in self.rows.values())


TestShelf = ShelfMachine.TestCase
TestShelf.settings = settings(stateful_step_count=25)
TestProviders = ProvidersMachine.TestCase
TestProviders.settings = settings(stateful_step_count=25)


def test_of_two_versions_exactly_one_counts_and_the_order_is_the_same_everywhere() -> None:
    made = [
        at(Record(PEERS[0], b"s", seq, 0, ttl_s, value, sealed=value), NOW)
        for seq in (0, 1)
        for ttl_s in (1, 2)
        for value in (b"a", b"b")
    ]
    for one in made:
        for other in made:
            assert precedes(one, other) + precedes(other, one) == (one != other)
