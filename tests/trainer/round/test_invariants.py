"""Each invariant of a round as a property of its own, over schedules that Hypothesis draws; and that each can fail.

| invariant | checked |
|---|---|
| all that commit hold the same hash | at each decision that is written, and each state after it |
| what is applied is the exact aggregate over C | at each `Apply`, and by each member |
| each contribution in C started from the base that was decided, and is applied on it | at each decision, and each `Apply` |
| a contribution is applied at most once, and exactly once if its sender is in C | at each decision, and at each settling |
| of a living member nothing vanishes: its mass was applied, is carried, or was dropped and counted | at each settling |
| a round is decided by its deadline where a majority exchanges messages | for each round, when it is over |
| a gate judges the norm per token: carried mass is no attack | at each judged round |
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.trainer.robust import gates
from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import leader, leading, outcome, voting
from prime.trainer.round.leader import Lead
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.view import View
from prime.trainer.swarm.carry import Ledger

sys.path.insert(0, str(Path(__file__).parent))
from round_world import Faults, Sym, World, chaos, hash_of  # type: ignore[import-not-found]

CALM = Faults(delay_s=0.02)
GATED = Terms(rule=Rule("mean", norm_gate=3.0))


@attrs.frozen
class Fault:
    """One thing that happens to one member."""

    kind: str
    at_s: float
    who: int
    for_s: float


def schedules(kinds: tuple[str, ...] = ("crash", "pause", "cut", "deaf", "leave")) -> st.SearchStrategy[list[Fault]]:
    fault = st.builds(Fault, st.sampled_from(kinds), st.floats(0.5, 15.0), st.integers(0, 4), st.floats(0.05, 6.0))
    return st.lists(fault, max_size=6)


def suffer(world: World, fault: Fault) -> None:
    """Let a fault happen, and end."""
    names = sorted(world.nodes)
    peer = names[fault.who % len(names)]
    match fault.kind:
        case "crash":
            world.crash(peer)
            world.at(fault.for_s, lambda: world.restart(peer))
        case "pause":
            world.pause(peer, fault.for_s)
        case "deaf":
            world.deaf.add(peer)
            world.at(fault.for_s, lambda: world.deaf.discard(peer))
        case "cut":
            world.cuts = {frozenset((peer, other)) for other in names if other != peer}
            world.at(fault.for_s, lambda: setattr(world, "cuts", set()))
        case "wrong":
            spoil(world, peer)
        case _:
            if world.nodes[peer].core is not None:
                world.step(world.nodes[peer], cmd.LeaveRun())


def spoil(world: World, peer: str) -> None:
    """Let the state of a member become another than everybody's; it finds out by the hash, and says so."""
    node = world.nodes[peer]
    if node.core is not None and node.state is not None and node.core.applying is None:
        node.state = node.disk_state = (node.state[0], Sym((("wrong", Fraction(1)),)))
        world.step(node, cmd.StateReady(node.state[0], hash_of(node.state[1])))


def played(
    seed: int,
    size: int,
    schedule: list[Fault],
    *,
    terms: Terms = DEFAULT_TERMS,
    faults: Faults = CALM,
    seconds: float = 20.0,
    is_paced: bool = False,
) -> World:
    """Play a schedule. Each step of the world is checked while it is made."""
    world = World(seed, faults, terms=terms)
    world.is_paced = is_paced
    world.found("a", size)
    for i in range(1, size):
        world.join(chr(ord("a") + i), "a")
    for fault in schedule:
        world.at(fault.at_s, lambda fault=fault: suffer(world, fault))
    world.run(seconds)
    return world


SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, size=st.integers(2, 4), schedule=schedules())
@settings(max_examples=6)
def test_all_that_commit_hold_the_same_hash(seed: int, size: int, schedule: list[Fault]) -> None:
    world = played(seed, size, schedule, faults=Faults(delay_s=0.05, loss=0.05, double=0.1))
    for node in world.nodes.values():
        if node.core is not None:
            for round_, value in node.core.decisions.items():
                assert value.digest() == world.decided[round_].digest()
        if node.state is not None and node.state[0] in world.states:
            assert node.state[1] == world.states[node.state[0]]


