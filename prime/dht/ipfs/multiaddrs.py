"""Addresses in their binary form, as libp2p's messages carry them (multiformats, "multiaddr" and "multicodec"). Pure.

Only those that Prime's libp2p transport dials have one here: a host, a TCP port, and perhaps a relay's circuit.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Final

from prime.actor.contract import PeerId
from prime.dht.ipfs.protobuf import read_varint, varint
from prime.errors import ConfigError, DecodeError
from prime.transport.multiaddr import Address, CircuitPlace, Place, TcpPlace, parse_address
from prime.transport.peer import peer_bytes, peer_of_bytes

BYTES_MAX: Final = 512
PARTS_MAX: Final = 8
_TCP, _P2P, _CIRCUIT = 6, 421, 290
_NAMES: Final = {4: "ip4", 41: "ip6", 53: "dns", 54: "dns4", 55: "dns6"}
_CODES: Final = {name: code for code, name in _NAMES.items()}
_WIDTHS: Final = {4: 4, 41: 16, _TCP: 2, _CIRCUIT: 0}


@functools.lru_cache(maxsize=4096)
def address_bytes(text: str) -> bytes | None:
    """Return the binary form of an address; `None` for one of another kind."""
    try:
        return _address_bytes(parse_address(text))
    except ConfigError:
        return None


def _address_bytes(address: Address) -> bytes | None:
    place = _place_bytes(address.place)
    if place is None or address.peer is None:
        return place
    peer = peer_bytes(address.peer)
    return place + varint(_P2P) + varint(len(peer)) + peer


def _place_bytes(place: Place) -> bytes | None:
    match place:
        case TcpPlace(kind, host, port):
            name = host.encode()
            raw = varint(len(name)) + name if kind.startswith("dns") else ipaddress.ip_address(host).packed
            return varint(_CODES[kind]) + raw + varint(_TCP) + port.to_bytes(2, "big")
        case CircuitPlace(relay):
            through = _address_bytes(relay)
            return None if through is None else through + varint(_CIRCUIT)
    return None


def read_address(data: bytes, peer: PeerId) -> str | None:
    """Return where bytes say that `peer` is, as a text with its id; `None` for what cannot be dialled or names another."""
    return _read(data, peer) if len(data) <= BYTES_MAX else None


@functools.lru_cache(maxsize=4096)  # the same peers come in answer after answer
def _read(data: bytes, peer: PeerId) -> str | None:
    try:
        return str(parse_address(_text(data)).expecting(peer))
    except (ConfigError, DecodeError):
        return None


def _text(data: bytes) -> str:
    """Return the text of an address. Raises `DecodeError`, `ConfigError`."""
    parts, at = [""], 0
    while at < len(data) and len(parts) <= 2 * PARTS_MAX:
        code, at = read_varint(data, at)
        size, at = (_WIDTHS[code], at) if code in _WIDTHS else read_varint(data, at)
        if size > len(data) - at:
            raise DecodeError("an address that ends too early", hint="its sender is broken or hostile")
        parts += _words(code, data[at : at + size])
        at += size
    return "/".join(parts)


def _words(code: int, raw: bytes) -> list[str]:
    if code == _TCP:
        return ["tcp", str(int.from_bytes(raw, "big"))]
    if code == _P2P:
        return ["p2p", peer_of_bytes(raw)]
    if code == _CIRCUIT:
        return ["p2p-circuit"]
    if code not in _NAMES:
        raise DecodeError(f"an address of the kind {code}", hint="Prime's libp2p transport dials TCP")
    name = _NAMES[code]
    return [name, raw.decode(errors="replace") if name.startswith("dns") else str(ipaddress.ip_address(raw))]
