"""What this node itself publishes and provides: how it is said first, and the actor that says it anew before it expires.

What is kept alive stands in the archive, so a node that starts again goes on; what could not be said is tried again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from prime.actor import Actor, on
from prime.actor.contract import PeerId
from prime.dht import lookup as core
from prime.dht import messages as m
from prime.dht.archive import Archive
from prime.dht.contact import Contact
from prime.dht.key import Key, to_bytes
from prime.dht.looking import Lookups
from prime.dht.peering import Missed, Peering
from prime.dht.providers import Offer
from prime.dht.providing import ProvidingActor
from prime.dht.publications import Provided, Publication, Published
from prime.dht.record import Record, is_live, later_of, make_record, version_of
from prime.dht.shares import OWN_GROUP
from prime.dht.storing import Storings, checked
from prime.errors import ConflictError, PrimeError, RefusedError, UnreachableError
from prime.wire import message

AT_ONCE_MAX: Final = 4
"""Publications that are said anew at a time."""
AGAIN_MS: Final = 60_000
"""After how long one that could not be said is tried again."""
LOOK_S: Final = 30.0
"""How often it is looked whether something is due."""
TRIES_MAX: Final = 3
"""Versions that a put makes, each above the latest that it met."""


@attrs.frozen
class Put:
    """A record that was stored: who holds it, of how many that were asked."""

    record: Record
    holders: tuple[PeerId, ...]
    asked: int


class Publisher:
    """What one node says of itself in the DHT. One put a key at a time: two would make two versions of one number."""

    def __init__(self, peering: Peering, archive: Archive, lookups: Lookups, storings: Storings) -> None:
        self._peering = peering
        self._archive = archive
        self._lookups = lookups
        self._storings = storings
        self._turns: dict[Key, tuple[trio.Lock, int]] = {}

    # ---- records

    async def put(self, value: bytes, *, salt: bytes | None, seq: int | None, ttl_s: int, removed: bool = False) -> Put:
        """Store a record of this node's own and keep it alive. Raises as `Dht.put`."""
        record = self._make(value, salt, seq or 0, ttl_s, removed=removed)
        async with self._turn(record.key):
            if salt is None or seq is not None:
                outcome = await self._lookups.run(core.Nearest(record.key))
                return await self._store(record, outcome.closest)
            outcome = await self._lookups.run(core.Value(record.key, 0))
            known = self._latest(record.key, outcome.record)
            tries_left = TRIES_MAX
            while True:
                record = self._make(value, salt, 0 if known is None else known.seq + 1, ttl_s, removed=removed)
                try:
                    return await self._store(record, outcome.closest)
                except _SurpassedError as error:
                    known, tries_left = error.later, tries_left - 1
                    if not tries_left:
                        raise

    async def stop_publishing(self, key: Key) -> None:
        """Say a record anew no more."""
        async with self._turn(key):  # else one that is being said anew would come back
            await self._archive.publish(Published(key, None))

    def known(self, key: Key) -> Record | None:
        """Return the record of a key that this node holds, for others or as its own, and that holds now."""
        now_ms = self._peering.now_ms()
        own = self._archive.publications.record(key)
        return later_of(self._archive.shelf.get(key, now_ms), own if own is not None and is_live(own, now_ms) else None)

    def _latest(self, key: Key, found: Record | None) -> Record | None:
        """Return the latest version of a key that this node knows of, also one that is over: the next comes after it."""
        return later_of(found, self.known(key), self._archive.publications.record(key))

    def _make(self, value: bytes, salt: bytes | None, seq: int, ttl_s: int, *, removed: bool) -> Record:
        now_ms = self._peering.now_ms()
        return make_record(
            self._peering.signer, value, salt=salt, seq=seq, created_ms=now_ms, ttl_s=ttl_s, removed=removed
        )

    async def _store(self, record: Record, closest: Sequence[Contact]) -> Put:
        """Have a quorum hold a record, and keep it alive from then on."""
        stored = await self._storings.run(record, self._storings.places(record.key, closest))
        if stored.later is not None and version_of(stored.later) > version_of(record):
            raise _SurpassedError(record, stored.later)
        checked(stored)
        await self._archive.publish(Published(record.key, record))
        return Put(record, stored.holders, stored.asked)

    # ---- what it has

    async def provide(self, key: Key) -> int:
        """Say that this node has what a key names, and keep saying it, also where nobody hears it yet; return how many remember it."""
        async with self._turn(key):
            return await self._say(key)

    async def stop_providing(self, key: Key) -> None:
        """Say no more that this node has what a key names."""
        async with self._turn(key):
            await self._archive.publish(Provided(key, None))
            await self._tell(key, 0)

    async def _say(self, key: Key) -> int:
        now_ms = self._peering.now_ms()
        said = Provided(key, now_ms)
        await self._archive.publish(said)
        try:
            return await self._tell(key, self._peering.settings.ttl_s)
        except PrimeError:
            self._archive.publications.put_off(said, now_ms + AGAIN_MS)
            raise

    async def _tell(self, key: Key, ttl_s: int) -> int:
        outcome = await self._lookups.run(core.Nearest(key))
        places = self._storings.places(key, outcome.closest)[: self._peering.settings.replicas]
        if not places:
            raise UnreachableError(
                "no peer answered: nobody can remember it", hint="name nodes of the DHT to begin with"
            )
        reasons: list[str] = []

        async def tell(place: Contact) -> None:
            try:
                await self._tell_one(place, key, ttl_s)
            except PrimeError as error:
                reasons.append(str(error))

        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(tell, place)
        if len(reasons) == len(places):
            raise RefusedError(f"none of {len(places)} peers remembers it: {reasons[0]}", hint="try again later")
        return len(places) - len(reasons)

    async def _tell_one(self, place: Contact, key: Key, ttl_s: int) -> None:
        peering = self._peering
        if place.peer == peering.peer:
            now_ms = peering.now_ms()
            plan = await self._archive.provide([Offer(key, place, place.peer, OWN_GROUP, ttl_s)], now_ms)
            if plan.outcome == "refused":
                raise RefusedError(plan.why, hint="give the DHT more room")
            return
        try:
            question = m.Provide(to_bytes(key), peering.contact.sealed, ttl_s)
            await peering.ask(place.peer, m.PROVIDERS_PATH, ProvidingActor, question)
        except RefusedError:
            raise
        except PrimeError:
            peering.tell_routing(Missed(place.peer))
            raise

    # ---- anew

    async def say_anew(self, publication: Publication) -> None:
        """Publish something anew. Raises as `put` and `provide`."""
        async with self._turn(publication.key):
            if isinstance(publication, Provided):
                if self._archive.publications.provides(publication.key):  # else it was stopped meanwhile
                    await self._say(publication.key)
            elif publication.record is not None:
                await self._publish_anew(publication.record)

    async def _publish_anew(self, record: Record) -> None:
        """Sign a record again, under the same number; give way to a later version, which this key has signed elsewhere."""
        key = record.key
        if self._archive.publications.record(key) != record:
            return  # another version has taken its place meanwhile
        outcome = await self._lookups.run(core.Value(key, 0))
        later = self._latest(key, outcome.record)
        if later is not None and version_of(later) > version_of(record):
            await self._archive.publish(Published(key, later))
            return
        anew = self._make(record.value, record.salt, record.seq, record.ttl_s, removed=False)
        try:
            await self._store(anew, outcome.closest)
        except _SurpassedError as error:
            await self._archive.publish(Published(key, error.later))

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        """Wait until no other put of this key is under way."""
        lock, waiting = self._turns.get(key, (trio.Lock(), 0))
        self._turns[key] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns.pop(key)
            if waiting > 1:
                self._turns[key] = (lock, waiting - 1)


