"""What a node holds: versions, ends, quotas, and that nothing changes before it is written."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from prime import KeyPair
from prime.dht.key import Key, distance, key_of
from prime.dht.record import AHEAD_MS_MAX, TTL_S_MAX, Record, make_record
from prime.dht.row import SIZE_BYTES, Gone, read_row
from prime.dht.settings import DhtSettings
from prime.dht.shares import OWN_GROUP
from prime.dht.shelf import Answer, Plan, Shelf
from prime.errors import DecodeError, PrimeInternalError

ANN, BEN = KeyPair.from_seed(b"a" * 32), KeyPair.from_seed(b"b" * 32)
OWN = key_of(b"own")
NOW = 1_800_000_000_000
HOUR_MS = 3_600_000


def version(seq: int, value: bytes = b"v", **over: Any) -> Record:
    return make_record(ANN, value, **({"salt": b"s", "seq": seq, "created_ms": NOW, "ttl_s": 3600} | over))


def many(count: int, value: bytes = b"", signer: KeyPair = ANN) -> list[Record]:
    """Return records whose signatures nobody looks at: a shelf takes what was verified."""
    return [Record(signer.peer, b"%d" % n, 0, NOW, 3600, value, sealed=value) for n in range(count)]


def shelf_of(**over: Any) -> Shelf:
    return Shelf(OWN, DhtSettings(**over))


def put(shelf: Shelf, record: Record, group: str = "10.1", now_ms: int = NOW) -> Answer:
    plan = shelf.hold(record, group, now_ms)
    shelf.commit(plan)
    return plan.answers[0]


def test_the_later_version_counts_and_the_earlier_one_is_answered_with_it() -> None:
    shelf = shelf_of()
    assert put(shelf, version(2, b"two")).outcome == "stored"
    assert put(shelf, version(1, b"one")) == Answer("older", held=version(2, b"two"))
    assert put(shelf, version(3, b"three")).outcome == "stored"
    assert shelf.get(version(0).key, NOW) == version(3, b"three")
    again = shelf.hold(version(3, b"three"), "10.2", NOW)
    assert (again.answers[0].outcome, again.changes) == ("stored", ())


def test_a_record_published_anew_holds_longer_and_its_earlier_copy_is_older() -> None:
    shelf = shelf_of()
    put(shelf, version(1))
    later = version(1, created_ms=NOW + 1000)
    assert put(shelf, later).outcome == "stored"
    assert put(shelf, version(1)).outcome == "older"
    assert shelf.get(later.key, NOW + 3_600_500) == later


def test_nothing_changes_before_the_plan_is_committed_and_a_plan_serves_once() -> None:
    shelf = shelf_of()
    plan = shelf.hold(version(1), "10.1", NOW)
    assert plan.writes[0].kind == "record"
    assert shelf.get(version(1).key, NOW) is None
    assert (len(shelf), shelf.size_bytes, shelf.due_ms) == (0, 0, None)
    shelf.commit(plan)
    assert len(shelf) == 1
    with pytest.raises(PrimeInternalError, match="another state"):
        shelf.commit(plan)


def test_what_has_expired_is_never_returned_and_is_swept_but_its_floor_stays() -> None:
    shelf = shelf_of()
    put(shelf, version(5))
    over = NOW + HOUR_MS
    assert shelf.get(version(5).key, over - 1) is not None
    assert shelf.get(version(5).key, over) is None
    assert shelf.due_ms == over
    shelf.commit(shelf.sweep(over))
    assert (len(shelf), shelf.size_bytes) == (0, SIZE_BYTES)
    old = version(4, ttl_s=TTL_S_MAX)
    assert put(shelf, old, now_ms=over).outcome == "older"
    assert put(shelf, version(5, created_ms=over), now_ms=over).outcome == "stored"


def test_no_version_that_was_there_first_outlives_the_floor_of_a_later_one() -> None:
    """The lower version is from a clock that is as far ahead as is taken, and holds as long as one can."""
    shelf = shelf_of()
    old = version(4, created_ms=NOW + AHEAD_MS_MAX, ttl_s=TTL_S_MAX)
    put(shelf, version(5, ttl_s=1))
    for now_ms in range(NOW, old.expires_ms + 2 * HOUR_MS, HOUR_MS // 4):
        shelf.commit(shelf.sweep(now_ms))
        assert put(shelf, old, now_ms=now_ms).outcome != "stored"
        assert shelf.get(old.key, now_ms) in (None, version(5, ttl_s=1))
    assert (shelf.size_bytes, shelf.due_ms) == (0, None)


def test_an_immutable_value_leaves_no_floor() -> None:
    shelf = shelf_of()
    put(shelf, version(0, salt=None))
    shelf.commit(shelf.sweep(NOW + HOUR_MS))
    assert shelf.size_bytes == 0


def test_a_record_from_the_future_and_one_that_is_over_are_refused_with_the_cause() -> None:
    shelf = shelf_of()
    ahead = version(1, created_ms=NOW + AHEAD_MS_MAX + 1)
    assert "clocks" in put(shelf, ahead).why
    assert "expired" in put(shelf, version(1, created_ms=NOW - HOUR_MS)).why
    assert put(shelf, version(1, created_ms=NOW + AHEAD_MS_MAX)).outcome == "stored"


def test_a_removal_is_held_and_what_it_removed_does_not_come_back() -> None:
    shelf = shelf_of()
    removal = version(2, b"", removed=True, ttl_s=TTL_S_MAX)
    put(shelf, version(1, ttl_s=TTL_S_MAX))
    assert put(shelf, removal).outcome == "stored"
    assert put(shelf, version(1, ttl_s=TTL_S_MAX)) == Answer("older", held=removal)


def test_two_things_under_one_seq_are_told_and_settled_alike_in_either_order() -> None:
    one, other = version(1, b"one"), version(1, b"other")
    kept = set()
    for first, second in ((one, other), (other, one)):
        shelf = shelf_of()
        assert put(shelf, first).equivocation is None
        told = put(shelf, second).equivocation
        assert told is not None and {told.kept, told.other} == {one, other}
        assert shelf.get(one.key, NOW) == told.kept
        kept.add(told.kept)
    assert len(kept) == 1


def test_ten_thousand_records_of_one_group_do_not_push_another_s_out() -> None:
    shelf = shelf_of()
    mine = version(1)
    put(shelf, mine, "192.0")
    outcomes = [put(shelf, record, "10.1").outcome for record in many(10_000, signer=BEN)]
    assert (outcomes.count("stored"), outcomes.count("refused")) == (1024, 10_000 - 1024)
    assert shelf.get(mine.key, NOW) == mine
    assert "quota" in put(shelf, version(1, salt=b"more"), "10.1").why
    assert put(shelf, version(1, salt=b"more"), "192.1").outcome == "stored"


def test_one_publisher_has_a_quota_whoever_hands_its_records_on() -> None:
    shelf = shelf_of(group_records_max=8)
    outcomes = [put(shelf, record, f"10.{n}").outcome for n, record in enumerate(many(20))]
    assert outcomes.count("stored") == 8
    assert put(shelf, many(1, signer=BEN)[0]).outcome == "stored"


def test_a_later_version_needs_no_further_room_in_its_quota() -> None:
    shelf = shelf_of(group_records_max=1)
    assert put(shelf, version(1)).outcome == "stored"
    assert put(shelf, version(2)).outcome == "stored"


def test_a_full_store_gives_up_the_heaviest_group_s_farthest_record_first() -> None:
    value = b"x" * 1000
    room = SIZE_BYTES + 1000
    shelf = shelf_of(store_bytes_max=10 * room)
    flood = many(12, value)
    for record in flood:
        put(shelf, record, "10.1")
    nearest = sorted(flood, key=lambda record: distance(OWN, record.key))
    held = {record.key for record in shelf.records(NOW)}
    # a record that is pushed out leaves its floor, which takes room too
    assert held == {record.key for record in nearest[: len(held)]}
    assert len(held) >= 8
    other = Record(BEN.peer, b"far", 0, NOW, 3600, value, sealed=value)
    assert put(shelf, other, "192.0").outcome == "stored"
    assert shelf.get(other.key, NOW) == other
    assert shelf.size_bytes <= 10 * room


def test_what_this_node_publishes_is_not_pushed_out() -> None:
    value = b"x" * 1000
    shelf = shelf_of(store_bytes_max=5 * (SIZE_BYTES + 1000))
    own = many(3, value)
    for record in own:
        put(shelf, record, OWN_GROUP)
    for n, record in enumerate(many(50, value, BEN)):
        put(shelf, record, f"10.{n}")
    assert all(shelf.get(record.key, NOW) is record for record in own)
    crowd = [put(shelf, record, OWN_GROUP).outcome for record in many(50, value)]
    assert crowd[-1] == "refused"
    assert shelf.size_bytes <= 5 * (SIZE_BYTES + 1000)


def test_a_refused_record_changes_nothing() -> None:
    shelf = shelf_of(store_bytes_max=1000)
    plan = shelf.hold(Record(ANN.peer, b"s", 1, NOW, 60, b"v", sealed=bytes(900)), "10.1", NOW)
    assert (plan.answers[0].outcome, plan.changes, shelf.size_bytes) == ("refused", (), 0)
    assert plan.answers[0].why == "the store is full"


def test_several_at_once_get_the_answers_that_each_would_have_got_alone() -> None:
    one, other = shelf_of(group_records_max=3), shelf_of(group_records_max=3)
    offers = [(version(n % 3, salt=b"%d" % (n % 5)), "10.1") for n in range(20)]
    plan = one.hold_all(offers, NOW)
    one.commit(plan)
    assert list(plan.answers) == [put(other, record, group) for record, group in offers]
    assert one.records(NOW) == other.records(NOW)


def test_what_is_written_is_the_shelf_again_when_it_is_read() -> None:
    shelf, store = shelf_of(group_records_max=9), {}
    records = [version(n, salt=b"%d" % (n % 4), ttl_s=60 + n) for n in range(12)] + [version(0, salt=None)]
    for plan in [shelf.hold(record, "10.1", NOW) for record in records[:1]]:
        keep(store, plan)
        shelf.commit(plan)
    for record in records[1:]:
        plan = shelf.hold(record, "10.1", NOW)
        keep(store, plan)
        shelf.commit(plan)
    swept = shelf.sweep(NOW + 70_000)
    keep(store, swept)
    shelf.commit(swept)
    again = shelf_of(group_records_max=9)
    assert again.restore([read_row(entry) for entry in store.values()]).changes == ()
    assert sorted(again.records(NOW), key=lambda r: r.key) == sorted(shelf.records(NOW), key=lambda r: r.key)
    assert (again.size_bytes, again.due_ms) == (shelf.size_bytes, shelf.due_ms)
    assert put(again, version(0, salt=b"0"), now_ms=NOW + 80_000).outcome == "older"


def keep(store: dict[bytes, Any], plan: Plan) -> None:
    for change, written in zip(plan.changes, plan.writes, strict=True):
        if isinstance(change, Gone):
            store.pop(written.name, None)
        else:
            store[written.name] = written


def test_a_store_that_has_become_smaller_gives_up_what_does_not_fit() -> None:
    shelf = shelf_of()
    records = [version(1, bytes(1000), salt=b"%d" % n) for n in range(10)]
    plan = shelf.hold_all([(record, "10.1") for record in records], NOW)
    small = shelf_of(store_bytes_max=8000)
    rows = [change for change in plan.changes if not isinstance(change, Gone)]
    shrunk = small.restore(rows)
    assert small.size_bytes > 8000
    small.commit(shrunk)
    assert small.size_bytes <= 8000
    assert len(small) >= 2


def test_a_row_that_was_changed_on_the_disk_is_refused() -> None:
    entry = shelf_of().hold(version(1), "10.1", NOW).writes[0]
    for changed in (
        attrs.evolve(entry, name=bytes(32)),
        attrs.evolve(entry, body=entry.body[:-1]),
        attrs.evolve(entry, body=b"\x80"),
        attrs.evolve(entry, body=entry.body[:-1] + bytes([entry.body[-1] ^ 1])),
    ):
        with pytest.raises(DecodeError):
            read_row(changed)


def test_what_others_hold_now_is_dropped_and_its_floor_stays() -> None:
    shelf = shelf_of()
    put(shelf, version(3))
    shelf.commit(shelf.drop([version(3).key, Key(7)]))
    assert shelf.get(version(3).key, NOW) is None
    assert put(shelf, version(2)).outcome == "older"
    assert put(shelf, version(3)).outcome == "stored"
