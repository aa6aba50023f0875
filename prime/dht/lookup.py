"""A lookup: to ask nearer and nearer peers, along disjoint paths, until those nearest to a key have answered. Pure.

After Kademlia (Maymounkov and Mazières 2002), section 2.3, and S/Kademlia (Baumgart and Mies 2007), section 4.4: the
contacts that a lookup begins with are dealt out to `d` paths, each goes its own way by what its own peers answered, and
no peer is asked on two of them. So whoever lies leads one path astray and no other; who hands on where a peer was long
ago does not hide it, as what the peer said later is tried after that.

::

    lookup = Lookup(Value(key), settings, table.closest(key, 24), own=own_peer, now=now)
    commands = lookup.step(Begun(), now)
    #   Request(contact): ask it, and step `Answered` or `Failed` with what came of it
    #   Finished(outcome): the end; it comes once and last, and requests under way may be cancelled
    #   at `lookup.wakes_at`, step `Woken()`

A path ends when the `beta` nearest peers that it has seen have answered and the `k` nearest were asked, by any path. One
that does not answer within a tenth of `request_s` holds up nobody: another is asked beside it.
"""

from __future__ import annotations

import bisect
import enum
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeGuard

import attrs

from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.key import Key
from prime.dht.record import Record, precedes
from prime.dht.settings import DhtSettings

SEEN_PER_PATH: Final = 4
"""A path remembers so many times `k` contacts, the nearest."""
REQUESTS_PER_PATH: Final = 5
"""A path makes at most so many times `k` requests, however near its peers say that others are."""
HASTE: Final = 0.1
"""The part of `request_s` after which a request holds up no other."""
FIRST_HASTE: Final = 0.025
"""The same part for the first request of a path that looks for a value: most often its answer is the value."""
PROVIDERS_MAX: Final = 1024
"""Providers that a lookup remembers, as many of each path: one that lies hides those of no other."""
PROVIDERS_PER_ANSWER: Final = 32

Cause = Literal["", "no peer answered", "answered but held nothing", "found but the signature is bad"]
"""Why nothing was found."""


# ---- what is looked for


@attrs.frozen
class Nearest:
    """The peers nearest to a key."""

    key: Key


@attrs.frozen
class Peer:
    """One peer: found as soon as it has answered itself."""

    peer: PeerId
    key: Key


@attrs.frozen
class Value:
    """The record under a key: the best one, once so many distinct paths have the same, or all paths have ended.

    `agreeing` 0 waits until each path has shown a record or has ended: what it takes to deceive it are liars on all of
    them. Records below `seq_min`, which the reader has seen surpassed, do not count.
    """

    key: Key
    agreeing: int
    seq_min: int = 0


@attrs.frozen
class Providers:
    """Those who have what a key names, as many as `count_max`: those first that most paths named.

    It ends early with so many that `agreeing` paths named each: one liar could name as many of its own.
    """

    key: Key
    count_max: int


Want = Nearest | Peer | Value | Providers


# ---- events


@attrs.frozen
class Begun:
    """Begin."""


@attrs.frozen
class Answered:
    """A peer has answered: whom it knows nearer, and what it holds.

    Its contacts are of good signature, and have an address that it may vouch for (`groups.vouched`). A record is of good
    signature, live, and of this key. `group` is that of the address at which the peer was seen (`groups.counted_group`).
    """

    peer: PeerId
    closer: Sequence[Contact] = ()
    record: Record | None = None
    providers: Sequence[Contact] = ()
    group: str = ""


@attrs.frozen
class Failed:
    """A peer has not answered, or with what no honest one says; `forged`: with what it did not sign or what nobody did."""

    peer: PeerId
    forged: bool = False


@attrs.frozen
class Woken:
    """The time `wakes_at` has come."""


Event = Begun | Answered | Failed | Woken


# ---- commands


@attrs.frozen
class Request:
    """Ask this peer. `path` says on which of the paths."""

    contact: Contact
    path: int


