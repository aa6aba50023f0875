"""How a node of the DHT stands among the others: its own contact, whose contacts it believes, and asks with a deadline.

Links are taught addresses from signed contacts alone, and of these only the ones that whoever showed them may vouch for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import attrs
import trio

from prime.actor import Actor, Ref, System
from prime.actor.contract import PeerId
from prime.dht.bootstrap import Sight
from prime.dht.contact import Contact, make_contact, read_contact
from prime.dht.facts import PeerRefused
from prime.dht.groups import Scope, counted_group, scope_of, scope_seen, vouched
from prime.dht.key import Key, key_of_peer
from prime.dht.rates import BURST_S, Rates
from prime.dht.record import Record, is_live, read_record
from prime.dht.sealed import Signer
from prime.dht.settings import DhtSettings
from prime.dht.table import Table
from prime.errors import (
    DeadlineError,
    DecodeError,
    PrimeError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
    WorldError,
)
from prime.process.network import Routes
from prime.transport.carrier import Carrier
from prime.transport.links import Links
from prime.wire import Ask, message

R = TypeVar("R")


class ForgedError(RemoteProtocolError):
    """A peer has answered what no honest one does."""


RENEW_MS: Final = 3_600_000
"""How old the own contact may get before it is signed anew, so that others see which of two is the later."""
PACE: Final = 0.8
"""The part of what a peer takes that this node asks of it, if both have the same settings."""
SILENT_S: Final = 1.0
"""How long a request waits for a peer that did not answer the last one: a machine that is gone holds up one lookup, not each."""
SILENT_MAX: Final = 1024
"""Silent peers that are remembered."""
CONTACTS_MAX: Final = 32
"""Contacts in one answer."""
_HINT: Final = "this peer is broken or hostile: nothing of its answer was used"
_SILENCE_S: Final = 10.0
"""At most one fact about refusals in this time; the others are counted."""
DISPUTES_MAX: Final = 10
"""Disputes of a kind that are told at once; further ones one at a time."""


@message
class Heard:
    """This peer has asked something, and shown its contact."""

    contact: Contact


@message
class Met:
    """This peer has answered a request of ours."""

    contact: Contact


@message
class Missed:
    """This peer has not answered."""

    peer: PeerId


@message
class Suggested:
    """A rendezvous point has shown this contact."""

    contact: Contact


class Peering:
    """One node among the others: what all actors of its DHT share. `wall_s` returns seconds since 1970 (UTC).

    The table is the routing actor's, which alone changes it; the others read it.
    """

    def __init__(
        self, system: System, signer: Signer, settings: DhtSettings, *, server: bool, wall_s: Callable[[], float]
    ) -> None:
        self.system = system
        self.settings = settings
        self.server = server
        self.can_serve: Final = server
        self.signer = signer
        self.peer: Final = signer.peer
        self.key: Final = key_of_peer(signer.peer)
        self.table = Table(self.key, settings, trio.current_time())
        self.routing: Ref[Any] | None = None
        """The routing actor, once it runs."""
        self.holding: Ref[Any] | None = None
        """The replication actor, once it runs; a client has none."""
        self.sight: Callable[[], Sight] | None = None
        """How far this node has joined."""
        self.joined = trio.Event()
        """Set when it has first found its place."""
        self._wall_s = wall_s
        self._rates = Rates(settings.requests_per_s)
        self._pace = Rates(PACE * settings.requests_per_s, burst_s=PACE * BURST_S)
        self._disputes = Rates(1 / _SILENCE_S, burst_s=DISPUTES_MAX * _SILENCE_S)
        self._own: Contact | None = None
        self._said: tuple[str, ...] = ()
        self._streams: dict[str, list[str]] = {}
        self._silent: dict[PeerId, None] = {}
        self._silent_until = 0.0
        self._unsaid = 0
        self.served = 0
        """Requests of others that were let in."""
        self.refused = 0
        """Requests that were refused, and unusable parts of answers."""

    def now_ms(self) -> int:
        """Return the time of day, ms since 1970 (UTC)."""
        return int(self._wall_s() * 1000)

    # ---- who this node is

    @property
    def contact(self) -> Contact:
        """Return what this node says of itself now."""
        addresses, now_ms = self.system.addresses, self.now_ms()
        own = self._own
        if own is None or self._said != addresses or now_ms - own.stamp_ms > RENEW_MS:
            stamp_ms = now_ms if own is None else max(now_ms, own.stamp_ms + 1)
            own = self._own = make_contact(self.signer, addresses, stamp_ms)
            self._said = addresses
        return own

    @property
    def card(self) -> bytes | None:
        """Return the own contact's bytes to show to whoever is asked; a client shows none."""
        return self.contact.sealed if self.server else None

    # ---- who asks

    def admit(self, sender: PeerId | None, size_bytes: int) -> PeerId:
        """Return who made the request in hand. Raises `RefusedError` for one too many, or too big."""
        if sender is None:
            raise RefusedError("the DHT serves other nodes", hint="use the node's own `Dht`")
        if size_bytes > self.settings.request_bytes_max:
            self.note_refused(sender, f"a request of {size_bytes} bytes")
            raise RefusedError(
                f"a request of {size_bytes} bytes, where {self.settings.request_bytes_max} are allowed",
                hint="send less at a time",
            )
        if not self._rates.take(sender, trio.current_time()):
            self.note_refused(sender, "too many requests")
            raise RefusedError(
                f"more than {self.settings.requests_per_s:g} requests a second", hint="ask more slowly, or other nodes"
            )
        self.served += 1
        return sender

    def hear(self, sender: PeerId, card: bytes | None) -> None:
        """Take note of who asks, if it serves others too."""
        contact = self.read_card(card, sender)
        if contact is not None and not self.table.is_settled(contact):
            self.tell_routing(Heard(contact))

    def read_card(self, card: bytes | None, peer: PeerId) -> Contact | None:
        """Return the contact that a peer showed of itself; `None` where it showed none, or another's."""
        contact = self.read_contact(card, peer)
        if contact is not None and contact.peer != peer:
            self.note_refused(peer, "another's contact as its own")
            return None
        return None if contact is None else self.vetted(contact, peer)

    def tell_routing(self, message: object) -> None:
        """Tell the routing actor something about a peer; where it hears too much at once, it misses some."""
        _tell(self.routing, message)

    def tell_holding(self, message: object) -> None:
        """Tell the replication actor something about a peer; as with the routing actor."""
        _tell(self.holding, message)

    def closer(self, key: Key, sender: PeerId) -> tuple[bytes, ...]:
        """Return the contacts for an answer: those nearest to a key that the asker could dial, without itself."""
        count = min(self.settings.k, CONTACTS_MAX)
        return self.visible(self.table.closest(key, 2 * count + 1), sender)[:count]

    def visible(self, contacts: Iterable[Contact], sender: PeerId) -> tuple[bytes, ...]:
        """Return those that a peer could dial from where it is, without itself."""
        least = scope_seen(self.seen_at(sender))
        return tuple([each.sealed for each in contacts if each.peer != sender and each.reach >= least])

    def seen_at(self, peer: str) -> str:
        """Return the address that the link of a peer comes from, or else its stream; empty where nothing is known.

        Where this node listens within its machine alone, as in memory, that is where its links come from.
        """
        carrier = self._carrier(peer)
        if carrier is not None and carrier.remote:
            return carrier.remote
        if peer in self._streams:
            return self._streams[peer][-1]
        own = self.system.addresses
        return own[0] if own and all(scope_of(address) is Scope.MACHINE for address in own) else ""

    @contextlib.contextmanager
    def streaming(self, peer: PeerId, remote: str) -> Iterator[None]:
        """Take note that a peer asks over a stream that comes from `remote`, for as long as it does."""
        places = self._streams.setdefault(peer, [])
        places.append(remote)
        try:
            yield
        finally:
            places.remove(remote)
            if not places:
                del self._streams[peer]

    def is_linked(self, peer: str) -> bool:
        """Tell whether there is a link with a peer."""
        return self._carrier(peer) is not None

    @property
    def links(self) -> Links | None:
        """This node's links, if that is how it reaches others."""
        network = self.system.network
        links = network.outer if isinstance(network, Routes) else network
        return links if isinstance(links, Links) else None

    def _carrier(self, peer: str) -> Carrier | None:
        links = self.links
        return None if links is None else links.carrier(PeerId(peer))

    def group_of(self, peer: PeerId) -> str:
        """Return the group of the address at which a peer is seen; empty for what is not public."""
        return counted_group(self.seen_at(peer))

    def share_of(self, peer: PeerId) -> str:
        """Return what that which a peer hands on counts against: the group of its address, or the peer itself."""
        return self.group_of(peer) or f"peer:{peer}"

    # ---- what others say

    def read_contact(self, data: bytes | None, sender: str) -> Contact | None:
        """Return a contact that `sender` showed, or `None` where it is none, or this node's own."""
        if data is None:
            return None
        try:
            contact = read_contact(data)
        except DecodeError as error:
            self.note_refused(sender, f"a contact: {error}")
            return None
        return contact if contact.peer != self.peer else None

    def read_contacts(self, contacts: Iterable[bytes], sender: str) -> tuple[Contact, ...]:
        """Return the sound ones among the contacts in an answer that name an address which `sender` may vouch for."""
        seen_at = self.seen_at(sender)
        read = [self.read_contact(data, sender) for data in contacts]
        vetted = [_vetted(contact, seen_at) for contact in read if contact is not None]
        return tuple([contact for contact in vetted if contact.addresses])

    def vetted(self, contact: Contact, voucher: str) -> Contact:
        """Return a contact with those of its addresses alone that the peer `voucher` may vouch for: others are never dialled."""
        return _vetted(contact, self.seen_at(voucher))

    def read_record(self, data: bytes | None, key: Key) -> Record | None:
        """Return the record in an answer about `key`, if it holds now. Raises `ForgedError` for what nobody signed for it."""
        if data is None:
            return None
        try:
            record = read_record(data)
        except DecodeError as error:
            raise ForgedError(f"its record is none: {error}", hint=_HINT) from error
        if record.key != key:
            raise ForgedError("its record is one of another key", hint=_HINT)
        return record if is_live(record, self.now_ms()) else None

    def note_refused(self, peer: str, reason: str) -> None:
        """Count what was refused, and say so now and then."""
        self.refused += 1
        now = trio.current_time()
        if now < self._silent_until:
            self._unsaid += 1
            return
        self._silent_until, unsaid, self._unsaid = now + _SILENCE_S, self._unsaid, 0
        self.system.emit(PeerRefused(peer, reason, unsaid))

    def dispute(self, fact: object) -> None:
        """Say what somebody should hear of that others can bring about as often as they like: a few times, then now and then."""
        if self._disputes.take(type(fact).__name__, trio.current_time()):
            self.system.emit(fact)

    def disk_refuses(self, error: WorldError) -> RefusedError:
        """Take note that this node's own disk took nothing; return what others hear of it, which is not where it is."""
        self.note_refused("", f"its disk: {error}")
        return RefusedError("its disk refuses", hint="another node may take it: this one's user is told why")

    # ---- asking

    def teach(self, contact: Contact) -> None:
        """Let the links know where a peer can be dialled: a contact has been vetted when it was read."""
        if contact.peer != self.peer and contact.addresses:
            self.system.learn(contact.peer, contact.addresses)

    async def dial(self, address: str) -> PeerId:
        """Link with whoever listens at an address that the user named. Raises `WorldError`, `ConfigError`."""
        network = self.system.network
        if network is None:
            raise UnreachableError("this system has no network", hint="open_system(transport=prime.Tcp(...))")
        with trio.move_on_after(self.settings.request_s):
            return await network.dial(address)
        raise DeadlineError(f"{address} did not answer in time", hint="is its node running?")

    def _remind(self, peer: PeerId) -> None:
        """Let the links know again where a peer of the table is: of so many peers that come and go they forget some."""
        links, known = self.links, self.table.get(peer)
        if known is not None and links is not None and not links.known_addresses(peer):
            self.teach(known)

    async def ask(
        self, peer: PeerId, path: str, actor: type[Actor[Any]], message: Ask[R], *, patient: bool = False
    ) -> R:
        """Ask an actor of a peer, within the deadline of one request, and no more often than it would take. Raises as an ask.

        Who did not answer last time has `SILENT_S`, unless this node is `patient`, as it is when it asks whether a peer lives.
        """
        wait_s = self._pace.owe(peer, trio.current_time())
        if wait_s:
            await trio.sleep(min(wait_s, self.settings.request_s))
        self._remind(peer)
        limit_s = self.settings.request_s
        if peer in self._silent and not patient:
            limit_s = min(limit_s, SILENT_S)
        with self._heeding(peer):
            answer: R = await self.system.ref(peer, path, actor).ask(message, timeout=limit_s)
        return answer

    @contextlib.contextmanager
    def _heeding(self, peer: PeerId) -> Iterator[None]:
        """Remember whether a peer answers; a refusal is an answer."""
        try:
            yield
        except RefusedError:
            self._silent.pop(peer, None)
            raise
        except PrimeError:
            if len(self._silent) >= SILENT_MAX:
                del self._silent[next(iter(self._silent))]
            self._silent[peer] = None
            raise
        self._silent.pop(peer, None)


def _tell(actor: Ref[Any] | None, message: object) -> None:
    if actor is not None:
        with contextlib.suppress(PrimeError):
            actor.tell_nowait(message)


def _vetted(contact: Contact, seen_at: str) -> Contact:
    if contact.exposes >= scope_seen(seen_at):
        return contact
    return attrs.evolve(contact, addresses=vouched(contact.addresses, seen_at))
