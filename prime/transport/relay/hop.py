"""The relay's side of circuits: connections come in, the ledger decides, and bytes are moved between two of them.

Nothing is queued here: each direction reads a little, waits until the next node has taken it, and then as long as the rates
of the ledger say. So a circuit whose reader sleeps holds one read, and the sender waits behind it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import attrs
import trio

from prime.errors import RemoteProtocolError
from prime.transport.admission import source_at
from prime.transport.contract import CLOSE_TIMEOUT_S, Channel, let_go
from prime.transport.facts import CircuitClosed, CircuitOpened
from prime.transport.messages import TOKEN_BYTES
from prime.transport.relay import ledger as core
from prime.transport.relay.dialler import receive_body
from prime.transport.relay.ledger import Ledger, Refusal
from prime.transport.relay.limits import RelayLimits
from prime.transport.relay.preface import Answer, Connect, Request, TakeUp, pack_answer, read_request, refused

READ_BYTES: Final = 1 << 14
"""Read at once from one direction: at most one TLS record, so that the relay's own traffic waits for no more."""
REQUEST_S: Final = 5.0
"""How long a caller has to say what it wants."""
ENTERING_MAX: Final = 64
ENTERING_PER_PEER_MAX: Final = 8
"""Callers that have not said yet what they want."""


@attrs.define(eq=False)
class _Circuit:
    """A circuit at the relay: its near end asked for it, its far end takes it up."""

    number: int
    source: str
    target: str
    near: Channel
    far: Channel | None = None
    settled: trio.Event = attrs.field(factory=trio.Event)
    refusal: core.Refuse | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    pause_s: float = 0.0
    carried_bytes: int = 0
    reason: str = "both ends closed it"


