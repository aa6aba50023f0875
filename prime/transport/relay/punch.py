"""Hole punching over Prime's own relay: two ends of a circuit agree to make a hole (`hole.py`), and which one they take.

Each tells the other where the relay sees it; then both try at the same moment. The agreement travels as control messages in
the circuit, as in libp2p's DCUtR; see spec/protocols/relay.md, section 5. Where no hole can be punched the circuit stays.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, runtime_checkable

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import ConfigError, DecodeError
from prime.transport.contract import let_go
from prime.transport.hole import CANDIDATES_MAX, Hole
from prime.transport.multiaddr import Place, TcpPlace, parse_once
from prime.transport.relay.circuit import CircuitChannel
from prime.transport.tcp import TcpChannel
from prime.wire import dumps, loads

NONCE_BYTES: Final = 16
PUNCH_S: Final = 8.0
"""How long the end that chooses tries; the other goes on a little longer, so that no choice comes too late."""
CHOICE_S: Final = 5.0
"""How much longer."""
PROVE_S: Final = 3.0
"""How long the ends of a connection have to prove themselves."""
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
        hole = AgreedHole(self._endpoint, self._ends.local, self._circuit.peer, self._nonce, dialled=self._dialled)
        direct = await hole.open(self._theirs)
        if direct is None:
            self._ended(f"no attempt got through within {PUNCH_S:g} s: a router or a firewall is in the way")
            return
        try:
            await self._circuit.move(direct)
        except BaseException:
            await let_go(direct)
            raise
        self._ended("")


class AgreedHole:
    """A hole to `peer` on which both ends agree: the one that dialled the circuit chooses, by the nonce on a connection."""

    def __init__(self, endpoint: Puncher, local: str, peer: PeerId, nonce: bytes, *, dialled: bool) -> None:
        self._endpoint = endpoint
        self._place = parse_once(local).place
        self._peer = peer
        self._nonce = nonce
        self._dialled = dialled
        self._channels: list[TcpChannel] = []
        self._chosen: TcpChannel | None = None

    async def open(self, candidates: Sequence[str]) -> TcpChannel | None:
        """Return the connection that both sides chose; `None` if no attempt got through in time."""
        if not isinstance(self._place, TcpPlace):
            return None
        opened = None
        places = [place for place in map(_place, candidates) if isinstance(place, TcpPlace)]
        hole = Hole(self._place, self._prove, PUNCH_S if self._dialled else PUNCH_S + CHOICE_S)
        try:
            opened = await hole.open(places)
        finally:
            for channel in self._channels:
                if channel is not opened:
                    channel.close_nowait()
        return opened

    async def _prove(self, socket: trio.socket.SocketType) -> TcpChannel:
        """Prove the ends of a connection that stands, and choose it if it is the first."""
        with trio.fail_after(PROVE_S):
            channel = await self._endpoint.adopt(socket, self._peer, server_side=not self._dialled)
        self._channels.append(channel)
        await (self._choose if self._dialled else self._follow)(channel)
        return channel

    async def _choose(self, channel: TcpChannel) -> None:
        """Decide for both: whoever says so on a connection that stands has to move there, and so has who hears it."""
        self._take(channel)
        try:
            await channel.send(self._nonce)
        except BaseException:
            self._chosen = None
            raise

    async def _follow(self, channel: TcpChannel) -> None:
        if await _receive_nonce(channel) != self._nonce:
            raise DecodeError("another nonce on a connection through a hole")
        self._take(channel)

    def _take(self, channel: TcpChannel) -> None:
        if self._chosen is not None:
            raise anyio.ClosedResourceError("another connection was chosen")
        self._chosen = channel


def _place(candidate: str) -> Place:
    return parse_once(candidate).place


async def _receive_nonce(channel: TcpChannel) -> bytes:
    data = b""
    while len(data) < NONCE_BYTES:
        data += await channel.receive(NONCE_BYTES - len(data))
    return data
