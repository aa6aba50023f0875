"""The routing actor: it keeps the table of who is near, alive and diverse, joins the DHT, and says who is near a key.

Peers of whom it only heard are asked whether they live before they get in, and those who have been in a bucket longest
before they lose their place. A new incarnation begins with whom the one before knew: those with a link at once, the
others when they have answered.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from prime.actor import Actor, on
from prime.actor.actor import Once
from prime.actor.contract import PeerId
from prime.dht import bootstrap as core
from prime.dht import key as keys
from prime.dht import messages as m
from prime.dht.bootstrap import Bootstrap
from prime.dht.contact import Contact
from prime.dht.facts import AddressFailed, ContactAdded, ContactDropped
from prime.dht.holding import Neighbour
from prime.dht.key import bucket_of
from prime.dht.lookup import Nearest
from prime.dht.peering import Heard, Met, Missed, Peering, Suggested
from prime.dht.replication import Joined, Left
from prime.dht.table import Table, key_in
from prime.errors import PrimeError, RefusedError
from prime.transport.facts import LinkUp
from prime.wire import message

if TYPE_CHECKING:
    from prime.dht.looking import Lookups

PINGS_MAX: Final = 8
"""Peers that are asked at a time whether they live."""
QUEUE_MAX: Final = 256
"""Peers that wait to be asked."""
GROUP_QUEUE_MAX: Final = 16
"""Those of one IP group; or as many as may be in the table, if that is more."""

TOLD_MAX: Final = 256
"""Addresses to begin with."""


@message
class Wake:
    """The core's time has come."""


@message
class Told:
    """An address to begin with, which the user or the local network named."""

    address: str


@message
class Linked:
    """There is a link with this peer."""

    peer: PeerId


