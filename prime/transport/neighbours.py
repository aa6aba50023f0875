"""What nodes on one local network tell each other by multicast, and what a newcomer makes of it. Pure.

An announcement is a DNS-SD service (RFC 6763) of type `_prime-actors._tcp.local.`; what it says stands in its text record:

======  ===================================================================================
key     value
======  ===================================================================================
``v``   `1`; another number is another protocol
``run`` 16 hex digits of BLAKE2b over the run's name: who does not know the name does not learn it
``t``   the transport: `tcp`, `libp2p`, …
``p``   the node's peer id, proved when it is dialled
``s``   `member` of a network, or a `newcomer` that looks for one
``a0``  to ``a7``: where it listens, `192.168.1.2:4001`
======  ===================================================================================

Anybody on the network can announce anything, so whatever is read is bounded, and only addresses within the networks that
this machine itself is in are believed: no announcement makes a node dial elsewhere.

A newcomer joins the members it hears of. Where there are newcomers alone, the one with the lowest peer id founds the
network, and the others wait for it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import attrs

from prime.errors import DecodeError

SERVICE: Final = "_prime-actors._tcp.local."
VERSION: Final = "1"
ADDRESSES_MAX: Final = 8
"""In one announcement; further ones are not read."""
ANNOUNCERS_MAX: Final = 64
"""Heard at the same time; further ones are not heard."""
CONTACTS_MAX: Final = 16
"""Addresses that a newcomer dials."""
PATIENCE: Final = 3
"""How often a newcomer waits for another one that should found the network, before it does so itself."""

_PEER = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
_KEYS_MAX = 32
_STATES: Final = {"member": True, "newcomer": False}


@attrs.frozen
class Announcement:
    """What one node says of itself; `run` is the digest of its name, `addresses` are of host and port."""

    peer: str
    run: str
    transport: str
    member: bool
    addresses: tuple[tuple[str, int], ...]


def run_digest(run: str) -> str:
    """Return what an announcement says instead of the run's name."""
    return hashlib.blake2b(run.encode(), digest_size=8, person=b"prime-lan").hexdigest()


def write_announcement(announcement: Announcement) -> dict[str, str]:
    """Return the text record."""
    addresses = {f"a{n}": f"{host}:{port}" for n, (host, port) in enumerate(announcement.addresses[:ADDRESSES_MAX])}
    state = "member" if announcement.member else "newcomer"
    head = {"v": VERSION, "run": announcement.run, "t": announcement.transport, "p": announcement.peer, "s": state}
    return head | addresses


def read_announcement(record: Mapping[bytes, bytes | None]) -> Announcement:
    """Read a text record. Raises `DecodeError`; addresses that are none are left out."""
    if len(record) > _KEYS_MAX:
        raise DecodeError(f"a text record of {len(record)} keys", hint="A stranger announces it: nothing to mend.")
    text = {_text(key): _text(value or b"") for key, value in record.items()}
    peer, state = text.get("p", ""), text.get("s", "")
    if text.get("v") != VERSION or not _PEER.fullmatch(peer) or state not in _STATES:
        raise DecodeError("no announcement of this version", hint="Update the older of the two nodes.")
    named = (text.get(f"a{n}", "") for n in range(ADDRESSES_MAX))
    addresses = tuple(found for found in map(_read_address, named) if found is not None)
    return Announcement(peer, text.get("run", ""), text.get("t", ""), _STATES[state], addresses)


def near_addresses(said: Announcement, networks: Iterable[ipaddress.IPv4Network]) -> tuple[tuple[str, int], ...]:
    """Return the addresses of an announcement that lie within the networks of this machine: no others are believed."""
    known = tuple(networks)
    return tuple(each for each in said.addresses if any(ipaddress.IPv4Address(each[0]) in net for net in known))


def _text(data: bytes) -> str:
    return data[:255].decode("ascii", errors="replace")


def _read_address(text: str) -> tuple[str, int] | None:
    host, _, port = text.partition(":")
    if not (port.isdecimal() and port.isascii() and len(port) <= 5 and 0 < int(port) <= 65535):
        return None
    try:
        return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Begin:
    """This node looks for a network from now on."""


@attrs.frozen
class Seen:
    """Somebody announces this under a name of its own choice; a later one replaces it."""

    name: str
    announcement: Announcement


@attrs.frozen
class Gone:
    """Nobody announces anything under that name any more."""

    name: str


@attrs.frozen
class Woke:
    """The time of the last `WakeAt` has come."""


Event: TypeAlias = Begin | Seen | Gone | Woke


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class Found:
    """Nobody is there: found the network."""


@attrs.frozen
class Join:
    """Dial these: host, port, and the peer that must answer."""

    contacts: tuple[tuple[str, int, str], ...]


@attrs.frozen
class WakeAt:
    """Send `Woke` then."""

    at: float


Command: TypeAlias = Found | Join | WakeAt


class Newcomer:
    """A node that looks for the network of its run. Ends with one `Found` or one `Join`; says nothing after it."""

    def __init__(
        self, peer: str, run: str, transport: str, networks: Iterable[ipaddress.IPv4Network], wait_s: float
    ) -> None:
        self._peer = peer
        self._run = run
        self._transport = transport
        self._networks = tuple(networks)
        self._wait_s = wait_s
        self._heard: dict[str, Announcement] = {}
        self._waits = 0
        self._over = False

    def step(self, event: Event, now: float) -> list[Command]:
        """Take one event; at most one command comes back."""
        if self._over:
            return []
        match event:
            case Begin():
                return [WakeAt(now + self._wait_s)]
            case Seen(name, announcement):
                self._hear(name, announcement)
                return self._join()
            case Gone(name):
                self._heard.pop(name, None)
                return []
            case Woke():
                return self._decide(now)

    def _hear(self, name: str, said: Announcement) -> None:
        near = near_addresses(said, self._networks)
        same = (said.run, said.transport) == (self._run, self._transport) and said.peer != self._peer
        if not same or not near:
            self._heard.pop(name, None)
        elif name in self._heard or len(self._heard) < ANNOUNCERS_MAX:
            self._heard[name] = attrs.evolve(said, addresses=near)

    def _join(self) -> list[Command]:
        members = sorted(each for each in self._heard.values() if each.member)
        if not members:
            return []
        self._over = True
        contacts = ((host, port, each.peer) for each in members for host, port in each.addresses)
        return [Join(tuple(dict.fromkeys(contacts))[:CONTACTS_MAX])]

    def _decide(self, now: float) -> list[Command]:
        """Found the network, unless a newcomer with a lower peer id shall do so."""
        self._waits += 1
        if self._waits <= PATIENCE and any(each.peer < self._peer for each in self._heard.values()):
            return [WakeAt(now + self._wait_s)]
        self._over = True
        return [Found()]