@given(seed=SEEDS, size=st.integers(3, 4), victim=st.integers(0, 3), at_s=st.floats(3.0, 12.0))
@settings(max_examples=6)
def test_a_state_that_went_wrong_is_neither_averaged_in_nor_built_on(
    seed: int, size: int, victim: int, at_s: float
) -> None:
    """Each contributor started from the base that was decided, and whoever applies does it on that base."""
    wrong = [Fault("wrong", at_s + 2 * i, victim, 0.0) for i in range(3)]
    world = played(seed, size, wrong, seconds=25.0)
    assert len(world.commits()) >= 8
    world.training = False
    world.run(10.0)
    assert world.same_states()


@given(seed=SEEDS, size=st.integers(2, 4), schedule=schedules(), terms=st.sampled_from([DEFAULT_TERMS, GATED]))
@settings(max_examples=6)
def test_what_is_applied_is_the_exact_aggregate_and_each_contribution_once(
    seed: int, size: int, schedule: list[Fault], terms: Terms
) -> None:
    world = played(seed, size, schedule, terms=terms)
    for value in world.commits():
        names = {name for share in value.shares for name, _ in world.frozen[value.round, share.peer, 0][0].terms}
        assert names <= set(world.spent)
    applied = sum((len(value.shares) for value in world.commits()), 0)
    assert applied <= len(world.frozen)


@given(seed=SEEDS, size=st.integers(2, 4), schedule=schedules())
@settings(max_examples=6)
def test_of_a_living_member_nothing_vanishes(seed: int, size: int, schedule: list[Fault]) -> None:
    world = played(seed, size, schedule)
    for node in world.nodes.values():
        if node.core is not None:
            world.check_mass(node)


@given(
    seed=SEEDS,
    size=st.integers(3, 5),
    schedule=schedules(("crash", "pause", "cut")),
    who=st.integers(0, 4),
)
@settings(max_examples=6)
def test_a_round_is_decided_by_its_deadline_where_a_majority_exchanges_messages(
    seed: int, size: int, schedule: list[Fault], who: int
) -> None:
    """One member alone has all the faults, so the others are a connected majority; it may be the leader."""
    faults = [attrs.evolve(fault, who=who) for fault in schedule]
    _in_time(played(seed, size, faults))


@pytest.mark.nightly
@given(seed=SEEDS, size=st.integers(3, 5), schedule=schedules(("crash", "pause", "cut")), who=st.integers(0, 4))
@settings(max_examples=1000)
def test_many_rounds_are_decided_by_their_deadline(seed: int, size: int, schedule: list[Fault], who: int) -> None:
    _in_time(played(seed, size, [attrs.evolve(fault, who=who) for fault in schedule]))


@pytest.mark.nightly
@given(seed=SEEDS, size=st.integers(2, 5), schedule=schedules(), terms=st.sampled_from([DEFAULT_TERMS, GATED]))
@settings(max_examples=1000)
def test_many_schedules_of_named_faults(seed: int, size: int, schedule: list[Fault], terms: Terms) -> None:
    world = played(seed, size, schedule, terms=terms, faults=Faults(delay_s=0.05, loss=0.05, double=0.1))
    for node in world.nodes.values():
        if node.core is not None:
            world.check_mass(node)


def _in_time(world: World) -> None:
    limit_s = 2 * world.timing.deadline_s
    for round_, since in world.active_at.items():
        if round_ > 1:
            until = world.decided_at.get(round_, world.now)
            assert until - since <= limit_s, f"round {round_} took {until - since:.1f} s"


@given(seed=SEEDS, late=st.integers(0, 2))
@settings(max_examples=6)
def test_a_gate_does_not_take_carried_mass_for_an_attack(seed: int, late: int) -> None:
    """A member that missed a round contributes that round's delta too, with its weight: a longer sum of more tokens."""
    world = played(seed, 3, [Fault("pause", 4.0 + late, late, 3.0)], terms=GATED, is_paced=True)
    assert len(world.commits()) >= 5
    assert not [share for value in world.commits() for share in value.shares if share.reason]


# ----------------------------------------------------------------------------------------------------- that they can fail


def _one_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lead, "decided", lambda self: self.value is not None and len(self.readys) >= 1)