@attrs.frozen
class Outcome:
    """What came of a lookup. Contacts are in the order of their distance to the key.

    `closest` are the nearest peers that answered, at most `k`. `holders` showed `record` as it is; `stale` are those of
    `closest` that showed an older one or none, and should be given it. `hops` is how many peers in turn led to the nearest.
    """

    closest: tuple[Contact, ...]
    record: Record | None
    holders: tuple[Contact, ...]
    stale: tuple[Contact, ...]
    providers: tuple[Contact, ...]
    found: Contact | None
    asked: int
    answered: int
    forged: int
    hops: int
    in_time: bool
    cause: Cause


@attrs.frozen
class Finished:
    """The lookup has ended."""

    outcome: Outcome


Command = Request | Finished


class _State(enum.Enum):
    WAITING = "waiting"
    """It is being asked."""
    ANSWERED = "answered"
    FAILED = "failed"
    """It has not answered, or its answer does not count."""


@attrs.define(eq=False)
class _Asked:
    contact: Contact
    path: _Path
    hops: int
    hurries_s: float
    """From then on it holds up no other."""
    ends_s: float
    is_hurrying: bool = True
    state: _State = _State.WAITING
    record: Record | None = None


@attrs.define(eq=False)
class _Path:
    number: int
    seen: list[tuple[int, PeerId]] = attrs.Factory(list)
    """Distances and peers, nearest first; without those that have failed."""
    contacts: dict[PeerId, tuple[Contact, int]] = attrs.Factory(dict)
    """Of those in `seen`, the contact and its hops."""
    requests: int = 0
    providers: int = 0
    """How many it was the first to name."""
    tries: bool = False
    """It makes one request at a time, until one has shown that this does not suffice."""
    hurrying: int = 0
    """Of its requests those under way that hold up others."""
    is_over: bool = False


