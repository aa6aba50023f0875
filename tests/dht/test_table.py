"""The routing table: nearest contacts against brute force, and who gets in, stays and goes."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from prime.dht.key import Key, bucket_of, distance
from prime.dht.settings import DhtSettings
from prime.dht.table import FORGOTTEN_S, FRESH_S, RETRY_S, RETRY_S_MAX, Table, key_in
from tests.dht.strangers import address, contact, peer

OWN = contact(0)
SMALL = DhtSettings(k=4, replicas=4, beta=2)


def table(settings: DhtSettings = SMALL) -> Table:
    return Table(OWN.key, settings, 0.0)


def in_bucket(bucket: int, count: int) -> list[int]:
    """Return the numbers of strangers that fall into a bucket as seen from the first one."""
    found = (n for n in range(1, 100_000) if bucket_of(OWN.key, contact(n).key) == bucket)
    return [next(found) for _ in range(count)]


@given(st.lists(st.integers(1, 300), unique=True, max_size=120), st.integers(0, 2**256 - 1), st.integers(1, 30))
def test_the_nearest_are_those_that_brute_force_finds(numbers: list[int], key: int, count: int) -> None:
    known = table()
    for number in numbers:
        known.answered(contact(number), 0.0)
    expected = sorted(known, key=lambda one: distance(one.key, Key(key)))[:count]
    assert known.closest(Key(key), count) == expected


def full() -> Table:
    """Return a table whose farthest bucket is full, of four that are not its nearest neighbours."""
    known = table()
    near = [number for number in range(1, 2000) if bucket_of(OWN.key, contact(number).key) < 253][:4]
    for number in (*near, *in_bucket(255, 4)):
        known.answered(contact(number), 0.0)
    return known


def test_the_own_id_is_refused() -> None:
    known = table()
    assert known.answered(OWN, 0.0) is None
    assert not known.heard(OWN, 0.0)
    assert len(known) == 0


def test_who_has_not_answered_is_not_in() -> None:
    known = table()
    assert known.heard(contact(1), 0.0)
    known.learned(contact(2))
    assert len(known) == 0


def test_a_full_bucket_keeps_who_lives_long_and_asks_the_oldest() -> None:
    known, (*first, late, later) = full(), in_bucket(255, 6)
    assert known.answered(contact(late), FRESH_S) == contact(first[0])
    assert known.answered(contact(later), FRESH_S) is None  # it is being asked
    known.answered(contact(first[0]), FRESH_S + 1)
    assert [seat.contact for seat in known.seats(255)] == [contact(n) for n in [*first[1:], first[0]]]
    assert known.answered(contact(later), 2 * FRESH_S + 2) == contact(first[1])
    known.failed(peer(first[1]), 2 * FRESH_S + 3)
    assert [seat.contact for seat in known.seats(255)] == [contact(n) for n in [*first[2:], first[0], later]]


def test_who_fails_without_a_replacement_stays_out_of_answers_until_it_is_back() -> None:
    known = table()
    for number in (1, 2):
        known.answered(contact(number), 0.0)
    for _ in range(9):
        known.failed(peer(1), 1.0)
    assert known.closest(OWN.key, 9) == [contact(2)]
    assert set(known.closest(OWN.key, 9, doubtful=True)) == {contact(1), contact(2)}
    known.answered(contact(1), 2.0)
    assert set(known.closest(OWN.key, 9)) == {contact(1), contact(2)}


def test_who_fails_is_asked_again_ever_less_often() -> None:
    known = table()
    known.answered(contact(1), 0.0)
    now, times = 0.0, []
    for _ in range(12):
        known.failed(peer(1), now)
        assert known.doubtful(now, 9) == []
        while not known.doubtful(now, 9):
            now += RETRY_S / 2
        times.append(now)
    waits = [later - sooner for sooner, later in pairwise([0.0, *times])]
    assert waits[:3] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S]
    assert waits[-1] == RETRY_S_MAX


def test_one_lost_request_costs_nobody_its_place_and_two_do() -> None:
    known, numbers = full(), in_bucket(255, 5)
    known.answered(contact(numbers[4]), 1.0)
    known.failed(peer(numbers[0]), 1.0)
    assert peer(numbers[0]) in known
    known.failed(peer(numbers[0]), 2.0)
    assert (peer(numbers[0]) in known, peer(numbers[4]) in known) == (False, True)


def test_where_everybody_fails_who_answers_gets_in() -> None:
    known, numbers = full(), in_bucket(255, 5)
    for number in numbers[:4]:
        known.failed(peer(number), 1.0)
    known.answered(contact(numbers[4]), 1.0)
    assert peer(numbers[4]) in known


def test_who_has_been_silent_for_a_day_is_forgotten() -> None:
    known = table()
    for number in (1, 2):
        known.answered(contact(number), 0.0)
    known.failed(peer(1), FORGOTTEN_S - 1)
    assert peer(1) in known
    known.failed(peer(1), FORGOTTEN_S)
    assert peer(1) not in known


def test_a_node_that_is_cut_off_forgets_nobody() -> None:
    known = table()
    for number in (1, 2):
        known.answered(contact(number), 0.0)
    for _ in range(9):
        for number in (1, 2):
            known.failed(peer(number), 2 * FORGOTTEN_S)
    assert len(known) == 1, "the last one stays"
    known.answered(contact(2), 2 * FORGOTTEN_S)
    assert known.closest(OWN.key, 9) == [contact(2)]


def test_the_later_words_of_a_peer_count() -> None:
    known = table()
    known.answered(contact(1, stamp_ms=5), 0.0)
    known.learned(contact(1, stamp_ms=9))
    known.answered(contact(1, stamp_ms=7), 1.0)
    assert [one.stamp_ms for one in known] == [9]


def test_of_one_group_only_a_few_get_in_however_many_ids_it_has() -> None:
    known = table(DhtSettings())
    for number in range(1, 1000):
        if known.heard(contact(number), 0.0, seen_at=address(7)):
            known.answered(contact(number), 0.0, seen_at=address(7))
    assert len(known) == DhtSettings().group_table_max
    assert max(known.fill().values()) <= DhtSettings().group_bucket_max


def test_a_drawn_key_is_in_its_bucket() -> None:
    for bucket in (0, 1, 100, 255):
        assert bucket_of(OWN.key, key_in(OWN.key, bucket, lambda bits: (1 << bits) - 1)) == bucket


def test_stale_buckets_are_those_that_nobody_looked_up() -> None:
    known = table()
    assert known.stale(1e9) == ()
    known.answered(contact(1), 0.0)
    nearest = bucket_of(OWN.key, contact(1).key)
    known.looked_up(key_in(OWN.key, 255, lambda _: 0), 600.0)
    assert known.stale(600.0) == tuple(range(nearest, 255))
