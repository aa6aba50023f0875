"""Rules that judge whole contributions: a first seal, the owners' inner products, and a final seal with coefficients."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.terms import Terms

sys.path.insert(0, str(Path(__file__).parent))
from round_world import Faults, World, chaos, crash_when, next_round, survivors_commit  # type: ignore[import-not-found]

GATED = Terms(rule=Rule("mean", norm_gate=3.0))


def seals(world: World, round_: int) -> list[msg.Seal]:
    sent = [c.message for node in world.nodes.values() for c in node.log if isinstance(c, cmd.Send)]
    return [m for m in sent if isinstance(m, msg.Seal) and m.round == round_]


@pytest.mark.parametrize("name", ["median", "krum", "multi-krum", "centred-clipping"])
def test_a_round_is_judged_before_its_final_seal(name: str) -> None:
    world = World(1, terms=Terms(rule=Rule(name, byzantine_max=1))).swarm(5)
    value = world.commits()[-1]
    kinds = [seal.final for seal in seals(world, value.round)]
    assert kinds[0] is False
    assert kinds[-1] is True
    assert len(value.shares) == 5
    assert all(share.coefficient is not None and share.score > 0 for share in value.shares)
    assert any(share.counts for share in value.shares)


def test_the_plain_mean_is_sealed_at_once() -> None:
    world = World(1).swarm(3)
    assert {seal.final for seal in seals(world, world.commits()[-1].round)} == {True}


def test_a_contribution_beyond_the_gate_does_not_count_and_everyone_learns_why() -> None:
    world = World(2, terms=GATED).swarm(4)
    world.loudness["b"] = 1000
    world.until(lambda: any(s.reason for s in world.commits()[-1].shares))
    (loud,) = [share for share in world.commits()[-1].shares if share.reason]
    assert (loud.peer, loud.counts) == ("b", 0.0)
    assert "norm per token" in loud.reason
    assert loud.score > 2
    world.until(lambda: world.core("c").decisions.get(world.last_round) is not None)
    assert loud in world.core("c").status().judged


def test_an_owner_lost_while_it_judges_has_its_part_judged_by_its_backup() -> None:
    world = World(3, terms=Terms(rule=Rule("median"))).swarm(4)
    round_, _leader, (victim, *_others) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Multiply) and c.round == round_)
    value = survivors_commit(world, round_, limit_s=8.0)
    assert not value.aborted
    multiplied = [(n.peer, c.part) for n in world.nodes.values() for c in n.log if isinstance(c, cmd.Multiply)]
    part = sorted(world.nodes).index(victim)
    assert any(peer != victim and number == part for peer, number in multiplied)


def test_fewer_contributions_than_the_rule_needs_abort_the_round_and_say_so() -> None:
    world = World(4, terms=Terms(rule=Rule("krum", byzantine_max=1)))
    world.found("a", 4)
    for name in "bcd":
        world.join(name, "a")
    world.until(lambda: world.last_round >= 2)
    assert not world.commits()
    warnings = [c.text for n in world.nodes.values() for c in n.log if isinstance(c, cmd.Warn)]
    assert any("krum with byzantine_max 1 needs 5 members to contribute, 4 are asked" in text for text in warnings)


def test_a_rule_that_lets_no_contribution_count_aborts_the_round_at_once_and_says_so() -> None:
    world = World(6, terms=Terms(rule=Rule("mean", norm_gate=0.1)))  # nobody's norm is a tenth of the median one
    world.found("a", 3)
    for name in "bc":
        world.join(name, "a")
    world.until(lambda: world.last_round >= 4)
    assert not world.commits()
    assert [value.shares for value in world.decided.values()] == [()] * len(world.decided)
    told = {c.text for n in world.nodes.values() for c in n.log if isinstance(c, cmd.Warn)}
    assert any("is aborted: mean lets no contribution count (some contribution counts)" in text for text in told), told
    for round_ in (2, 3, 4):  # the leader waits for no deadline, and no second ballot is opened for it
        assert world.decided_at[round_] - world.active_at[round_] < world.timing.seal_s
        assert {key[1] for key in world.votes if key[0] == round_} == {(1, 0)}
    for node in world.nodes.values():
        world.check_mass(node)
        assert node.ledger.dropped == 0


def test_what_a_rule_let_nobody_count_is_contributed_again_once_it_may() -> None:
    world = World(6, terms=GATED).swarm(3)
    strict = Terms(rule=Rule("mean", norm_gate=0.1))
    for node in world.nodes.values():
        assert node.core is not None
        node.core.terms = strict
    aborted = world.last_round + 1
    world.until(lambda: world.last_round >= aborted + 1)
    assert world.decided[aborted + 1].aborted
    for node in world.nodes.values():
        assert node.core is not None
        node.core.terms = GATED
    before = len(world.commits())
    world.until(lambda: len(world.commits()) > before)
    names = {
        name
        for s in world.commits()[-1].shares
        for name, _ in world.frozen[world.commits()[-1].round, s.peer, 0][0].terms
    }
    assert {f"{peer}.{world.nodes[peer].machine.lives}.{aborted + 1}" for peer in "abc"} <= names


def test_a_first_seal_that_comes_again_does_not_undo_the_final_one() -> None:
    world = World(5, Faults(double=0.9), terms=Terms(rule=Rule("median"))).swarm(3)
    before = len(world.commits())
    world.until(lambda: len(world.commits()) >= before + 5)
    assert all(max(key[1] for key in world.votes if key[0] == v.round) == (1, 0) for v in world.commits()[-3:])


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 4))
def test_any_schedule_keeps_every_invariant_while_rounds_are_judged(seed: int, size: int) -> None:
    chaos(seed, size, seconds=15.0, terms=Terms(rule=Rule("median")))


@pytest.mark.nightly
@settings(max_examples=1000)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 5), name=st.sampled_from(["median", "trimmed-mean", "krum"]))
def test_many_schedules_while_rounds_are_judged(seed: int, size: int, name: str) -> None:
    chaos(seed, size, seconds=40.0, terms=Terms(rule=Rule(name)) if name != "krum" or size > 2 else GATED)
