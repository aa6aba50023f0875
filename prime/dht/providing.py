"""The provider store: who has what a key names. A provider speaks for itself alone.

What it answers as remembered is on the disk: what comes while one write is under way shares the next one, so that who
says much holds up nobody who asks.
"""

from __future__ import annotations

from typing import Final

from prime.actor import Actor, Later, on
from prime.dht import key as keys
from prime.dht import messages as m
from prime.dht.archive import Archive
from prime.dht.peering import CONTACTS_MAX, Peering
from prime.dht.providers import Offer
from prime.errors import RefusedError, WorldError

WAITING_MAX: Final = 512
"""Provisions that wait for their turn to be written; further ones are refused."""
BATCH_MAX: Final = 128
"""Provisions that share one write."""


class ProvidingActor(Actor[m.FindProviders | m.Provide]):
    """Answers who has what a key names."""

    def __init__(self, peering: Peering, archive: Archive) -> None:
        self._peering = peering
        self._archive = archive
        self._waiting: list[tuple[Offer, Later]] = []
        self._writing = False

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
        if len(self._waiting) >= WAITING_MAX:
            raise RefusedError("more is said than can be written", hint="another peer remembers it")
        later = self.ctx.defer()
        key, group = keys.from_bytes(q.key), peering.share_of(sender)
        self._waiting.append((Offer(key, contact, sender, group, q.ttl_s), later))
        if not self._writing:
            self._writing = True
            self.ctx.start_soon(self._write)
        return later

    async def _write(self) -> None:
        """Write what waits, until nothing does."""
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            try:
                plan = await self._archive.provide([offer for offer, _ in batch], self._peering.now_ms())
            except WorldError as error:
                refusal = self._peering.disk_refuses(error)
                for _, later in batch:
                    later.fail(refusal)
                continue
            for (_, later), why in zip(batch, plan.answers, strict=True):
                if why:
                    later.fail(RefusedError(why, hint="another peer remembers it"))
                else:
                    later.reply(None)
        self._writing = False
