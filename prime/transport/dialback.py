"""The actor that finds out whether others can dial this node, and dials others who ask.

It dials an asker only at the host that the asker's own link comes from, so nobody can have it knock at a third party's
door; at most a few ports, rarely for each asker, and few at the same time in all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import anyio
import attrs
import trio

from prime.actor import Actor, Later, on
from prime.actor.contract import PeerId
from prime.errors import ConfigError, PrimeError, RefusedError, WorldError
from prime.transport import reachability as core
from prime.transport.facts import LinkDown, LinkUp, ReachabilityChanged
from prime.transport.links import Links
from prime.transport.messages import (
    ADDRESSES_ASKED_MAX,
    CIRCUITS_PATH,
    REACHABILITY_PATH,
    Attempt,
    DialBack,
    DialledBack,
)
from prime.transport.multiaddr import (
    Address,
    LayeredPlace,
    MemoryPlace,
    TcpPlace,
    is_circuit,
    parse_address,
    parse_once,
)
from prime.transport.rates import Book
from prime.transport.reachability import Evidence, Reachability
from prime.transport.relay.actors import Begin, End
from prime.wire import message

SWEEP_S: Final = 0.5
KNOCK_S: Final = 4.0
"""How long one address is dialled."""
ASK_S: Final = 15.0
KNOCKS_MAX: Final = 4
"""Addresses dialled for one request."""
REQUESTS_MAX: Final = 8
"""Requests served at the same time."""
REQUESTS_PER_MINUTE: Final = 6
ASKERS_MAX: Final = 1024
TEXT_CHARS_MAX: Final = 256


@message
class Sweep:
    """Time has passed."""


@message
class Happened:
    """Something that the core has to hear."""

    event: core.Event


class ReachabilityActor(Actor[DialBack | Sweep | Happened]):
    """Asks the peers of this node to dial it back, and dials back those who ask."""

    def __init__(self, network: Links) -> None:
        self._network = network
        self.judge = network.reachability = core.Judge()
        self._askers: Book[str] = Book(REQUESTS_PER_MINUTE / 60, 60.0, ASKERS_MAX)
        self._serving = 0
        self._slots = 0
        self._listens: tuple[str, ...] = ()
        self._unsubscribe: Callable[[], None] = lambda: None

    async def started(self) -> None:
        """Hear of links, those that are up included."""
        self._unsubscribe = self.ctx.system.subscribe(self._observe)
        for peer in self._network.peers:
            carrier = self._network.carrier(peer)
            self._feed(core.Linked(peer, relayed=carrier is None or carrier.relayed))
        self.ctx.every(SWEEP_S, Sweep())

    async def stopping(self) -> None:
        """Say nothing any more that was found out."""
        self._unsubscribe()
        self._network.announce("found", ())

    # ---- of this node

    def _observe(self, fact: object) -> None:
        event: core.Event
        match fact:
            case LinkUp(peer, relayed=relayed):
                event = core.Linked(peer, relayed)
            case LinkDown(peer):
                event = core.Unlinked(peer)
            case _:
                return
        with contextlib.suppress(PrimeError):  # it has ended, and its mailbox with it
            self.ctx.self_ref.tell_nowait(Happened(event))

    @on(Happened)
    def happened(self, m: Happened) -> None:
        """Take in what happened."""
        self._feed(m.event)

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        """Ask whose turn it is."""
        listens = self._listening()
        if listens != self._listens:
            self._listens = listens
            self._feed(core.Moved())
        slots = len(self._network.announced("circuits"))
        if slots != self._slots:
            self._slots = slots
            self._feed(core.Slots(slots))
        self._feed(core.Tick())

    def _listening(self) -> tuple[str, ...]:
        return tuple(each for each in self._network.addresses if not is_circuit(each))

    def _feed(self, event: core.Event) -> None:
        for command in self.judge.step(event, trio.current_time()):
            match command:
                case core.Ask(peer):
                    self.ctx.start_soon(self._ask, PeerId(peer))
                case core.Found(addresses):
                    own = self._network.listening
                    self._network.announce("found", tuple(each for each in addresses if each not in own))
                    self._listens = self._listening()
                case core.Changed(before, after, why):
                    self.ctx.emit(ReachabilityChanged(before.value, after.value, why))
                    self._tell_circuits(after)

    def _tell_circuits(self, after: Reachability) -> None:
        circuits = self.ctx.system.whereis(CIRCUITS_PATH)
        if circuits is None:
            return
        with contextlib.suppress(PrimeError):
            if after is Reachability.PUBLIC:
                circuits.tell_nowait(End())
            elif after is Reachability.CLIENT_ONLY:
                circuits.tell_nowait(Begin())

    async def _ask(self, peer: PeerId) -> None:
        far = self.ctx.system.ref(peer, REACHABILITY_PATH, ReachabilityActor)
        claimed = tuple(each for each in self._network.listening if not is_circuit(each))[:ADDRESSES_ASKED_MAX]
        try:
            answer = await far.ask(DialBack(claimed), timeout=ASK_S)
        except WorldError:
            heard = core.Heard(peer, "", ())
        else:
            heard = believable(peer, answer, claimed, PeerId(self.ctx.system.peer))
        await self.ctx.self_ref.tell(Happened(heard))

    # ---- of others

    @on(DialBack)
    def dial_back(self, m: DialBack) -> DialledBack:
        """Dial the sender at the host that its link comes from. Raises `RefusedError` for one that asks too often."""
        sender = self._allowed_sender()
        later = self.ctx.defer()
        self._serving += 1
        self.ctx.start_soon(self._serve, sender, m.addresses, later)
        return DialledBack("", ())  # no answer: it is deferred

    def _allowed_sender(self) -> PeerId:
        sender = self.ctx.sender
        if sender is None:
            raise RefusedError("a node dials back other nodes", hint="Ask over a link.")
        if self._serving >= REQUESTS_MAX or not self._askers.take(sender, trio.current_time()):
            raise RefusedError("this node dials back no more just now", hint="Ask another, or later.")
        return sender

    async def _serve(self, sender: PeerId, addresses: tuple[str, ...], later: Later) -> None:
        try:
            seen = self._seen(sender)
            attempts: list[Attempt] = []
            async with trio.open_nursery() as nursery:
                for address in doors(seen, addresses, sender):
                    nursery.start_soon(self._attempt, sender, address, attempts)
            if not attempts:
                why = (
                    "it listens at no port of the host that its link comes from"
                    if seen
                    else "where its link comes from is not known"
                )
                attempts = [Attempt("", False, why)]
            later.reply(DialledBack(seen, tuple(attempts)))
        finally:
            self._serving -= 1

    def _seen(self, peer: PeerId) -> str:
        """Return where the link of a peer comes from; nothing for one that comes through a relay."""
        carrier = self._network.carrier(peer)
        return "" if carrier is None or carrier.relayed else carrier.remote

    async def _attempt(self, peer: PeerId, address: str, attempts: list[Attempt]) -> None:
        text = f"no answer within {KNOCK_S:g} s"
        with trio.move_on_after(KNOCK_S):
            try:
                await self._network.knock(address, peer)
            except (WorldError, ConfigError, anyio.ClosedResourceError) as error:
                text = str(error)[:TEXT_CHARS_MAX] or type(error).__name__
            else:
                attempts.append(Attempt(address, True, ""))
                return
        attempts.append(Attempt(address, False, text))


def believable(peer: PeerId, answer: DialledBack, claimed: tuple[str, ...], own: PeerId) -> core.Heard:
    """Return what of an answer can be true: it dialled this node's own ports, at the host where it sees this node."""
    seen = answer.seen if _is_host(answer.seen) else ""
    possible = {*doors(seen, claimed, own), ""}
    evidence = [
        Evidence(peer, attempt.address, attempt.reached and bool(attempt.address), _clean(attempt.text))
        for attempt in answer.attempts[: KNOCKS_MAX + 1]
        if attempt.address in possible
    ]
    return core.Heard(peer, seen, tuple(evidence))


def _is_host(text: str) -> bool:
    if not text:
        return False
    try:
        place = parse_once(text).place
    except ConfigError:
        return False
    return isinstance(place, TcpPlace) and place.kind in {"ip4", "ip6"}


def _clean(text: str) -> str:
    """Return a peer's words as a person may read them on a terminal."""
    return "".join(filter(str.isprintable, text[:TEXT_CHARS_MAX]))


def doors(seen: str, claimed: tuple[str, ...], peer: PeerId) -> tuple[str, ...]:
    """Return where to dial a peer that claims these addresses: at each port, on the host that it is seen at.

    Within one process there are no hosts, and a name can only be the asker's or be refused by who has it.
    """
    host = parse_once(seen).place if seen else None
    found: list[str] = []
    for text in claimed:
        with contextlib.suppress(ConfigError):
            place = parse_address(text).place
            if isinstance(host, TcpPlace) and isinstance(place, TcpPlace | LayeredPlace) and place.port:
                found.append(str(Address(attrs.evolve(place, kind=host.kind, host=host.host), peer)))
            elif isinstance(place, MemoryPlace) and not isinstance(host, TcpPlace):
                found.append(str(Address(place, peer)))
    return tuple(dict.fromkeys(found))[:KNOCKS_MAX]
