"""When to reserve at which relay, as a pure core: `step(event, now) -> commands`.

Each relay that this node was told of is asked for a slot, again well before the slot ends, at once when its link was lost,
and after growing pauses while it gives none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import attrs

RENEW_AFTER: Final = 0.5
"""Of a slot's time: then it is renewed."""
PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
SLOT_MIN_S: Final = 2.0
SLOT_MAX_S: Final = 86_400.0
"""A slot that a relay gives for less or more counts as one of these: its word drives no timer of ours."""


# ------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Start:
    """This node cannot be dialled: reserve."""


@attrs.frozen
class Stop:
    """This node can be dialled: reserve no more."""


@attrs.frozen
class Granted:
    """The relay at `address`, which is `peer`, keeps a slot; it can be dialled at `addresses`."""

    address: str
    peer: str
    expires_in_s: float
    addresses: tuple[str, ...]


@attrs.frozen
class Failed:
    """The relay at `address` gave no slot."""

    address: str
    reason: str


@attrs.frozen
class LinkLost:
    """The link to the relay `peer` ended, and with it what it knew of this node."""

    peer: str


@attrs.frozen
class Tick:
    """Time has passed."""


Event = Start | Stop | Granted | Failed | LinkLost | Tick


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class Ask:
    """Ask the relay at `address` for a slot; answer with `Granted` or `Failed`."""

    address: str


@attrs.frozen
class GiveBack:
    """Tell the relay `peer` that its slot is not needed any more."""

    peer: str


@attrs.frozen
class Announce:
    """From now on this node can be dialled through these relays: addresses of relays, each with `/p2p/`."""

    relays: tuple[str, ...]


@attrs.frozen
class Gained:
    """The relay keeps a slot that it did not keep before."""

    peer: str
    address: str


@attrs.frozen
class Gone:
    """A slot was lost, or was not given for the first time in a row."""

    address: str
    reason: str


Command = Ask | GiveBack | Announce | Gained | Gone


@attrs.define
class _Relay:
    address: str
    peer: str = ""
    addresses: tuple[str, ...] = ()
    asking: bool = False
    due: float = -math.inf
    ends_at: float = -math.inf
    pause_s: float = 0.0

    @property
    def held(self) -> bool:
        return bool(self.addresses)


class Keeper:
    """The slots of one node at the relays with these addresses."""

    def __init__(self, relays: Iterable[str]) -> None:
        self._relays = {address: _Relay(address) for address in relays}
        self._wanted = False

    @property
    def held(self) -> tuple[str, ...]:
        """Return the addresses of the relays that keep a slot, as they were given."""
        return tuple(relay.address for relay in self._relays.values() if relay.held)

    @property
    def due(self) -> float:
        """Return when the next `Tick` has something to do."""
        if not self._wanted:
            return math.inf
        return min((relay.due for relay in self._relays.values() if not relay.asking), default=math.inf)

    def step(self, event: Event, now: float) -> list[Command]:
        """Take in what happened and return what to do."""
        match event:
            case Start():
                self._wanted = True
                return self._tick(now)
            case Stop():
                return self._stop()
            case Tick():
                return self._tick(now)
            case Granted():
                return self._granted(event, now)
            case Failed(address, reason):
                return self._failed(self._relays[address], reason, now)
            case LinkLost(peer):
                return [command for relay in self._relays.values() for command in self._lost(relay, peer, now)]

    def _tick(self, now: float) -> list[Command]:
        if not self._wanted:
            return []
        due = [relay for relay in self._relays.values() if relay.due <= now and not relay.asking]
        for relay in due:
            relay.asking = True
        return [Ask(relay.address) for relay in due]

    def _stop(self) -> list[Command]:
        self._wanted = False
        held = [relay for relay in self._relays.values() if relay.held]
        for relay in self._relays.values():
            relay.addresses, relay.due, relay.pause_s = (), -math.inf, 0.0
        back: list[Command] = [GiveBack(relay.peer) for relay in held]
        gone: list[Command] = [Gone(relay.address, "this node can be dialled") for relay in held]
        return [*back, self._announcement(), *gone] if back else []

    def _granted(self, event: Granted, now: float) -> list[Command]:
        relay = self._relays[event.address]
        relay.asking = False
        if not self._wanted:
            return [GiveBack(event.peer)]
        new = not relay.held
        relay.peer, relay.addresses, relay.pause_s = event.peer, event.addresses, 0.0
        lasts_s = _sane(event.expires_in_s)
        relay.due, relay.ends_at = now + RENEW_AFTER * lasts_s, now + lasts_s
        gained: list[Command] = [Gained(event.peer, event.addresses[0])] if new else []
        return [*gained, self._announcement()]

    def _failed(self, relay: _Relay, reason: str, now: float) -> list[Command]:
        relay.asking = False
        first = not relay.pause_s
        relay.pause_s = min(max(2 * relay.pause_s, PAUSE_MIN_S), PAUSE_MAX_S)
        relay.due = now + relay.pause_s
        if relay.held and relay.ends_at <= now:
            return self._drop(relay, reason)
        return [Gone(relay.address, reason)] if first and not relay.held else []

    def _lost(self, relay: _Relay, peer: str, now: float) -> list[Command]:
        if relay.peer != peer or not relay.held:
            return []
        relay.due = now
        return [*self._drop(relay, "the link to the relay was lost"), *self._tick(now)]

    def _drop(self, relay: _Relay, reason: str) -> list[Command]:
        relay.addresses = ()
        return [Gone(relay.address, reason), self._announcement()]

    def _announcement(self) -> Announce:
        every = [address for relay in self._relays.values() for address in relay.addresses]
        return Announce(tuple(dict.fromkeys(every)))


def _sane(expires_in_s: float) -> float:
    return min(max(expires_in_s, SLOT_MIN_S), SLOT_MAX_S) if math.isfinite(expires_in_s) else SLOT_MIN_S
