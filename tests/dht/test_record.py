from typing import Any

import attrs
import pytest

from prime import KeyPair
from prime.dht.contact import make_contact, read_contact
from prime.dht.key import bucket_of, distance, key_of, key_of_peer
from prime.dht.record import (
    Record,
    content_key,
    is_equivocation,
    is_live,
    make_record,
    mutable_key,
    precedes,
    read_record,
)
from prime.dht.sealed import seal
from prime.errors import DecodeError, SignatureError, UsageError
from prime.wire import dumps, loads

ANN, BEN = KeyPair.from_seed(b"a" * 32), KeyPair.from_seed(b"b" * 32)


def version(seq: int, value: bytes = b"v", **over: Any) -> Record:
    return make_record(ANN, value, salt=b"s", **({"seq": seq, "created_ms": 1000, "ttl_s": 60} | over))


def test_peers_of_one_kind_spread_over_the_buckets_as_random_keys_do() -> None:
    own = key_of_peer(ANN.peer)
    peers = [KeyPair.from_seed(key_of(b"%d" % n).to_bytes(32, "big")).peer for n in range(256)]
    farthest = sum(bucket_of(own, key_of_peer(peer)) == 255 for peer in peers)
    assert 96 <= farthest <= 160
    assert distance(own, own) == 0
    assert bucket_of(own, own) == -1


def test_a_record_comes_back_from_its_signed_bytes() -> None:
    record = version(7, b"value")
    assert read_record(record.sealed) == record
    assert record.key == mutable_key(ANN.peer, b"s")
    fixed = make_record(BEN, b"value", salt=None, seq=0, created_ms=1, ttl_s=9)
    assert read_record(fixed.sealed).key == content_key(b"value")


def test_no_byte_of_a_record_can_be_changed() -> None:
    sealed = version(7, b"value").sealed
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(DecodeError):
            read_record(bytes(changed))


def test_another_s_name_on_a_record_is_refused() -> None:
    body, signature = loads(version(7).sealed)
    fields = loads(body)
    fields[1] = BEN.peer
    with pytest.raises(SignatureError, match="not its signer's"):
        read_record(dumps([dumps(fields), signature]))


def test_a_signature_for_another_purpose_is_none_of_a_record() -> None:
    contact = make_contact(ANN, ("/ip4/127.0.0.1/tcp/1",), 5)
    with pytest.raises(SignatureError):
        read_record(contact.sealed)


@pytest.mark.parametrize(
    "over", [{"value": bytes(16385)}, {"ttl_s": 0}, {"ttl_s": 48 * 3600 + 1}, {"seq": -1}, {"removed": True}]
)
def test_what_no_holder_takes_is_not_made(over: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no such record"):
        version(**({"seq": 1} | over))


def test_a_record_that_its_publisher_may_not_make_is_not_read() -> None:
    signed = seal(b"prime-dht-record:1:", ANN, [b"s", 1, 0, 10**9, b"v", False])
    with pytest.raises(DecodeError, match="cannot be"):
        read_record(signed)


def test_the_greater_seq_counts_and_of_equals_all_nodes_choose_the_same() -> None:
    one, two = version(1, b"x"), version(1, b"y")
    assert precedes(version(2), one)
    assert precedes(one, two) is not precedes(two, one)
    assert is_equivocation(one, two)
    assert not is_equivocation(one, version(1, b"x", ttl_s=61))


def test_a_record_holds_from_five_minutes_before_its_time_to_its_end() -> None:
    record = version(1, created_ms=1_000_000, ttl_s=10)
    assert [is_live(record, at) for at in (699_999, 700_000, 1_009_999, 1_010_000)] == [False, True, True, False]


def test_a_contact_names_its_own_addresses_alone() -> None:
    contact = make_contact(ANN, ("/ip4/192.0.2.1/tcp/4001",), 5)
    assert read_contact(contact.sealed) == contact
    assert contact.addresses == (f"/ip4/192.0.2.1/tcp/4001/p2p/{ANN.peer}",)
    foreign = seal(b"prime-dht-contact:1:", ANN, [[f"/ip4/192.0.2.1/tcp/1/p2p/{BEN.peer}"], 5])
    with pytest.raises(DecodeError, match="no address of its own"):
        read_contact(foreign)


def test_oversize_and_shapeless_bytes_are_refused_before_anything_is_read() -> None:
    for data in (bytes(2000), b"", b"\xff", dumps([1, 2]), dumps([b"", b""]), dumps({"a": 1})):
        with pytest.raises(DecodeError):
            read_contact(data)
    assert attrs.has(type(version(1)))
