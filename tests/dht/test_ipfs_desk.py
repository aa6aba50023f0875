"""What a node answers on `/ipfs/kad/1.0.0`, request by request, without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs
import pytest

from prime.dht.contact import Contact
from prime.dht.ipfs.desk import KNOWN_MAX, Asker, Desk
from prime.dht.ipfs.message import Kind, Message, Node, Value
from prime.dht.ipfs.multiaddrs import address_bytes
from prime.dht.ipfs.namespaces import VALUE_BYTES_MAX, Namespaces, PrimeRecords, PublicKeys, record_name
from prime.dht.ipfs.nodes import hearsay, node_of, read_node
from prime.dht.ipfs.values import AGE_MS_MAX, OWN_GROUP, Values
from prime.dht.key import key_of_peer
from prime.dht.record import Record, make_record
from prime.dht.settings import PRESETS, DhtSettings
from prime.errors import DecodeError, RefusedError
from prime.transport.identity import KeyPair
from prime.transport.peer import encode_public_key, peer_bytes, peer_from_public_key

KEYS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(40)]
OWN, ALICE, BOB = KEYS[:3]
NOW_MS = 1_796_000_000_000
PUBLIC, LAN, LOCAL = "/ip4/51.0.0.7/tcp/4001", "/ip4/192.168.1.7/tcp/4001", "/ip4/127.0.0.1/tcp/4001"
MULTIHASH = b"\x12\x20" + hashlib.sha256(b"a model").digest()
SETTINGS = PRESETS["swarm"]


def desk(settings: DhtSettings = SETTINGS, **namespaces: object) -> Desk:
    return Desk(OWN.peer, settings, Namespaces(namespaces), lambda: [f"{PUBLIC}/p2p/{OWN.peer}"], 0.0)  # type: ignore[arg-type]


def asker(key: KeyPair = ALICE, seen_at: str = PUBLIC) -> Asker:
    return Asker(key.peer, seen_at)


def contact(key: KeyPair, *addresses: str) -> Contact:
    return Contact(key.peer, tuple(f"{each}/p2p/{key.peer}" for each in addresses), 0, b"")


def known(here: Desk, keys: Sequence[KeyPair]) -> None:
    for number, key in enumerate(keys):
        here.table.answered(
            contact(key, f"/ip4/51.{number}.0.1/tcp/1", LAN), 0.0, seen_at=f"/ip4/51.{number}.0.1/tcp/1"
        )


def node(key: KeyPair, *addresses: str) -> Node:
    return Node(peer_bytes(key.peer), tuple(address_bytes(each) or b"" for each in addresses))


def record(value: bytes = b"v", seq: int = 0, created_ms: int = NOW_MS) -> Record:
    return make_record(ALICE, value, salt=b"salt", seq=seq, created_ms=created_ms, ttl_s=3600)


def put(key: bytes, value: bytes) -> Message:
    return Message(Kind.PUT_VALUE, key, Value(key, value))


# ---- FIND_NODE


def test_the_nearest_are_named_nearest_first_without_the_asker() -> None:
    here = desk()
    known(here, KEYS[1:])
    answer = here.answer(asker(), Message(Kind.FIND_NODE, peer_bytes(BOB.peer)), NOW_MS)
    assert answer is not None
    in_table = [each.peer for each in here.table if each.peer != ALICE.peer]
    wanted = sorted(in_table, key=lambda peer: key_of_peer(peer) ^ key_of_peer(BOB.peer))[: SETTINGS.k]
    assert [each.id for each in answer.closer] == [peer_bytes(peer) for peer in wanted]
    assert wanted[0] == BOB.peer


def test_a_public_asker_hears_of_no_private_address() -> None:
    here = desk()
    here.table.answered(contact(BOB, PUBLIC, LAN, LOCAL), 0.0, seen_at=PUBLIC)
    for seen_at, addresses in ((PUBLIC, (PUBLIC,)), (LAN, (PUBLIC, LAN)), (LOCAL, (PUBLIC, LAN, LOCAL))):
        answer = here.answer(asker(seen_at=seen_at), Message(Kind.FIND_NODE, peer_bytes(BOB.peer)), NOW_MS)
        assert answer is not None
        assert [each.addresses for each in answer.closer] == [tuple(address_bytes(one) for one in addresses)]


def test_who_is_looked_for_is_named_also_if_it_is_this_node_or_no_server() -> None:
    here = desk()
    here.note(contact(BOB, PUBLIC))
    for key in (OWN, BOB):
        answer = here.answer(asker(), Message(Kind.FIND_NODE, peer_bytes(key.peer)), NOW_MS)
        assert answer is not None
        assert answer.closer[0].id == peer_bytes(key.peer)


def test_any_bytes_can_be_looked_for_but_none_at_all_cannot() -> None:
    here = desk()
    known(here, KEYS[1:5])
    rsa = b"\x12\x20" + bytes(32)  # the id of a key of another kind
    answer = here.answer(asker(), Message(Kind.FIND_NODE, rsa), NOW_MS)
    assert answer is not None
    assert answer.closer
    for key in (b"", bytes(513)):
        with pytest.raises(RefusedError):
            here.answer(asker(), Message(Kind.FIND_NODE, key), NOW_MS)


def test_what_is_remembered_of_clients_is_bounded() -> None:
    here = desk()
    for number in range(KNOWN_MAX + 5):
        here.note(Contact(peer_from_public_key(number.to_bytes(32, "big")), (), 0, b""))
    noted = [here.noted(peer_from_public_key(number.to_bytes(32, "big"))) for number in range(KNOWN_MAX + 5)]
    assert noted[:5] == [None] * 5
    assert None not in noted[5:]


def test_ping_is_answered() -> None:
    assert desk().answer(asker(), Message(Kind.PING), NOW_MS) == Message(Kind.PING)


# ---- values


def test_a_value_is_held_with_the_time_it_came_and_shown() -> None:
    here = desk()
    name = record_name(record().key)
    stored = here.answer(asker(), put(name, record().sealed), NOW_MS)
    assert stored is not None
    assert stored.value == Value(name, record().sealed, "2026-11-30T00:53:20.000000000Z")
    shown = here.answer(asker(BOB), Message(Kind.GET_VALUE, name), NOW_MS + 5)
    assert shown is not None
    assert shown.value == stored.value


def test_a_value_that_its_namespace_or_the_quotas_refuse_changes_nothing() -> None:
    here = desk(attrs.evolve(SETTINGS, group_records_max=1))
    name = record_name(record().key)
    here.answer(asker(), put(name, record(seq=1).sealed), NOW_MS)
    other = make_record(BOB, b"x", salt=b"", seq=0, created_ms=NOW_MS, ttl_s=60)
    refused = {
        "an older one": put(name, record(seq=0).sealed),
        "another signature": put(name, record(seq=2).sealed[:-1] + b"\0"),
        "another key": put(record_name(key_of_peer(BOB.peer)), record(seq=2).sealed),
        "no namespace": put(b"plain", b"x"),
        "an unknown one": put(b"/other/x", b"x"),
        "half a namespace": put(b"/prime", b"x"),
        "a key without an end": put(bytes(600), b"x"),
        "a value beside its key": Message(Kind.PUT_VALUE, name, Value(b"/prime/0", record(seq=2).sealed)),
        "no value": Message(Kind.PUT_VALUE, name),
        "an empty value": put(name, b""),
        "too big": put(b"/prime/x", bytes(VALUE_BYTES_MAX + 1)),
        "a future one": put(name, record(seq=3, created_ms=NOW_MS + 3_600_000).sealed),
        "beyond the quota": put(record_name(other.key), other.sealed),
    }
    for why, request in refused.items():
        with pytest.raises(RefusedError):
            here.answer(asker(), request, NOW_MS)
        assert len(here.values) == 1, why
    held = here.values.get(name, NOW_MS)
    assert held is not None
    assert held.value == record(seq=1).sealed


def test_what_is_put_again_keeps_to_the_group_that_it_came_from() -> None:
    here = desk(attrs.evolve(SETTINGS, group_records_max=1))
    name = record_name(record().key)
    here.answer(asker(), put(name, record().sealed), NOW_MS)
    here.answer(asker(BOB, "/ip4/9.9.0.1/tcp/1"), put(name, record(seq=1).sealed), NOW_MS)
    other = make_record(BOB, b"x", salt=b"", seq=0, created_ms=NOW_MS, ttl_s=60)
    with pytest.raises(RefusedError, match="quota"):
        here.answer(asker(), put(record_name(other.key), other.sealed), NOW_MS)
    here.answer(asker(BOB, "/ip4/9.9.0.1/tcp/1"), put(record_name(other.key), other.sealed), NOW_MS)


def test_a_value_ends_two_days_after_it_came_or_when_its_record_does() -> None:
    here = desk()
    key = b"/pk/" + peer_bytes(BOB.peer)
    here.answer(asker(), put(key, encode_public_key(BOB.public_bytes)), NOW_MS)
    name = record_name(record().key)
    here.answer(asker(), put(name, record().sealed), NOW_MS)
    assert here.values.get(name, NOW_MS + 3_599_999)
    assert here.values.get(name, NOW_MS + 3_600_000) is None
    assert here.values.get(key, NOW_MS + AGE_MS_MAX - 1)
    here.sweep(NOW_MS + AGE_MS_MAX)
    assert len(here.values) == here.values.size_bytes == 0


def test_when_the_bytes_run_out_the_group_with_the_most_gives_up_its_oldest() -> None:
    class Anything:
        def validate(self, key: bytes, value: bytes, now_ms: int) -> None: ...

        def select(self, key: bytes, values: Sequence[bytes]) -> int:
            return len(values) - 1

    values = Values(attrs.evolve(SETTINGS, store_bytes_max=10_000), Namespaces({"any": Anything()}))
    values.put(b"/any/own", bytes(1000), OWN_GROUP, NOW_MS)
    values.put(b"/any/few", bytes(1000), "few", NOW_MS)
    for number in range(20):
        values.put(b"/any/%d" % number, bytes(1000), "many", NOW_MS + number)
        assert values.size_bytes <= 10_000
    assert values.get(b"/any/own", NOW_MS)
    assert values.get(b"/any/few", NOW_MS)
    assert values.get(b"/any/0", NOW_MS) is None
    assert values.get(b"/any/19", NOW_MS)


def test_a_namespace_that_raises_or_cannot_choose_refuses() -> None:
    class Broken:
        def validate(self, key: bytes, value: bytes, now_ms: int) -> None:
            if value == b"bad":
                raise ZeroDivisionError

        def select(self, key: bytes, values: Sequence[bytes]) -> int:
            return 7

    here = desk(app=Broken())
    with pytest.raises(RefusedError, match="ZeroDivisionError"):
        here.answer(asker(), put(b"/app/x", b"bad"), NOW_MS)
    here.answer(asker(), put(b"/app/x", b"good"), NOW_MS)
    with pytest.raises(RefusedError, match="choose"):
        here.answer(asker(), put(b"/app/x", b"other"), NOW_MS)


def test_public_keys_of_every_kind_stand_under_their_own_peer() -> None:
    ed25519 = encode_public_key(BOB.public_bytes)
    rsa = b"\x08\x00\x12\x90\x02" + bytes(272)
    PublicKeys().validate(b"/pk/" + peer_bytes(BOB.peer), ed25519, NOW_MS)
    PublicKeys().validate(b"/pk/\x12\x20" + hashlib.sha256(rsa).digest(), rsa, NOW_MS)
    for key, value in (
        (peer_bytes(ALICE.peer), ed25519),
        (b"\x12\x20" + hashlib.sha256(ed25519).digest(), ed25519),  # a short key is its own id
        (b"\x12\x20" + hashlib.sha256(b"x").digest(), b"x"),
        (b"\x00\x02\x08\x09", b"\x08\x09"),
    ):
        with pytest.raises((RefusedError, DecodeError)):
            PublicKeys().validate(b"/pk/" + key, value, NOW_MS)


def test_of_records_the_one_that_counts_is_chosen_in_any_order() -> None:
    sealed = [record(b"%d" % seq, seq).sealed for seq in (1, 3, 2)]
    assert PrimeRecords().select(b"", sealed) == 1
    assert PrimeRecords().select(b"", sealed[::-1]) == 1


# ---- providers


def test_a_peer_provides_for_itself_alone() -> None:
    here = desk()
    own, foreign = node(ALICE, PUBLIC), node(BOB, "/ip4/51.0.0.8/tcp/1")
    assert here.answer(asker(), Message(Kind.ADD_PROVIDER, MULTIHASH, providers=(foreign, own)), NOW_MS) is None
    answer = here.answer(asker(BOB), Message(Kind.GET_PROVIDERS, MULTIHASH), NOW_MS)
    assert answer is not None
    assert [(each.id, each.addresses) for each in answer.providers] == [(own.id, own.addresses)]
    with pytest.raises(RefusedError, match="itself alone"):
        here.answer(asker(), Message(Kind.ADD_PROVIDER, MULTIHASH, providers=(foreign,)), NOW_MS)
    here.sweep(NOW_MS + AGE_MS_MAX)
    gone = here.answer(asker(BOB), Message(Kind.GET_PROVIDERS, MULTIHASH), NOW_MS + AGE_MS_MAX)
    assert gone is not None
    assert gone.providers == ()


@pytest.mark.parametrize("key", [b"", b"\x12", b"\x12\x20" + bytes(31), bytes(81), b"plain text"])
def test_what_is_no_multihash_is_not_provided(key: bytes) -> None:
    with pytest.raises(RefusedError):
        desk().answer(asker(), Message(Kind.ADD_PROVIDER, key, providers=(node(ALICE, PUBLIC),)), NOW_MS)


def test_a_multihash_of_a_long_code_is_provided() -> None:
    key = b"\xa0\xe4\x02\x20" + bytes(32)  # BLAKE2b-256
    here = desk()
    here.answer(asker(), Message(Kind.ADD_PROVIDER, key, providers=(node(ALICE, PUBLIC),)), NOW_MS)
    assert len(here.providers) == 1


def test_a_public_peer_provides_at_no_private_address() -> None:
    here = desk()
    for addresses in ((LOCAL,), (LAN,), ()):
        with pytest.raises(RefusedError):
            here.answer(asker(), Message(Kind.ADD_PROVIDER, MULTIHASH, providers=(node(ALICE, *addresses),)), NOW_MS)
    here.answer(asker(seen_at=LAN), Message(Kind.ADD_PROVIDER, MULTIHASH, providers=(node(ALICE, LAN),)), NOW_MS)


def test_the_provisions_of_a_group_are_counted() -> None:
    here = desk(attrs.evolve(SETTINGS, group_records_max=3))
    for number in range(3):
        key = b"\x12\x20" + bytes([number]) * 32
        here.answer(asker(), Message(Kind.ADD_PROVIDER, key, providers=(node(ALICE, PUBLIC),)), NOW_MS)
    with pytest.raises(RefusedError, match="quota"):
        here.answer(asker(), Message(Kind.ADD_PROVIDER, MULTIHASH, providers=(node(ALICE, PUBLIC),)), NOW_MS)


# ---- whom others name


def test_addresses_that_a_peer_may_not_vouch_for_are_dropped() -> None:
    named = node(BOB, LOCAL, LAN, PUBLIC)
    for seen_at, addresses in (
        (PUBLIC, (PUBLIC,)),
        (LAN, (LAN, PUBLIC)),
        (LOCAL, (LOCAL, LAN, PUBLIC)),
        ("", (PUBLIC,)),
    ):
        found = read_node(named, seen_at)
        assert found is not None
        assert found.addresses == tuple(f"{each}/p2p/{BOB.peer}" for each in addresses)
    assert read_node(node(BOB, LOCAL), PUBLIC) is None


def test_peers_of_other_keys_and_addresses_of_other_peers_are_left_out() -> None:
    assert read_node(Node(b"\x12\x20" + bytes(32), (address_bytes(PUBLIC) or b"",)), PUBLIC) is None
    assert read_node(Node(b"", (address_bytes(PUBLIC) or b"",)), PUBLIC) is None
    assert read_node(node(BOB, f"{PUBLIC}/p2p/{ALICE.peer}"), PUBLIC) is None
    assert hearsay(BOB.peer, [f"{PUBLIC}/p2p/{ALICE.peer}", "nonsense", PUBLIC], PUBLIC).addresses == (
        f"{PUBLIC}/p2p/{BOB.peer}",
    )


def test_a_contact_without_a_binary_address_is_not_told_of() -> None:
    assert node_of(contact(BOB, "/memory/bob"), LOCAL) is None
