"""Laws of registers, over every order of messages that Hypothesis draws; and that each can fail.

Any question or answer comes at any time, once, twice or never; electors crash, lie as often as the register bears, and
lose their stores as often as it outlives; operations start and stop anywhere. Then no seq has two versions: neither among
those that a quorum accepted, nor in what any two operations say.
"""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prime.actor.contract import PeerId
from prime.dht.registers import elector as el
from prime.dht.registers import operation as op
from prime.dht.registers.proposal import Electors, Register, Seat, Version
from tests.dht.registers.electors import REGISTER, store

NAMES = [PeerId(f"e{i}") for i in range(8)]
NOW_MS = 1_000_000
SIDES = (tuple(range(8)), tuple(range(8)), (0, 1), (2, 3), (0, 1, 2), (2, 3, 4), (0, 1, 2, 3), (1, 2, 3, 4))


@attrs.frozen
class Flight:
    """A question on its way, or an answer if `shown`."""

    number: int
    peer: PeerId
    round: int
    question: el.Question
    shown: el.Shown | None = None


class Machine(RuleBasedStateMachine):
    """Eight peers, of whom five are electors of one register, and operations of anybody."""

    liars = 0

    def __init__(self) -> None:
        super().__init__()
        self.electors = {name: el.Elector(Seat(name, store(i))) for i, name in enumerate(NAMES)}
        self.pasts: dict[PeerId, list[Any]] = {name: [()] for name in NAMES}
        self.operations: dict[int, op.Operation] = {}
        self.flights: list[Flight] = []
        self.terms: list[op.Term] = []
        self.said: dict[tuple[str, int], bytes] = {}
        self.wakes: dict[int, float] = {}
        self.random = Random(0)
        self.numbers = 0
        self.now = 0.0
        self.lost = 0

    @initialize(seed=st.integers(0, 2**16), is_there=st.booleans())
    def seeded(self, seed: int, is_there: bool) -> None:
        """Begin with a register that is there, or with none."""
        self.random = Random(seed)
        while is_there and not self.terms:
            self.begin(0, "write")
            self.flow(1000, SIDES[0], None)

    @rule(
        behind=st.sampled_from((0, 0, 0, 1)), kind=st.sampled_from(("write", "write", "read", "read keyless", "tend"))
    )
    def begin(self, behind: int, kind: str) -> None:
        self.numbers += 1
        wish: op.Wish = op.Read()
        if kind == "write":
            seq = max((term.known.version.seq for term in self.terms), default=0)
            wish = op.Write(max(seq - behind, 0), b"%d" % self.numbers)
        elif kind == "tend":
            wish = op.Tend(frozenset(self.random.sample(NAMES, 1)))
        habits = op.Habits(electors=5, liars=self.liars)
        term = self.random.choice([None, *self.terms, *self.terms])
        sign = None if kind == "read keyless" else (lambda draft: draft)
        core = op.Operation(REGISTER, wish, habits, self.random.randbytes, sign=sign, term=term)
        self.operations[self.numbers] = core
        self.step(self.numbers, op.Begin())

    def step(self, number: int, event: op.Event) -> None:
        core = self.operations.get(number)
        for command in core.step(event, self.now, NOW_MS) if core is not None else []:
            match command:
                case op.Find():
                    self.step(number, op.Found(tuple(NAMES)))
                case op.Put(peers, question, round_):
                    self.flights += [Flight(number, peer, round_, question) for peer in peers]
                case op.Wake(at):
                    self.wakes[number] = at
                case op.End(outcome, term):
                    self.operations.pop(number, None)
                    self.terms += [term] if term is not None else []
                    if not isinstance(outcome, op.Gone) and outcome.version is not None:
                        self.one_version(outcome.version)

    def one_version(self, version: Version) -> None:
        """Hold what is said or decided of each seq to what was said before."""
        for back, mark in enumerate((version.mark, *version.trail)):
            if version.seq - back > 0:
                assert self.said.setdefault(("mark", version.seq - back), mark) == mark, "two versions of one seq"

    @precondition(lambda self: self.flights)
    @rule(place=st.integers(0, 2**16), keeps=st.booleans())
    def come(self, place: int, keeps: bool) -> None:
        """Let one message come; it may come again."""
        place %= len(self.flights)
        flight = self.flights[place] if keeps and len(self.flights) < 60 else self.flights.pop(place)
        if flight.shown is not None:
            self.step(flight.number, op.Answered(flight.peer, flight.round, flight.shown))
            return
        shown = self.answer(flight.peer, flight.question)
        self.flights.append(attrs.evolve(flight, shown=shown))

    @precondition(lambda self: self.flights)
    @rule(count=st.integers(1, 60), side=st.sampled_from(SIDES), of=st.none() | st.integers(0, 2))
    def flow(self, count: int, side: tuple[int, ...], of: int | None) -> None:
        """Let many messages come in order, to and from some peers, of one operation or of all: so they get somewhere."""
        peers, numbers = {NAMES[place] for place in side}, list(self.operations)
        number = numbers[of % len(numbers)] if numbers and of is not None else None
        for _ in range(count):
            fits = (at for at, one in enumerate(self.flights) if one.peer in peers and number in (None, one.number))
            place = next(fits, None)
            if place is None:
                return
            self.come(place, keeps=False)

    def answer(self, peer: PeerId, question: el.Question) -> el.Shown:
        elector = self.electors[peer]
        if NAMES.index(peer) < self.liars and self.random.random() < 0.5:
            elector = self.electors[peer] = el.Elector(elector.seat, self.random.choice(self.pasts[peer]))
        shown = None
        for command in elector.step(question, NOW_MS):
            match command:
                case el.Keep(standing):
                    elector.step(el.Kept(standing), NOW_MS)
                    self.pasts[peer].append(elector.standings)
                case el.Answer(found):
                    shown = found
        assert shown is not None
        return shown

    @precondition(lambda self: self.flights)
    @rule(place=st.integers(0, 2**16))
    def get_lost(self, place: int) -> None:
        self.flights.pop(place % len(self.flights))

    @precondition(lambda self: self.operations)
    @rule(place=st.integers(0, 8))
    def wake(self, place: int) -> None:
        number = list(self.operations)[place % len(self.operations)]
        self.now = max(self.now, self.wakes.get(number, 0.0))
        self.step(number, op.Woken())

    @precondition(lambda self: len(self.operations) == 3)
    @rule(place=st.integers(0, 2))
    def crash(self, place: int) -> None:
        """End an operation's node; its questions may still come."""
        self.operations.pop(list(self.operations)[place])

    @precondition(lambda self: self.lost < 1 and self.terms)
    @rule(name=st.sampled_from(NAMES[4:]))
    def lose_store(self, name: PeerId) -> None:
        self.lost += 1
        self.electors[name] = el.Elector(Seat(name, store(100 + self.lost)))

    @invariant()
    def decided_once(self) -> None:
        held: dict[tuple[Any, ...], list[PeerId]] = {}
        for name, elector in self.electors.items():
            for standing in elector.standings:
                one = standing.accepted
                if one is not None and elector.seat in one.voters.seats:
                    held.setdefault((one.ballot, one.content), []).append(name)
                    if len(held[one.ballot, one.content]) >= one.voters.quorum:
                        self.one_version(one.version)


def run(machine: type[Machine], examples: int, steps: int = 60, *, finds: bool = False) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
            phases=[Phase.generate] if finds else list(Phase),
        ),
    )


class Deceived(Machine):
    """One of the five electors lies, and its register bears one."""

    liars = 1


@pytest.mark.parametrize("machine", [Machine, Deceived])
def test_no_seq_has_two_versions(machine: type[Machine]) -> None:
    run(machine, 40)


@pytest.mark.nightly
@pytest.mark.parametrize("machine", [Machine, Deceived])
def test_no_seq_has_two_versions_over_many_orders(machine: type[Machine]) -> None:
    run(machine, 3000, 120)


@pytest.mark.nightly
def test_planted_a_quorum_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Electors, "quorum", property(lambda self: min(2, len(self.seats))))
    with pytest.raises(AssertionError, match="two versions"):
        run(Machine, 600, finds=True)


def test_a_register_is_no_record() -> None:
    assert Register(REGISTER.publisher, b"a").key != Register(REGISTER.publisher, b"b").key
