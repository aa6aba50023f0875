"""Storing as actors: one for each record that is on its way to its holders, as with lookups.

It hands the record to the nearest peers, and to the next ones in the place of those that do not take it. Whoever asked
hears of it once enough hold it and the others have had a moment; it ends when all have answered.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from prime.actor import Actor, Later, Ref, Supervisor, on
from prime.actor.contract import PeerId
from prime.dht import messages as m
from prime.dht.contact import Contact
from prime.dht.holding import HoldingActor, Keep
from prime.dht.key import Key, distance
from prime.dht.peering import Missed, Peering
from prime.dht.record import Record, precedes, read_record
from prime.dht.shares import OWN_GROUP
from prime.errors import DecodeError, PrimeError, RefusedError, UnreachableError
from prime.wire import Ask, message

STORINGS_MAX: Final = 64
"""Records of this node that are on their way at a time; further ones wait for their turn."""
BESIDE_MAX: Final = 32
"""Records that are on their way at a time while nobody waits for it; where there are more, stale holders stay so for now."""
REST_S: Final = 0.5
"""How long one that has its quorum waits for the holders that have not answered."""
_ALONE: Final = "name nodes of the DHT to begin with, and see `prime doctor`"


@attrs.frozen
class Stored:
    """What came of it: who holds the record, of how many asked; a later version that one of them held; why others did not."""

    holders: tuple[PeerId, ...]
    asked: int
    quorum: int
    later: Record | None
    why: str


@message
class Store(Ask[Stored]):
    """Begin; the answer is what came of it."""


@message
class Begin:
    """Begin; nobody waits for what comes of it."""


@message
class Settle:
    """The others have had their moment."""


class StoringActor(Actor[Store | Begin | Settle]):
    """One record on its way."""

    def __init__(
        self,
        peering: Peering,
        record: Record,
        places: Sequence[Contact],
        wanted: int,
        group: str,
        ended: Callable[[], None],
    ) -> None:
        self._peering = peering
        self._record = record
        self._places = list(places)
        self._wanted = min(wanted, len(places))
        self._group = group
        self._ended = ended
        self._quorum = min(peering.settings.quorum, self._wanted // 2 + 1)
        self._next = 0
        self._under_way = 0
        self._holders: list[PeerId] = []
        self._reasons: Counter[str] = Counter()
        self._held_later: Record | None = None
        self._later: Later | None = None

    @on(Store)
    def store(self, _: Store) -> Later:
        """Hand it to the nearest."""
        self._later = later = self.ctx.defer()
        self.begin(Begin())
        return later

    @on(Begin)
    def begin(self, _: Begin) -> None:
        """Hand it to the nearest."""
        self._under_way = self._wanted
        for _place in range(self._wanted):
            self.ctx.start_soon(self._hand_on)
        if not self._wanted:
            self._end()

    async def stopping(self) -> None:
        """Make room for others."""
        self._ended()

    @on(Settle)
    def settle(self, _: Settle) -> None:
        """Answer whoever asked."""
        later, self._later = self._later, None
        if later is not None:
            why = self._reasons.most_common(1)[0][0] if self._reasons else "nobody was there"
            later.reply(Stored(tuple(self._holders), self._next, self._quorum, self._held_later, why))

    def _end(self) -> None:
        self.settle(Settle())
        self.ctx.stop()

    async def _hand_on(self) -> None:
        """Hand it to the next peer, until one takes it."""
        while self._next < len(self._places):
            place = self._places[self._next]
            self._next += 1
            if await self._offer(place):
                break
        self._under_way -= 1
        if not self._under_way:
            self._end()

    async def _offer(self, place: Contact) -> bool:
        """Hand it to one peer; tell whether nobody else has to have it instead."""
        try:
            answer = await self._ask(place)
        except PrimeError as error:
            self._reasons[str(error)] += 1
            return False
        if answer.outcome == "stored":
            self._holders.append(place.peer)
            if len(self._holders) == self._quorum:
                self.ctx.after(REST_S, Settle())
            return True
        self._reasons[answer.why or "a later version is held"] += 1
        self._note_later(answer.held)
        return answer.outcome == "older"

    async def _ask(self, place: Contact) -> m.RecordStored:
        peering, record = self._peering, self._record
        if place.peer == peering.peer:
            own = peering.system.ref("", m.RECORDS_PATH, HoldingActor)
            return await own.ask(Keep(record, self._group), timeout=peering.settings.request_s)
        try:
            return await peering.ask(place.peer, m.RECORDS_PATH, HoldingActor, m.StoreRecord(record.sealed))
        except RefusedError:
            raise
        except PrimeError:
            peering.tell_routing(Missed(place.peer))
            raise

    def _note_later(self, data: bytes | None) -> None:
        """Take note of a version that counts before this one."""
        if data is None:
            return
        try:
            held = read_record(data)
        except DecodeError:
            return
        if held.key == self._record.key and precedes(held, self._held_later or self._record):
            self._held_later = held


class Storings:
    """The records of one node that are on their way to their holders, each an actor of its own."""

    def __init__(self, peering: Peering, supervisor: Supervisor) -> None:
        self._peering = peering
        self._supervisor = supervisor
        self._turns = trio.Semaphore(STORINGS_MAX)
        self._number = self._beside = 0

    def places(self, key: Key, closest: Sequence[Contact]) -> list[Contact]:
        """Return who should hold what is under a key, of those found nearest and this node, if it serves; nearest first."""
        found = [*closest, self._peering.contact] if self._peering.server else closest
        return sorted(found, key=lambda each: distance(each.key, key))[: self._peering.settings.k]

    async def run(
        self, record: Record, places: Sequence[Contact], wanted: int | None = None, group: str = OWN_GROUP
    ) -> Stored:
        """Have the first `wanted` of `places` (by default as many as replicas) hold a record; others in their place.

        `group` is what it counts against at this node. Raises `ActorCrashedError`, `DeadlineError`.
        """
        count = self._peering.settings.replicas if wanted is None else wanted
        await self._turns.acquire()
        ref = await self._spawn(record, places, count, group, self._turns.release)
        try:
            return await ref.ask(Store(), timeout=self._peering.settings.lookup_s)
        except BaseException:
            await self._supervisor.stop(ref)
            raise

    async def begin(self, record: Record, places: Sequence[Contact], group: str) -> None:
        """Have all of `places` hold a record, which they lack, while nobody waits for it; not too many at a time."""
        if self._beside < BESIDE_MAX and places:
            self._beside += 1
            ref = await self._spawn(record, places, len(places), group, self._end_beside)
            await ref.tell(Begin())

    def _end_beside(self) -> None:
        self._beside -= 1

    async def _spawn(
        self, record: Record, places: Sequence[Contact], wanted: int, group: str, ended: Callable[[], None]
    ) -> Ref[Store | Begin]:
        self._number += 1
        ended = _once(ended)
        make = functools.partial(StoringActor, self._peering, record, places, wanted, group, ended)
        name = f"storing-{self._number}"
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # as with lookups
            return await self._supervisor.spawn(make, name, kind="temporary", shutdown=0, remote=())
        except BaseException:
            ended()
            raise


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """Return what does it the first time alone: an actor whose spawn is cancelled ends, too."""
    left = [act]
    return lambda: left.pop()() if left else None


def checked(stored: Stored) -> Stored:
    """Return what came of it if a quorum holds the record. Raises `UnreachableError`, `RefusedError`."""
    if not stored.asked:
        raise UnreachableError("no peer answered: nobody can hold the record", hint=_ALONE)
    if len(stored.holders) < stored.quorum:
        raise RefusedError(
            f"{len(stored.holders)} of {stored.asked} peers hold it, where {stored.quorum} are needed; "
            f"of the others most said: {stored.why}",
            hint="try again: what was stored so far does no harm",
        )
    return stored
