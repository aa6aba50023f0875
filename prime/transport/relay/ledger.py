"""What a relay owes to whom, as a pure core: reservations and circuits, `step(event, now) -> commands`.

A peer that cannot be dialled reserves a slot and keeps a link to the relay. Who wants to reach it asks for a circuit; the
relay offers it to the reserver, who takes it up by a connection of its own; then the two are joined. The ledger decides who
may, how many, how long and how fast; `hop.py` moves the bytes.

Ordering laws. Each `Asked` gets exactly one of `Refuse` and `Offer`; each `Offer` ends in exactly one of `Join` and
`Refuse`, each `Join` in one `Cut` or the shell's own `Ended`. A `Grant` or `Deny` answers each `Wants`.
"""

from __future__ import annotations

import hmac
import math
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import attrs

from prime.transport.admission import Source, gives_way
from prime.transport.rates import Book, Bucket
from prime.transport.relay.limits import RelayLimits

ASKERS_MAX: Final = 4096
"""Peers whose requests are counted; beyond, those who asked least lately are forgotten first."""
ASKING_BURST_S: Final = 60.0
RATE_BURST_S: Final = 0.25
"""So long a circuit, and all of them together, may go faster than their rate after a pause."""


class Refusal(IntEnum):
    """Why a circuit is refused; the numbers are on the wire."""

    ABSENT = 1
    """Nobody has reserved under that id, or its link is down."""
    FULL = 2
    OFTEN = 3
    DECLINED = 4
    SILENT = 5
    UNKNOWN = 6
    """The circuit that shall be taken up is none, or its token is wrong."""


# ------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Wants:
    """A linked peer wants a slot, or wants to keep the one it has. `source` is where its link comes from; empty: not known."""

    peer: str
    source: str = ""


@attrs.frozen
class Leaves:
    """A peer gives its slot back."""

    peer: str


@attrs.frozen
class LinkLost:
    """The link to a reserver ended."""

    peer: str


@attrs.frozen
class Asked:
    """`source` asks for a circuit to `target`. `circuit` and `token` are new; `linked`: there is a link to the target.

    `address` is where its connection comes from; empty: not known.
    """

    circuit: int
    token: bytes
    source: str
    target: str
    linked: bool
    address: Source = ""


@attrs.frozen
class TakenUp:
    """`peer` connected to take up a circuit that it was offered."""

    circuit: int
    token: bytes
    peer: str


@attrs.frozen
class Declined:
    """`peer` does not want a circuit that it was offered."""

    circuit: int
    peer: str


@attrs.frozen
class Carried:
    """Bytes went through a circuit."""

    circuit: int
    size_bytes: int


@attrs.frozen
class Ended:
    """A circuit, or a request for one, ended by itself."""

    circuit: int


@attrs.frozen
class Tick:
    """Time has passed."""


Event = Wants | Leaves | LinkLost | Asked | TakenUp | Declined | Carried | Ended | Tick


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class Grant:
    """The peer has a slot for so long."""

    peer: str
    expires_in_s: float


@attrs.frozen
class Deny:
    """The peer gets no slot."""

    peer: str
    reason: str


@attrs.frozen
class Offer:
    """Tell the target of a circuit about it."""

    circuit: int
    token: bytes
    source: str
    target: str


@attrs.frozen
class Refuse:
    """The circuit will not be."""

    circuit: int
    why: Refusal
    text: str


@attrs.frozen
class Join:
    """Both ends are there: move bytes between them."""

    circuit: int


@attrs.frozen
class Pause:
    """Read no more from this direction of the circuit for so long."""

    circuit: int
    pause_s: float


@attrs.frozen
class Cut:
    """End a joined circuit."""

    circuit: int
    reason: str


Command = Grant | Deny | Offer | Refuse | Join | Pause | Cut


@attrs.define
class _Slot:
    expires_at: float
    source: str
    lost_at: float = math.inf


