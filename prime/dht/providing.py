"""The provider store: who has what a key names. A provider speaks for itself alone.

What it answers as remembered is on the disk: what comes while one write is under way shares the next one, so that who
says much holds up nobody who asks.
"""

from __future__ import annotations

from prime.actor import Actor, Later, on
from prime.dht import key as keys
from prime.dht import messages as m
from prime.dht.archive import Archive
from prime.dht.batches import Batches
from prime.dht.peering import CONTACTS_MAX, Peering
from prime.dht.providers import Offer
from prime.errors import RefusedError, WorldError


class ProvidingActor(Actor[m.FindProviders | m.Provide]):
    """Answers who has what a key names."""

    def __init__(self, peering: Peering, archive: Archive) -> None:
        self._peering = peering
        self._archive = archive
        self._batches = Batches(self._write)

    @on(m.FindProviders)
    def find(self, q: m.FindProviders) -> m.ProvidersFound:
        """Name those who have it, and who is nearer."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.key))
        peering.hear(sender, q.asker)
        key = keys.from_bytes(q.key)
        found = self._archive.providers.find(key, peering.now_ms(), min(peering.settings.k, CONTACTS_MAX))
        return m.ProvidersFound(peering.visible(found, sender), peering.closer(key, sender))

    @on(m.Provide)
    def provide(self, q: m.Provide) -> Later:
        """Remember that the sender has it; the answer comes once that is on the disk."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.contact))
        contact = peering.read_card(q.contact, sender)
        if contact is None:
            raise RefusedError("a provider speaks for itself alone", hint="show your own contact")
        self._batches.check_room()
        later = self.ctx.defer()
        key, group = keys.from_bytes(q.key), peering.share_of(sender)
        self._batches.add((Offer(key, contact, sender, group, q.ttl_s), later), self.ctx.start_soon)
        return later

    async def _write(self, batch: list[tuple[Offer, Later]]) -> None:
        try:
            plan = await self._archive.provide([offer for offer, _ in batch], self._peering.now_ms())
        except WorldError as error:
            refusal = self._peering.disk_refuses(error)
            for _, later in batch:
                later.fail(refusal)
            return
        for (_, later), why in zip(batch, plan.answers, strict=True):
            if why:
                later.fail(RefusedError(why, hint="another peer remembers it"))
            else:
                later.reply(None)