class RoutingActor(Actor[m.FindPeers | m.Introduce | Heard | Met | Missed | Suggested | Linked | Told | Wake]):
    """Keeps the table of one node."""

    def __init__(self, peering: Peering, told_of: Sequence[str], lookups: Lookups, *, linked: bool = True) -> None:
        self._peering = peering
        self._linked = linked
        """Whether peers that there are links with for something else are asked, too."""
        self._told_of = list(told_of)
        self._named = len(self._told_of)
        """So many the user named; the others the local network did."""
        self._lookups = lookups
        self._introduced: dict[str, Contact] = {}
        """Who answered at an address to begin with."""
        self._led_nowhere: dict[str, str] = {}
        """Why nobody did, as it was told last."""
        self._queue: deque[PeerId] = deque()
        self._pinged: dict[PeerId, str] = {}
        """Who is to be asked, or is, and the group of each."""
        self._pings = 0
        self._timer: Once | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    async def started(self) -> None:
        """Begin with whom the incarnation before knew, and join."""
        peering, now = self._peering, self.ctx.now()
        known = tuple(peering.table)
        self._table = peering.table = Table(peering.key, peering.settings, now)
        for contact in known:
            if peering.is_linked(contact.peer):
                self._table.answered(contact, now, seen_at=peering.seen_at(contact.peer))
            else:
                peering.teach(contact)  # the links may have forgotten it, and it is in no table now
                self._ping(contact.peer)
        bits = self.ctx.system.random.getrandbits
        self._bootstrap = Bootstrap(
            self._table, told_of=len(self._told_of), settings=peering.settings, bits=bits, now=now
        )
        peering.sight = self._bootstrap.sight
        if self._linked:
            self._unsubscribe = self.ctx.system.subscribe(self._observe)
            for peer in () if peering.links is None else peering.links.peers:
                self._ping(peer)
        self._feed(core.Woken())

    async def stopping(self) -> None:
        """Hear of links no more."""
        self._unsubscribe()

    def _observe(self, fact: object) -> None:
        if isinstance(fact, LinkUp):
            with contextlib.suppress(PrimeError):  # it has ended, or hears too much at once
                self.ctx.self_ref.tell_nowait(Linked(PeerId(fact.peer)))

    # ---- what others ask

    @on(m.FindPeers)
    def find(self, q: m.FindPeers) -> m.PeersFound:
        """Name the contacts nearest to a key."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.target))
        self._hear(sender, q.asker)
        return m.PeersFound(peering.closer(keys.from_bytes(q.target), sender))

    @on(m.Introduce)
    def introduce(self, q: m.Introduce) -> bytes:
        """Say who this node is."""
        self._hear(self._peering.admit(self.ctx.sender, 0), q.asker)
        if not self._peering.server:
            raise RefusedError("nobody can dial this node: it is in no table", hint="it asks by itself")
        return self._peering.contact.sealed

    def _hear(self, sender: PeerId, card: bytes | None) -> None:
        contact = self._peering.read_card(card, sender)
        if contact is not None:
            self.heard(Heard(contact))

    # ---- what this node's other actors notice

    @on(Heard)
    def heard(self, event: Heard) -> None:
        """Ask a peer that made a request whether it answers, too, if it would get a place."""
        contact = event.contact
        self._peering.teach(contact)
        if self._table.heard(contact, self.ctx.now(), seen_at=self._peering.seen_at(contact.peer)):
            self._ping(contact.peer)

    @on(Met)
    def met(self, event: Met) -> None:
        """Take in a peer that has answered."""
        contact, table = event.contact, self._table
        was_in, was_live = contact.peer in table, table.is_live(contact.peer)
        doubtful = table.answered(contact, self.ctx.now(), seen_at=self._peering.seen_at(contact.peer))
        if doubtful is not None:
            self._ping(doubtful.peer, first=True)
        if not was_live and table.is_live(contact.peer):
            self._peering.tell_holding(Neighbour(Joined(contact)))
        if not was_in and contact.peer in table:
            self.ctx.emit(ContactAdded(contact.peer, bucket_of(table.own, contact.key)))
            self._feed(core.Woken())

    @on(Missed)
    def missed(self, event: Missed) -> None:
        """Take note that a peer has not answered."""
        table, peer = self._table, event.peer
        was_in, was_live = peer in table, table.is_live(peer)
        table.failed(peer, self.ctx.now())
        is_dropped = was_in and peer not in table  # whoever waited has its place now
        if was_live or is_dropped:
            self._peering.tell_holding(Neighbour(Left(peer)))
        if is_dropped:
            self.ctx.emit(ContactDropped(peer, "it does not answer"))
            self._feed(core.Woken())

    @on(Told)
    def told(self, event: Told) -> None:
        """Begin with this address, too."""
        if event.address not in self._told_of and (len(self._told_of) < TOLD_MAX or self._forget_one()):
            self._told_of.append(event.address)
            self._feed(core.ToldOf(len(self._told_of)))
            self.ctx.start_soon(self._dial, event.address)

    @on(Suggested)
    def suggested(self, event: Suggested) -> None:
        """Ask somebody who was shown at a rendezvous point to introduce itself."""
        peer = event.contact.peer
        if peer not in self._table:
            self._peering.teach(event.contact)
            self._ping(peer)

    @on(Linked)
    def linked(self, event: Linked) -> None:
        """Ask a peer that there is a link with now to introduce itself: it may be in the DHT, too."""
        if event.peer not in self._table:
            self._ping(event.peer)

    def _forget_one(self) -> bool:
        """Make room for an address: of those that the local network named, the first where nobody answers goes."""
        silent = next((each for each in self._told_of[self._named :] if each not in self._introduced), None)
        if silent is not None:
            self._told_of.remove(silent)
        return silent is not None

    @on(Wake)
    def wake(self, _: Wake) -> None:
        """Let the core see that time has passed."""
        self._timer = None
        self._feed(core.Woken())

    # ---- whether they live

    def _ping(self, peer: PeerId, *, first: bool = False) -> None:
        """Have a peer asked; `first` for one whose place another waits for, of whom there are no more than places."""
        if peer in self._pinged:
            return
        group = self._peering.group_of(peer)
        if first:
            self._queue.appendleft(peer)
        elif len(self._queue) < QUEUE_MAX and not self._is_crowded(group):
            self._queue.append(peer)
        else:
            return
        self._pinged[peer] = group
        if self._pings < PINGS_MAX:
            self._pings += 1
            self.ctx.start_soon(self._ping_all)

    def _is_crowded(self, group: str) -> bool:
        """Tell whether enough peers of a group wait: those that never answer must not keep others waiting."""
        most = max(GROUP_QUEUE_MAX, self._peering.settings.group_table_max)
        return bool(group) and sum(each == group for each in self._pinged.values()) >= most

    async def _ping_all(self) -> None:
        while self._queue:
            peer = self._queue.popleft()
            contact = await self._introduce(peer)
            del self._pinged[peer]
            if contact is not None:
                self.met(Met(contact))
        self._pings -= 1

    async def _introduce(self, peer: PeerId) -> Contact | None:
        """Exchange contacts with a peer; `None` where it shows none of its own."""
        peering = self._peering
        try:
            question = m.Introduce(peering.card)
            data = await peering.ask(peer, m.ROUTING_PATH, RoutingActor, question, patient=True)
        except PrimeError as error:
            if not isinstance(error, RefusedError):
                self.missed(Missed(peer))
            return None
        contact = peering.read_card(data, peer)
        if contact is not None:
            peering.teach(contact)
        return contact

    # ---- joining

    def _feed(self, event: core.Event) -> None:
        now = self.ctx.now()
        for command in self._bootstrap.step(event, now):
            match command:
                case core.IntroduceToAll():
                    self.ctx.start_soon(self._introduce_to_all)
                case core.IntroduceTo(contact):
                    self._ping(contact.peer)
                case core.LookUp(bucket):
                    self.ctx.start_soon(self._look_around, bucket)
        if self._bootstrap.phase in {"first", "merged"}:
            self._peering.joined.set()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.ctx.after(max(0.0, self._bootstrap.wakes_at - now), Wake())

    async def _introduce_to_all(self) -> None:
        answered = 0

        async def dial(address: str) -> None:
            nonlocal answered
            answered += await self._dial(address)

        async with trio.open_nursery() as nursery:
            for address in self._told_of:
                nursery.start_soon(dial, address)
        self._feed(core.Introduced(answered))

    async def _dial(self, address: str) -> bool:
        """Link with whoever listens at an address that the user named, and exchange contacts."""
        contact, reason = None, "it is this node's own"
        try:
            peer = await self._peering.dial(address)
            if peer != self._peering.peer:
                reason = f"{peer} answers there, and shows no contact in the DHT"
                contact = await self._introduce(peer)
        except PrimeError as error:
            reason = str(error)
        if contact is None:
            self._introduced.pop(address, None)
            self._tell_failed(address, reason)
            return False
        self._introduced[address] = contact
        self._led_nowhere.pop(address, None)
        self.met(Met(contact))
        return True

    def _tell_failed(self, address: str, reason: str) -> None:
        if self._led_nowhere.get(address) != reason:
            self._led_nowhere[address] = reason
            self._peering.dispute(AddressFailed(address, reason))

    async def _look_around(self, bucket: int) -> None:
        own, random = self._peering.key, self.ctx.system.random
        key, begin = (
            (own, tuple(self._introduced.values()))
            if bucket == core.OWN
            else (key_in(own, bucket, random.getrandbits), ())
        )
        try:
            answered = (await self._lookups.run(Nearest(key), begin=begin)).answered
        except PrimeError:
            answered = 0
        self._feed(core.LookedUp(bucket, answered))
