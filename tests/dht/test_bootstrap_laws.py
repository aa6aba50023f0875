"""What holds for every joining, whoever answers, and whenever: it never rests before it has merged, and never does too much."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prime.dht import bootstrap as bs
from prime.dht.settings import DhtSettings
from prime.dht.table import Table
from tests.dht.strangers import contact, peer

SETTINGS = DhtSettings(k=3, replicas=3, beta=1)
NUMBERS = st.integers(1, 40)


class BootstrapLaws(RuleBasedStateMachine):
    """A node that joins, in a world that answers as it likes."""

    @initialize(told_of=st.integers(0, 3), bits=st.integers(0, 2**16 - 1))
    def begin(self, told_of: int, bits: int) -> None:
        self.now = 0.0
        self.told_of = told_of
        self.table = Table(contact(0).key, SETTINGS, 0.0)
        self.joining = bs.Bootstrap(self.table, told_of=told_of, settings=SETTINGS, bits=lambda _: bits, now=0.0)
        self.looking: list[int] = []
        self.is_asking = False
        self.asked_s = 0.0
        self.step(bs.Woken())

    def step(self, event: bs.Event) -> None:
        for command in self.joining.step(event, self.now):
            match command:
                case bs.IntroduceToAll():
                    assert not self.is_asking, "one round of introductions at a time"
                    self.is_asking, self.asked_s = True, self.now
                case bs.IntroduceTo(one):
                    assert one.peer in self.table
                    assert one not in self.table.closest(self.table.own, 99), "only who failed is asked again"
                case bs.LookUp(bucket):
                    assert bucket not in self.looking, "no bucket is looked up twice at a time"
                    assert self.table.live, "there is somebody to begin with"
                    self.looking.append(bucket)
        assert self.joining.wakes_at > self.now

    @rule()
    def wake(self) -> None:
        self.now = self.joining.wakes_at
        self.step(bs.Woken())

    @rule(number=NUMBERS, at_once=st.booleans())
    def meet(self, number: int, at_once: bool) -> None:
        self.table.answered(contact(number), self.now)
        if at_once:
            self.step(bs.Woken())

    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        self.table.failed(peer(number), self.now)
        self.step(bs.Woken())

    @rule()
    def lose_everybody(self) -> None:
        while self.table.live:  # who waits for a place gets one
            for one in self.table:
                self.table.failed(one.peer, self.now)
        self.step(bs.Woken())
        assert self.joining.phase in {"alone", "first"}

    @precondition(lambda self: self.is_asking)
    @rule(answered=st.integers(0, 3))
    def be_introduced(self, answered: int) -> None:
        self.is_asking = False
        for number in range(1, min(answered, self.told_of) + 1):
            self.table.answered(contact(number), self.now)
        self.step(bs.Introduced(min(answered, self.told_of)))

    @precondition(lambda self: self.looking)
    @rule(data=st.data(), answered=st.integers(0, 3))
    def end_a_lookup(self, data: st.DataObject, answered: int) -> None:
        bucket = data.draw(st.sampled_from(self.looking))
        self.looking.remove(bucket)
        self.step(bs.LookedUp(bucket, answered))

    @rule()
    def hear_of_another(self) -> None:
        self.told_of += 1
        self.step(bs.ToldOf(self.told_of))

    @invariant()
    def it_does_not_too_much_at_a_time(self) -> None:
        assert len(self.looking) <= bs.AT_ONCE_MAX + 1

    @invariant()
    def it_never_rests_while_it_is_alone(self) -> None:
        if self.joining.phase == "alone" and self.told_of and not self.is_asking:
            assert self.joining.wakes_at <= self.now + bs.LAST_S

    @invariant()
    def merged_is_who_has_looked_around(self) -> None:
        sight = self.joining.sight()
        assert sight.phase == self.joining.phase
        assert sight.words
        if self.joining.phase == "merged":
            assert self.table.live

    def teardown(self) -> None:
        """From wherever it is, a node whose requests are answered merges."""
        self.table.answered(contact(1), self.now)
        self.step(bs.Woken())
        for _ in range(400):
            if self.joining.phase == "merged":
                return
            if self.is_asking:
                self.is_asking = False
                self.step(bs.Introduced(self.told_of))
            elif self.looking:
                self.step(bs.LookedUp(self.looking.pop(), 3))
            else:
                self.now = self.joining.wakes_at
                self.step(bs.Woken())
        raise AssertionError(f"it has not merged: {self.joining.sight()}, looking up {self.looking}")


TestBootstrapLaws = BootstrapLaws.TestCase
TestBootstrapLaws.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