class Lookup:
    """One lookup. `starts` are the contacts to begin with, `paths` how many disjoint paths (by default `settings.paths`)."""

    def __init__(
        self,
        want: Want,
        settings: DhtSettings,
        starts: Sequence[Contact],
        *,
        own: PeerId,
        now: float,
        paths: int | None = None,
    ) -> None:
        self.want = want
        self.outcome: Outcome | None = None
        self._key = want.key
        self._settings = settings
        self._own = own
        self._ends_s = now + settings.lookup_s
        self._asked: dict[PeerId, _Asked] = {}
        self._waiting: dict[PeerId, _Asked] = {}
        self._failed: dict[PeerId, int] = {}  # the stamp of the contact with which a peer was asked in vain
        self._requests = 0
        self._groups: Counter[str] = Counter()
        self._forged = 0
        self._vouchers: dict[PeerId, set[int]] = {}  # the paths on which a provider was named
        self._providers: dict[PeerId, Contact] = {}
        self._paths = self._deal(starts, settings.paths if paths is None else paths)

    @property
    def wakes_at(self) -> float:
        """When to step `Woken`, in the time of `now`; infinite once it has ended."""
        if self.outcome is not None:
            return math.inf
        times = [one.hurries_s if one.is_hurrying else one.ends_s for one in self._waiting.values()]
        return min([self._ends_s, *times])

    def step(self, event: Event, now: float) -> list[Command]:
        """Take an event; return whom to ask now, or the end, after which events are ignored."""
        if self.outcome is not None:
            return []
        match event:
            case Answered():
                self._take(event)
            case Failed(peer, forged):
                self._fail(peer, forged=forged)
            case Woken() | Begun():
                pass
        self._look_at_clock(now)
        self._close_paths()
        if now >= self._ends_s or self._has_enough() or all(path.is_over for path in self._paths):
            self.outcome = self._sum_up(in_time=now < self._ends_s)
            return [Finished(self.outcome)]
        return list(self._ask_on(now))

    # ---- the paths

    def _deal(self, starts: Sequence[Contact], count: int) -> list[_Path]:
        """Deal out the contacts to begin with, in the order of their distance, to as many paths as there are any for."""
        known = {contact.peer: contact for contact in starts if contact.peer != self._own}
        nearest = sorted(known.values(), key=self._distance)
        tries = isinstance(self.want, Value) and self.want.agreeing > 0
        paths = [_Path(number, tries=tries) for number in range(min(count, len(nearest)))]
        for index, contact in enumerate(nearest):
            self._see(paths[index % len(paths)], contact, 1)
        return paths

    def _distance(self, contact: Contact) -> int:
        return contact.key ^ self._key

    def _see(self, path: _Path, contact: Contact, hops: int) -> None:
        """Remember a contact on a path, if it is among the nearest; of two of one peer, what it said later."""
        if contact.peer == self._own or contact.stamp_ms <= self._failed.get(contact.peer, -1):
            return
        known = path.contacts.get(contact.peer)
        if known is not None:
            path.contacts[contact.peer] = (known[0] if known[0].stamp_ms >= contact.stamp_ms else contact, known[1])
            return
        bisect.insort(path.seen, (self._distance(contact), contact.peer))
        path.contacts[contact.peer] = (contact, hops)
        if len(path.seen) > SEEN_PER_PATH * self._settings.k:
            del path.contacts[path.seen.pop()[1]]

    def _give_up(self, asked: _Asked) -> None:
        """Forget a peer that failed; what it said later of where it is may be tried on a path that has heard it."""
        failed = asked.contact
        self._failed[failed.peer] = failed.stamp_ms
        del self._asked[failed.peer]
        for path in self._paths:
            known = path.contacts.get(failed.peer)
            if known is not None and known[0].stamp_ms <= failed.stamp_ms:
                del path.contacts[failed.peer]
                path.seen.remove((self._distance(failed), failed.peer))

    def _ask_on(self, now: float) -> list[Request]:
        """Let each path that is not over ask whom it can. Paths take turns, so that none takes all that are near."""
        requests: list[Request] = []
        busy = [path for path in self._paths if not path.is_over]
        while busy:
            asked = [(path, self._ask_next(path, now)) for path in busy]
            requests += [request for _, request in asked if request is not None]
            busy = [path for path, request in asked if request is not None]
        return requests

    def _close_paths(self) -> None:
        for path in self._paths:
            path.is_over = self._is_over(path)

    def _ask_next(self, path: _Path, now: float) -> Request | None:
        settings = self._settings
        at_once = 1 if path.tries else settings.alpha
        if path.requests >= REQUESTS_PER_PATH * settings.k or path.hurrying >= at_once:
            return None
        for peer in self._near(path):
            if peer not in self._asked:
                return self._ask(path, *path.contacts[peer], now)
        return None

    def _ask(self, path: _Path, contact: Contact, hops: int, now: float) -> Request:
        request_s = self._settings.request_s
        haste = FIRST_HASTE if path.tries else HASTE
        asked = _Asked(contact, path, hops, now + haste * request_s, now + request_s)
        self._asked[contact.peer] = self._waiting[contact.peer] = asked
        self._requests += 1
        path.requests += 1
        path.hurrying += 1
        return Request(contact, path.number)

    def _near(self, path: _Path) -> Iterator[PeerId]:
        """Yield the `k` nearest that a path has seen, without those that it has waited for long enough."""
        left = self._settings.k
        for _, peer in path.seen:
            asked = self._waiting.get(peer)
            if asked is None or asked.is_hurrying:
                yield peer
                left -= 1
                if not left:
                    return

    def _is_over(self, path: _Path) -> bool:
        """Tell whether a path has seen its end: of those nearest nobody is left to ask or to wait for."""
        answered, can_ask = 0, path.requests < REQUESTS_PER_PATH * self._settings.k
        for peer in self._near(path):
            asked = self._asked.get(peer)
            if (asked is None and can_ask) or (asked is not None and asked.is_hurrying):
                return False
            answered += asked is not None
        return answered >= self._settings.beta or not any(peer in self._waiting for _, peer in path.seen)

    # ---- what comes

    def _take(self, event: Answered) -> None:
        asked = self._waiting.get(event.peer)
        if asked is None:
            return
        if event.group and self._groups[event.group] >= self._settings.group_table_max:
            self._end(asked, _State.FAILED)  # many ids at one place are one voice
            return
        self._groups[event.group] += 1
        asked.record = event.record
        self._end(asked, _State.ANSWERED)
        for contact in event.closer[: self._settings.k]:
            self._see(asked.path, contact, asked.hops + 1)
        self._note_providers(event.providers, asked.path)

    def _fail(self, peer: PeerId, *, forged: bool) -> None:
        asked = self._waiting.get(peer)
        if asked is not None:
            self._forged += forged
            self._end(asked, _State.FAILED)

    def _end(self, asked: _Asked, state: _State) -> None:
        del self._waiting[asked.contact.peer]
        self._stop_hurrying(asked)
        asked.state = state
        if state is _State.FAILED:
            self._give_up(asked)

    def _stop_hurrying(self, asked: _Asked) -> None:
        if asked.record is None:
            asked.path.tries = False
        asked.path.hurrying -= asked.is_hurrying
        asked.is_hurrying = False

    def _look_at_clock(self, now: float) -> None:
        for asked in list(self._waiting.values()):
            if now >= asked.ends_s:
                self._end(asked, _State.FAILED)
            elif now >= asked.hurries_s:
                self._stop_hurrying(asked)

    def _note_providers(self, providers: Sequence[Contact], path: _Path) -> None:
        for contact in providers[:PROVIDERS_PER_ANSWER]:
            known = self._providers.get(contact.peer)
            if known is None:
                if path.providers * len(self._paths) >= PROVIDERS_MAX:
                    continue  # others have their own room
                path.providers += 1
            self._vouchers.setdefault(contact.peer, set()).add(path.number)
            if known is None or contact.stamp_ms > known.stamp_ms:
                self._providers[contact.peer] = contact

    # ---- the end

    def _has_enough(self) -> bool:
        match self.want:
            case Peer():
                return self._found() is not None
            case Value(_, agreeing):
                return self._agree(agreeing)
            case Providers(_, count_max):
                agreeing = self._settings.agreeing
                return sum(len(paths) >= agreeing for paths in self._vouchers.values()) >= count_max
            case Nearest():
                return False

    def _agree(self, agreeing: int) -> bool:
        best = self._best()
        if best is None:
            return False
        shown = {one.path.number for one in self._answered() if one.record is not None}
        if not agreeing:
            return all(path.is_over or path.number in shown for path in self._paths)
        paths = {one.path.number for one in self._answered() if _same(one.record, best)}
        return len(paths) >= agreeing

    def _best(self) -> Record | None:
        best: Record | None = None
        for asked in self._answered():
            if self._counts(asked.record) and (best is None or precedes(asked.record, best)):
                best = asked.record
        return best

    def _counts(self, record: Record | None) -> TypeGuard[Record]:
        if record is None or not isinstance(self.want, Value):
            return False
        return record.salt is None or record.seq >= self.want.seq_min

    def _answered(self) -> list[_Asked]:
        return [one for one in self._asked.values() if one.state is _State.ANSWERED]

    def _sum_up(self, *, in_time: bool) -> Outcome:
        answered = sorted(self._answered(), key=lambda one: self._distance(one.contact))
        closest, best = answered[: self._settings.k], self._best()
        agree = [one for one in answered if best is not None and _same(one.record, best)]
        return Outcome(
            closest=tuple(one.contact for one in closest),
            record=best,
            holders=tuple(one.contact for one in agree),
            stale=tuple(one.contact for one in closest if best is not None and not _same(one.record, best)),
            providers=self._most_vouched(),
            found=self._found(),
            asked=self._requests,
            answered=len(answered),
            forged=self._forged,
            hops=closest[0].hops if closest else 0,
            in_time=in_time,
            cause=self._cause(len(answered), best),
        )

    def _found(self) -> Contact | None:
        asked = self._asked.get(self.want.peer) if isinstance(self.want, Peer) else None
        return asked.contact if asked is not None and asked.state is _State.ANSWERED else None

    def _most_vouched(self) -> tuple[Contact, ...]:
        """Return the providers that most paths named; of as many the nearest to the key first."""
        if not isinstance(self.want, Providers):
            return ()
        ranked = sorted(self._providers.values(), key=lambda one: (-len(self._vouchers[one.peer]), self._distance(one)))
        return tuple(ranked[: self.want.count_max])

    def _cause(self, answered: int, best: Record | None) -> Cause:
        match self.want:
            case Value() if best is not None:
                return ""
            case Providers() if self._providers:
                return ""
            case Nearest() if answered:
                return ""
            case Peer() if self._found() is not None:
                return ""
        if self._forged:
            return "found but the signature is bad"
        return "answered but held nothing" if answered else "no peer answered"


def _same(one: Record | None, other: Record) -> bool:
    """Tell whether two records say the same, whenever they end."""
    return one is not None and (one.seq, one.value, one.removed) == (other.seq, other.value, other.removed)