@attrs.define
class _Circuit:
    source: str
    target: str
    token: bytes
    due: float
    bucket: Bucket
    address: Source
    joined: bool = False
    carried_bytes: int = 0


class Ledger:
    """The reservations and circuits of one relay."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._slots: dict[str, _Slot] = {}
        self._circuits: dict[int, _Circuit] = {}
        self._ends: Counter[str] = Counter()
        self._askers: Book[str] = Book(limits.requests_per_minute_max / 60, ASKING_BURST_S, ASKERS_MAX)
        self._total = Bucket(limits.relay_bytes_per_s, RATE_BURST_S)
        self._handlers: dict[type, Callable[[Any, float], list[Command]]] = {
            Wants: self._wants,
            Leaves: self._leaves,
            LinkLost: self._link_lost,
            Asked: self._asked,
            TakenUp: self._taken_up,
            Declined: self._declined,
            Carried: self._carried,
            Ended: self._ended,
            Tick: self._tick,
        }

    @property
    def reservers(self) -> tuple[str, ...]:
        """Return who holds a slot."""
        return tuple(self._slots)

    @property
    def circuits(self) -> int:
        """Return how many circuits are open or offered."""
        return len(self._circuits)

    def sizes(self) -> dict[str, int]:
        """Count what is remembered, by table: what a leak test looks at."""
        return {
            "slots": len(self._slots),
            "circuits": len(self._circuits),
            "ends": len(self._ends),
            "askers": len(self._askers),
        }

    def step(self, event: Event, now: float) -> list[Command]:
        """Take in what happened and return what to do."""
        return self._handlers[type(event)](event, now)

    # ---- reservations

    def _wants(self, event: Wants, now: float) -> list[Command]:
        peer, allowed = event.peer, self._limits.reservers
        if allowed is not None and peer not in allowed:
            return [Deny(peer, "this relay serves named peers only")]
        self._tick_slots(now)
        if peer not in self._slots and len(self._slots) >= self._limits.reservations_max:
            return [Deny(peer, f"all {self._limits.reservations_max} slots are taken")]
        most = self._limits.reservations_per_source_max
        if event.source and sum(s.source == event.source for p, s in self._slots.items() if p != peer) >= most:
            return [Deny(peer, f"{most} slots are of peers at your address, the most it may have")]
        self._slots[peer] = _Slot(now + self._limits.reservation_s, event.source)
        return [Grant(peer, self._limits.reservation_s)]

    def _leaves(self, event: Leaves, _now: float) -> list[Command]:
        self._slots.pop(event.peer, None)
        return []

    def _link_lost(self, event: LinkLost, now: float) -> list[Command]:
        if event.peer in self._slots:
            self._slots[event.peer].lost_at = now
        return []

    def _tick_slots(self, now: float) -> None:
        kept_s = self._limits.lost_s
        for peer in [p for p, s in self._slots.items() if s.expires_at <= now or s.lost_at + kept_s <= now]:
            del self._slots[peer]

    # ---- circuits

    def _asked(self, event: Asked, now: float) -> list[Command]:
        refusal = self._why_not(event, now)
        if refusal is not None:
            return [refusal]
        room = self._make_room(event)
        if lack := self._lack(event):
            return [Refuse(event.circuit, Refusal.FULL, lack)]
        self._circuits[event.circuit] = _Circuit(
            event.source,
            event.target,
            event.token,
            now + self._limits.offer_s,
            Bucket(self._limits.circuit_bytes_per_s, RATE_BURST_S),
            event.address,
        )
        self._ends.update((event.source, event.target))
        return [*room, Offer(event.circuit, event.token, event.source, event.target)]

    def _why_not(self, event: Asked, now: float) -> Refuse | None:
        circuit = event.circuit
        if not self._askers.take(event.source, now):
            return Refuse(circuit, Refusal.OFTEN, "you ask for circuits too often")
        slot = self._slots.get(event.target)
        if slot is None or slot.expires_at <= now or not event.linked or event.source == event.target:
            return Refuse(circuit, Refusal.ABSENT, "nobody of that id is reachable through this relay")
        return None

    def _lack(self, event: Asked) -> str:
        most = self._limits.circuits_per_peer_max
        if max(self._ends[event.source], self._ends[event.target]) >= most:
            return f"one of the two has {most} circuits here, the most a peer may"
        if len(self._circuits) >= self._limits.circuits_max:
            return f"this relay carries {len(self._circuits)} circuits, the most it does"
        return ""

    def _make_room(self, event: Asked) -> list[Command]:
        """Where circuits lack, end the last one from the address that has the most; nothing if that would not be fair.

        Keys cost nothing: without this a few circuits that are held open would keep everybody else from a node.
        """
        most = self._limits.circuits_per_peer_max
        if self._ends[event.source] >= most or not self._lack(event):
            return []
        everybody = self._ends[event.target] < most
        crowd = [n for n, each in self._circuits.items() if everybody or event.target in (each.source, each.target)]
        last = gives_way([self._circuits[number].address for number in crowd], event.address)
        if last is None:
            return []
        number, text = crowd[last], "circuits are few, and those from its address were the most"
        joined = self._circuits[number].joined
        self._forget(number)
        return [Cut(number, text) if joined else Refuse(number, Refusal.FULL, text)]

    def _taken_up(self, event: TakenUp, now: float) -> list[Command]:
        circuit = self._circuits.get(event.circuit)
        known = circuit is not None and not circuit.joined and circuit.target == event.peer
        if circuit is None or not known or not hmac.compare_digest(circuit.token, event.token):
            return [Refuse(event.circuit, Refusal.UNKNOWN, "no such circuit is offered to you")]
        circuit.joined, circuit.due = True, now + self._limits.idle_s
        return [Join(event.circuit)]

    def _declined(self, event: Declined, _now: float) -> list[Command]:
        circuit = self._circuits.get(event.circuit)
        if circuit is None or circuit.joined or circuit.target != event.peer:
            return []
        self._forget(event.circuit)
        return [Refuse(event.circuit, Refusal.DECLINED, "the peer does not want the circuit")]

    def _ended(self, event: Ended, _now: float) -> list[Command]:
        self._forget(event.circuit)
        return []

    def _carried(self, event: Carried, now: float) -> list[Command]:
        circuit = self._circuits.get(event.circuit)
        if circuit is None:
            return []
        circuit.carried_bytes += event.size_bytes
        circuit.due = now + self._limits.idle_s
        if circuit.carried_bytes > self._limits.circuit_bytes_max:
            self._forget(event.circuit)
            return [Cut(event.circuit, f"it carried {self._limits.circuit_bytes_max} bytes, the most a circuit may")]
        pause_s = max(circuit.bucket.wait_s(now, event.size_bytes), self._total.wait_s(now, event.size_bytes))
        circuit.due += pause_s
        return [Pause(event.circuit, pause_s)] if pause_s else []

    def _tick(self, _event: Tick, now: float) -> list[Command]:
        self._tick_slots(now)
        late = [(number, circuit) for number, circuit in self._circuits.items() if circuit.due <= now]
        for number, _ in late:
            self._forget(number)
        return [self._late(number, circuit) for number, circuit in late]

    def _late(self, number: int, circuit: _Circuit) -> Command:
        if circuit.joined:
            return Cut(number, f"nothing went through it for {self._limits.idle_s:g} s")
        return Refuse(number, Refusal.SILENT, f"the peer did not take it up within {self._limits.offer_s:g} s")

    def _forget(self, number: int) -> None:
        circuit = self._circuits.pop(number, None)
        if circuit is not None:
            self._ends.subtract((circuit.source, circuit.target))
            for peer in (circuit.source, circuit.target):
                if not self._ends[peer]:
                    del self._ends[peer]
