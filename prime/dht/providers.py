"""Who says that it has what a key names: contacts under keys, each until its end. Pure.

A peer speaks for itself alone: a provision is taken from its own sender only, with the contact that it signed. Nobody
fills the store: the provisions that one IP group handed in are counted, and under a key that is full the group with the
most there makes room for others. As with the shelf, what is to change is planned, then written, then committed.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Final, Literal

import attrs

from prime.actor.contract import PeerId
from prime.dht import key as keys
from prime.dht.backend import Entry, Removal
from prime.dht.contact import Contact, read_contact
from prime.dht.draft import Draft
from prime.dht.key import Key, distance
from prime.dht.record import AHEAD_MS_MAX
from prime.dht.settings import DhtSettings
from prime.dht.shares import OWN_GROUP, Shares, take_out
from prime.errors import DecodeError, PrimeInternalError
from prime.wire import Limits, dumps, loads

KIND: Final = "provider"
CONTACT_KIND: Final = "provider-contact"
TTL_S_MAX: Final = 48 * 3600
KEY_PROVIDERS_MAX: Final = 64
"""So many peers are remembered under one key; an answer names fewer."""
SIZE_BYTES: Final = 1024
"""What a provision counts, with a contact of usual size: about what it takes in memory, and on the disk with its index."""
STORE_SHARE: Final = 4
"""Provisions may take this part of what records may: `store_bytes_max` by it."""
SWEPT_MAX: Final = 256
_LIMITS: Final = Limits()
_HINT: Final = "another program wrote it, or the disk damaged it: providers say again what they have"


@attrs.frozen
class Provision:
    """A peer has what a key names, until `expires_ms` (ms since 1970); it said so from an address of `group`."""

    key: Key
    peer: PeerId
    group: str
    expires_ms: int

    @property
    def id(self) -> tuple[Key, PeerId]:
        """What it is kept under: a peer provides a key once."""
        return (self.key, self.peer)

    def entry(self) -> Entry:
        """Return what is written to the disk."""
        return Entry(KIND, _name(*self.id), dumps([self.group, self.expires_ms]))


@attrs.frozen
class Ended:
    """This peer does not provide this key any more."""

    key: Key
    peer: PeerId

    @property
    def id(self) -> tuple[Key, PeerId]:
        """See `Provision.id`."""
        return (self.key, self.peer)

    def entry(self) -> Removal:
        """Return what is written to the disk."""
        return Removal(KIND, _name(*self.id))


@attrs.frozen
class Known:
    """This is the contact of a peer that provides something, at the addresses that it may name; `None`: it provides nothing now."""

    peer: PeerId
    contact: Contact | None

    def entry(self) -> Entry | Removal:
        """Return what is written to the disk."""
        name, contact = self.peer.encode(), self.contact
        if contact is None:
            return Removal(CONTACT_KIND, name)
        return Entry(CONTACT_KIND, name, dumps([contact.sealed, list(contact.addresses)]))


_Change = Provision | Ended | Known


@attrs.frozen
class Offer:
    """The sender says that it has what a key names, for `ttl_s` seconds from now; for none, that it has it no longer."""

    key: Key
    contact: Contact
    sender: PeerId
    group: str
    ttl_s: int


@attrs.frozen
class ProvisionPlan:
    """Changes that wait to be written, and what to answer then to each offer: why it is refused, or nothing. See `shelf.Plan`."""

    answers: tuple[str, ...]
    changes: tuple[_Change, ...]
    version: int

    @property
    def why(self) -> str:
        """Why the first offer that was refused is so; empty where all are taken."""
        return next(filter(None, self.answers), "")

    @property
    def outcome(self) -> Literal["stored", "refused"]:
        """Whether all are taken."""
        return "refused" if self.why else "stored"

    @property
    def writes(self) -> tuple[Entry | Removal, ...]:
        """What the backend has to write, all or nothing, before the plan is committed; nothing, if it is empty."""
        return tuple(change.entry() for change in self.changes)


class Providers:
    """The provisions that one node holds. `own` is where it stands; times are ms since 1970, as its clock says."""

    def __init__(self, own: Key, settings: DhtSettings) -> None:
        self._own = own
        self._group_max = settings.group_records_max
        self._size_bytes_max = settings.store_bytes_max // STORE_SHARE
        self._keys: dict[Key, dict[PeerId, Provision]] = {}
        self._contacts: dict[PeerId, Contact] = {}
        self._counts: dict[PeerId, int] = {}
        self._shares: Shares[tuple[int, PeerId]] = Shares()
        self._due: list[tuple[int, Key, PeerId]] = []
        self._version = 0

    # ---- reading

    def find(self, key: Key, now_ms: int, count_max: int = 20) -> tuple[Contact, ...]:
        """Return contacts of those who have what a key names: in turn of every group, the freshest of each first."""
        groups: dict[str, list[Provision]] = {}
        latest_ms = now_ms + 1000 * TTL_S_MAX + AHEAD_MS_MAX  # what ends later was taken while the clock was ahead
        live = (each for each in self._keys.get(key, {}).values() if now_ms < each.expires_ms <= latest_ms)
        for provision in sorted(live, key=lambda each: (-each.expires_ms, each.peer)):
            groups.setdefault(provision.group, []).append(provision)
        turns = [
            (turn, number, each.peer) for number, group in enumerate(groups.values()) for turn, each in enumerate(group)
        ]
        return tuple(self._contacts[peer] for _, _, peer in sorted(turns)[:count_max])

    def __len__(self) -> int:
        """Return how many provisions there are, among them some that have ended and wait to be swept."""
        return len(self._due)

    @property
    def size_bytes(self) -> int:
        """What is here, as it counts against the bound."""
        return self._shares.size_bytes

    @property
    def due_ms(self) -> int | None:
        """When `sweep` next has something to do."""
        return self._due[0][0] if self._due else None

    # ---- planning

    def hold(self, key: Key, contact: Contact, sender: PeerId, group: str, ttl_s: int, now_ms: int) -> ProvisionPlan:
        """Plan to remember what one peer says of itself."""
        return self.hold_all([Offer(key, contact, sender, group, ttl_s)], now_ms)

    def hold_all(self, offers: Iterable[Offer], now_ms: int) -> ProvisionPlan:
        """Plan to remember several, in one write; each gets the answer that it would have had alone, after those before it."""
        draft = Draft(self._put)
        try:
            answers = [self._answered(offer, now_ms, draft) for offer in offers]
        finally:
            changes = draft.end()
        return ProvisionPlan(tuple(answers), changes, self._version)

    def sweep(self, now_ms: int, count_max: int = SWEPT_MAX) -> ProvisionPlan:
        """Plan to forget what has ended."""
        return self._plan([Ended(key, peer) for due_ms, key, peer in self._due[:count_max] if due_ms <= now_ms])

    def commit(self, plan: ProvisionPlan) -> None:
        """Do what was planned and is on the disk now. One plan at a time, as with the shelf."""
        if plan.version != self._version:
            raise PrimeInternalError("a plan was made for another state of the providers", hint="please report it")
        for change in plan.changes:
            self._put(change)
        self._version += 1

    def restore(self, provisions: Iterable[Provision], contacts: Iterable[Contact]) -> ProvisionPlan:
        """Take what was read from the disk; return a plan to forget what lost its other half or no longer fits."""
        known = {contact.peer: contact for contact in contacts}
        lost: list[_Change] = []
        for provision in provisions:
            if (contact := known.get(provision.peer)) is None:
                lost.append(Ended(*provision.id))
                continue
            self._put(Known(provision.peer, contact))
            self._put(provision)
        lost += [Known(peer, None) for peer in known if peer not in self._counts]
        draft = Draft(self._put)
        self._make_room(None, draft)
        self._version += 1
        return ProvisionPlan((), (*lost, *draft.end()), self._version)

    def _plan(self, ended: list[Ended]) -> ProvisionPlan:
        draft = Draft(self._put)
        for each in ended:
            self._end(each, draft)
        return ProvisionPlan((), draft.end(), self._version)

    def _answered(self, offer: Offer, now_ms: int, draft: Draft[_Change]) -> str:
        """Make one change, or return why not, with nothing changed."""
        key, sender = offer.key, offer.sender
        if offer.contact.peer != sender:
            return "a peer speaks for itself alone: the contact is another's"
        if offer.ttl_s <= 0:
            if sender in self._keys.get(key, {}):
                self._end(Ended(key, sender), draft)
            return ""
        begun = len(draft.changes)
        new = Provision(key, sender, offer.group, now_ms + 1000 * min(offer.ttl_s, TTL_S_MAX))
        if why := self._offered(new, offer.contact, draft):
            draft.undo(begun)
        return why

    def _offered(self, new: Provision, contact: Contact, draft: Draft[_Change]) -> str:
        """Try to put it there; return why it cannot be."""
        there = self._keys.get(new.key, {})
        held = there.get(new.peer)
        if held is None and (why := self._over_quota(new, there, draft)):
            return why
        known = self._contacts.get(new.peer)
        if known is None or known.stamp_ms < contact.stamp_ms:
            draft.make(Known(new.peer, contact))
        draft.make(new if held is None else attrs.evolve(new, group=held.group))
        return "" if self._make_room(new, draft) else "the store is full"

    def _over_quota(self, new: Provision, there: dict[PeerId, Provision], draft: Draft[_Change]) -> str:
        if new.group == OWN_GROUP:
            return ""
        if self._shares.count(new.group) >= self._group_max:
            return f"{self._group_max} provisions came from {new.group}: that is its quota"
        if len(there) < KEY_PROVIDERS_MAX:
            return ""
        groups: dict[str, list[Provision]] = {}
        for each in there.values():
            groups.setdefault(each.group, []).append(each)
        groups.pop(OWN_GROUP, None)
        crowd = max(groups.values(), key=len)
        if len(crowd) <= len(groups.get(new.group, ())) + 1:
            return f"{KEY_PROVIDERS_MAX} peers provide this key: that is all that are remembered"
        self._end(min(crowd, key=lambda each: (each.expires_ms, each.peer)), draft)
        return ""

    def _make_room(self, new: Provision | None, draft: Draft[_Change]) -> bool:
        """Forget what goes first until the rest fits; tell whether the new one stays."""
        while self._shares.size_bytes > self._size_bytes_max:
            place = self._shares.first_to_go()
            if place is None:
                return new is None
            away, peer = place
            key = Key(away ^ self._own)
            if new is not None and (key, peer) == new.id:
                return False
            self._end(self._keys[key][peer], draft)
        return True

    def _end(self, ended: Provision | Ended, draft: Draft[_Change]) -> None:
        draft.make(Ended(*ended.id))
        if ended.peer not in self._counts:
            draft.make(Known(ended.peer, None))

    # ---- changing

    def _put(self, change: _Change) -> _Change:
        """Make one change; return the one that would undo it."""
        if isinstance(change, Known):
            return self._know(change)
        before = self._keys.get(change.key, {}).get(change.peer)
        if before is not None:
            self._take_out(before)
        if isinstance(change, Provision):
            self._put_in(change)
        return Ended(*change.id) if before is None else before

    def _know(self, change: Known) -> Known:
        before = self._contacts.pop(change.peer, None)
        if change.contact is not None:
            self._contacts[change.peer] = change.contact
        return Known(change.peer, before)

    def _put_in(self, provision: Provision) -> None:
        key, peer = provision.id
        self._keys.setdefault(key, {})[peer] = provision
        self._counts[peer] = self._counts.get(peer, 0) + 1
        self._shares.add(provision.group, (distance(self._own, key), peer), SIZE_BYTES)
        insort(self._due, (provision.expires_ms, key, peer))

    def _take_out(self, provision: Provision) -> None:
        key, peer = provision.id
        del self._keys[key][peer]
        if not self._keys[key]:
            del self._keys[key]
        self._counts[peer] -= 1
        if not self._counts[peer]:
            del self._counts[peer]
        self._shares.remove(provision.group, (distance(self._own, key), peer), SIZE_BYTES)
        take_out(self._due, (provision.expires_ms, key, peer))


def read_provision(entry: Entry) -> Provision:
    """Return the provision that was written. Raises `DecodeError` for what is none."""
    plain = loads(entry.body, _LIMITS)
    if type(plain) is not list or [type(item) for item in plain] != [str, int]:
        raise DecodeError("a kept provision of another shape", hint=_HINT)
    try:
        peer = entry.name[keys.SIZE_BYTES :].decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError("a kept provision of nobody", hint=_HINT) from error
    return Provision(keys.from_bytes(entry.name[: keys.SIZE_BYTES]), PeerId(peer), plain[0], plain[1])


def read_provider(entry: Entry) -> Contact:
    """Return the contact that was written. Raises `DecodeError`, `SignatureError` for what is none, or another's."""
    plain = loads(entry.body, _LIMITS)
    if type(plain) is not list or [type(item) for item in plain] != [bytes, list]:
        raise DecodeError("a kept contact of another shape", hint=_HINT)
    contact = read_contact(plain[0])
    if contact.peer.encode() != entry.name:
        raise DecodeError("a kept contact of another peer", hint=_HINT)
    return attrs.evolve(contact, addresses=tuple(each for each in contact.addresses if each in plain[1]))


def _name(key: Key, peer: PeerId) -> bytes:
    return keys.to_bytes(key) + peer.encode()
