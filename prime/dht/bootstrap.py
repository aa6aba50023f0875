"""How a node gets into the DHT, and stays in: until it has merged, it tries again. Pure.

Kademlia (Maymounkov and Mazières 2002), end of 2.3: a node that joins asks those it was told of, looks up its own key, and
then a key in each bucket farther away than its nearest neighbour; the same afterwards for each bucket that nobody has
looked up for long.

Two nodes that were told of one peer never make two DHTs: while nobody is in the table a node asks those it was told of
again and again, ever less often, and once it has merged it still asks them now and then, as their part of the swarm may
have been cut off. Whenever they answer, the own key is looked up through them.

::

    bootstrap = Bootstrap(table, told_of=2, settings=settings, bits=random.getrandbits, now=now)
    for command in bootstrap.step(Woken(), now): ...     # at `wakes_at`, and when somebody got into the table
    #   IntroduceToAll(): ask all that it was told of to introduce themselves; step `Introduced`
    #   IntroduceTo(contact): ask this one, which has failed, whether it is back: `table.answered` or `table.failed`
    #   LookUp(bucket): look up a key in this bucket, the own key for `OWN`; step `LookedUp` once it has ended
    bootstrap.sight()                                    # for `prime dht stats` and `prime doctor`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import attrs

from prime.dht.contact import Contact
from prime.dht.key import BITS
from prime.dht.settings import DhtSettings
from prime.dht.table import Table

OWN: Final = -1
"""In the place of a bucket: the own key."""
FIRST_S: Final = 1.0
"""How long after a first try in vain the next one comes; each further one takes twice as long."""
LAST_S: Final = 60.0
"""The longest time between two tries while nobody answers."""
MISSED_S: Final = 120.0
"""How soon they are asked again while some of them have not answered, and others have."""
WATCH_S: Final = 600.0
"""How often those it was told of are asked again while all is well; or every `refresh_s`, if that is sooner."""
LOOK_S: Final = 30.0
"""How often the table is looked at for what is stale or doubtful."""
SOON_S: Final = 0.05
"""The shortest time between two looks that nothing but the clock asks for."""
AT_ONCE_MAX: Final = 3
"""Lookups for the table that are under way at a time."""
DOUBTFUL_AT_ONCE: Final = 8

Phase = Literal["first", "alone", "joining", "merged"]
"""`first`: told of nobody, and nobody came. `alone`: nobody of those it was told of answers. `joining`: it looks around."""


# ---- events


@attrs.frozen
class Woken:
    """Time has passed, or the table has changed."""


@attrs.frozen
class Introduced:
    """Of all that it was told of so many have answered."""

    answered: int


@attrs.frozen
class LookedUp:
    """The lookup of this bucket has ended; so many peers answered."""

    bucket: int
    answered: int


@attrs.frozen
class ToldOf:
    """It has been told of more: of so many in all. The new ones have just been asked."""

    count: int


Event = Woken | Introduced | LookedUp | ToldOf


# ---- commands


@attrs.frozen
class IntroduceToAll:
    """Ask all that it was told of to introduce themselves."""


@attrs.frozen
class IntroduceTo:
    """Ask a contact that has failed whether it is back."""

    contact: Contact


@attrs.frozen
class LookUp:
    """Look up a key in this bucket, or the own key; that one begins with those told of that have answered, too."""

    bucket: int


Command = IntroduceToAll | IntroduceTo | LookUp


@attrs.frozen
class Sight:
    """What a node sees of its place in the DHT. `answered` is of those it was told of, at the last try."""

    phase: Phase
    contacts: int
    told_of: int
    answered: int
    tries: int

    @property
    def words(self) -> str:
        """The same for people."""
        told = f"{self.answered} of {self.told_of} that it was told of answered"
        match self.phase:
            case "first":
                return "it was told of nobody, and nobody has come: it waits for others"
            case "alone":
                return f"nobody answers: {told}, after {self.tries} tries; it goes on trying"
            case "joining":
                knows = "1 peer" if self.contacts == 1 else f"{self.contacts} peers"
                return f"it knows {knows} and looks around; {told}"
            case "merged":
                one = "1 peer that answers" if self.contacts == 1 else f"{self.contacts} peers that answer"
                return f"it is merged and knows {one}; {told}"


class Bootstrap:
    """The joining of one node. `told_of` is how many peers it was told of to begin with: 0 for the first node of a DHT."""

    def __init__(
        self, table: Table, *, told_of: int, settings: DhtSettings, bits: Callable[[int], int], now: float
    ) -> None:
        self.wakes_at = now
        self._table = table
        self._told_of = told_of
        self._settings = settings
        self._bits = bits
        self._answered = 0
        self._tries = 0
        self._in_vain = 0
        self._is_asking = False
        self._asks_s = now
        self._looks_s = now
        self._retries_s = now
        self._own_s: float | None = None  # when the own key was last looked up, and somebody answered
        self._far: list[int] | None = None  # buckets that are still to be looked up to join; `None` before the own key
        self._looking: set[int] = set()
        self._is_merged = False

    @property
    def phase(self) -> Phase:
        """How far it has got."""
        if not self._table.live:
            return "alone" if self._told_of or len(self._table) else "first"
        return "merged" if self._is_merged else "joining"

    def sight(self) -> Sight:
        """Return what it sees."""
        return Sight(self.phase, self._table.live, self._told_of, self._answered, self._tries)

    def step(self, event: Event, now: float) -> list[Command]:
        """Take an event; return what to do. `wakes_at` is when to step `Woken` next, at the latest."""
        match event:
            case Introduced(answered):
                self._hear(answered, now)
            case LookedUp(bucket, answered):
                self._end(bucket, answered, now)
            case ToldOf(count):
                self._told_of, self._asks_s = count, max(self._asks_s, now + FIRST_S)
            case Woken():
                pass
        if not self._table.live:
            self._own_s, self._far, self._is_merged = None, None, False
        commands = [*self._ask(now), *self._look_around(now), *self._retry(now)]
        self._is_merged = self._is_merged or (self._far == [] and not self._looking)
        self.wakes_at = self._next_s(now)
        return commands

    def _next_s(self, now: float) -> float:
        times = [now + LOOK_S]
        if self._told_of and not self._is_asking:
            times.append(self._asks_s)
        if self._own_s is None and self._table.live and not self._looking:
            times.append(self._retries_s)
        return max(min(times), now + SOON_S)

    def _hear(self, answered: int, now: float) -> None:
        self._is_asking = False
        self._answered = answered
        watch_s = min(WATCH_S, self._settings.refresh_s)
        if answered:
            self._in_vain = 0
            self._own_s = None
            wait_s = watch_s if answered >= self._told_of else min(MISSED_S, watch_s)
        else:
            wait_s = watch_s if self._table.live else min(FIRST_S * 2.0**self._in_vain, LAST_S)
            self._in_vain = min(self._in_vain + 1, 16)
        self._asks_s = now + self._spread(wait_s)

    def _end(self, bucket: int, answered: int, now: float) -> None:
        self._looking.discard(bucket)
        if bucket != OWN:
            return
        self._own_s = now if answered else None
        self._retries_s = now + self._spread(FIRST_S)
        if answered and self._far is None:
            nearest = self._table.nearest
            is_whole = len(self._table) < self._settings.k  # then the own key has shown everybody
            self._far = [] if nearest is None or is_whole else list(range(nearest + 1, BITS))

    def _ask(self, now: float) -> list[Command]:
        """Ask those it was told of, when it is time; at once when nobody else is left."""
        if not self._table.live and not self._in_vain:
            self._asks_s = min(self._asks_s, now)
        if not self._told_of or self._is_asking or now < self._asks_s:
            return []
        self._is_asking = True
        self._tries += 1
        return [IntroduceToAll()]

    def _look_around(self, now: float) -> list[Command]:
        """Look up the own key first, then far buckets, then whatever has become stale."""
        if not self._table.live:
            return []
        if OWN not in self._looking and self._is_own_due(now):
            self._looking.add(OWN)
            return [LookUp(OWN)]
        wanted = self._table.stale(now) if self._is_merged else self._far or []
        free = AT_ONCE_MAX - len(self._looking)
        chosen = [bucket for bucket in wanted if bucket not in self._looking][: max(free, 0)]
        for bucket in chosen:
            self._looking.add(bucket)
            self._table.refreshed(bucket, now)
        if self._far is not None:
            self._far = [bucket for bucket in self._far if bucket not in chosen]
        return [LookUp(bucket) for bucket in chosen]

    def _is_own_due(self, now: float) -> bool:
        if self._own_s is None:
            return now >= self._retries_s
        return now - self._own_s >= self._settings.refresh_s

    def _retry(self, now: float) -> list[Command]:
        """Ask a few that have failed whether they are back."""
        if now < self._looks_s:
            return []
        self._looks_s = now + self._spread(LOOK_S)
        return [IntroduceTo(contact) for contact in self._table.doubtful(now, DOUBTFUL_AT_ONCE)]

    def _spread(self, seconds: float) -> float:
        """Return a time of about so long, so that many nodes do not all do the same at once."""
        return seconds * (0.75 + self._bits(16) / (1 << 17))
