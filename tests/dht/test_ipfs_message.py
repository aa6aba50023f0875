"""The messages of `/ipfs/kad/1.0.0`: golden bytes, an independent implementation's view, and bytes that are none.

To add a golden one, declare it in `VECTORS` and run `python tests/dht/test_ipfs_message.py > spec/vectors/v1/kad.json`;
the file's difference must then hold added lines only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.dht.ipfs import message as kad
from prime.dht.ipfs.message import Kind, Message, Node, Tie, Value, pack, read_message, read_size
from prime.dht.ipfs.multiaddrs import address_bytes, read_address
from prime.dht.ipfs.protobuf import field, fields, read_varint, varint
from prime.errors import DecodeError
from prime.transport.identity import KeyPair
from prime.transport.peer import peer_bytes

COMMITTED = Path(__file__).parents[2] / "spec" / "vectors" / "v1" / "kad.json"
PEER = KeyPair.from_seed(bytes(range(32))).peer
OTHER = KeyPair.from_seed(bytes(range(1, 33))).peer
MULTIHASH = bytes.fromhex("1220") + bytes(range(32))


def node(peer: str, *addresses: str, tie: Tie = Tie.NOT_CONNECTED) -> Node:
    return Node(peer_bytes(peer), tuple(address_bytes(each) or b"" for each in addresses), tie)


VECTORS = {
    "put_value": Message(Kind.PUT_VALUE, b"/app/key", Value(b"/app/key", b"value")),
    "put_value answer": Message(Kind.PUT_VALUE, b"/app/key", Value(b"/app/key", b"value", "2026-11-30T09:50:57Z")),
    "get_value": Message(Kind.GET_VALUE, b"/app/key"),
    "get_value answer": Message(
        Kind.GET_VALUE,
        b"/app/key",
        Value(b"/app/key", b"value", "2026-11-30T09:50:57Z"),
        (node(OTHER, "/ip4/192.0.2.7/tcp/4001", tie=Tie.CONNECTED),),
    ),
    "add_provider": Message(
        Kind.ADD_PROVIDER, MULTIHASH, providers=(node(PEER, "/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"),)
    ),
    "get_providers": Message(Kind.GET_PROVIDERS, MULTIHASH),
    "get_providers answer": Message(
        Kind.GET_PROVIDERS,
        MULTIHASH,
        closer=(node(OTHER, "/dns4/example.org/tcp/4001"),),
        providers=(node(PEER, "/ip4/192.0.2.1/tcp/4001", tie=Tie.CAN_CONNECT),),
    ),
    "find_node": Message(Kind.FIND_NODE, peer_bytes(PEER)),
    "find_node answer": Message(
        Kind.FIND_NODE,
        closer=(
            node(PEER, f"/ip4/192.0.2.1/tcp/4001/p2p/{OTHER}/p2p-circuit"),
            node(OTHER, tie=Tie.CANNOT_CONNECT),
        ),
    ),
    "ping": Message(Kind.PING),
}


def committed() -> dict[str, str]:
    vectors: dict[str, str] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return vectors


def bare(data: bytes) -> bytes:
    """Take the length away."""
    size, at = read_varint(data, 0)
    assert size == len(data) - at
    return data[at:]


@pytest.mark.parametrize("name", VECTORS)
def test_the_bytes_are_the_golden_ones_and_are_read_back(name: str) -> None:
    data = pack(VECTORS[name])
    assert data.hex() == committed()[name]
    assert read_message(bare(data)) == VECTORS[name]


def theirs() -> Any:
    return pytest.importorskip("libp2p.kad_dht.pb.kademlia_pb2").Message


@pytest.mark.parametrize("name", VECTORS)
def test_py_libp2p_reads_what_is_written_and_writes_what_is_read(name: str) -> None:
    ours = VECTORS[name]
    message = theirs().FromString(bare(pack(ours)))
    assert (message.type, message.key) == (ours.kind, ours.key)
    assert [each.id for each in message.closerPeers] == [each.id for each in ours.closer]
    assert [tuple(each.addrs) for each in message.providerPeers] == [each.addresses for each in ours.providers]
    if ours.value:
        assert (message.record.key, message.record.value) == (ours.value.key, ours.value.value)
        assert message.record.timeReceived == ours.value.received
    assert read_message(message.SerializeToString()) == ours


def test_fields_of_other_programs_are_passed_over() -> None:
    message = theirs()(type=Kind.GET_VALUE, key=b"k", clusterLevelRaw=7, senderRecord=b"signed")
    message.closerPeers.add(id=b"peer", connection=1, signedRecord=b"signed")
    found = read_message(message.SerializeToString())
    assert found == Message(Kind.GET_VALUE, b"k", closer=(Node(b"peer", (), Tie.CONNECTED),))
    fixed = varint(30 << 3 | 1) + bytes(8) + varint(31 << 3 | 5) + bytes(4)
    assert read_message(fixed + bare(pack(found))) == found


NODES = st.builds(
    Node, st.binary(max_size=40), st.lists(st.binary(max_size=20), max_size=4).map(tuple), st.sampled_from(Tie)
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(Kind),
    st.binary(max_size=80),
    st.none() | st.builds(Value, st.binary(max_size=80), st.binary(max_size=200), st.text(max_size=30)),
    st.lists(NODES, max_size=5).map(tuple),
    st.lists(NODES, max_size=5).map(tuple),
)


@given(MESSAGES)
def test_whatever_is_written_is_read_back(message: Message) -> None:
    assert read_message(bare(pack(message))) == message


@given(st.binary(max_size=300))
def test_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = read_message(data)
    except DecodeError:
        return
    assert read_message(bare(pack(message))) == message


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_read_back_and_its_truncations_are_refused(value: int) -> None:
    data = varint(value)
    assert read_varint(data, 0) == (value, len(data))
    with pytest.raises(DecodeError):
        read_varint(data[:-1], 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",  # a key without an end
        b"\xff" * 9 + b"\x7f",  # above 64 bits
        b"\x80" * 11,  # endless
        b"\x02\x00",  # a field without a number
        b"\x0b\x0c",  # a group
        b"\x12\x05abc",  # longer than its message
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x01x",  # bytes for the type
        b"\x10\x01",  # a number for the key
        b"\x18\x01",
        b"\x08\x06",  # an unknown type
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a negative one
        b"\x31\x00",  # half of eight bytes
        field(8, field(2, 5)),
        field(3, field(5, 5)),
    ],
    ids=bytes.hex,
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        read_message(data)
    assert caught.value.hint


def test_lists_without_end_are_cut() -> None:
    addresses = tuple(b"%d" % n for n in range(1000))
    message = Message(Kind.FIND_NODE, closer=tuple(Node(b"p", addresses if not n else ()) for n in range(500)))
    found = read_message(bare(pack(message)))
    assert len(found.closer) == kad.NODES_MAX
    assert found.closer[0].addresses == addresses[: kad.ADDRESSES_MAX]


def test_an_unknown_tie_is_none() -> None:
    assert read_message(field(1, 4) + field(8, field(1, b"p") + field(3, 9))).closer == (Node(b"p"),)


@pytest.mark.parametrize(
    ("prefix", "size"), [(b"", None), (b"\x80", None), (b"\xff\xff\xff", None), (b"\x05", 5), (b"\x80\x01", 128)]
)
def test_the_size_of_a_message(prefix: bytes, size: int | None) -> None:
    assert read_size(prefix, 1000) == size


@pytest.mark.parametrize("prefix", [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xe9\x07"])
def test_a_size_beyond_the_limit_is_refused(prefix: bytes) -> None:
    with pytest.raises(DecodeError):
        read_size(prefix, 1000)


ADDRESSES = [
    "/ip4/192.0.2.1/tcp/4001",
    "/ip6/2001:db8::1/tcp/65535",
    "/dns/example.org/tcp/1",
    "/dns4/example.org/tcp/1",
    "/dns6/example.org/tcp/1",
    f"/ip4/192.0.2.1/tcp/4001/p2p/{OTHER}/p2p-circuit",
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_in_binary_is_the_standard_one_and_is_read_back(text: str) -> None:
    Multiaddr = pytest.importorskip("multiaddr").Multiaddr  # noqa: N806 - a class
    named = f"{text}/p2p/{PEER}"
    assert address_bytes(text) == Multiaddr(text).to_bytes()
    assert address_bytes(named) == Multiaddr(named).to_bytes()
    assert read_address(address_bytes(text) or b"", PEER) == read_address(address_bytes(named) or b"", PEER) == named


@pytest.mark.parametrize("text", ["/unix/run/node.sock", "/memory/alice", "/ip4/192.0.2.1/udp/1/quic-v1", "nonsense"])
def test_an_address_that_no_libp2p_transport_of_prime_dials_has_no_binary_form(text: str) -> None:
    assert address_bytes(text) is None


@pytest.mark.parametrize("text", ["/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/tcp/1/ws", "/ip4/192.0.2.1"])
def test_an_address_of_another_kind_is_left_out(text: str) -> None:
    assert read_address(pytest.importorskip("multiaddr").Multiaddr(text).to_bytes(), PEER) is None


def test_an_address_that_names_another_peer_is_left_out() -> None:
    assert read_address(address_bytes(f"/ip4/192.0.2.1/tcp/1/p2p/{OTHER}") or b"", PEER) is None


@given(st.binary(max_size=100))
def test_bytes_are_an_address_or_none(data: bytes) -> None:
    found = read_address(data, PEER)
    assert found is None or found.endswith(PEER)


def test_fields_come_in_order() -> None:
    assert list(fields(field(1, 7) + field(2, b"x") + field(1, 8))) == [(1, 7), (2, b"x"), (1, 8)]


if __name__ == "__main__":
    print(json.dumps({name: pack(message).hex() for name, message in VECTORS.items()}, indent=1))
