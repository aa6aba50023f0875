"""Members that stand still, are slow, or cannot be owners: what it costs the others, and what it must not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.desk import CONTACTS_MAX
from prime.trainer.round.round import RoundCore
from prime.trainer.round.terms import Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member

sys.path.insert(0, str(Path(__file__).parent))
from round_world import Faults, Node, World, next_round  # type: ignore[import-not-found]

DETECTION_S = 2.0
"""Within this a member that stands still is found and its work done by others; the link would take 6 s."""


def stopped(world: World, victim: str, round_: int) -> float:
    """Stop `victim` (SIGSTOP) when the first other owner reduces; return how long after it two others have decided."""
    began: list[float] = []

    def before(node: Node, command: cmd.Command) -> bool:
        if not began and node.peer != victim and isinstance(command, cmd.Reduce) and command.round == round_:
            began.append(world.now)
            world.pause(victim, 30.0)
        return False

    world.before = before
    world.until(lambda: sum(n.core.round > round_ for n in world.nodes.values() if n.core and n.peer != victim) >= 2)
    return world.now - began[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("leads", [False, True])
def test_an_owner_that_is_stopped_costs_about_a_second_and_comes_back(seed: int, leads: bool) -> None:
    world = World(seed, timing=Timing()).swarm(3)
    world.until(lambda: len(world.commits()) >= 5)
    round_, leader, others = next_round(world)
    victim = leader if leads else others[0]
    assert stopped(world, victim, round_) < DETECTION_S
    assert not world.decided[round_].aborted
    assert len({n.state for n in world.nodes.values() if n.peer != victim}) == 1
    world.until(lambda: victim in world.commits()[-1].contributors() and world.last_round > round_, 90.0)
    world.until(world.same_states)


def ballots_above_the_first(world: World) -> list[tuple[int, tuple[int, int]]]:
    return [key for key in world.votes if key[1] != (1, 0)]


@pytest.mark.parametrize("seed", range(4))
def test_a_member_that_lives_is_not_suspected_however_its_messages_jitter(seed: int) -> None:
    world = World(seed, Faults(delay_s=0.15), timing=Timing()).swarm(4)
    world.run(40.0)
    assert len(world.commits()) >= 10
    assert not ballots_above_the_first(world)
    assert all(value.next_view.epoch == world.commits()[0].next_view.epoch for value in world.commits())


def test_a_false_suspicion_costs_a_ballot_and_nothing_else() -> None:
    world = World(7, timing=Timing()).swarm(3)
    world.until(lambda: len(world.commits()) >= 5)
    round_, _leader, (victim, _other) = next_round(world)
    done: list[float] = []

    def before(node: Node, command: cmd.Command) -> bool:
        if not done and node.peer != victim and isinstance(command, cmd.Reduce) and command.round == round_:
            done.append(world.now)
            world.pause(victim, 1.6)  # longer than any phi allows, shorter than what leaves it out of the view
        return False

    world.before = before
    epoch = world.decided[round_ - 1].next_view.epoch
    world.until(lambda: round_ + 2 in world.decided)
    assert world.decided[round_ + 1].next_view.epoch == epoch
    world.until(lambda: victim in world.commits()[-1].contributors())
    world.until(world.same_states)


def test_one_that_stood_still_itself_suspects_nobody_when_it_goes_on() -> None:
    world = World(8, timing=Timing()).swarm(3)
    round_, leader, _others = next_round(world)
    world.until(lambda: (seat := world.core(leader).seat) is not None and seat.active_since is not None)
    for peer in world.nodes:
        world.pause(peer, 5.0)  # a whole machine asleep
    world.until(lambda: round_ in world.decided)
    assert set(world.decided[round_].contributors()) == set(world.nodes)
    assert world.votes.keys() >= {(round_, (1, 0))}


def test_an_owner_that_holds_nothing_costs_one_round_a_ballot_and_then_owns_nothing() -> None:
    world = World(1).swarm(4)
    _round, _leader, (victim, *_others) = next_round(world)
    world.deaf.add(victim)  # it speaks, it votes, and no bytes ever reach it
    before = len(world.commits())
    world.until(lambda: len(world.commits()) >= before + 6)
    assert [round_ for round_, value in world.decided.items() if value.aborted] == [0]
    member = world.commits()[-1].next_view.find(victim)
    assert member is not None
    assert member.rate_bytes_s == 0
    assert victim in world.commits()[-1].contributors()
    assert victim not in {owner for n in world.nodes.values() if n.core and n.core.seat for owner in n.core.seat.owners}
    warnings = [c.text for c in world.nodes[victim].log if isinstance(c, cmd.Warn)]
    assert warnings == ["this node could not hold the part of the vector that it owned: it owns none for a while"]


def test_a_member_that_was_made_a_client_owns_again_after_a_while() -> None:
    world = World(1).swarm(4)
    _round, _leader, (victim, *_others) = next_round(world)
    world.deaf.add(victim)
    world.until(lambda: _rate(world, victim) == 0)
    world.deaf.discard(victim)
    world.step(world.nodes[victim], cmd.RateMeasured(5e6))
    since = world.last_round
    world.until(lambda: _rate(world, victim) != 0, 120.0)
    assert world.last_round - since >= 15
    before = len(world.commits())
    world.until(lambda: len(world.commits()) >= before + 3)
    assert not [v for r, v in world.decided.items() if v.aborted and r > 0]


def _rate(world: World, peer: str) -> int | None:
    member = world.decided[world.last_round].next_view.find(peer)
    return None if member is None else member.rate_bytes_s


def test_a_measured_rate_changes_the_view_once_and_only_by_more_than_a_quarter() -> None:
    world = World(2).swarm(3)
    before = world.decided[world.last_round].next_view.epoch
    world.step(world.nodes["b"], cmd.RateMeasured(4.1e6))
    world.until(lambda: _rate(world, "b") is not None)
    told = _rate(world, "b")
    assert told is not None
    assert 0.8 <= told / 4.1e6 <= 1.25
    for rate in (3.9e6, 4.3e6, 4.0e6):
        world.step(world.nodes["b"], cmd.RateMeasured(rate))
        seen = len(world.commits())
        world.until(lambda seen=seen: len(world.commits()) >= seen + 2)
    assert world.decided[world.last_round].next_view.epoch == before + 1


def test_a_client_by_choice_owns_nothing_however_fast_it_is() -> None:
    world = World(3)
    world.rates["b"] = 0
    world.swarm(3)
    world.step(world.nodes["b"], cmd.RateMeasured(1e9))
    before = len(world.commits())
    world.until(lambda: len(world.commits()) >= before + 3)
    assert "b" in world.commits()[-1].contributors()
    assert _rate(world, "b") == 0
    reduced = {n.peer for n in world.nodes.values() for c in n.log if isinstance(c, cmd.Reduce)}
    assert reduced == {"a", "c"}


def test_only_those_chosen_for_a_round_are_waited_for_and_taken() -> None:
    world = World(4, terms=Terms(participation=0.5)).swarm(5)
    world.run(20.0)
    assert len(world.commits()) >= 8
    for value in world.commits():
        view = world.decided[value.round - 1].next_view
        assert set(value.contributors()) <= view.chosen(value.round, 0.5)
        assert len(value.contributors()) == min(3, len(view.members))
    assert {peer for value in world.commits() for peer in value.contributors()} == set("abcde")
    entered = [c for c in world.nodes["a"].log if isinstance(c, cmd.EnterView)]
    assert {e.chosen for e in entered} == {True, False}


def test_heartbeats_go_to_the_leader_and_from_it_to_all_while_a_round_is_under_way() -> None:
    world = World(5).swarm(3)
    _round, leader, (other, _third) = next_round(world)
    assert not world.core(other).beats()
    world.until(lambda: all((seat := n.core.seat) and seat.active_since is not None for n in world.nodes.values()))
    assert {beat.to for beat in world.core(other).beats()} == {leader}
    assert {beat.to for beat in world.core(leader).beats()} == set(world.nodes) - {leader}
    assert all(isinstance(beat.message, msg.Beat) for beat in world.core(leader).beats())


def test_one_that_is_let_in_and_out_for_ever_asks_only_the_latest_it_heard_of() -> None:
    core = RoundCore.join(Member("me", (), 1.0, 1), "run", Timing())
    core.start(0.0)
    for week in range(5):
        core.step(cmd.JoinRun(tuple(f"{week}-{i}" for i in range(100))), float(week))
    said = core.step(cmd.JoinRun(("last", "me")), 10.0)
    asked = {c.to for c in said if isinstance(c, cmd.Send) and isinstance(c.message, msg.Join)}
    assert len(asked) == CONTACTS_MAX
    assert {"last", "4-0", "3-0"} <= asked
    assert not {"0-0", "me"} & asked
