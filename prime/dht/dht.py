"""`open_dht`: one call that makes a node part of a DHT, and `Dht`, what a program does with it.

No message waits for a lookup: what is found here are contacts, whose addresses the links are taught, and small values.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from prime.actor import Restart, System
from prime.actor.contract import PeerId
from prime.dht import lookup as core
from prime.dht import messages as m
from prime.dht import name as names
from prime.dht.archive import Archive, open_archive
from prime.dht.backend import Backend
from prime.dht.backends.memory import MemoryBackend
from prime.dht.contact import Contact
from prime.dht.holding import HoldingActor
from prime.dht.key import Key, distance, key_of_peer
from prime.dht.looking import Lookups
from prime.dht.peering import Missed, Peering
from prime.dht.providing import ProvidingActor
from prime.dht.record import TTL_S_MAX, Record, make_record, mutable_key, precedes
from prime.dht.routing import RoutingActor
from prime.dht.sealed import Signer
from prime.dht.settings import PRESETS, DhtSettings
from prime.dht.shares import OWN_GROUP
from prime.errors import (
    ActorUsageError,
    CorruptedError,
    NotFoundError,
    PrimeError,
    RefusedError,
    UnreachableError,
    WorldError,
)
from prime.transport.signing import wall_clock_s

RESTART: Final = Restart(max=60, within=60.0, backoff=(0.05, 2.0))
"""Strangers' bad input never fails an actor; this bounds what a defect may do."""
REST_S: Final = 0.5
"""How long a put that has its quorum waits for the holders that have not answered."""


@attrs.frozen
class Put:
    """A record that was stored: who holds it, of how many that were asked."""

    record: Record
    holders: tuple[PeerId, ...]
    asked: int


