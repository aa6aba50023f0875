"""Addresses as the DHT judges them: how near they are, whose they may be, and which share a group. Pure.

A group is what one owner easily has much of: an IPv4 /16 or an IPv6 /32 (go-libp2p's `peerdiversity`). Of a group only a
few contacts get into a table, and only so many records. A peer may vouch for addresses that are as public as its own, and
for more public ones: what is private there may be another machine here, and what is loopback there would be this one.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from prime.errors import ConfigError
from prime.transport.multiaddr import CircuitPlace, LayeredPlace, MemoryPlace, Place, TcpPlace, UnixPlace, parse_once

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_GROUP_BITS: Final = {4: 16, 6: 32}
_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")
_OWN_NAME: Final = re.compile(r"(.+\.)?localhost\.?|(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+))*\.?", re.IGNORECASE)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Scope(enum.IntEnum):
    """From how far away an address can be reached. Who is seen at one scope may name addresses of it and of greater ones."""

    NEVER = 0
    """Nobody can be dialled there: multicast, unspecified, reserved, port 0, or no address at all."""
    MACHINE = 1
    """Loopback, a local socket, or memory: this machine."""
    SITE = 2
    """Private, link-local or shared (RFC 1918, 4193, 6598), or a name, which may stand for any of these."""
    PUBLIC = 3


@functools.lru_cache(maxsize=8192)
def scope_of(address: str) -> Scope:
    """Return how far an address reaches; behind a relay that of the relay's."""
    place = _place(address)
    if place is None:
        return Scope.NEVER
    if isinstance(place, UnixPlace | MemoryPlace):
        return Scope.MACHINE
    ip = _ip(place)
    if getattr(place, "port", 1) == 0:
        return Scope.NEVER
    return _scope_of_name(getattr(place, "host", "")) if ip is None else _scope_of_ip(ip)


def _scope_of_name(host: str) -> Scope:
    """Return the scope of a name: this machine for what a resolver takes for it, or for an address in whatever digits."""
    return Scope.MACHINE if _OWN_NAME.fullmatch(host) else Scope.SITE


def _scope_of_ip(ip: _Ip) -> Scope:
    if ip.is_loopback:
        return Scope.MACHINE
    if ip.is_multicast or ip.is_unspecified or ip.is_reserved or ip in _THIS_NETWORK:
        return Scope.NEVER
    return Scope.PUBLIC if ip.is_global else Scope.SITE


@functools.lru_cache(maxsize=8192)
def group_of(address: str) -> str:
    """Return the group of an address, such as `203.0.0.0/16`; empty for one that has no IP address in it.

    Behind a relay it is that of the relay's: to have many ids there costs no more than to have them at one address.
    """
    place = _place(address)
    ip = None if place is None else _ip(place)
    return "" if ip is None else str(ipaddress.ip_network((ip, _GROUP_BITS[ip.version]), strict=False))


def counted_group(address: str) -> str:
    """Return the group of a public address, and an empty text for others.

    Machines of one site, or nodes of one machine, share a group by their nature, and strangers do not get there.
    """
    return group_of(address) if scope_of(address) is Scope.PUBLIC else ""


def vouched(addresses: Iterable[str], seen_at: str) -> tuple[str, ...]:
    """Return those of `addresses` that a peer may name which was seen at `seen_at`: none that is nearer than it is itself.

    They may be its own or those in a contact that it hands on. An empty `seen_at` counts as public, as nothing is known.
    """
    least = scope_seen(seen_at)
    return tuple(address for address in addresses if scope_of(address) >= least)


def scope_seen(seen_at: str) -> Scope:
    """Return the least scope of what a peer may vouch for, and what it could dial itself."""
    return max(scope_of(seen_at), Scope.MACHINE) if seen_at else Scope.PUBLIC


def _place(address: str) -> Place | None:
    """Return the place that an address would have somebody dial first."""
    try:
        place = parse_once(address).place
    except ConfigError:
        return None
    while isinstance(place, CircuitPlace):
        place = place.relay.place
    return place


def _ip(place: Place) -> _Ip | None:
    """Return the IP address of a place; of an IPv6 address that stands for an IPv4 one, the latter."""
    if not isinstance(place, TcpPlace | LayeredPlace) or place.kind not in {"ip4", "ip6"}:
        return None
    ip = ipaddress.ip_address(place.host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return _embedded(ip) or ip
    return ip


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
