"""The messages of `/ipfs/kad/1.0.0` (libp2p specifications, "kad-dht", section "RPC messages"). Pure.

Each goes behind its length, an unsigned varint; a request and its answer are of one shape. Fields that are not in the
specification, such as the signed records that py-libp2p adds, are passed over, as are elements beyond the limits.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from prime.dht.ipfs.protobuf import as_bytes, as_int, field, fields, optional, read_varint, varint
from prime.errors import DecodeError

PROTOCOL: Final = "/ipfs/kad/1.0.0"
REQUEST_BYTES_MAX: Final = 64 << 10
ANSWER_BYTES_MAX: Final = 1 << 20
"""Twenty peers with all their addresses, and a value, of an implementation that is generous with both."""
NODES_MAX: Final = 64
"""Peers of one list that are read."""
ADDRESSES_MAX: Final = 32
"""Addresses of one peer that are read."""
LENGTH_BYTES_MAX: Final = 4
"""Of a length prefix: more than the largest message needs."""
_HINT: Final = "the peer that sent it is broken or hostile: nothing of it was used"


class Kind(enum.IntEnum):
    """What a message asks or answers."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


class Tie(enum.IntEnum):
    """What the sender of a message has with a peer that it names."""

    NOT_CONNECTED = 0
    CONNECTED = 1
    CAN_CONNECT = 2
    CANNOT_CONNECT = 3


@attrs.frozen
class Node:
    """A peer by the bytes of its id, and where it is said to be: multiaddrs in binary."""

    id: bytes
    addresses: tuple[bytes, ...] = ()
    tie: Tie = Tie.NOT_CONNECTED


@attrs.frozen
class Value:
    """A value under a key, and when whoever sends it received it (RFC 3339, or empty)."""

    key: bytes
    value: bytes
    received: str = ""


@attrs.frozen
class Message:
    """A request or an answer."""

    kind: Kind
    key: bytes = b""
    value: Value | None = None
    closer: tuple[Node, ...] = ()
    providers: tuple[Node, ...] = ()


def pack(message: Message) -> bytes:
    """Return a message's bytes behind their length."""
    data = b"".join(
        (
            optional(1, message.kind),
            optional(2, message.key),
            field(3, _value_bytes(message.value)) if message.value is not None else b"",
            *(field(8, _node_bytes(node)) for node in message.closer),
            *(field(9, _node_bytes(node)) for node in message.providers),
        )
    )
    return varint(len(data)) + data


def _value_bytes(value: Value) -> bytes:
    return optional(1, value.key) + optional(2, value.value) + optional(5, value.received.encode())


def _node_bytes(node: Node) -> bytes:
    addresses = b"".join(field(2, address) for address in node.addresses)
    return optional(1, node.id) + addresses + optional(3, node.tie)


def read_size(prefix: bytes, size_bytes_max: int) -> int | None:
    """Return how long the message behind a prefix is, `None` while the prefix has no end. Raises `DecodeError`."""
    if not prefix or (prefix[-1] & 0x80 and len(prefix) < LENGTH_BYTES_MAX):
        return None
    size, _ = read_varint(prefix, 0)
    if size > size_bytes_max:
        raise DecodeError(f"a message of {size} bytes, where {size_bytes_max} are allowed", hint=_HINT)
    return size


def read_message(data: bytes) -> Message:
    """Return the message in bytes, its length prefix taken away. Raises `DecodeError`."""
    kind, key, value = 0, b"", None
    closer: list[Node] = []
    providers: list[Node] = []
    for number, found in fields(data):
        match number:
            case 1:
                kind = as_int(found)
            case 2:
                key = as_bytes(found)
            case 3:
                value = _read_value(as_bytes(found))
            case 8 | 9:
                nodes = closer if number == 8 else providers
                if len(nodes) < NODES_MAX:
                    nodes.append(_read_node(as_bytes(found)))
    if kind not in set(Kind):
        raise DecodeError(f"a message of the unknown type {kind}", hint="update this node, or leave that peer alone")
    return Message(Kind(kind), key, value, tuple(closer), tuple(providers))


def _read_value(data: bytes) -> Value:
    key, value, received = b"", b"", b""
    for number, found in fields(data):
        match number:
            case 1:
                key = as_bytes(found)
            case 2:
                value = as_bytes(found)
            case 5:
                received = as_bytes(found)
    return Value(key, value, received.decode(errors="replace"))


def _read_node(data: bytes) -> Node:
    peer, tie = b"", 0
    addresses: list[bytes] = []
    for number, found in fields(data):
        match number:
            case 1:
                peer = as_bytes(found)
            case 2 if len(addresses) < ADDRESSES_MAX:
                addresses.append(as_bytes(found))
            case 3:
                tie = as_int(found)
    return Node(peer, tuple(addresses), Tie(tie) if tie in set(Tie) else Tie.NOT_CONNECTED)
