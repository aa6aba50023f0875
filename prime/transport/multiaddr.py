"""Addresses as text: the few multiaddrs that Prime's transports speak, parsed without any dependency.

::

    /ip4/127.0.0.1/tcp/4001             /ip6/::1/tcp/4001           /dns4/example.org/tcp/4001   (dns, dns4, dns6)
    /unix/run/user/1000/node.sock       (the rest of the text is the absolute path /run/user/1000/node.sock)
    /memory/alice
    /ip4/127.0.0.1/tcp/443/tls/ws       (what a transport that is not Prime's own speaks behind a port, tcp or udp)
    <address of a relay>/p2p/<relay>/p2p-circuit        (a node that can be reached only through that relay)

Each may end in `/p2p/<peer id>`, the identity that must answer there. A socket's path whose last folder is `p2p` cannot
be written: a mistyped peer id shall be an error, not a path.
"""

from __future__ import annotations

import functools
import ipaddress
import re

import attrs

from prime.actor.contract import PeerId
from prime.errors import ConfigError
from prime.transport.peer import parse_peer

_HINT = "Write /ip4/HOST/tcp/PORT, /ip6/HOST/tcp/PORT, /dns4/NAME/tcp/PORT, /unix/PATH or /memory/NAME, then /p2p/ID."
_CIRCUIT = "/p2p-circuit"
_CIRCUIT_HINT = "Write <address of the relay>/p2p/<relay's id>/p2p-circuit/p2p/<id of the node behind it>."
_LENGTH_MAX = 1024
_PEER_SUFFIX = re.compile(r"^(?P<place>.*)/p2p/(?P<peer>[^/]*)$")
_HOST_NAME = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?$")
_LAYER = re.compile(r"^[a-z0-9][a-z0-9-]{0,31}$")
_MEMORY_NAME = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


@attrs.frozen
class TcpPlace:
    """A host and a TCP port; port 0 means any free one and can only be listened on."""

    kind: str  # ip4, ip6, dns, dns4 or dns6
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"


@attrs.frozen
class UnixPlace:
    """The absolute path of a local socket."""

    path: str

    def __str__(self) -> str:
        return f"/unix{self.path}"


@attrs.frozen
class MemoryPlace:
    """A name within one memory network; empty only where the network shall choose."""

    name: str

    def __str__(self) -> str:
        return f"/memory/{self.name}"


@attrs.frozen
class LayeredPlace:
    """What another transport speaks at a host's port: layers of lower-case words behind it, such as `tls` and `ws`."""

    kind: str  # ip4, ip6, dns, dns4 or dns6
    host: str
    protocol: str  # tcp or udp
    port: int
    layers: tuple[str, ...]

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/{self.protocol}/{self.port}/{'/'.join(self.layers)}"


@attrs.frozen
class CircuitPlace:
    """Behind a relay: the relay's own address, which names the relay's peer."""

    relay: Address

    def __str__(self) -> str:
        return f"{self.relay}{_CIRCUIT}"


Place = TcpPlace | LayeredPlace | UnixPlace | MemoryPlace | CircuitPlace


@attrs.frozen
class Address:
    """Where, and (if known) who. `str()` gives the text back."""

    place: Place
    peer: PeerId | None = None

    def __str__(self) -> str:
        return f"{self.place}/p2p/{self.peer}" if self.peer else str(self.place)

    def expecting(self, peer: PeerId | None) -> Address:
        """Return the address with the identity that must answer. `ConfigError` if it names another already."""
        if peer and self.peer and peer != self.peer:
            raise ConfigError(
                f"The address {self} names another peer than the one to be dialled, {peer}.",
                hint="Drop the /p2p/ part, or dial the peer that it names.",
            )
        return attrs.evolve(self, peer=peer or self.peer)


@functools.lru_cache(maxsize=4096)
def parse_address(text: str) -> Address:
    """Parse a multiaddr. Raises `ConfigError` saying which part is wrong."""
    return parse_once(text)


def is_circuit(text: str) -> bool:
    """Tell whether a text is the address of a node behind a relay."""
    try:
        return isinstance(parse_address(text).place, CircuitPlace)
    except ConfigError:
        return False


def parse_once(text: str) -> Address:
    """As `parse_address`, for a text that is not met again: one with the port of a single connection."""
    if len(text) > _LENGTH_MAX or not text.startswith("/") or not text.isprintable():
        raise _malformed(text, "it does not begin with a slash" if not text.startswith("/") else "it is no clean text")
    found = _PEER_SUFFIX.match(text)
    peer = parse_peer(found["peer"]) if found else None
    return Address(_parse_place(found["place"] if found else text, text), peer)


def _parse_place(place: str, text: str) -> Place:
    if place.endswith(_CIRCUIT):
        return _circuit_place(place.removesuffix(_CIRCUIT), text)
    protocol, _, value = place[1:].partition("/")
    if protocol == "unix":
        return _unix_place(value, text)
    if protocol == "memory":
        return _memory_place(value, text)
    if protocol in {"ip4", "ip6", "dns", "dns4", "dns6"}:
        return _port_place(protocol, value, text)
    raise _malformed(text, f"/{protocol[:32]} is no protocol that Prime dials")


def _circuit_place(relay: str, text: str) -> CircuitPlace:
    if _CIRCUIT in relay:
        raise _malformed(text, "a circuit leads through one relay", _CIRCUIT_HINT)
    address = parse_address(relay)
    if address.peer is None:
        raise _malformed(text, f"before {_CIRCUIT} the relay's /p2p/ID is missing", _CIRCUIT_HINT)
    return CircuitPlace(address)


def _unix_place(value: str, text: str) -> UnixPlace:
    if not value or value.endswith("/"):
        raise _malformed(text, "the path of the socket is missing")
    return UnixPlace("/" + value)


def _memory_place(value: str, text: str) -> MemoryPlace:
    if not _MEMORY_NAME.match(value):
        raise _malformed(text, "a memory name has 1 to 64 letters, digits, dots, dashes or underscores")
    return MemoryPlace(value)


def _port_place(kind: str, value: str, text: str) -> TcpPlace | LayeredPlace:
    match value.split("/"):
        case [host, "tcp", port]:
            return TcpPlace(kind, _host(kind, host, text), _port(port, text))
        case [host, "tcp" | "udp" as protocol, port, *layers] if layers and all(map(_LAYER.match, layers)):
            return LayeredPlace(kind, _host(kind, host, text), protocol, _port(port, text), tuple(layers))
        case _:
            raise _malformed(
                text, f"after /{kind}/HOST comes /tcp/PORT, and then at most the words of another transport"
            )


def _host(kind: str, host: str, text: str) -> str:
    if kind.startswith("dns"):
        if not _HOST_NAME.match(host):
            raise _malformed(text, f"{host[:64]!r} is no host name")
        return host
    try:
        return str(ipaddress.IPv4Address(host) if kind == "ip4" else ipaddress.IPv6Address(host))
    except ValueError:
        raise _malformed(text, f"{host[:64]!r} is no {'IPv4' if kind == 'ip4' else 'IPv6'} address") from None


def _port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise _malformed(text, f"{port[:16]!r} is no port between 0 and 65535")
    return int(port)


def _malformed(text: str, why: str, hint: str = _HINT) -> ConfigError:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return ConfigError(f"{shown!r} is no address: {why}.", hint=hint)