class Dht:
    """One node's view of the DHT. Make one with `open_dht`; all calls may run at the same time."""

    def __init__(self, peering: Peering, archive: Archive, lookups: Lookups, nursery: trio.Nursery) -> None:
        self._peering = peering
        self._archive = archive
        self._lookups = lookups
        self._nursery = nursery

    @property
    def settings(self) -> DhtSettings:
        """What it is tuned by."""
        return self._peering.settings

    @property
    def contact(self) -> Contact:
        """What this node says of itself now."""
        return self._peering.contact

    @property
    def peer(self) -> PeerId:
        """This node's id."""
        return self._peering.peer

    # ---- records

    async def get(self, key: Key, *, critical: bool = False) -> Record:
        """Return the record under a key: the latest version that enough holders agree on.

        `critical` asks along more disjoint paths, for where a lie would cost most. Raises `NotFoundError` (answered but
        held nothing), `UnreachableError` (no peer answered), `CorruptedError` (found but the signature is bad) and
        `DeadlineError`.
        """
        own = self._own_record(key)
        agreeing = self.settings.agreeing
        if own is not None and self._peering.server:
            agreeing = max(1, agreeing - 1)
        outcome = await self._lookups.run(core.Value(key, agreeing), critical=critical)
        best = _better(own, outcome.record)
        if best is None:
            raise _not_found(outcome)
        self._nursery.start_soon(self._correct, best, own, outcome)
        if best.removed:
            raise NotFoundError(f"what {best.publisher} had there is removed", hint="its publisher took it back")
        return best

    async def put(
        self, value: bytes, *, salt: bytes | None = None, ttl_s: int | None = None, seq: int | None = None
    ) -> Put:
        """Store a value: under its own hash, or with a `salt` under this node's id and that, where it can be changed.

        It holds for `ttl_s` and is published anew before that while this node runs. `seq` is the version's number, by
        default one more than the highest that is found. Raises `UsageError` for what cannot be a record, `RefusedError`
        where less than a quorum of holders took it, `UnreachableError` where nobody answered.
        """
        ttl_s = self.settings.ttl_s if ttl_s is None else ttl_s
        return await self._publish(value, salt, seq, ttl_s, removed=False)

    async def remove(self, salt: bytes) -> Put:
        """Take back what was put with this salt. Raises as `put`."""
        return await self._publish(b"", salt, None, TTL_S_MAX, removed=True)

    async def _publish(self, value: bytes, salt: bytes | None, seq: int | None, ttl_s: int, *, removed: bool) -> Put:
        make = functools.partial(
            make_record, self._peering.signer, value, salt=salt, ttl_s=ttl_s, removed=removed,
            created_ms=self._peering.now_ms(),
        )  # fmt: skip
        draft = make(seq=seq or 0)
        if salt is None or seq is not None:
            outcome = await self._lookups.run(core.Nearest(draft.key))
            return await self._store(draft, outcome)
        outcome = await self._lookups.run(core.Value(draft.key, 0))
        known = _better(self._own_record(draft.key), outcome.record)
        return await self._store(make(seq=0 if known is None else known.seq + 1), outcome)

    async def _store(self, record: Record, outcome: core.Outcome) -> Put:
        """Have the nearest peers hold a record."""
        places = self._places(record.key, outcome)
        if not places:
            raise UnreachableError("no peer answered: nobody can hold the record", hint=_ALONE)
        storing = _Storing(self._peering, self._archive, record, places)
        self._nursery.start_soon(storing.run)
        await storing.settled()
        return storing.result()

    def _places(self, key: Key, outcome: core.Outcome) -> list[Contact]:
        """Return who should hold a record, nearest first; this node too, where it serves."""
        places = list(outcome.closest)
        if self._peering.server:
            places.append(self.contact)
        return sorted(places, key=lambda each: distance(each.key, key))[: self.settings.k]

    def _own_record(self, key: Key) -> Record | None:
        return self._archive.shelf.get(key, self._peering.now_ms())

    async def _correct(self, best: Record, own: Record | None, outcome: core.Outcome) -> None:
        """Give the best record to those of the nearest that hold an older one or none."""
        near = {each.peer for each in self._places(best.key, outcome)[: self.settings.replicas]}
        stale = [each for each in outcome.stale if each.peer in near]
        if self.peer in near and (own is None or precedes(best, own)):
            stale.append(self.contact)
        if stale:
            await _Storing(self._peering, self._archive, best, stale).run()

    # ---- providers

    async def provide(self, key: Key) -> int:
        """Say that this node has what a key names; return how many peers remember it. Raises as `put`."""
        outcome = await self._lookups.run(core.Nearest(key))
        taken = await self._tell_provided(key, outcome.closest[: self.settings.replicas], self.settings.ttl_s)
        if not taken and outcome.closest:
            raise RefusedError(f"none of {len(outcome.closest)} peers remembers it", hint="try again later")
        if not outcome.closest:
            raise UnreachableError("no peer answered: nobody can remember it", hint=_ALONE)
        return taken

    async def stop_providing(self, key: Key) -> None:
        """Say no more that this node has what a key names."""
        outcome = await self._lookups.run(core.Nearest(key))
        await self._tell_provided(key, outcome.closest[: self.settings.replicas], 0)

    async def _tell_provided(self, key: Key, places: Sequence[Contact], ttl_s: int) -> int:
        taken = 0

        async def tell(place: Contact) -> None:
            nonlocal taken
            message = m.Provide(key.to_bytes(32, "big"), self.contact.sealed, ttl_s)
            try:
                await self._peering.ask(place.peer, m.PROVIDERS_PATH, ProvidingActor, message)
            except PrimeError:
                return
            taken += 1

        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(tell, place)
        return taken

    async def find_providers(self, key: Key, *, count_max: int = 20) -> tuple[Contact, ...]:
        """Return those who say that they have what a key names, at most `count_max`; none is no error.

        Raises `UnreachableError`, `DeadlineError`.
        """
        outcome = await self._lookups.run(core.Providers(key, count_max))
        if not outcome.answered:
            raise UnreachableError("no peer answered", hint=_ALONE)
        return outcome.providers

    # ---- peers

    async def find_peer(self, peer: PeerId) -> Contact:
        """Return the contact of a peer, which has answered. Raises `NotFoundError`, `UnreachableError`, `DeadlineError`."""
        key = key_of_peer(peer)
        if peer == self.peer:
            return self.contact
        outcome = await self._lookups.run(core.Peer(peer, key))
        if outcome.found is None:
            raise _not_found(outcome)
        return outcome.found

    async def closest(self, key: Key) -> tuple[Contact, ...]:
        """Return the `k` peers nearest to a key that answer, nearest first, this node left out."""
        outcome = await self._lookups.run(core.Nearest(key))
        if not outcome.answered:
            raise UnreachableError("no peer answered", hint=_ALONE)
        return outcome.closest

    # ---- names

    async def set_name(self, name: str, value: bytes) -> Put:
        """Publish a value as `PEER/NAME`, where PEER is this node's id. Raises as `put`."""
        return await self.put(value, salt=names.salt_of(name))

    async def resolve(self, name: str) -> bytes:
        """Return the value of `PEER/NAME`, or of this node's own `NAME`. Raises as `get`."""
        peer, own = names.split_name(name)
        record = await self.get(mutable_key(peer or self.peer, names.salt_of(own)))
        return record.value

    # ---- what it sees

    async def joined(self) -> None:
        """Wait until this node has found its place: it is merged, or was told of nobody and is the first."""
        await self._peering.joined.wait()

    def status(self) -> m.DhtStatus:
        """Return what this node knows and holds now."""
        peering, archive = self._peering, self._archive
        table = peering.table
        sight = peering.sight() if peering.sight is not None else None
        return m.DhtStatus(
            peer=self.peer,
            server=peering.server,
            joined=sight is not None and sight.phase == "merged",
            contacts=len(table),
            table=tuple(m.BucketFill(bucket, count) for bucket, count in sorted(table.fill().items())),
            records=len(archive.shelf),
            record_bytes=archive.shelf.size_bytes,
            published=len(archive.publications.records()),
            provided=len(archive.publications.provided()),
            providers=len(archive.providers),
            lookups=self._lookups.times,
            served=peering.served,
            refused=peering.refused,
        )


