"""What a node answers on `/ipfs/kad/1.0.0` (libp2p specifications, "kad-dht", section "RPC messages"). Pure.

It is the node's table, values and providers behind one method. What may not be is refused by an error, for which the
stream is reset, as the specification has it; nothing has changed then.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.groups import counted_group
from prime.dht.ipfs.message import Kind, Message, Node, Tie, Value
from prime.dht.ipfs.namespaces import KEY_BYTES_MAX, Namespaces
from prime.dht.ipfs.nodes import node_of, read_node
from prime.dht.ipfs.protobuf import read_varint
from prime.dht.ipfs.values import Held, Values
from prime.dht.key import key_of, key_of_peer
from prime.dht.providers import TTL_S_MAX, Providers
from prime.dht.settings import DhtSettings
from prime.dht.table import Table
from prime.errors import DecodeError, RefusedError
from prime.transport.peer import peer_bytes

PROVIDER_KEY_BYTES_MAX: Final = 80
"""A multihash of the longest usual hash has 66 bytes; go-libp2p takes 80."""
KNOWN_MAX: Final = 1024
_HINT: Final = "send what libp2p's kad-dht specification asks for"


@attrs.frozen
class Asker:
    """Who makes a request: its proved peer id, and the address that its connection comes from."""

    peer: PeerId
    seen_at: str

    @property
    def group(self) -> str:
        """What it hands in counts against this: the group of its public address, or itself."""
        return counted_group(self.seen_at) or f"peer:{self.peer}"


class Desk:
    """One node's answers. `addresses` returns where the node can be dialled itself."""

    def __init__(
        self,
        peer: PeerId,
        settings: DhtSettings,
        namespaces: Namespaces,
        addresses: Callable[[], Iterable[str]],
        now: float,
    ) -> None:
        self.peer = peer
        self.settings = settings
        self.namespaces = namespaces
        self.table = Table(key_of_peer(peer), settings, now)
        self.values = Values(settings, namespaces)
        self.providers = Providers(key_of_peer(peer), settings)
        self._addresses = addresses
        self._known: OrderedDict[bytes, Contact] = OrderedDict()

    @property
    def contact(self) -> Contact:
        """Return this node's own contact; its addresses are believed by itself alone."""
        return Contact(self.peer, tuple(self._addresses()), 0, b"")

    def note(self, contact: Contact) -> None:
        """Remember where a connected peer is, also one that is no server: whoever looks for it is told."""
        self._known[peer_bytes(contact.peer)] = contact
        self._known.move_to_end(peer_bytes(contact.peer))
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def noted(self, peer: PeerId) -> Contact | None:
        """Return what was noted of a peer."""
        return self._known.get(peer_bytes(peer))

    def answer(self, asker: Asker, request: Message, now_ms: int) -> Message | None:
        """Return the answer to a request; `None` where there is none to give. Raises `RefusedError`."""
        match request.kind:
            case Kind.PING:
                return Message(Kind.PING)
            case Kind.FIND_NODE:
                return self._find_node(asker, request)
            case Kind.GET_VALUE:
                return self._get_value(asker, request, now_ms)
            case Kind.PUT_VALUE:
                return self._put_value(asker, request, now_ms)
            case Kind.GET_PROVIDERS:
                return self._get_providers(asker, request, now_ms)
            case Kind.ADD_PROVIDER:
                self._add_provider(asker, request, now_ms)
                return None

    # ---- the five requests

    def _find_node(self, asker: Asker, request: Message) -> Message:
        """Name the nearest peers, and first the one that is looked for, whoever it is, if it is known."""
        _check_key(request.key, KEY_BYTES_MAX)
        closer = self._closer(asker, request.key)
        wanted = self.contact if request.key == peer_bytes(self.peer) else self._known.get(request.key)
        if wanted is not None and (node := node_of(wanted, asker.seen_at, Tie.CONNECTED)) is not None:
            closer = (node, *(each for each in closer if each.id != node.id))[: self.settings.k]
        return Message(Kind.FIND_NODE, request.key, closer=closer)

    def _get_value(self, asker: Asker, request: Message, now_ms: int) -> Message:
        _check_key(request.key, KEY_BYTES_MAX)
        held = self.values.get(request.key, now_ms)
        value = None if held is None else value_of(request.key, held)
        return Message(Kind.GET_VALUE, request.key, value, self._closer(asker, request.key))

    def _put_value(self, asker: Asker, request: Message, now_ms: int) -> Message:
        _check_key(request.key, KEY_BYTES_MAX)
        if request.value is None or request.value.key != request.key or not request.value.value:
            raise RefusedError("a value without its key, or under another", hint=_HINT)
        held = self.values.put(request.key, request.value.value, asker.group, now_ms)
        return Message(Kind.PUT_VALUE, request.key, value_of(request.key, held))

    def _get_providers(self, asker: Asker, request: Message, now_ms: int) -> Message:
        _check_key(request.key, PROVIDER_KEY_BYTES_MAX)
        found = self.providers.find(key_of(request.key), now_ms, self.settings.k)
        named = (node_of(each, asker.seen_at) for each in found)
        providers = tuple(node for node in named if node is not None)
        return Message(Kind.GET_PROVIDERS, request.key, closer=self._closer(asker, request.key), providers=providers)

    def _add_provider(self, asker: Asker, request: Message, now_ms: int) -> None:
        """Remember that the asker has what the key names; what it says of others is not."""
        _check_multihash(request.key)
        own = next((node for node in request.providers if node.id == peer_bytes(asker.peer)), None)
        contact = None if own is None else read_node(own, asker.seen_at)
        if contact is None:
            raise RefusedError("a peer provides for itself alone, at addresses that it may name", hint=_HINT)
        self.hold_provider(request.key, attrs.evolve(contact, stamp_ms=now_ms), asker.group, now_ms)

    def hold_provider(
        self, multihash: bytes, contact: Contact, group: str, now_ms: int, ttl_s: int = TTL_S_MAX
    ) -> None:
        """Remember a provider; of no time left, forget it. Raises `RefusedError` beyond a quota."""
        plan = self.providers.hold(key_of(multihash), contact, contact.peer, group, ttl_s, now_ms)
        if plan.outcome == "refused":
            raise RefusedError(plan.why, hint="ask others: they have quotas of their own")
        self.providers.commit(plan)

    def sweep(self, now_ms: int) -> None:
        """Forget what has had its time."""
        self.values.sweep(now_ms)
        self.providers.commit(self.providers.sweep(now_ms))

    def _closer(self, asker: Asker, key: bytes) -> tuple[Node, ...]:
        near = self.table.closest(key_of(key), self.settings.k + 1)
        nodes = (node_of(each, asker.seen_at) for each in near if each.peer != asker.peer)
        return tuple(node for node in nodes if node is not None)[: self.settings.k]


def value_of(key: bytes, held: Held) -> Value:
    """Return what is held as it stands in a message: when it came is RFC 3339, in UTC."""
    when = dt.datetime.fromtimestamp(held.received_ms / 1000, dt.UTC)
    return Value(key, held.value, when.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z")


def _check_key(key: bytes, size_bytes_max: int) -> None:
    if not 0 < len(key) <= size_bytes_max:
        raise RefusedError(f"a key of {len(key)} bytes, where 1 to {size_bytes_max} are allowed", hint=_HINT)


def _check_multihash(key: bytes) -> None:
    """Refuse what is no multihash: the code of a hash, a length, and so many bytes."""
    _check_key(key, PROVIDER_KEY_BYTES_MAX)
    size = at = 0
    try:
        _, at = read_varint(key, 0)
        size, at = read_varint(key, at)
    except DecodeError:
        size = -1
    if size != len(key) - at:
        raise RefusedError("what is provided is named by a multihash", hint=_HINT)
