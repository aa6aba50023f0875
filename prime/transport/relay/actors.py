"""The two actors of relaying: one where circuits go through, one where they end.

`RelayActor` lives on the relay at `/net/relay`, `CircuitsActor` at `/net/circuits` on a node that others reach through
one. Each is the thin shell of a core: `ledger.py` and `keeper.py`.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import trio

from prime.actor import Actor, Down, on
from prime.actor.contract import PeerId
from prime.errors import ConfigError, RefusedError, WorldError
from prime.transport.facts import SlotLost, SlotReserved
from prime.transport.links import Links
from prime.transport.messages import (
    CIRCUITS_PATH,
    RELAY_PATH,
    CircuitDeclined,
    CircuitOffered,
    Release,
    Reservation,
    Reserve,
)
from prime.transport.multiaddr import CircuitPlace, Place, TcpPlace, is_circuit, parse_address
from prime.transport.relay import keeper, ledger
from prime.transport.relay.hop import Hop
from prime.transport.relay.limits import RelayLimits
from prime.wire import message

SWEEP_S: Final = 0.5
RESERVE_TIMEOUT_S: Final = 10.0
TAKING_UP_MAX: Final = 16
"""Circuits that a node takes up at the same time; it declines what is offered beyond."""
ADDRESSES_MAX: Final = 4
"""Addresses of one relay through which a node can be dialled: HELLO has room for few."""


@message
class Sweep:
    """Time has passed."""


@message
class Begin:
    """This node cannot be dialled."""


@message
class End:
    """This node can be dialled."""


@message
class Heard:
    """What came of a request to a relay."""

    event: keeper.Event


class RelayActor(Actor[Reserve | Release | CircuitDeclined | Sweep | Down]):
    """Gives slots to peers that nobody can dial, and carries circuits to them."""

    def __init__(self, network: Links, limits: RelayLimits) -> None:
        self._network = network
        self._limits = limits
        self._watched: dict[str, Callable[[], None]] = {}

    async def started(self) -> None:
        """Let callers in that want a circuit."""
        self.hop = Hop(self._limits, offer=self._offer, linked=self._is_linked, emit=self.ctx.emit)
        self._network.relaying = self.hop.enter
        self.ctx.every(SWEEP_S, Sweep())

    async def stopping(self) -> None:
        """Cut every circuit."""
        self._network.relaying = None
        self.hop.close()

    @on(Reserve)
    def reserve(self, _: Reserve) -> Reservation:
        """Give the sender a slot, or keep the one it has. Raises `RefusedError`."""
        peer = self._sender()
        carrier = self._network.carrier(peer)
        granted = self.hop.feed(ledger.Wants(peer, carrier.source if carrier else ""))
        if not isinstance(granted, ledger.Grant):
            reason = granted.reason if isinstance(granted, ledger.Deny) else "this relay stops"
            raise RefusedError(f"no slot: {reason}", hint="Name another relay, or ask this one's operator.")
        if peer not in self._watched:
            self._watched[peer] = self.ctx.watch(self.ctx.system.ref(peer, CIRCUITS_PATH, CircuitsActor))
        direct = [each for each in self._network.addresses if not is_circuit(each)]
        return Reservation(granted.expires_in_s, tuple(direct[:ADDRESSES_MAX]))

    @on(Release)
    def release(self, _: Release) -> None:
        """Take a slot back."""
        self._forget(self._sender())
        self.hop.feed(ledger.Leaves(self._sender()))

    @on(CircuitDeclined)
    def declined(self, m: CircuitDeclined) -> None:
        """Tell who asked for a circuit that it is not wanted."""
        self.hop.feed(ledger.Declined(m.circuit, self._sender()))

    @on(Down)
    def lost(self, m: Down) -> None:
        """Notice that a reserver cannot be told of circuits any more."""
        self._watched.pop(m.peer, None)
        self.hop.feed(ledger.LinkLost(m.peer))

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        """End what is over."""
        self.hop.feed(ledger.Tick())

    def _forget(self, peer: str) -> None:
        unwatch = self._watched.pop(peer, None)
        if unwatch is not None:
            unwatch()

    def _sender(self) -> PeerId:
        if self.ctx.sender is None:
            raise RefusedError("a relay serves other nodes", hint="Ask it over a link.")
        return self.ctx.sender

    def _is_linked(self, peer: str) -> bool:
        return peer in self._network.peers

    async def _offer(self, offer: ledger.Offer) -> None:
        """Tell a target of a circuit; if that takes too long, the ledger ends it."""
        target = self.ctx.system.ref(offer.target, CIRCUITS_PATH, CircuitsActor)
        with trio.move_on_after(self._limits.offer_s):
            try:
                await target.tell(CircuitOffered(offer.circuit, offer.token, offer.source))
            except WorldError:
                self.hop.feed(ledger.Declined(offer.circuit, offer.target))


class CircuitsActor(Actor[CircuitOffered | Begin | End | Heard | Sweep | Down]):
    """Keeps slots at relays while this node cannot be dialled, and takes up the circuits that come of it."""

    def __init__(self, network: Links, relays: tuple[str, ...], *, begin: bool = True) -> None:
        self._network = network
        self._begin = begin
        self.keeper = keeper.Keeper(dict.fromkeys(relays))
        self._names = {address: address for address in relays}
        self._peers: dict[str, str] = {}
        self._unwatch: dict[str, Callable[[], None]] = {}
        self._taking_up = 0

    async def started(self) -> None:
        """Reserve, unless that waits for `Begin`."""
        self.ctx.every(SWEEP_S, Sweep())
        if self._begin:
            self._feed(keeper.Start())

    async def stopping(self) -> None:
        """Announce no circuits any more."""
        self._network.announce("circuits", ())

    @on(Begin)
    def begin(self, _: Begin) -> None:
        """Reserve: this node cannot be dialled."""
        self._feed(keeper.Start())

    @on(End)
    def end(self, _: End) -> None:
        """Reserve no more: this node can be dialled."""
        self._feed(keeper.Stop())

    @on(Heard)
    def heard(self, m: Heard) -> None:
        """Take in what came of a request to a relay."""
        if isinstance(m.event, keeper.Granted):
            self._peers[m.event.peer] = m.event.address
            if m.event.peer not in self._unwatch:
                relay = self.ctx.system.ref(m.event.peer, RELAY_PATH, RelayActor)
                self._unwatch[m.event.peer] = self.ctx.watch(relay)
        self._feed(m.event)

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        """Renew what ends."""
        self._feed(keeper.Tick())

    @on(Down)
    def lost(self, m: Down) -> None:
        """Reserve again: the relay, or the link to it, is gone."""
        self._unwatch.pop(m.peer, None)
        self._feed(keeper.LinkLost(m.peer))

    @on(CircuitOffered)
    async def offered(self, m: CircuitOffered) -> None:
        """Take a circuit up, if it comes from a relay that keeps a slot for this node."""
        relay = self._peers.get(self.ctx.sender or "", "")
        if relay not in self.keeper.held or self.ctx.sender is None:
            return
        if self._taking_up >= TAKING_UP_MAX:
            await self._decline(self.ctx.sender, m.circuit)
            return
        self._taking_up += 1
        self.ctx.start_soon(self._take_up, self.ctx.sender, relay, m)

    async def _take_up(self, relay: PeerId, address: str, offer: CircuitOffered) -> None:
        try:
            self._network.take_in(await self._network.circuits.take_up(address, offer.circuit, offer.token))
        except (WorldError, ConfigError):
            await self._decline(relay, offer.circuit)
        finally:
            self._taking_up -= 1

    async def _decline(self, relay: PeerId, circuit: int) -> None:
        with contextlib.suppress(WorldError):
            await self.ctx.system.ref(relay, RELAY_PATH, RelayActor).tell(CircuitDeclined(circuit))

    # ---- what the keeper says

    def _feed(self, event: keeper.Event) -> None:
        for command in self.keeper.step(event, trio.current_time()):
            match command:
                case keeper.Ask(address):
                    self.ctx.start_soon(self._ask, address)
                case keeper.GiveBack(peer):
                    self.ctx.start_soon(self._give_back, PeerId(peer))
                case keeper.Announce(relays):
                    own = self.ctx.system.peer
                    self._network.announce("circuits", tuple(f"{relay}/p2p-circuit/p2p/{own}" for relay in relays))
                case keeper.Gained(peer, address):
                    self.ctx.emit(SlotReserved(peer, f"{address}/p2p-circuit/p2p/{self.ctx.system.peer}"))
                case keeper.Gone(address, reason):
                    self.ctx.emit(SlotLost(address, reason))

    async def _ask(self, address: str) -> None:
        try:
            peer = await self._network.dial(self._names[address])
            relay = self.ctx.system.ref(peer, RELAY_PATH, RelayActor)
            slot = await relay.ask(Reserve(), timeout=RESERVE_TIMEOUT_S)
        except (WorldError, ConfigError) as error:
            outcome: keeper.Event = keeper.Failed(address, f"{error} {error.hint}".rstrip())
        else:
            first = self._names[address] = str(parse_address(address).expecting(peer))
            ways = _usable(first, peer, slot.addresses)
            outcome = keeper.Granted(address, peer, slot.expires_in_s, ways)
        await self.ctx.self_ref.tell(Heard(outcome))

    async def _give_back(self, peer: PeerId) -> None:
        unwatch = self._unwatch.pop(peer, None)
        if unwatch is not None:
            unwatch()
        with contextlib.suppress(WorldError):
            await self.ctx.system.ref(peer, RELAY_PATH, RelayActor).tell(Release())


def _usable(first: str, peer: PeerId, others: Sequence[str]) -> tuple[str, ...]:
    """Return where a relay can be dialled by others: where this node did, and what it says of itself and nobody else."""
    found = [first]
    for text in others[:ADDRESSES_MAX]:
        with contextlib.suppress(ConfigError):
            address = parse_address(text)
            if address.peer == peer and not isinstance(address.place, CircuitPlace) and not _is_loopback(address.place):
                found.append(text)
    return tuple(dict.fromkeys(found))[:ADDRESSES_MAX]


def _is_loopback(place: Place) -> bool:
    return isinstance(place, TcpPlace) and place.kind in {"ip4", "ip6"} and ipaddress.ip_address(place.host).is_loopback
