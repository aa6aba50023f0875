"""What holds for every table, whoever answers, asks, fails and leaves, in whatever order."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prime.dht.groups import counted_group
from prime.dht.key import Key, bucket_of
from prime.dht.settings import DhtSettings
from prime.dht.table import Table
from prime.transport.peer import PeerId
from tests.dht.strangers import address, contact, peer

SETTINGS = DhtSettings(k=3, replicas=3, beta=1, group_table_max=3, group_bucket_max=2)
NUMBERS = st.integers(0, 70)
PLACES = st.sampled_from([*(address(n) for n in range(6)), "/ip4/127.0.0.1/tcp/1", "/memory/a", ""])


class TableLaws(RuleBasedStateMachine):
    """A table, and beside it what is known of each peer."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.table = Table(contact(0).key, SETTINGS, 0.0)
        self.answered: set[PeerId] = set()
        self.failing: set[PeerId] = set()
        self.groups: dict[PeerId, str] = {}
        self.stamps: dict[PeerId, int] = {}

    @rule(number=NUMBERS, place=PLACES, stamp=st.integers(0, 3), step_s=st.sampled_from([0.0, 1.0, 100.0]))
    def answer(self, number: int, place: str, stamp: int, step_s: float) -> None:
        self.now += step_s
        was_in = peer(number) in self.table
        asked = self.table.answered(contact(number, stamp_ms=stamp), self.now, seen_at=place)
        self.answered.add(peer(number))
        if peer(number) in self.table:
            self.failing.discard(peer(number))
        if asked is not None:
            assert not was_in
            assert bucket_of(self.table.own, asked.key) == bucket_of(self.table.own, contact(number).key)
            assert self.table.seats(bucket_of(self.table.own, asked.key))[0].contact == asked, "the least recently seen"

    @rule(number=NUMBERS, place=PLACES)
    def ask(self, number: int, place: str) -> None:
        size = len(self.table)
        wanted = self.table.heard(contact(number), self.now, seen_at=place)
        assert len(self.table) == size, "who asks does not get in by asking"
        if wanted and peer(number) not in self.table:
            self.table.answered(contact(number), self.now, seen_at=place)
            self.answered.add(peer(number))

    @rule(number=NUMBERS)
    def fail(self, number: int) -> None:
        self.table.failed(peer(number), self.now)
        if peer(number) in self.table:
            self.failing.add(peer(number))

    @rule(number=NUMBERS)
    def leave(self, number: int) -> None:
        self.table.remove(peer(number))
        assert peer(number) not in self.table

    @rule(number=NUMBERS, stamp=st.integers(0, 9))
    def learn(self, number: int, stamp: int) -> None:
        before = self.table.get(peer(number))
        self.table.learned(contact(number, stamp_ms=stamp))
        after = self.table.get(peer(number))
        assert (before is None) == (after is None)
        assert before is None or after is None or after.stamp_ms == max(before.stamp_ms, stamp)

    @rule(key=st.integers(0, 2**256 - 1), count=st.integers(1, 12))
    def ask_for_the_nearest(self, key: int, count: int) -> None:
        everybody = sorted(self.table, key=lambda one: one.key ^ key)
        assert self.table.closest(Key(key), count, doubtful=True) == everybody[:count]
        sound = [one for one in everybody if one not in self.table.doubtful(1e12, 1000)]
        assert self.table.closest(Key(key), count) == sound[:count]
        assert len(sound) == self.table.live

    @invariant()
    def only_who_answered_is_in(self) -> None:
        assert {one.peer for one in self.table} <= self.answered
        assert peer(0) not in self.table

    @invariant()
    def buckets_keep_their_bounds(self) -> None:
        total = 0
        for bucket, size in self.table.fill().items():
            seats = self.table.seats(bucket)
            assert 0 < size == len(seats) <= 2 * SETTINGS.k
            assert all(bucket_of(self.table.own, seat.contact.key) == bucket for seat in seats)
            groups = Counter(seat.group for seat in seats if seat.group)
            assert all(count <= SETTINGS.group_bucket_max for count in groups.values())
            total += size
        assert total == len(self.table)

    @invariant()
    def no_group_has_more_than_its_share(self) -> None:
        seats = [seat for bucket in self.table.fill() for seat in self.table.seats(bucket)]
        groups = Counter(seat.group for seat in seats if seat.group)
        assert all(count <= SETTINGS.group_table_max for count in groups.values())
        assert {"", *groups} <= {"", *(counted_group(address(n)) for n in range(6))}


TestTableLaws = TableLaws.TestCase
TestTableLaws.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
