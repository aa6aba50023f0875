"""Hole punching: two nodes behind routers get a direct TCP connection by dialling each other at the same moment.

A router that gives a port of this machine the same port outside for all that it dials, as most homes' do, lets in what
comes from where this machine has just dialled. So both ends of a circuit dial the place where the relay sees the other,
each from the very port that its own connection to the relay was made from; each router takes the other's attempt for an
answer. TCP allows two attempts to meet (RFC 9293 section 3.5, figure 8). The agreement travels as control messages in the
circuit, as in libp2p's DCUtR; see spec/protocols/relay.md, section 5. Routers with another port for each destination
("symmetric") cannot be punched, and the circuit stays.
"""

from __future__ import annotations

import secrets
import socket as os_socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, Protocol, runtime_checkable

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import ConfigError, DecodeError, WorldError
from prime.transport.contract import CLOSE_TIMEOUT_S, Channel
from prime.transport.multiaddr import Place, TcpPlace, parse_once
from prime.transport.relay.circuit import CircuitChannel
from prime.transport.tcp import TcpChannel, shared_socket
from prime.wire import dumps, loads

CANDIDATES_MAX: Final = 4
NONCE_BYTES: Final = 16
PUNCH_S: Final = 8.0
"""How long the end that chooses tries; the other goes on a little longer, so that no choice comes too late."""
CHOICE_S: Final = 5.0
"""How much longer."""
PROVE_S: Final = 3.0
"""How long the ends of a connection have to prove themselves."""
ATTEMPT_S: Final = 1.0
"""How long one attempt waits before a fresh one: TCP would ask again only after 1, 3 and 7 seconds."""
PAUSE_S: Final = 0.15
"""Between the first refusal and the next attempt; the pauses grow up to that of an attempt that hears nothing."""
PAUSE_GROWTH: Final = 1.2
STRANGERS_MAX: Final = 2
"""Connections to one candidate that stood and were not the peer's: whoever is there is left alone then."""
AGREE_S: Final = 5.0

_OFFER, _COUNTER, _NOW = 1, 2, 3


Spawn = Callable[[Callable[[], Awaitable[None]]], None]
"""What runs a task beside a link."""


@runtime_checkable
class Puncher(Protocol):
    """What an endpoint must offer to punch holes: `Tcp`'s does."""

    async def dial_shared(self, address: str, peer: PeerId | None = None) -> TcpChannel:
        """Dial from a port that further connections can be made from."""
        ...

    async def adopt(self, socket: trio.socket.SocketType, peer: PeerId, *, server_side: bool) -> TcpChannel:
        """Make a channel of a connected socket."""
        ...


@attrs.frozen
class Ends:
    """One end of a circuit as the relay and this machine see it: places as text."""

    local: str
    seen: str

    @property
    def candidates(self) -> tuple[str, ...]:
        """Where the other end shall dial: where the relay sees this one, and where it is on its own network."""
        return tuple(dict.fromkeys(filter(None, (self.seen, self.local))))


@attrs.frozen
class Message:
    """What one end of a circuit says to the other."""

    kind: int
    nonce: bytes
    candidates: tuple[str, ...] = ()


def pack(kind: int, nonce: bytes, candidates: tuple[str, ...] = ()) -> bytes:
    """Return a control message."""
    return dumps([kind, nonce, list(candidates)])


def read(body: bytes) -> Message:
    """Return the control message in a body. Raises `DecodeError`."""
    match loads(body):
        case [int(kind), bytes(nonce), list(candidates), *_] if len(nonce) == NONCE_BYTES:
            return Message(kind, nonce, tuple(filter(_is_candidate, candidates[:CANDIDATES_MAX])))
        case _:
            raise DecodeError("no control message of a circuit")