class _SurpassedError(ConflictError):
    """A holder has a later version than the one that it was handed."""

    def __init__(self, record: Record, later: Record) -> None:
        super().__init__(
            f"version {record.seq} was put where version {later.seq} is held already",
            hint="leave seq out, or make it greater",
        )
        self.later = later


@message
class Look:
    """See what is due."""


class PublishingActor(Actor[Look]):
    """Keeps alive what one node publishes."""

    def __init__(self, publisher: Publisher, archive: Archive, peering: Peering) -> None:
        self._publisher = publisher
        self._archive = archive
        self._peering = peering
        self._under_way: set[tuple[str, Key]] = set()

    async def started(self) -> None:
        """Look now and then."""
        self.ctx.every(LOOK_S, Look())
        self._look()

    @on(Look)
    def look(self, _: Look) -> None:
        """Say anew what is due, a few at a time."""
        self._look()

    def _look(self) -> None:
        due = self._archive.publications.due(self._peering.now_ms(), 2 * AT_ONCE_MAX)
        for publication in due:
            place = (publication.kind, publication.key)
            if len(self._under_way) < AT_ONCE_MAX and place not in self._under_way:
                self._under_way.add(place)
                self.ctx.start_soon(self._say, publication)

    async def _say(self, publication: Publication) -> None:
        try:
            await self._publisher.say_anew(publication)
        except PrimeError:
            self._archive.publications.put_off(publication, self._peering.now_ms() + AGAIN_MS)
        self._under_way.discard((publication.kind, publication.key))
        self._look()
