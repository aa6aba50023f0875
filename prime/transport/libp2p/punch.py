"""A direct connection instead of a circuit through a standard relay: DCUtR (libp2p `specs/relay/DCUtR.md`), over TCP.

Each end of the circuit tells the other where its relay sees it; then both try at the same moment to make a hole (`hole.py`).
Where none can be punched the circuit stays.

Whoever was dialled through the relay begins, and is the server of the handshake on the new connection. Addresses come from
the other end: few are tried, for a few seconds, and what answers there must prove to be that peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from prime.errors import ConfigError, RemoteProtocolError
from prime.transport.contract import Identified
from prime.transport.hole import CANDIDATES_MAX, may_be_dialled
from prime.transport.libp2p.circuit import receive_message, send_message
from prime.transport.libp2p.connection import MuxedChannel
from prime.transport.multiaddr import TcpPlace, parse_address

DCUTR: Final = "/libp2p/dcutr"
IDENTIFY: Final = "/ipfs/id/1.0.0"
AGREE_S: Final = 3.0
"""How long the two ends may take to agree."""
PUNCH_S: Final = 4.0
"""How long both try."""
PROVE_S: Final = 2.0
"""How long whoever answers may take to prove its peer."""

_IDENTIFY_BYTES_MAX: Final = 1 << 14
_PROTOCOLS_MAX: Final = 256
_LISTENS_MAX: Final = 32


async def ask_where_seen(channel: MuxedChannel) -> TcpPlace | None:
    """Return where the other side of an identify stream sees this machine. Raises as `receive_message`."""
    told = await receive_message(channel, Identify, _IDENTIFY_BYTES_MAX)
    return _place(told.observed_addr)


async def ask_who(channel: MuxedChannel) -> Identified:
    """Return what the other side of an identify stream says of itself; addresses that Prime cannot dial are left out."""
    told = await receive_message(channel, Identify, _IDENTIFY_BYTES_MAX)
    addresses = (_text(raw) for raw in told.listen_addrs[:_LISTENS_MAX])
    listens = tuple(text for text in addresses if text)
    return Identified(tuple(told.protocols)[:_PROTOCOLS_MAX], listens, channel.remote)


async def begin(channel: MuxedChannel, own: Sequence[TcpPlace]) -> list[TcpPlace]:
    """Agree as the end that was dialled, and return at the moment to punch, with where the other end is."""
    asked = trio.current_time()
    await send_message(channel, _connect(own))
    theirs = _candidates(await receive_message(channel, HolePunch))
    half_s = (trio.current_time() - asked) / 2
    await send_message(channel, HolePunch(type=HolePunch.SYNC))
    await trio.sleep(half_s)
    return theirs


async def follow(channel: MuxedChannel, own: Sequence[TcpPlace]) -> list[TcpPlace]:
    """Agree as the end that dialled; as `begin`."""
    theirs = _candidates(await receive_message(channel, HolePunch))
    await send_message(channel, _connect(own))
    told = await receive_message(channel, HolePunch)
    if told.type != HolePunch.SYNC:
        raise RemoteProtocolError("the other end of a circuit gave no sign to punch")
    return theirs


def _connect(own: Sequence[TcpPlace]) -> Any:
    return HolePunch(type=HolePunch.CONNECT, ObsAddrs=[Multiaddr(str(place)).to_bytes() for place in own])


def _candidates(told: Any) -> list[TcpPlace]:
    if told.type != HolePunch.CONNECT:
        raise RemoteProtocolError("the other end of a circuit did not say where it is")
    places = (_place(raw) for raw in told.ObsAddrs[: 4 * CANDIDATES_MAX])
    return [place for place in places if place is not None][:CANDIDATES_MAX]


def _text(raw: bytes) -> str:
    """Return the text of an address that Prime knows; empty for any other."""
    try:
        return str(parse_address(str(Multiaddr(raw))))
    except (ConfigError, ValueError, LookupError):
        return ""


def _place(raw: bytes) -> TcpPlace | None:
    """Return a place that may be dialled; `None` for all else, such as this machine itself."""
    text = _text(raw)
    place = parse_address(text).place if text else None
    return place if isinstance(place, TcpPlace) and may_be_dialled(place) else None
