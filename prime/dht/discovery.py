"""The discovery actor: a rendezvous point for others, and this node's own registrations with the points it was told of.

A point shows contacts that their peers signed; whom it shows is asked to introduce itself before it gets into the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from prime.actor import Actor, on
from prime.actor.contract import PeerId
from prime.dht import messages as m
from prime.dht.contact import Contact
from prime.dht.peering import CONTACTS_MAX, Peering, Suggested
from prime.dht.rendezvous import TTL_S_MAX, Rendezvous
from prime.errors import PrimeError, RefusedError
from prime.wire import message

EVERYBODY: Final = "dht"
"""The namespace of all nodes of a DHT."""
SWEEP_S: Final = 60.0
FIRST_S: Final = 2.0
LAST_S: Final = 600.0
"""How long after a try that nobody answered the next one comes, at first and at most; it doubles in between."""
PAGES_MAX: Final = 8
"""Answers of one point that are asked for at a time."""


@message
class Sweep:
    """See what has ended."""


class DiscoveryActor(Actor[m.Register | m.Unregister | m.Discover | Sweep]):
    """Serves as a rendezvous point, and keeps this node registered with others. `points` are their addresses."""

    def __init__(self, peering: Peering, points: Sequence[str]) -> None:
        self._peering = peering
        self._points = points
        self._book = Rendezvous(peering.settings.group_records_max)

    async def started(self) -> None:
        """Go to the points."""
        self.ctx.every(SWEEP_S, Sweep())
        for point in self._points:
            self.ctx.start_soon(self._attend, point)

    # ---- what others ask

    @on(m.Register)
    def register(self, q: m.Register) -> int:
        """Register the sender; return for how many seconds."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.contact) + len(q.namespace))
        contact = peering.read_card(q.contact, sender)
        if contact is None:
            raise RefusedError("a peer registers itself alone", hint="show your own contact")
        ttl_s = max(0, min(q.ttl_s, TTL_S_MAX))
        why = self._book.register(q.namespace, contact, peering.share_of(sender), ttl_s, self.ctx.now())
        if why:
            raise RefusedError(why, hint="another point takes it")
        return ttl_s

    @on(m.Unregister)
    def unregister(self, q: m.Unregister) -> None:
        """Forget the sender."""
        self._book.unregister(q.namespace, self._peering.admit(self.ctx.sender, len(q.namespace)))

    @on(m.Discover)
    def discover(self, q: m.Discover) -> m.Discovered:
        """Show who is registered."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.namespace))
        found, after = self._book.discover(q.namespace, q.after, CONTACTS_MAX, self.ctx.now())
        return m.Discovered(peering.visible(found, sender), after)

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        """Forget what has ended."""
        self._book.sweep(self.ctx.now())

    # ---- what this node does at other points

    async def _attend(self, point: str) -> None:
        """Register with a point and see who else has, again and again."""
        wait_s = FIRST_S
        while True:
            try:
                await self._visit(point)
            except PrimeError:
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, LAST_S)
            else:
                wait_s = FIRST_S
                await trio.sleep(min(TTL_S_MAX / 2, self._peering.settings.refresh_s))

    async def _visit(self, point: str) -> None:
        peering = self._peering
        peer = await peering.dial(point)
        if peering.server:
            await register(peering, peer, EVERYBODY, TTL_S_MAX)
        for contact in await discover(peering, peer, EVERYBODY):
            peering.tell_routing(Suggested(contact))


async def register(peering: Peering, point: PeerId, namespace: str, ttl_s: int) -> int:
    """Register this node with a point; return for how long. Raises what an ask raises."""
    question = m.Register(namespace, peering.contact.sealed, ttl_s)
    return await peering.ask(point, m.DISCOVERY_PATH, DiscoveryActor, question)


async def discover(peering: Peering, point: PeerId, namespace: str) -> tuple[Contact, ...]:
    """Return who is registered with a point, without this node. Raises what an ask raises."""
    found: dict[PeerId, Contact] = {}
    after = 0
    for _ in range(PAGES_MAX):
        answer = await peering.ask(point, m.DISCOVERY_PATH, DiscoveryActor, m.Discover(namespace, after))
        found |= {contact.peer: contact for contact in peering.read_contacts(answer.contacts, point)}
        if answer.after <= after:
            break
        after = answer.after
    return tuple(found.values())
