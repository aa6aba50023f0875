"""What holds for every lookup, whatever is answered, in whatever order and however late."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prime.dht import lookup as lk
from prime.dht.contact import Contact
from prime.dht.record import Record
from prime.dht.settings import DhtSettings
from prime.transport.peer import PeerId
from tests.dht.strangers import contact, peer, record

SETTINGS = DhtSettings(k=4, replicas=4, beta=2, alpha=2, agreeing=2)
EVERYBODY = [contact(number) for number in range(1, 90)]
KEY = record(b"").key
RECORDS = [None, record(b"old", 1), record(b"new", 2), record(b"other", 2)]
numbers = st.lists(st.integers(0, len(EVERYBODY) - 1), max_size=9)


class LookupLaws(RuleBasedStateMachine):
    """A lookup whose peers answer, fail and keep silent as it comes."""

    @initialize(
        starts=numbers,
        paths=st.integers(1, 4),
        want=st.sampled_from(
            [
                lk.Nearest(KEY),
                lk.Peer(EVERYBODY[0].peer, EVERYBODY[0].key),
                lk.Value(KEY, 2),
                lk.Value(KEY, 0),
                lk.Value(KEY, 1, seq_min=2),
                lk.Providers(KEY, 2),
            ]
        ),
    )
    def begin(self, starts: list[int], paths: int, want: lk.Want) -> None:
        self.now = 0.0
        self.began = [EVERYBODY[index] for index in starts]
        self.lookup = lk.Lookup(want, SETTINGS, self.began, own=peer(0), now=0.0, paths=paths)
        self.paths = paths
        self.told: set[PeerId] = {one.peer for one in self.began}
        self.asked: dict[PeerId, tuple[Contact, int, float]] = {}
        self.open: dict[PeerId, tuple[int, float]] = {}
        self.answered: dict[PeerId, Record | None] = {}
        self.ends = 0
        self.take(self.lookup.step(lk.Begun(), self.now))

    def take(self, commands: list[lk.Command]) -> None:
        for command in commands:
            if isinstance(command, lk.Finished):
                self.ends += 1
                continue
            who = command.contact.peer
            assert who not in self.asked, "no peer is asked twice"
            assert who in self.told, "only peers that somebody named are asked"
            self.asked[who] = (command.contact, command.path, self.now)
            self.open[who] = (command.path, self.now)
        assert self.ends <= 1

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        closer=numbers,
        held=st.sampled_from(RECORDS),
        providers=numbers,
        group=st.sampled_from(["", "a", "b"]),
    )
    def answer(
        self, data: st.DataObject, closer: list[int], held: Record | None, providers: list[int], group: str
    ) -> None:
        who = data.draw(st.sampled_from(sorted(self.open)))
        self.open.pop(who)
        named = [EVERYBODY[index] for index in closer]
        if self.lookup.outcome is None:
            self.answered[who] = held
            self.told |= {one.peer for one in named[: SETTINGS.k]}
        provided = [EVERYBODY[index] for index in providers]
        self.take(self.lookup.step(lk.Answered(who, named, held, provided, group), self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), forged=st.booleans())
    def fail(self, data: st.DataObject, forged: bool) -> None:
        who = data.draw(st.sampled_from(sorted(self.open)))
        self.open.pop(who)
        self.take(self.lookup.step(lk.Failed(who, forged=forged), self.now))

    @rule(who=st.integers(0, len(EVERYBODY) - 1), closer=numbers)
    def hear_a_stranger(self, who: int, closer: list[int]) -> None:
        stranger = EVERYBODY[who].peer
        if stranger not in self.open:
            named = [EVERYBODY[index] for index in closer]
            assert self.lookup.step(lk.Answered(stranger, named), self.now) == []

    @precondition(lambda self: self.lookup.outcome is None)
    @rule()
    def wait(self) -> None:
        assert self.lookup.wakes_at > self.now, "it waits for what is to come"
        self.now = self.lookup.wakes_at
        self.take(self.lookup.step(lk.Woken(), self.now))
        self.open = {who: one for who, one in self.open.items() if self.now < one[1] + SETTINGS.request_s}

    @invariant()
    def it_keeps_its_bounds(self) -> None:
        fresh = [path for path, since in self.open.values() if self.now < since + lk.HASTE * SETTINGS.request_s]
        first = 1  # of a path that looks for a value: it holds up others for less long
        assert all(fresh.count(path) <= SETTINGS.alpha + first for path in range(self.paths))
        assert len(self.asked) <= self.paths * lk.REQUESTS_PER_PATH * SETTINGS.k
        assert self.now <= SETTINGS.lookup_s or self.lookup.outcome is not None

    @invariant()
    def it_goes_on_or_ends(self) -> None:
        if self.lookup.outcome is None:
            assert self.open, "with nobody left to wait for it ends"
            assert self.ends == 0
        else:
            assert self.ends == 1

    @invariant()
    def its_outcome_is_true(self) -> None:
        outcome = self.lookup.outcome
        if outcome is None:
            return
        distances = [one.key ^ self.lookup.want.key for one in outcome.closest]
        assert distances == sorted(distances)
        assert len(distances) <= SETTINGS.k
        assert {one.peer for one in outcome.closest} <= set(self.answered)
        assert not set(outcome.holders) & set(outcome.stale)
        if isinstance(self.lookup.want, lk.Value) and outcome.record is not None:
            assert outcome.record in self.answered.values()
            assert outcome.record.seq >= self.lookup.want.seq_min
        assert (outcome.cause == "no peer answered") <= (outcome.answered == 0)


TestLookupLaws = LookupLaws.TestCase
TestLookupLaws.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