def _is_candidate(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    try:
        place = parse_once(text).place
    except ConfigError:
        return False
    return isinstance(place, TcpPlace) and place.kind in {"ip4", "ip6"} and place.port > 0


class Punch:
    """The agreement of one circuit's end, and the punching that follows. `spawn` runs its tasks; `ended` hears how it went.

    The end that dialled the circuit begins, and is TLS' client on the direct connection, whoever's attempt it was.
    """

    def __init__(
        self,
        circuit: CircuitChannel,
        endpoint: Puncher,
        ends: Ends,
        *,
        dialled: bool,
        spawn: Spawn,
        ended: Callable[[str], None],
    ) -> None:
        self._circuit = circuit
        self._endpoint = endpoint
        self._ends = ends
        self._dialled = dialled
        self._spawn = spawn
        self._ended = ended
        self._nonce = secrets.token_bytes(NONCE_BYTES) if dialled else b""
        self._answered = trio.Event()
        self._now = trio.Event()
        self._theirs: tuple[str, ...] = ()
        self._scope = trio.CancelScope()
        circuit.on_control = self._heard
        circuit.on_closed = self._scope.cancel
        if dialled:
            spawn(self._begin)

    def _heard(self, body: bytes) -> None:
        """Take in a control message; anything out of turn is left alone, as are versions to come."""
        try:
            message = read(body)
        except DecodeError:
            return
        if self._dialled and message.kind == _COUNTER and message.nonce == self._nonce:
            self._theirs = self._theirs or message.candidates
            self._answered.set()
        elif not self._dialled and message.kind == _OFFER and not self._nonce:
            self._nonce, self._theirs = message.nonce, message.candidates
            self._spawn(self._follow)
        elif not self._dialled and message.kind == _NOW and message.nonce == self._nonce:
            self._now.set()

    async def _begin(self) -> None:
        """Offer, wait for the other's places, say when, and punch after the half of a round trip."""
        with self._scope, suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            asked = trio.current_time()
            with trio.move_on_after(AGREE_S):
                await self._circuit.send_control(pack(_OFFER, self._nonce, self._ends.candidates))
                await self._answered.wait()
                half_s = (trio.current_time() - asked) / 2
                await self._circuit.send_control(pack(_NOW, self._nonce))
                await trio.sleep(half_s)
                self._now.set()
            await self._punch()

    async def _follow(self) -> None:
        with self._scope, suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            with trio.move_on_after(AGREE_S):
                await self._circuit.send_control(pack(_COUNTER, self._nonce, self._ends.candidates))
                await self._now.wait()
            await self._punch()

    async def _punch(self) -> None:
        if not self._now.is_set():
            self._ended(f"the other end did not agree within {AGREE_S:g} s")
            return
        hole = Hole(self._endpoint, self._ends.local, self._circuit.peer, self._nonce, dialled=self._dialled)
        direct = await hole.open(self._theirs)
        if direct is None:
            self._ended(f"no attempt got through within {PUNCH_S:g} s: a router or a firewall is in the way")
            return
        try:
            await self._circuit.move(direct)
        except BaseException:
            await _let_go(direct)
            raise
        self._ended("")


class Hole:
    """Attempts to connect with `peer` from one port of this machine, from both sides at once."""

    def __init__(self, endpoint: Puncher, local: str, peer: PeerId, nonce: bytes, *, dialled: bool) -> None:
        self._endpoint = endpoint
        self._place = parse_once(local).place
        self._peer = peer
        self._nonce = nonce
        self._dialled = dialled
        self._through = trio.Event()
        self._places = trio.Semaphore(2 * CANDIDATES_MAX)  # of callers: strangers may come by the thousand
        self._channels: list[TcpChannel] = []
        self._chosen: TcpChannel | None = None

    async def open(self, candidates: Sequence[str]) -> TcpChannel | None:
        """Return the connection that both sides chose; `None` if no attempt got through in time."""
        try:
            with trio.move_on_after(PUNCH_S if self._dialled else PUNCH_S + CHOICE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, nursery)
                    for candidate in candidates[:CANDIDATES_MAX]:
                        place = parse_once(candidate).place
                        if isinstance(place, TcpPlace) and may_be_dialled(place, self._place):
                            nursery.start_soon(self._knock, place)
                    await self._through.wait()
                    nursery.cancel_scope.cancel()
        except BaseException:
            self._chosen = None
            raise
        finally:
            for channel in self._channels:
                if channel is not self._chosen:
                    channel.close_nowait()
        return self._chosen

    def _socket(self) -> trio.socket.SocketType:
        if not isinstance(self._place, TcpPlace):
            raise OSError("no TCP port to punch from")
        family = os_socket.AF_INET6 if self._place.kind == "ip6" else os_socket.AF_INET
        return shared_socket(family, self._place.port)

    async def _listen(self, nursery: trio.Nursery) -> None:
        """Take in what comes from behind the same router, or from one that lets everything in."""
        with suppress(OSError), self._socket() as listener:
            listener.listen(CANDIDATES_MAX)
            while len(self._channels) < 2 * CANDIDATES_MAX:
                await self._places.acquire()
                nursery.start_soon(self._try_caller, (await listener.accept())[0])

    async def _try_caller(self, socket: trio.socket.SocketType) -> None:
        try:
            await self._try(socket)
        finally:
            self._places.release()

    async def _knock(self, place: TcpPlace) -> None:
        """Attempt again and again: what is dropped or refused now may be let in once the other side has dialled."""
        pause_s, strangers = PAUSE_S, 0
        while strangers < STRANGERS_MAX:
            try:
                socket = self._socket()
            except OSError:
                return
            try:
                with trio.move_on_after(ATTEMPT_S) as scope:
                    await socket.connect((place.host, place.port))
            except OSError:
                socket.close()
                await trio.sleep(pause_s)
                pause_s = min(pause_s * PAUSE_GROWTH, ATTEMPT_S)
                continue
            except BaseException:
                socket.close()
                raise
            if scope.cancelled_caught:
                socket.close()
            else:
                await self._try(socket)
                strangers += 1

    async def _try(self, socket: trio.socket.SocketType) -> None:
        """Prove the ends of a connection that stands, and choose it if it is the first."""
        with suppress(WorldError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            with trio.move_on_after(PROVE_S) as scope:
                try:
                    channel = await self._endpoint.adopt(socket, self._peer, server_side=not self._dialled)
                except BaseException:
                    socket.close()
                    raise
            if not scope.cancelled_caught:
                self._channels.append(channel)
                await (self._choose if self._dialled else self._follow)(channel)

    async def _choose(self, channel: TcpChannel) -> None:
        """Decide for both: whoever says so on a connection that stands has to move there, and so has who hears it."""
        if self._chosen is None:
            self._chosen = channel
            try:
                await channel.send(self._nonce)
            except BaseException:
                self._chosen = None
                raise
            self._through.set()

    async def _follow(self, channel: TcpChannel) -> None:
        if await _receive_nonce(channel) == self._nonce and self._chosen is None:
            self._chosen = channel
            self._through.set()


def may_be_dialled(place: TcpPlace, own: Place) -> bool:
    """Tell whether a peer's word may have an end at `own` dial `place`: not what only this machine, or a link, can reach.

    Loopback is fair between two ends that reached the relay over it.
    """
    address = ip_address(place.host)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return isinstance(own, TcpPlace) and ip_address(own.host).is_loopback
    return not (address.is_unspecified or address.is_link_local or address.is_multicast or address.is_reserved)


async def _receive_nonce(channel: TcpChannel) -> bytes:
    data = b""
    while len(data) < NONCE_BYTES:
        data += await channel.receive(NONCE_BYTES - len(data))
    return data


async def _let_go(channel: Channel) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
        await channel.aclose()