class Hop:
    """The circuits of one relay. `offer` tells a target, in bounded time; `linked` says whether it can be told; `emit` gets facts."""

    def __init__(
        self,
        limits: RelayLimits,
        *,
        offer: Callable[[core.Offer], Awaitable[None]],
        linked: Callable[[str], bool],
        emit: Callable[[Any], None],
    ) -> None:
        self.ledger = Ledger(limits)
        self._offer = offer
        self._linked = linked
        self._emit = emit
        self._circuits: dict[int, _Circuit] = {}
        self._open = True
        self._entering: Counter[str] = Counter()

    def sizes(self) -> dict[str, int]:
        """Count what is remembered, by table."""
        return {"hops": len(self._circuits), "entering": self._entering.total(), **self.ledger.sizes()}

    def feed(self, event: core.Event) -> core.Command | None:
        """Step the ledger, carry out what concerns circuits, and return the last command."""
        commands = self.ledger.step(event, trio.current_time())
        for command in commands:
            self._carry_out(command)
        return commands[-1] if commands else None

    def close(self) -> None:
        """Take nobody in any more, and cut every circuit."""
        self._open = False
        for circuit in tuple(self._circuits.values()):
            self._cut(circuit, "the relay stopped")
            circuit.settled.set()

    async def enter(self, channel: Channel) -> None:
        """Serve a connection that began with `PREFACE` until it is done with. Never raises for what strangers do."""
        match await self._request(channel):
            case Connect(target) if self._open:
                await self._connect(channel, target)
            case TakeUp(number, token) if self._open:
                await self._take_up(channel, number, token)
            case _:
                await let_go(channel)

    async def _request(self, channel: Channel) -> Request | None:
        """Return what a caller wants; `None` for one that does not say, or of whom too many are about to."""
        peer = channel.peer
        if self._entering.total() >= ENTERING_MAX or self._entering[peer] >= ENTERING_PER_PEER_MAX:
            return None
        self._entering[peer] += 1
        try:
            return await _request(channel)
        finally:
            self._entering[peer] -= 1
            if not self._entering[peer]:
                del self._entering[peer]

    # ---- the two ends

    async def _connect(self, channel: Channel, target: str) -> None:
        number = self._new_number()
        circuit = self._circuits[number] = _Circuit(number, channel.peer, target, channel)
        try:
            token, address = secrets.token_bytes(TOKEN_BYTES), source_at(channel.remote)
            asked = core.Asked(number, token, channel.peer, target, self._linked(target), address)
            command = self.feed(asked)
            if isinstance(command, core.Offer):
                await self._settle(circuit, command)
            await self._relay(circuit)
        finally:
            self.feed(core.Ended(number))
            del self._circuits[number]
            await let_go(channel)
            if circuit.far is not None:
                await let_go(circuit.far)

    async def _settle(self, circuit: _Circuit, offer: core.Offer) -> None:
        """Wait until the target has come or the circuit is refused, or who asked for it has gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_asker, circuit)
            await self._offer(offer)
            await circuit.settled.wait()
            nursery.cancel_scope.cancel()

    async def _watch_asker(self, circuit: _Circuit) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            await circuit.near.receive(1)  # nothing may come before the answer
        if circuit.far is None:
            self.feed(core.Ended(circuit.number))
        else:  # taken up at this very moment: what the ledger forgot would go on without a rate or an end
            self._cut(circuit, "who asked did not wait for the answer")
        circuit.settled.set()

    def _new_number(self) -> int:
        while (number := secrets.randbits(62) + 1) in self._circuits:
            pass
        return number

    async def _take_up(self, channel: Channel, number: int, token: bytes) -> None:
        command = self.feed(core.TakenUp(number, token, channel.peer))
        circuit = self._circuits.get(number)
        if circuit is not None and isinstance(command, core.Join):
            circuit.far = channel
            circuit.settled.set()
        else:
            why = command if isinstance(command, core.Refuse) else core.Refuse(number, Refusal.UNKNOWN, "it is over")
            await _say(channel, refused(why.why, why.text))
            await let_go(channel)

    async def _relay(self, circuit: _Circuit) -> None:
        """Tell the ends what became of it, and move bytes for as long as both are there."""
        near, far = circuit.near, circuit.far
        if far is None:
            why = circuit.refusal or core.Refuse(circuit.number, Refusal.FULL, "the relay stopped")
            await _say(near, refused(why.why, why.text))
            return
        if not (await _say(near, Answer(remote=near.remote)) and await _say(far, Answer(remote=far.remote))):
            return
        self._emit(CircuitOpened(circuit.source, circuit.target))
        try:
            with circuit.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._move, circuit, near, far)
                    nursery.start_soon(self._move, circuit, far, near)
        finally:
            self._emit(CircuitClosed(circuit.source, circuit.target, circuit.carried_bytes, circuit.reason))

    async def _move(self, circuit: _Circuit, source: Channel, sink: Channel) -> None:
        """Move one direction until its end; an end that breaks ends the circuit."""
        try:
            while True:
                data = await source.receive(READ_BYTES)
                await sink.send(data)
                circuit.carried_bytes += len(data)
                self.feed(core.Carried(circuit.number, len(data)))
                pause_s, circuit.pause_s = circuit.pause_s, 0.0
                await trio.sleep(pause_s)
        except anyio.EndOfStream:
            await _end(sink)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._cut(circuit, "an end was lost")

    # ---- what the ledger says

    def _carry_out(self, command: core.Command) -> None:
        match command:
            case core.Pause(number, pause_s):
                self._circuits[number].pause_s = pause_s
            case core.Refuse(number) if number in self._circuits and self._circuits[number].far is None:
                self._refuse(self._circuits[number], command)
            case core.Cut(number, reason):
                self._cut(self._circuits[number], reason)

    def _refuse(self, circuit: _Circuit, command: core.Refuse) -> None:
        if command.why is not Refusal.UNKNOWN:  # that is for who came with a wrong token, and not for who waits
            circuit.refusal = command
            circuit.settled.set()

    def _cut(self, circuit: _Circuit, reason: str) -> None:
        if not circuit.scope.cancel_called:
            circuit.reason = reason
            circuit.scope.cancel()


async def _request(channel: Channel) -> Request | None:
    """Return what a caller wants; `None` if it does not say so in time, or not in our words."""
    with trio.move_on_after(REQUEST_S):
        try:
            return read_request(await receive_body(channel))
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, RemoteProtocolError):
            return None
    return None


async def _say(channel: Channel, answer: Answer) -> bool:
    """Answer a caller; `False` if it is gone, or takes no bytes."""
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        try:
            await channel.send(pack_answer(answer))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True
    return False


async def _end(channel: Channel) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the other direction will see it
        await channel.send_eof()
