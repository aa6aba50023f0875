"""What a node keeps alive: said anew in time, and still after a restart."""

from __future__ import annotations

import pytest

from prime import KeyPair
from prime.dht.key import key_of, to_bytes
from prime.dht.publications import PACE_MS, Provided, Publications, Published, read_publication
from prime.dht.record import TTL_S_MAX, Record, make_record
from prime.dht.settings import DhtSettings
from prime.errors import DecodeError

ANN = KeyPair.from_seed(b"a" * 32)
NOW = 1_800_000_000_000
HOUR_MS = 3_600_000


def own(salt: bytes = b"s", ttl_s: int = TTL_S_MAX, created_ms: int = NOW, **over: object) -> Record:
    fields = {"seq": 1, **over}
    return make_record(ANN, b"", salt=salt, ttl_s=ttl_s, created_ms=created_ms, **fields)  # type: ignore[arg-type]


def keep(publications: Publications, record: Record) -> Published:
    published = Published(record.key, record)
    publications.commit(published)
    return published


def test_a_record_is_said_anew_every_22_hours_and_a_short_one_at_half_its_time() -> None:
    publications = Publications(DhtSettings())
    long, short = keep(publications, own()), keep(publications, own(b"short", 3600))
    assert publications.due_ms == NOW + HOUR_MS // 2
    assert publications.due(NOW + HOUR_MS // 2 - 1, 9) == []
    assert publications.due(NOW + HOUR_MS, 9) == [short]
    assert publications.due(NOW + 22 * HOUR_MS, 9) == [short, long]
    assert publications.due(NOW + 22 * HOUR_MS, 1) == [short]
    again = own(b"short", 3600, NOW + HOUR_MS)
    keep(publications, again)
    assert publications.record(again.key) == again
    assert publications.due(NOW + HOUR_MS, 9) == []


def test_what_could_not_be_said_is_put_off() -> None:
    publications = Publications(DhtSettings())
    published = keep(publications, own(ttl_s=60))
    publications.put_off(published, NOW + HOUR_MS)
    assert publications.due(NOW + HOUR_MS - 1, 9) == []
    assert publications.due(NOW + HOUR_MS, 9) == [published]
    publications.commit(Published(published.key, None))
    publications.put_off(published, NOW)
    assert (publications.due(NOW + 99 * HOUR_MS, 9), publications.due_ms) == ([], None)


def test_a_removal_is_not_kept_alive() -> None:
    publications = Publications(DhtSettings())
    keep(publications, own())
    keep(publications, own(removed=True, seq=2))
    assert (publications.records(), publications.due_ms) == ([], None)


def test_provided_keys_are_said_anew_until_they_are_provided_no_longer() -> None:
    publications = Publications(DhtSettings())
    key = key_of(b"chunk")
    publications.commit(Provided(key, NOW))
    assert publications.provided() == [key]
    assert publications.due(NOW + HOUR_MS - 1, 9) == []
    assert publications.due(NOW + HOUR_MS, 9) == [Provided(key, NOW)]
    publications.commit(Provided(key, None))
    assert (publications.provided(), publications.due_ms) == ([], None)


def test_who_provides_very_many_keys_says_so_at_a_pace_that_is_bounded() -> None:
    publications = Publications(DhtSettings())
    for number in range(3000):
        publications.commit(Provided(key_of(b"%d" % number), NOW))
    hours = [len(publications.due(NOW + hour * HOUR_MS, 5000)) for hour in range(5)]
    assert hours[1] <= HOUR_MS // PACE_MS + 1
    assert hours[-1] <= 3000
    for each in publications.due(NOW + 5 * HOUR_MS, 5000):
        publications.commit(Provided(each.key, NOW + 5 * HOUR_MS))
    assert publications.due(NOW + 9 * HOUR_MS, 5000) == []


def test_what_is_written_is_there_again_and_what_does_not_fit_is_refused() -> None:
    made = [Published(own().key, own()), Provided(key_of(b"chunk"), NOW)]
    entries = [each.entry() for each in made]
    assert [read_publication(entry) for entry in entries] == made  # type: ignore[arg-type]
    again = Publications(DhtSettings())
    again.restore(made)
    assert (again.records(), again.provided()) == ([own()], [key_of(b"chunk")])
    for entry in entries:
        with pytest.raises(DecodeError):
            read_publication(type(entry)(entry.kind, to_bytes(key_of(b"x")), b"\xf6"))  # type: ignore[call-arg]
