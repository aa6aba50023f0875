"""Contacts of peers that sign none, and how they stand in messages of `/ipfs/kad/1.0.0`. Pure.

Nobody signed their addresses, so what counts is who named them: a peer itself, or another that handed them on. Either may
vouch only for addresses that are as far from this node as it is itself (`groups.vouched`).
"""

from __future__ import annotations

from collections.abc import Iterable

from prime.actor.contract import PeerId
from prime.dht.contact import ADDRESSES_MAX, Contact
from prime.dht.groups import vouched
from prime.dht.ipfs.message import Node, Tie
from prime.dht.ipfs.multiaddrs import address_bytes, read_address
from prime.errors import ConfigError
from prime.transport.multiaddr import parse_address
from prime.transport.peer import peer_bytes, peer_of_bytes


def hearsay(peer: PeerId, addresses: Iterable[str], seen_at: str, stamp_ms: int = 0) -> Contact:
    """Return the contact of a peer at those of the addresses that one seen at `seen_at` may vouch for."""
    named = dict.fromkeys(text for each in addresses if (text := _of(peer, each)))
    return Contact(peer, vouched(named, seen_at)[:ADDRESSES_MAX], stamp_ms, b"")


def _of(peer: PeerId, address: str) -> str:
    """Return an address with the peer's id; empty where it names another."""
    try:
        return str(parse_address(address).expecting(peer))
    except ConfigError:
        return ""


def read_node(node: Node, seen_at: str) -> Contact | None:
    """Return whom a peer that was seen at `seen_at` names, where its key is of Ed25519 and it can be dialled there."""
    try:
        peer = peer_of_bytes(node.id)
    except ConfigError:
        return None
    texts = (read_address(address, peer) for address in node.addresses)
    contact = hearsay(peer, (text for text in texts if text), seen_at)
    return contact if contact.addresses else None


def node_of(contact: Contact, seen_at: str, tie: Tie = Tie.CAN_CONNECT) -> Node | None:
    """Return what to tell of a contact to a peer that was seen at `seen_at`; `None` where that has no use for it."""
    own = f"/p2p/{contact.peer}"
    addresses = (address_bytes(each.removesuffix(own)) for each in vouched(contact.addresses, seen_at))
    known = tuple(each for each in addresses if each)
    return Node(peer_bytes(contact.peer), known, tie) if known else None
