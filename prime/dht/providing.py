"""The provider store: who has what a key names. A provider speaks for itself alone."""

from __future__ import annotations

from prime.actor import Actor, on
from prime.dht import key as keys
from prime.dht import messages as m
from prime.dht.archive import Archive
from prime.dht.peering import CONTACTS_MAX, Peering
from prime.errors import RefusedError, WorldError


class ProvidingActor(Actor[m.FindProviders | m.Provide]):
    """Answers who has what a key names."""

    def __init__(self, peering: Peering, archive: Archive) -> None:
        self._peering = peering
        self._archive = archive

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
    async def provide(self, q: m.Provide) -> None:
        """Remember that the sender has it; the answer comes once that is on the disk."""
        peering = self._peering
        sender = peering.admit(self.ctx.sender, len(q.contact))
        contact = peering.read_card(q.contact, sender)
        if contact is None:
            raise RefusedError("a provider speaks for itself alone", hint="show your own contact")
        group = peering.share_of(sender)
        key, now_ms = keys.from_bytes(q.key), peering.now_ms()
        try:
            plan = await self._archive.provide(key, contact, sender, group, q.ttl_s, now_ms)
        except WorldError as error:
            raise peering.disk_refuses(error) from error
        if plan.outcome == "refused":
            raise RefusedError(plan.why, hint="another peer remembers it")
