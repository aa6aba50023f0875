"""The plan of copies: which records this node owes to whom, and which it may give up. Pure: `step(event, now) -> commands`.

After Kademlia (Maymounkov and Mazières 2002), section 2.5: holders hand a record to the nearest nodes every hour, unless
another holder did so first, and a node that comes nearer gets what it now should hold from the nearest that has it. When
a holder leaves, the node that takes its place gets it at once. Copies are the publisher's signed bytes, so no copy holds
longer than the record; what is no longer near is given up only after all the nearer ones have it.

`near(key)` returns the contacts nearest to a key that this node knows, nearest first, itself left out.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import attrs

from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.key import Key, distance, key_of_peer
from prime.dht.settings import DhtSettings
from prime.dht.shares import take_out

AT_ONCE_MAX: Final = 8
"""Records that are handed on at a time, each to no more than `replicas` nodes."""
REVIEWS_MAX: Final = 64
"""Records that are looked at in one step after the neighbours have changed; the rest follow in the next steps."""
PAUSE_S: Final = 0.02
"""Between two such steps."""
HANDOVER_S: Final = 60.0
"""A record that is no longer near is given to the nearer ones within this time."""
AGAIN_S: Final = 30.0
"""After so long a record that somebody could not be handed is handed on again; after twice as long the next time."""
SPARED_TURNS_MAX: Final = 8.0
"""So many turns at the most a holder relies on others that did it first: those that lie about it do not stop it for long."""


# ---- events


@attrs.frozen
class Taken:
    """This node holds the record of a key: a node handed it over (the same one again, too), or it was there at the start."""

    key: Key
    by: PeerId | None


@attrs.frozen
class Gone:
    """This node does not hold the key any more: it has expired, or was given up for want of room."""

    key: Key


@attrs.frozen
class Joined:
    """A node has come into the table, or answers again: it may be back without what it held."""

    contact: Contact


@attrs.frozen
class Left:
    """A node does not answer any more."""

    peer: PeerId


@attrs.frozen
class Located:
    """What came of a `Locate`: the nearest live nodes, this one left out; none where nobody answered."""

    key: Key
    nearest: tuple[Contact, ...]


@attrs.frozen
class Handed:
    """What came of a `Hand`. `older`: it has a later version there; `failed`: it did not answer."""

    key: Key
    peer: PeerId
    outcome: Literal["stored", "older", "refused", "failed"]


@attrs.frozen
class Tick:
    """The time of the last `Wake` has come."""


Event = Taken | Gone | Joined | Left | Located | Handed | Tick


# ---- commands


@attrs.frozen
class Locate:
    """Look up the nodes nearest to a key; `Located` follows, in any case."""

    key: Key


@attrs.frozen
class Hand:
    """Hand the record of a key to this node; `Handed` follows, in any case."""

    key: Key
    contact: Contact


@attrs.frozen
class Drop:
    """All who are nearer hold the record: hold it no longer. No `Gone` has to follow."""

    key: Key


@attrs.frozen
class Wake:
    """Send a `Tick` at this time (monotonic seconds), in place of any before."""

    at: float


Command = Locate | Hand | Drop | Wake


@attrs.define
class _Duty:
    """A record that this node holds. `assumed` are the other nodes that should hold it, as far as is known."""

    due: float
    due_max: float
    """Until then others may spare it its turn."""
    assumed: set[PeerId] = attrs.field(factory=set)
    spared_by: PeerId | None = None
    missed: int = 0


@attrs.define
class _Work:
    """A record that is being handed on: everywhere (`whole`), or to those that lack it."""

    whole: bool
    keeps: bool = True
    waiting: set[PeerId] = attrs.field(factory=set)
    failed: bool = False
    refused: bool = False
    again: bool = False
    """Look at it once more: its neighbours changed on the way."""


class Replication:
    """The duties of one node. `chance` returns numbers from 0 to 1, evenly."""

    def __init__(
        self,
        own: PeerId,
        settings: DhtSettings,
        near: Callable[[Key], Iterable[Contact]],
        chance: Callable[[], float],
    ) -> None:
        self._own = own
        self._own_key = key_of_peer(own)
        self._replicas = settings.replicas
        self._interval_s = settings.replicate_s
        self._near = near
        self._chance = chance
        self._duties: dict[Key, _Duty] = {}
        self._due: list[tuple[float, Key]] = []  # the duties that are not being worked on, soonest first
        self._works: dict[Key, _Work] = {}
        self._reviews: deque[Key] = deque()
        self._queued: set[Key] = set()

    def __len__(self) -> int:
        """Return how many records it has to care for."""
        return len(self._duties)

    @property
    def waiting(self) -> int:
        """How many records are being handed on, or wait to be looked at."""
        return len(self._works) + len(self._reviews)

    def step(self, event: Event, now: float) -> list[Command]:
        """Take what has happened and return what to do."""
        commands: list[Command] = []
        match event:
            case Taken(key, by):
                self._taken(key, by, now)
            case Gone(key):
                self._forget(key)
            case Joined(contact):
                self._changed(contact.peer)
            case Left(peer):
                self._changed(peer)
            case Located(key, nearest):
                self._located(key, nearest, now, commands)
            case Handed():
                self._handed(event, now, commands)
            case Tick():
                pass
        self._go_on(now, commands)
        return commands

    # ---- what happens

    def _taken(self, key: Key, by: PeerId | None, now: float) -> None:
        """Care for a record; where another holder handed it over, it did so to all the nearest, and the turn is later."""
        holders = set() if by is None else {contact.peer for contact in self._targets(key, self._near(key))[1]}
        duty = self._duties.get(key)
        if duty is None:
            first_s = self._interval_s * self._chance() if by is None else self._turn_s()
            duty = self._duties[key] = _Duty(now + first_s, now + self._spared_s())
            insort(self._due, (duty.due, key))
        elif by in holders and by != duty.spared_by:
            duty.spared_by = by
            self._set_due(key, duty, max(duty.due, min(duty.due_max, now + self._turn_s())))
        if by is not None:
            duty.assumed = holders  # a publisher that is none of the nearest does not hold what it hands over

    def _changed(self, peer: PeerId) -> None:
        """Somebody has come or gone: nobody knows any more whether it holds anything, and all records are looked at."""
        for key, duty in self._duties.items():
            duty.assumed.discard(peer)
            if key not in self._queued:
                self._queue(key)

    def _queue(self, key: Key) -> None:
        self._queued.add(key)
        self._reviews.append(key)

    def _forget(self, key: Key) -> None:
        duty = self._duties.pop(key, None)
        if duty is not None and self._works.pop(key, None) is None:
            take_out(self._due, (duty.due, key))

    def _located(self, key: Key, nearest: Sequence[Contact], now: float, commands: list[Command]) -> None:
        """Hand it to all who should hold it, and find out whether this node is one of them."""
        work = self._works.get(key)
        if work is None or not work.whole or work.waiting:
            return
        work.keeps, targets = self._targets(key, nearest)
        work.failed = not nearest
        self._hand(key, work, targets, now, commands)

    def _handed(self, event: Handed, now: float, commands: list[Command]) -> None:
        work, duty = self._works.get(event.key), self._duties.get(event.key)
        if work is None or duty is None or event.peer not in work.waiting:
            return
        work.waiting.discard(event.peer)
        if event.outcome in {"stored", "older"}:
            duty.assumed.add(event.peer)
        else:
            duty.assumed.discard(event.peer)
            work.failed |= event.outcome == "failed"
            work.refused |= event.outcome == "refused"
        if not work.waiting:
            self._end(event.key, work, duty, now, commands)

    # ---- what it does

    def _go_on(self, now: float, commands: list[Command]) -> None:
        looked = 0
        while self._reviews and looked < REVIEWS_MAX and len(self._works) < AT_ONCE_MAX:
            key = self._reviews.popleft()
            self._queued.discard(key)
            self._review(key, now, commands)
            looked += 1
        while self._due and self._due[0][0] <= now and len(self._works) < AT_ONCE_MAX:
            key = self._due.pop(0)[1]
            self._works[key] = _Work(whole=True)
            commands.append(Locate(key))
        if len(self._works) < AT_ONCE_MAX:
            if self._reviews:
                commands.append(Wake(now + PAUSE_S))
            elif self._due:
                commands.append(Wake(self._due[0][0]))

    def _review(self, key: Key, now: float, commands: list[Command]) -> None:
        """Look at one record after a change: who lacks it now gets it, from the nearest node that has it."""
        duty, work = self._duties.get(key), self._works.get(key)
        if duty is None:
            return
        if work is not None:
            work.again = True
            return
        keeps, targets = self._targets(key, self._near(key))
        if not keeps:
            self._set_due(key, duty, min(duty.due, now + HANDOVER_S * self._chance()))
        missing = [contact for contact in targets if contact.peer not in duty.assumed]
        if not missing:
            return
        if self._is_first(key, keeps, targets, duty):
            take_out(self._due, (duty.due, key))
            self._works[key] = work = _Work(whole=False, keeps=keeps)
            self._hand(key, work, missing, now, commands)
        else:
            duty.assumed.update(contact.peer for contact in missing)

    def _hand(self, key: Key, work: _Work, targets: Sequence[Contact], now: float, commands: list[Command]) -> None:
        work.waiting = {contact.peer for contact in targets}
        commands.extend(Hand(key, contact) for contact in targets)
        if not targets:
            self._end(key, work, self._duties[key], now, commands)

    def _end(self, key: Key, work: _Work, duty: _Duty, now: float, commands: list[Command]) -> None:
        """Plan the next turn, or give the record up where all who are nearer have it."""
        del self._works[key]
        if work.whole and not (work.keeps or work.failed or work.refused or work.again):
            del self._duties[key]
            commands.append(Drop(key))
            return
        if work.whole:
            duty.spared_by = None
            duty.due, duty.due_max = now + self._turn_s(), now + self._spared_s()
        duty.missed = duty.missed + 1 if work.failed else 0
        if work.failed:
            duty.due = min(duty.due, now + min(AGAIN_S * 2.0**duty.missed / 2, self._interval_s))
        insort(self._due, (duty.due, key))
        if work.again and key not in self._queued:
            self._queue(key)

    # ---- small questions

    def _targets(self, key: Key, contacts: Iterable[Contact]) -> tuple[bool, list[Contact]]:
        """Return whether this node is among the nearest that should hold a record, and the others that are."""
        others = (contact for contact in contacts if contact.peer != self._own)
        near = sorted(others, key=lambda contact: distance(contact.key, key))[: self._replicas]
        keeps = len(near) < self._replicas or distance(self._own_key, key) < distance(near[-1].key, key)
        return keeps, near[: self._replicas - keeps]

    def _is_first(self, key: Key, keeps: bool, targets: Sequence[Contact], duty: _Duty) -> bool:  # noqa: FBT001
        """Tell whether no other node that has it is nearer: one hands it on, not all. One that gives it up has no say."""
        others = [contact for contact in targets if contact.peer in duty.assumed]
        return not others or (keeps and distance(self._own_key, key) < distance(others[0].key, key))

    def _turn_s(self) -> float:
        """Return after how long it is this node's turn: an hour, a quarter more or less, so that one comes first."""
        return self._interval_s * (0.75 + self._chance() / 2)

    def _spared_s(self) -> float:
        return self._interval_s * SPARED_TURNS_MAX * (0.5 + self._chance())

    def _set_due(self, key: Key, duty: _Duty, at: float) -> None:
        if key not in self._works:
            take_out(self._due, (duty.due, key))
            insort(self._due, (at, key))
        duty.due = at


class Neighbourhood:
    """Who of the table answers, as it was last looked at."""

    def __init__(self) -> None:
        self._live: dict[PeerId, Contact] = {}

    def changes(self, live: Iterable[Contact]) -> list[Joined | Left]:
        """Return who has come and who has gone since the last call."""
        before, self._live = self._live, {contact.peer: contact for contact in live}
        gone = [Left(peer) for peer in before if peer not in self._live]
        return [*gone, *(Joined(contact) for peer, contact in self._live.items() if peer not in before)]
