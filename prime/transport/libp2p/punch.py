"""A direct connection instead of a circuit: hole punching by DCUtR (libp2p `specs/relay/DCUtR.md`), over TCP.

Both ends of a circuit are behind routers that let in only answers. Each tells the other, over the circuit, where its relay
sees it; then both dial at the same moment, each from the very port that its connection to the relay was made from, so that
each router takes the other's attempt for an answer. TCP lets two attempts meet (RFC 9293 section 3.5, figure 8). Routers
that use another port for each destination cannot be punched, and the circuit stays.

Whoever was dialled through the relay begins, and is the server of the handshake on the new connection. Addresses come from
the other end: few are tried, for a few seconds, and what answers there must prove to be that peer.
"""

from __future__ import annotations

import ipaddress
import socket as os_socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import anyio
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from prime.errors import ConfigError, PrimeError, RemoteProtocolError
from prime.transport.libp2p.circuit import receive_message, send_message
from prime.transport.libp2p.connection import MuxedChannel
from prime.transport.multiaddr import TcpPlace, parse_address
from prime.transport.tcp import shared_socket

DCUTR: Final = "/libp2p/dcutr"
IDENTIFY: Final = "/ipfs/id/1.0.0"
CANDIDATES_MAX: Final = 4
CALLERS_MAX: Final = 8
AGREE_S: Final = 3.0
"""How long the two ends may take to agree."""
PUNCH_S: Final = 4.0
"""How long both try."""
ATTEMPT_S: Final = 1.0
"""How long one attempt waits before a fresh one: TCP would ask again only after 1, 3 and 7 seconds."""
PROVE_S: Final = 2.0
"""How long whoever answers may take to prove its peer."""
PAUSE_S: Final = 0.15
"""Between a refusal and the next attempt."""

_IDENTIFY_BYTES_MAX: Final = 1 << 14
_T = TypeVar("_T")


async def ask_where_seen(channel: MuxedChannel) -> TcpPlace | None:
    """Return where the other side of an identify stream sees this machine. Raises as `receive_message`."""
    told = await receive_message(channel, Identify, _IDENTIFY_BYTES_MAX)
    return _place(told.observed_addr)


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


class Hole(Generic[_T]):
    """Attempts to connect from one port of this machine, from both sides at once; `prove` makes something of one."""

    def __init__(self, port: int, prove: Callable[[trio.socket.SocketType], Awaitable[_T]]) -> None:
        self._port = port
        self._prove = prove
        self._found: list[_T] = []
        self._through = trio.Event()

    async def open(self, candidates: Sequence[TcpPlace]) -> _T | None:
        """Return what came of the first attempt that stands; `None` if none did in time."""
        with trio.move_on_after(PUNCH_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, nursery)
                for place in candidates:
                    nursery.start_soon(self._knock, place)
                await self._through.wait()
                nursery.cancel_scope.cancel()
        return self._found[0] if self._found else None

    async def _listen(self, nursery: trio.Nursery) -> None:
        """Take in what comes from behind the same router, or from one that lets everything in."""
        with suppress(OSError), shared_socket(os_socket.AF_INET, self._port) as listener:
            listener.listen(CALLERS_MAX)
            for _ in range(CALLERS_MAX):
                nursery.start_soon(self._try, (await listener.accept())[0])

    async def _knock(self, place: TcpPlace) -> None:
        """Attempt again and again: what is dropped or refused now may be let in once the other side has dialled."""
        while True:
            with suppress(OSError, trio.TooSlowError):
                with trio.fail_after(ATTEMPT_S):
                    socket = await _dial(self._port, place)
                await self._try(socket)
            await trio.sleep(PAUSE_S)

    async def _try(self, socket: trio.socket.SocketType) -> None:
        done = False
        try:
            with trio.move_on_after(PROVE_S):
                self._found.append(await self._prove(socket))
                done = True
                self._through.set()
        except (OSError, PrimeError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # somebody else, or an attempt that came to nothing
        finally:
            if not done:
                socket.close()


async def _dial(port: int, place: TcpPlace) -> trio.socket.SocketType:
    socket = shared_socket(os_socket.AF_INET6 if place.kind == "ip6" else os_socket.AF_INET, port)
    try:
        await socket.connect((place.host, place.port))
    except BaseException:
        socket.close()
        raise
    return socket


def _connect(own: Sequence[TcpPlace]) -> Any:
    return HolePunch(type=HolePunch.CONNECT, ObsAddrs=[Multiaddr(str(place)).to_bytes() for place in own])


def _candidates(told: Any) -> list[TcpPlace]:
    if told.type != HolePunch.CONNECT:
        raise RemoteProtocolError("the other end of a circuit did not say where it is")
    places = (_place(raw) for raw in told.ObsAddrs[: 4 * CANDIDATES_MAX])
    return [place for place in places if place is not None][:CANDIDATES_MAX]


def _place(raw: bytes) -> TcpPlace | None:
    """Return a place that may be dialled; `None` for all else, such as this machine itself."""
    try:
        place = parse_address(str(Multiaddr(raw))).place
        if not isinstance(place, TcpPlace):
            return None
        host = ipaddress.ip_address(place.host)
    except (ConfigError, ValueError, LookupError):
        return None
    usable = place.port and not (host.is_loopback or host.is_multicast or host.is_unspecified)
    return place if usable else None
