"""Circuits as their ends see them: asking a relay for one, and taking one up.

A `Dialler` belongs to one opened endpoint, of whatever transport. It connects to the relay like to anybody else, says what
it wants (`preface.py`), and secures what it is given (`circuit.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import anyio
import trio

from prime.actor.contract import PeerId
from prime.errors import ConfigError, DecodeError, RefusedError, UnreachableError
from prime.transport.contract import DIAL_TIMEOUT_S, Channel, Endpoint, innermost, let_go
from prime.transport.facts import CircuitMoved, HolePunchFailed
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import CircuitPlace, parse_address
from prime.transport.relay.circuit import CircuitChannel, secure
from prime.transport.relay.ledger import Refusal
from prime.transport.relay.preface import (
    SIZE_BYTES,
    Answer,
    Connect,
    Request,
    TakeUp,
    pack_request,
    read_answer,
    size_of,
)
from prime.transport.relay.punch import Ends, Punch, Puncher, Spawn
from prime.transport.tcp import TcpChannel
from prime.transport.tls import Credentials, open_credentials

_HINTS: Final = {
    Refusal.ABSENT: "That node runs no more, or reserves at another relay: ask it for its addresses.",
    Refusal.FULL: "Try again later, or through another relay.",
    Refusal.OFTEN: "Wait a minute, or use another relay.",
    Refusal.DECLINED: "That node does not let you in: ask its operator.",
    Refusal.SILENT: "That node is too busy, or has just lost its link to the relay: try again.",
    Refusal.UNKNOWN: "It came too late: wait for the next.",
}


class Dialler:
    """Makes circuits over an endpoint, as the owner of `key`. Close it before the endpoint.

    With `spawn`, which runs a task, it has circuits replaced by direct connections where holes can be punched; `emit` hears
    how that went.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        key: KeyPair,
        *,
        timeout_s: float = DIAL_TIMEOUT_S,
        spawn: Spawn | None = None,
        emit: Callable[[Any], None] = lambda _fact: None,
    ) -> None:
        self._endpoint = endpoint
        self._spawn = spawn
        within = innermost(endpoint)
        self._puncher = within if spawn is not None and isinstance(within, Puncher) else None
        self._emit = emit
        self._key = key
        self._timeout_s = timeout_s
        self._stack = ExitStack()
        self._loaded: Credentials | None = None
        self._channels: set[CircuitChannel] = set()
        self._closed = False

    @property
    def circuits(self) -> int:
        """Return how many circuits are open here."""
        return len(self._channels)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """Open a circuit to the peer that `address` names. Raises as `Endpoint.dial`, and `RefusedError`."""
        wanted = parse_address(address).expecting(peer)
        if not isinstance(wanted.place, CircuitPlace):
            raise UnreachableError(f"{address} leads through no relay.", hint="Dial it over the transport it names.")
        if wanted.peer is None:
            raise ConfigError(f"{address} does not say who is behind the relay.", hint="Add /p2p/ and the peer's id.")
        with trio.move_on_after(self._timeout_s):
            return await self._open(str(wanted.place.relay), Connect(wanted.peer), wanted.peer)
        raise UnreachableError(
            f"{address} did not answer within {self._timeout_s:g} s.", hint="Try again, or another relay."
        )

    async def take_up(self, relay: str, circuit: int, token: bytes) -> Channel:
        """Connect to the relay at `relay` and be the other end of a circuit that it offers. Raises as `dial`."""
        with trio.move_on_after(self._timeout_s):
            return await self._open(relay, TakeUp(circuit, token), None)
        raise UnreachableError(f"circuit {circuit} at {relay} was not ready in time.", hint="Wait for the next.")

    def close(self) -> None:
        """Make no more circuits; those that are open end with the endpoint."""
        self._closed = True
        self._stack.close()

    async def _open(self, relay: str, request: Request, expected: PeerId | None) -> CircuitChannel:
        puncher = self._puncher
        way = await (self._endpoint.dial(relay) if puncher is None else puncher.dial_shared(relay))
        try:
            answer = await self._ask(way, relay, request)
            dialled = isinstance(request, Connect)
            session = await secure(way, self._credentials(), server_side=not dialled, expected=expected)
        except BaseException:
            await let_go(way)
            raise
        circuit = CircuitChannel(way, session, self._channels)
        if isinstance(way, TcpChannel) and puncher is not None and self._spawn is not None and answer.remote:
            ends = Ends(way.local, answer.remote)
            circuit.on_moved = lambda: self._moved(circuit)
            Punch(
                circuit,
                puncher,
                ends,
                dialled=dialled,
                spawn=self._spawn,
                ended=lambda why: self._punched(circuit, why),
            )
        return circuit

    def _moved(self, circuit: CircuitChannel) -> None:
        self._emit(CircuitMoved(circuit.peer, circuit.remote))
        if self._spawn is not None:
            self._spawn(circuit.leave_relay)

    def _punched(self, circuit: CircuitChannel, failure: str) -> None:
        if failure:
            self._emit(HolePunchFailed(circuit.peer, failure))

    async def _ask(self, way: Channel, relay: str, request: Request) -> Answer:
        try:
            await way.send(pack_request(request))
            answer = read_answer(await receive_body(way))
        except (anyio.BrokenResourceError, anyio.EndOfStream, DecodeError) as error:
            raise UnreachableError(
                f"{relay} gave no answer of a relay ({type(error).__name__}).",
                hint="That node relays for nobody: name one that was started with --relay.",
            ) from error
        if answer.refusal:
            raise _refusal(answer, relay)
        return answer

    def _credentials(self) -> Credentials:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._loaded is None:
            self._loaded = self._stack.enter_context(open_credentials(self._key))
        return self._loaded


def _refusal(answer: Answer, relay: str) -> RefusedError | UnreachableError:
    kind = UnreachableError if answer.refusal in (Refusal.ABSENT, Refusal.SILENT) else RefusedError
    known = {int(refusal): hint for refusal, hint in _HINTS.items()}
    text = "".join(filter(str.isprintable, answer.text))
    return kind(f"the relay {relay} made no circuit: {text}", hint=known.get(answer.refusal, "Try another relay."))


async def receive_body(channel: Channel) -> bytes:
    """Receive one sized body and not a byte more: what follows is somebody else's. Raises `DecodeError` for its size."""
    return await _receive_exactly(channel, size_of(await _receive_exactly(channel, SIZE_BYTES)))


async def _receive_exactly(channel: Channel, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await channel.receive(size - len(data))
    return data