_ALONE: Final = "name nodes of the DHT to begin with, and see `prime doctor`"


def _better(one: Record | None, other: Record | None) -> Record | None:
    if one is None or other is None:
        return one or other
    return one if precedes(one, other) else other


def _not_found(outcome: core.Outcome) -> WorldError:
    asked = f"{outcome.answered} of {outcome.asked} peers answered"
    match outcome.cause:
        case "no peer answered":
            return UnreachableError(f"no peer answered: {outcome.asked} were asked", hint=_ALONE)
        case "found but the signature is bad":
            return CorruptedError(
                f"found but the signature is bad: {asked}, {outcome.forged} with what nobody signed",
                hint="somebody lies: ask along more paths (`critical`)",
            )
        case _:
            return NotFoundError(f"answered but held nothing: {asked}", hint="it was never there, or its time is over")


class _Storing:
    """One record on its way to its holders."""

    def __init__(self, peering: Peering, archive: Archive, record: Record, places: Sequence[Contact]) -> None:
        self._peering = peering
        self._archive = archive
        self._record = record
        self._places = list(places)
        self._wanted = min(peering.settings.replicas, len(places))
        self._next = 0
        self._holders: list[PeerId] = []
        self._refusals: dict[str, int] = {}
        self._later: Record | None = None
        self._quorum = trio.Event()
        self._over = trio.Event()

    @property
    def quorum(self) -> int:
        """Holders that it needs."""
        return min(self._peering.settings.quorum, self._wanted // 2 + 1)

    async def run(self) -> None:
        """Hand it to the nearest, and to the next ones in the place of those that do not take it."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._wanted):
                nursery.start_soon(self._hand_on)
        self._over.set()
        self._quorum.set()

    async def _hand_on(self) -> None:
        while self._next < len(self._places):
            place = self._places[self._next]
            self._next += 1
            if await self._offer(place):
                return

    async def _offer(self, place: Contact) -> bool:
        try:
            answer = await self._ask(place)
        except PrimeError as error:
            self._count(f"{type(error).__name__}: {error}")
            return False
        if answer.outcome == "stored":
            self._holders.append(place.peer)
            if len(self._holders) >= self.quorum:
                self._quorum.set()
            return True
        self._count(answer.why or "it holds a later version")
        return answer.outcome == "older"

    async def _ask(self, place: Contact) -> m.RecordStored:
        peering = self._peering
        if place.peer == peering.peer:
            (answer,) = await self._archive.hold([(self._record, OWN_GROUP)], peering.now_ms())
            return m.RecordStored(answer.outcome, answer.why)
        try:
            return await peering.ask(place.peer, m.RECORDS_PATH, HoldingActor, m.StoreRecord(self._record.sealed))
        except RefusedError:
            raise
        except WorldError:
            peering.tell_routing(Missed(place.peer))
            raise

    def _count(self, why: str) -> None:
        self._refusals[why] = self._refusals.get(why, 0) + 1

    async def settled(self) -> None:
        """Wait until all have answered, and not much longer than for the quorum."""
        await self._quorum.wait()
        with trio.move_on_after(REST_S):
            await self._over.wait()

    def result(self) -> Put:
        """Return who holds it. Raises `RefusedError`."""
        if len(self._holders) >= self.quorum:
            return Put(self._record, tuple(self._holders), self._next)
        why = max(self._refusals, key=lambda each: self._refusals[each], default="nobody was there")
        raise RefusedError(
            f"{len(self._holders)} of {self._next} peers hold it, where {self.quorum} are needed; most said: {why}",
            hint="try again: what was stored so far does no harm",
        )


@asynccontextmanager
async def open_dht(
    system: System,
    key_pair: Signer,
    *,
    settings: DhtSettings = PRESETS["swarm"],
    backend: Backend | None = None,
    bootstrap: Sequence[str] = (),
    server: bool = True,
    wall_s: Callable[[], float] = wall_clock_s,
) -> AsyncIterator[Dht]:
    """Take part in a DHT for the length of the block.

    `key_pair` is the key of `system`'s node. `bootstrap` are addresses of nodes that are in it; with none this node
    waits for others. `backend` keeps what this node holds for others (in memory by default); it is opened and closed
    here. Without `server` this node uses the DHT and answers nobody. `wall_s` returns seconds since 1970 (UTC).

    Raises `ActorUsageError` for a system without a network or of another key, `WorldError` and `CorruptedError` where
    the backend cannot be opened.
    """
    if system.peer != key_pair.peer:
        raise ActorUsageError(
            f"the DHT of {key_pair.peer} in a system of {system.peer or 'no network'}",
            hint="open_system(transport=..., key=key), and the same key here",
        )
    peering = Peering(system, key_pair, settings, server=server, wall_s=wall_s)
    async with (
        open_archive(peering.key, settings, backend or MemoryBackend()) as archive,
        system.supervisor("dht", restart=RESTART) as supervisor,
        trio.open_nursery() as nursery,
    ):
        lookups = Lookups(peering, supervisor)

        async def look_up(key: Key, begin: Sequence[Contact]) -> int:
            return (await lookups.run(core.Nearest(key), begin=begin)).answered

        peering.routing = await supervisor.spawn(
            functools.partial(RoutingActor, peering, bootstrap, look_up), "routing",
            remote=(m.FindPeers, m.Introduce) if server else (),
        )  # fmt: skip
        if server:
            await supervisor.spawn(functools.partial(HoldingActor, peering, archive), "records")
            await supervisor.spawn(functools.partial(ProvidingActor, peering, archive), "providers")
        yield Dht(peering, archive, lookups, nursery)
        nursery.cancel_scope.cancel()
