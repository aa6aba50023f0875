"""The routing table: the contacts that a node knows, in 256 buckets by their distance. Pure.

After Kademlia (Maymounkov and Mazières 2002), sections 2.2 (buckets, least recently seen first, who lives long stays), 2.4
(a node knows all of its nearest neighbours, however unevenly keys lie) and 4.1 (a cache of replacements; a contact that
fails is replaced when there is somebody in its place). Nobody gets in before it has answered, and of a group of addresses
only a few do.

::

    table = Table(own.key, settings, now)
    doubtful = table.answered(contact, now, seen_at=address)     # it answered a request of ours
    if doubtful:                                                  # its bucket is full: ask whether this one still lives,
        ...                                                       # then `answered` or `failed`
    table.closest(key, settings.k)                                # for an answer, and for where a lookup begins
    for bucket in table.stale(now): ...                           # look up `key_in(own.key, bucket, random.getrandbits)`
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.groups import counted_group
from prime.dht.key import BITS, Key, bucket_of
from prime.dht.settings import DhtSettings

FAILURES_MAX: Final = 2
"""Requests in a row that a contact may fail to answer before another gets its place; a single one may have got lost."""
FORGOTTEN_S: Final = 24 * 3600.0
"""Who has been silent for so long is forgotten, though nobody needs its place: it may have been cut off with its part."""
RETRY_S: Final = 20.0
"""How long after a first failure a contact is asked again; after each further one in a row, twice as long."""
RETRY_S_MAX: Final = 3600.0
FRESH_S: Final = 60.0
"""Who was heard of so recently is not asked whether it lives."""


@attrs.define(eq=False)
class Seat:
    """A contact in a bucket. `seen_s` is when it was last heard of by itself, `failures` what it has not answered since."""

    contact: Contact
    group: str
    seen_s: float
    failures: int = 0
    failed_s: float = 0.0
    asked: bool = False
    """Somebody waits for its place, and it is being asked whether it lives."""


@attrs.define(eq=False)
class _Bucket:
    index: int
    looked_s: float
    """When a key in it was last looked up."""
    seats: OrderedDict[PeerId, Seat] = attrs.Factory(OrderedDict)
    spare: OrderedDict[PeerId, Seat] = attrs.Factory(OrderedDict)
    """Those that answered when there was no place: the last one to do so is the first to get one."""


def key_in(own: Key, bucket: int, bits: Callable[[int], int]) -> Key:
    """Return a key that is drawn from those of a bucket; `bits(n)` gives n random bits, as `random.Random.getrandbits`."""
    return Key(own ^ (1 << bucket) ^ (bits(bucket) if bucket else 0))


class Table:
    """The contacts of one node. `own` is its key; its own contact never gets in."""

    def __init__(self, own: Key, settings: DhtSettings, now: float) -> None:
        self.own = own
        self._settings = settings
        self._buckets: dict[int, _Bucket] = {}
        self._began_s = now
        self._occupied = 0  # a bit for each bucket that has a seat
        self._seats: dict[PeerId, Seat] = {}
        self._failing = 0
        self._groups: Counter[str] = Counter()

    # ---- what it holds

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._seats

    def __iter__(self) -> Iterator[Contact]:
        return iter([seat.contact for seat in self._seats.values()])

    def get(self, peer: PeerId) -> Contact | None:
        """Return what is known of a peer."""
        seat = self._seats.get(peer)
        return None if seat is None else seat.contact

    def is_live(self, peer: PeerId) -> bool:
        """Tell whether a peer is in and has answered what it was last asked."""
        seat = self._seats.get(peer)
        return seat is not None and not seat.failures

    def seats(self, bucket: int) -> tuple[Seat, ...]:
        """Return who sits in a bucket, the least recently seen first."""
        found = self._buckets.get(bucket)
        return () if found is None else tuple(found.seats.values())

    def fill(self) -> dict[int, int]:
        """Return how many contacts each bucket has, of those that have any."""
        return {index: len(self._buckets[index].seats) for index in _bits_up(self._occupied)}

    def closest(self, key: Key, count: int, *, doubtful: bool = False) -> list[Contact]:
        """Return the `count` contacts nearest to `key`, nearest first; with `doubtful` those that last failed, too.

        Buckets are disjoint ranges of distance to any key: they are gone through in order, until there is enough.
        """
        apart = self.own ^ key
        found: list[Contact] = []
        for index in (*_bits_down(self._occupied & apart), *_bits_up(self._occupied & ~apart)):
            seats = self._buckets[index].seats.values()
            near = [seat.contact for seat in seats if doubtful or not seat.failures]
            near.sort(key=lambda contact: contact.key ^ key)
            found += near
            if len(found) >= count:
                break
        return found[:count]

    # ---- what happens to it

    def answered(self, contact: Contact, now: float, *, seen_at: str = "") -> Contact | None:
        """Take in a peer that has just answered a request, from the address `seen_at`.

        Where its bucket is full it waits among the replacements, and the contact returned, of that bucket, has to be asked
        whether it lives: `answered` or `failed` settles it. A peer that is in already is the most recently seen now.
        """
        if contact.key == self.own:
            return None
        bucket = self._bucket(contact)
        if (seat := bucket.seats.get(contact.peer)) is not None:
            self._renew(bucket, seat, contact, now, counted_group(seen_at))
            return None
        bucket.spare.pop(contact.peer, None)
        return self._admit(bucket, Seat(contact, counted_group(seen_at), now))

    def heard(self, contact: Contact, now: float, *, seen_at: str = "") -> bool:
        """Take note of a peer that has made a request, and tell whether it should be asked to introduce itself.

        It should where it would get a place. One that is in already is the most recently seen now.
        """
        if contact.key == self.own:
            return False
        bucket = self._bucket(contact)
        if (seat := bucket.seats.get(contact.peer)) is not None:
            seat.contact = _later(seat.contact, contact)
            seat.seen_s = now
            bucket.seats.move_to_end(contact.peer)
            return seat.failures > 0
        return self._is_wanted(bucket, contact, counted_group(seen_at))

    def is_settled(self, contact: Contact) -> bool:
        """Tell whether a contact is in as it is, and answers: a request of its peer would change nothing but the order."""
        seat = self._seats.get(contact.peer)
        return seat is not None and not seat.failures and seat.contact.stamp_ms >= contact.stamp_ms

    def learned(self, contact: Contact) -> None:
        """Take a contact that somebody handed on, if its peer is in and it says later than what is known."""
        if (seat := self._seats.get(contact.peer)) is not None:
            seat.contact = _later(seat.contact, contact)

    def failed(self, peer: PeerId, now: float) -> None:
        """Take note that a peer has not answered: it is left out of answers, and loses its place to one that waits (4.1).

        While nobody answers at all this node is cut off itself, and forgets nobody.
        """
        seat = self._seats.get(peer)
        if seat is None:
            return
        self._failing += not seat.failures
        seat.failures += 1
        seat.failed_s = now
        bucket = self._bucket(seat.contact)
        bucket.seats.move_to_end(peer, last=False)
        is_out = seat.asked or seat.failures >= FAILURES_MAX
        seat.asked = False
        if (is_out and bucket.spare) or (self.live and now - seat.seen_s >= FORGOTTEN_S):
            self.remove(peer)

    def remove(self, peer: PeerId) -> None:
        """Forget a peer; of those that wait for a place in its bucket, the one heard of last gets it."""
        seat = self._seats.get(peer)
        if seat is not None:
            bucket = self._bucket(seat.contact)
            self._drop(bucket, seat)
            self._promote(bucket)

    def looked_up(self, key: Key, now: float) -> None:
        """Take note that a key was looked up, so that its bucket is fresh."""
        index = bucket_of(self.own, key)
        if index >= 0:
            self.refreshed(index, now)

    def refreshed(self, bucket: int, now: float) -> None:
        """Take note that a bucket is fresh, or is about to be."""
        self._bucket_at(bucket).looked_s = now

    @property
    def nearest(self) -> int | None:
        """The bucket of the nearest neighbour."""
        return (self._occupied & -self._occupied).bit_length() - 1 if self._occupied else None

    @property
    def live(self) -> int:
        """How many contacts have answered what they were last asked."""
        return len(self._seats) - self._failing

    def doubtful(self, now: float, count: int) -> list[Contact]:
        """Return up to `count` contacts that have failed and should be asked again by now, as they may be back."""
        failing = [seat for seat in self._seats.values() if seat.failures]
        due = sorted((one for one in failing if _retried_at(one) <= now), key=_retried_at)
        return [seat.contact for seat in due[:count]]

    def stale(self, now: float) -> tuple[int, ...]:
        """Return the buckets in which nothing was looked up for `refresh_s`, nearest first (2.3).

        Those nearer than the nearest neighbour are left out, as there is nobody.
        """
        if (nearest := self.nearest) is None:
            return ()
        due = now - self._settings.refresh_s
        return tuple(index for index in range(nearest, BITS) if self._looked_s(index) <= due)

    # ---- within

    def _looked_s(self, index: int) -> float:
        bucket = self._buckets.get(index)
        return self._began_s if bucket is None else bucket.looked_s

    def _bucket(self, contact: Contact) -> _Bucket:
        return self._bucket_at(bucket_of(self.own, contact.key))

    def _bucket_at(self, index: int) -> _Bucket:
        found = self._buckets.get(index)
        if found is None:
            found = self._buckets[index] = _Bucket(index, self._began_s)
        return found

    def _renew(self, bucket: _Bucket, seat: Seat, contact: Contact, now: float, group: str) -> None:
        seat.contact = _later(seat.contact, contact)
        self._failing -= bool(seat.failures)
        seat.seen_s, seat.failures, seat.asked = now, 0, False
        bucket.seats.move_to_end(contact.peer)
        if group != seat.group and self._has_room(bucket, group):  # it has moved
            self._count(seat.group, -1)
            self._count(group, 1)
            seat.group = group

    def _admit(self, bucket: _Bucket, seat: Seat) -> Contact | None:
        """Give a newcomer a place, or let it wait; return who has to be asked whether it lives."""
        if not self._has_room(bucket, seat.group) and not self._make_room(bucket, seat.group):
            return None
        if len(bucket.seats) < self._settings.k or self._is_near(bucket, seat.contact) or self._clear(bucket):
            self._sit(bucket, seat)
            return None
        self._wait(bucket, seat)
        oldest = next(iter(bucket.seats.values()))
        if oldest.asked or (not oldest.failures and seat.seen_s - oldest.seen_s < FRESH_S):
            return None
        oldest.asked = True
        return oldest.contact

    def _is_wanted(self, bucket: _Bucket, contact: Contact, group: str) -> bool:
        """Tell whether a peer, once it has answered, would get a place, or could wait for one."""
        if not self._has_room(bucket, group) and not any(
            one.failures >= FAILURES_MAX and one.group == group for one in self._seats.values()
        ):
            return False
        if len(bucket.seats) < self._settings.k or any(one.failures for one in bucket.seats.values()):
            return True
        if self._is_near(bucket, contact):
            return True
        return contact.peer not in bucket.spare and len(bucket.spare) < self._settings.k

    def _has_room(self, bucket: _Bucket, group: str) -> bool:
        """Tell whether the group has not yet as many contacts as it may, in the table and in the bucket."""
        count = self._groups[group] if group else 0
        if not count:
            return True
        here = sum(seat.group == group for seat in bucket.seats.values())
        return count < self._settings.group_table_max and here < self._settings.group_bucket_max

    def _make_room(self, bucket: _Bucket, group: str) -> bool:
        """Drop a contact of a group that fails, where that makes room for another of it."""
        failing = [one for one in self._seats.values() if one.failures >= FAILURES_MAX and one.group == group]
        for seat in failing:
            self._drop(self._bucket(seat.contact), seat)
            if self._has_room(bucket, group):
                return True
        return False

    def _clear(self, bucket: _Bucket) -> bool:
        """Drop one of a bucket that has failed often enough, or any where all of them fail; tell whether there was one."""
        seats = bucket.seats.values()
        least = FAILURES_MAX if any(not seat.failures for seat in seats) else 1
        failing = next((seat for seat in seats if seat.failures >= least), None)
        if failing is not None:
            self._drop(bucket, failing)
        return failing is not None

    def _is_near(self, bucket: _Bucket, contact: Contact) -> bool:
        """Tell whether a contact is among the k nearest to this node, of which it knows all (2.4)."""
        own, k = self.own, self._settings.k
        nearer = sum(len(self._buckets[index].seats) for index in _bits_up(self._occupied & ((1 << bucket.index) - 1)))
        if nearer >= k:
            return False
        reach = contact.key ^ own
        return nearer + sum(seat.contact.key ^ own < reach for seat in bucket.seats.values()) < k

    def _sit(self, bucket: _Bucket, seat: Seat) -> None:
        if len(bucket.seats) >= 2 * self._settings.k:  # more than k there are nearer than the farthest
            self._drop(bucket, max(bucket.seats.values(), key=lambda one: one.contact.key ^ self.own))
        bucket.seats[seat.contact.peer] = self._seats[seat.contact.peer] = seat
        self._occupied |= 1 << bucket.index
        self._count(seat.group, 1)

    def _drop(self, bucket: _Bucket, seat: Seat) -> None:
        del bucket.seats[seat.contact.peer], self._seats[seat.contact.peer]
        self._failing -= bool(seat.failures)
        if not bucket.seats:
            self._occupied &= ~(1 << bucket.index)
        self._count(seat.group, -1)

    def _count(self, group: str, by: int) -> None:
        if group:
            self._groups[group] += by
            if not self._groups[group]:
                del self._groups[group]

    def _wait(self, bucket: _Bucket, seat: Seat) -> None:
        same = [one.contact.peer for one in bucket.spare.values() if seat.group and one.group == seat.group]
        if len(same) >= self._settings.group_bucket_max:
            del bucket.spare[same[0]]
        bucket.spare[seat.contact.peer] = seat
        if len(bucket.spare) > self._settings.k:
            bucket.spare.popitem(last=False)

    def _promote(self, bucket: _Bucket) -> None:
        """Let the one that waits and was heard of last sit down, if its group may."""
        for peer, seat in reversed(bucket.spare.items()):
            if self._has_room(bucket, seat.group):
                del bucket.spare[peer]
                self._sit(bucket, seat)
                return


def _retried_at(seat: Seat) -> float:
    return seat.failed_s + min(RETRY_S * 2.0 ** min(seat.failures - 1, 16), RETRY_S_MAX)


def _later(one: Contact, other: Contact) -> Contact:
    """Return the contact that its peer signed later."""
    return other if other.stamp_ms > one.stamp_ms else one


def _bits_up(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, the lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _bits_down(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, the highest first."""
    while bits:
        index = bits.bit_length() - 1
        yield index
        bits ^= 1 << index