def _half_a_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(View, "majority", lambda self: max(len(self.members) // 2, 1))


def _weights_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = World.reduce

    def reduce(self: Any, node: Any, round_: int, part: int, seal: bytes, shares: Any) -> None:
        honest(self, node, round_, part, seal, shares[:-1] if len(shares) > 1 else shares)

    monkeypatch.setattr(World, "reduce", reduce)


def _carried_though_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ledger.commit

    def commit(self: Any, round_: int, *, included: bool, residual: Any = None) -> None:
        frozen = self.frozen
        honest(self, round_, included=included, residual=residual)
        if frozen is not None and included:
            self.carry, self.carry_weight = frozen.delta, frozen.delta_weight

    monkeypatch.setattr(Ledger, "commit", commit)


def _dropped_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ledger.commit

    def commit(self: Any, round_: int, *, included: bool, residual: Any = None) -> None:
        honest(self, round_, included=included, residual=residual)
        self.carry, self.carry_weight = None, 0.0

    monkeypatch.setattr(Ledger, "commit", commit)


def _any_base(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = leader.shares_of

    def shares_of(offers: Any, base: bytes) -> Any:
        return honest({peer: attrs.evolve(offer, base=base) for peer, offer in offers.items()}, base)

    monkeypatch.setattr(leader, "shares_of", shares_of)


def _own_state_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_base_fault", lambda _desk, _seat, _value: "")


def _nobody_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "_open_ballot", lambda _desk, _seat: None)


def _norms_whatever_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "norms_per_token", lambda norms, _weights: list(norms))


CUT_IN_TWO = [Fault("cut", 4.0, 0, 5.0), Fault("cut", 10.0, 1, 5.0)]
CRASHES = [Fault("crash", 3.0 + 2 * i, i, 0.5) for i in range(6)]
WRONG = [Fault("wrong", 3.3 + 1.7 * i, i, 0.0) for i in range(5)]
PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str, list[Fault]]] = [
    (_one_ready, "majority_ready|carried_on|two decisions", CRASHES),
    (_half_a_majority, "carried_on|majority_ready|one_decision|two decisions", CUT_IN_TWO),
    (_weights_forgotten, "exact one over C", []),
    (_carried_though_applied, "applied twice|lost", []),
    (_dropped_in_silence, "lost", [Fault("pause", 3.0 + 3 * i, i, 2.5) for i in range(5)]),
    (_any_base, "started from another state", WRONG),
    (_own_state_unseen, "applied on another state", WRONG),
    (_nobody_takes_over, "took", [Fault("crash", 4.0, i, 30.0) for i in (0, 1)]),
]


@pytest.mark.parametrize(("plant", "says", "schedule"), PLANTED, ids=lambda p: getattr(p, "__name__", ""))
def test_each_check_fails_where_its_fault_is_planted(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], says: str, schedule: list[Fault]
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=says):
        for seed in range(20):
            _in_time(played(seed, 4, schedule, seconds=40.0))


def _votes_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lead, "carried", lambda _self: None)


def _promise_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voting, "promise", lambda _desk, seat, ballot: setattr(seat, "promised", ballot))


def _leads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = leading.take_over_if_due

    def take_over_if_due(desk: Any, seat: Any) -> None:
        restarted, seat.restarted = seat.restarted, False
        honest(desk, seat)
        seat.restarted = restarted

    monkeypatch.setattr(leading, "take_over_if_due", take_over_if_due)


@pytest.mark.parametrize(
    ("plant", "says", "seed", "size"),
    [
        (_votes_forgotten, "carried_on", 18, 3),
        (_promise_not_written, "promise_on_disk", 0, 4),
        (_leads_again, "ballot_once", 0, 4),
    ],
)
def test_a_storm_finds_what_breaks_the_rules_of_a_ballot(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], says: str, seed: int, size: int
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=says):
        for near in range(seed, seed + 20):
            chaos(near, size, seconds=15.0)


def test_a_gate_on_the_norm_alone_takes_carried_mass_for_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    _norms_whatever_the_tokens(monkeypatch)
    seen = [
        share.reason
        for seed in range(3)
        for value in played(seed, 3, [Fault("pause", 5.0, 1, 3.0)], terms=GATED, is_paced=True).commits()
        for share in value.shares
        if share.reason
    ]
    assert any("norm per token" in reason for reason in seen)
