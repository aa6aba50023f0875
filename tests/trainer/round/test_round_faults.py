"""The round's core under random schedules and named faults: members, links and disks fail, and it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.errors import CorruptedError, UsageError
from prime.sim.decision import RuleBrokenError
from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.round import RoundCore
from prime.trainer.round.terms import Terms
from prime.trainer.round.view import Member, Value

sys.path.insert(0, str(Path(__file__).parent))
from round_world import (  # type: ignore[import-not-found]
    RUN,
    Node,
    Sym,
    World,
    chaos,
    crash_when,
    hash_of,
    next_round,
    says,
    survivors_commit,
    written_anew,
)

# ---------------------------------------------------------------------------------------------------------- properties


@given(seed=st.integers(0, 2**32), size=st.integers(1, 4))
def test_any_schedule_keeps_every_invariant_and_goes_on_when_it_is_quiet(seed: int, size: int) -> None:
    chaos(seed, size, seconds=15.0)


@pytest.mark.nightly
@settings(max_examples=3000)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 5))
def test_many_schedules(seed: int, size: int) -> None:
    chaos(seed, size, seconds=40.0)


# -------------------------------------------------------------------------------------------------------- named faults


def test_a_member_killed_before_the_seal_is_left_out_of_c_and_of_the_next_view() -> None:
    world = World(1).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Transfer) and c.round == round_)
    value = survivors_commit(world, round_, limit_s=8.0)
    assert set(value.contributors()) == set(world.nodes) - {victim}
    assert victim not in value.next_view.peers()
    assert value.next_view.epoch == value.epoch + 1


def test_an_owner_killed_after_the_seal_moves_its_part_to_the_next_member_in_the_same_round() -> None:
    world = World(2).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Reduce) and c.round == round_)
    value = survivors_commit(world, round_, limit_s=8.0)
    assert not value.aborted
    assert set(value.contributors()) == set(world.nodes) - {victim}  # its own part lay only with itself
    ballots = {key[1] for key in world.votes if key[0] == round_}
    assert max(ballots) > (1, 0)
    moved = [c for n in world.nodes.values() for c in n.log if isinstance(c, cmd.Transfer) and c.round == round_]
    part = sorted(world.nodes).index(victim)
    assert {c.part for c in moved if c.to != sorted(world.nodes)[c.part]} == {part}, (
        "only the dead owner's part is resent"
    )


def test_a_member_killed_after_ready_is_in_c() -> None:
    world = World(3).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Persist) and isinstance(c.record, msg.Decided))
    value = survivors_commit(world, round_, limit_s=4.0)
    assert victim in value.contributors()
    assert max(key[1] for key in world.votes if key[0] == round_) == (1, 0)


def test_a_leader_killed_when_a_minority_is_ready_has_its_value_carried_on() -> None:
    world = World(4).swarm(3)
    round_, leader, (holder, other) = next_round(world)

    def before(node: Node, command: cmd.Command) -> bool:
        if node.peer == leader and says(command, msg.Propose, round_):
            world.cuts = {frozenset((leader, other))}
        mine = isinstance(command, cmd.Persist) and isinstance(command.record, msg.Accepted)
        return node.peer == leader and mine and command.record.round == round_  # type: ignore[union-attr]

    world.before, world.notice_s = before, 0.5
    value = survivors_commit(world, round_, limit_s=8.0)
    assert value.digest() == world.votes[round_, (1, 0)], "the one vote's value was carried on"
    assert leader in value.contributors()
    first = [c for c in world.nodes[other].log if isinstance(c, cmd.Persist) and isinstance(c.record, msg.Accepted)]
    assert first[-1].record.ballot.counter > 1
    assert world.core(holder).decisions[round_] == value


def test_a_leader_killed_when_a_majority_is_ready_but_nobody_knows_it() -> None:
    world = World(5).swarm(3)
    round_, leader, _others = next_round(world)
    crash_when(world, leader, lambda c: isinstance(c, cmd.Persist) and isinstance(c.record, msg.Decided))
    value = survivors_commit(world, round_, limit_s=8.0)
    assert value.digest() == world.votes[round_, (1, 0)]
    assert len(value.contributors()) == 3


def test_two_of_which_one_dies_commit_nothing_and_say_what_to_do() -> None:
    world = World(6).swarm(2)
    _round, _leader, _others = next_round(world)
    before = len(world.decided)
    world.crash("b")
    world.run(30.0)
    assert len(world.decided) == before
    (stall,) = world.nodes["a"].stalls
    assert "1 of 2 members are reachable, 2 are needed" in stall.reason
    assert "prime train recover --new-view" in stall.hint
    assert world.core("a").status().phase == "stalled"
    world.restart("b")
    world.until(lambda: len(world.commits()) >= before + 2)
    assert any(isinstance(c, cmd.Resumed) for c in world.nodes["a"].log)


def test_a_joiner_is_let_in_by_a_decision_and_contributes_after_fetching_the_state() -> None:
    world = World(7).swarm(2)
    world.join("c", "b")
    world.until(lambda: "c" in world.commits()[-1].contributors())
    first = next(v for v in world.commits() if "c" in v.contributors())
    let_in = next(v for _, v in sorted(world.decided.items()) if "c" in v.next_view.peers())
    assert let_in.round < first.round
    assert "c" not in let_in.contributors()
    world.until(world.same_states)


def test_a_leaver_is_let_out_by_a_decision() -> None:
    world = World(8).swarm(3)
    world.step(world.nodes["b"], cmd.LeaveRun())
    world.until(lambda: world.core("b").seat is None)
    outside = [c for c in world.nodes["b"].log if isinstance(c, cmd.Outside)]
    assert outside[-1].reason == "left"
    assert not outside[-1].rejoining
    before = len(world.commits())
    world.until(lambda: len(world.commits()) >= before + 2)
    assert world.commits()[-1].contributors() == ("a", "c")


def ended(world: World) -> list[str]:
    return [p for p, node in world.nodes.items() if any(isinstance(c, cmd.Ended) for c in node.log)]


def test_a_run_ends_for_all_with_the_round_in_which_a_member_asked_for_it() -> None:
    world = World(8).swarm(3)
    world.step(world.nodes["b"], cmd.EndRun())
    world.until(lambda: ended(world) == ["a", "b", "c"])
    last = world.commits()[-1]
    assert last.last
    world.until(world.same_states)
    world.run(20)
    assert world.last_round == last.round
    assert all(node.state is not None and node.state[0] == last.round for node in world.nodes.values())
    assert not any(value.last for value in world.commits()[:-1])


def test_nobody_outside_the_view_ends_a_run() -> None:
    world = World(8).swarm(3)
    stranger = Member("stranger", (), 1.0, 1)
    forged = Member("b", (), 1.0, 7)  # another life than the one in the view
    before = world.last_round
    for member in (stranger, forged):
        world.step(world.nodes["a"], cmd.Received(msg.End(RUN, member)))
        world.step(world.nodes["c"], cmd.Received(msg.End("another", world.member(world.nodes["b"]))))
    world.until(lambda: world.last_round >= before + 3)
    assert ended(world) == []


def test_an_end_that_is_asked_for_below_a_majority_comes_once_there_is_one() -> None:
    world = World(8).swarm(3)
    for peer in "ab":
        world.crash(peer)
    world.step(world.nodes["c"], cmd.EndRun())
    world.run(20)
    assert ended(world) == []
    world.restart("a")
    world.until(lambda: ended(world) == ["a", "c"])
    assert world.commits()[-1].last


def test_a_member_that_was_down_at_the_end_learns_of_it_and_says_so_after_each_start() -> None:
    world = World(8).swarm(3)
    world.crash("c")
    world.step(world.nodes["a"], cmd.EndRun())
    world.until(lambda: ended(world) == ["a", "b"])
    world.restart("c")
    world.until(lambda: ended(world) == ["a", "b", "c"])
    world.until(world.same_states)
    world.nodes["b"].log.clear()
    world.crash("b")
    world.restart("b")
    assert "b" in ended(world)


def cut_off(world: World, peer: str) -> None:
    world.cuts = {frozenset((peer, other)) for other in world.nodes if other != peer}


@pytest.mark.parametrize("left", ["abc", "a", "b"])
def test_one_that_was_left_out_before_the_end_comes_to_it_at_any_member_that_is_still_there(left: str) -> None:
    world = World(8, terms=Terms(rounds=12)).swarm(4)
    assert world.last_round < 9
    cut_off(world, "d")
    world.until(lambda: ended(world) == ["a", "b", "c"])
    last = world.commits()[-1]
    assert last.last
    assert last.round == 12
    assert "d" not in last.next_view.peers()
    world.until(lambda: all(world.nodes[p].state == (12, world.states[12]) for p in "abc"))
    for peer in set("abc") - set(left):
        world.crash(peer)
    world.cuts = set()
    world.until(lambda: "d" in ended(world) and world.nodes["d"].state == (12, world.states[12]))
    assert not world.core("d").joining
    world.crash("d")
    world.nodes["d"].log.clear()
    world.restart("d")
    assert "d" in ended(world)
    assert not world.core("d").joining


def test_one_that_comes_when_the_run_is_over_gets_its_last_state() -> None:
    world = World(8, terms=Terms(rounds=7)).swarm(3)
    world.until(lambda: ended(world) == ["a", "b", "c"])
    world.join("d", "b")
    world.until(lambda: "d" in ended(world) and world.nodes["d"].state == (7, world.states[7]))
    assert world.last_round == 7


def test_a_run_ends_with_the_first_round_that_has_enough_contributors() -> None:
    world = World(8, terms=Terms(rounds=3, contributors_final_min=3))
    world.swarm(3)
    world.until(lambda: ended(world) == ["a", "b", "c"])
    enough = [value.round for value in world.commits() if value.round >= 3 and len(value.shares) >= 3]
    assert [value.round for value in world.commits() if value.last] == enough[:1] == [world.last_round]


def test_a_contribution_from_another_state_is_refused_by_name_and_its_member_catches_up() -> None:
    world = World(9).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    wrong = Sym((("wrong", Fraction(1)),))
    state = world.nodes[victim].state
    assert state is not None
    world.nodes[victim].state = world.nodes[victim].disk_state = (state[0], wrong)
    world.until(lambda: victim in world.commits()[-1].contributors() and world.last_round > round_)
    assert victim not in world.decided[round_].contributors()
    warnings = [c.text for c in world.nodes[victim].log if isinstance(c, cmd.Warn)]
    assert any(f"the contribution of {victim} to round {round_} starts from state" in text for text in warnings)
    world.until(world.same_states)


def test_a_member_whose_state_goes_wrong_applies_nothing_to_it_and_is_repaired() -> None:
    world = World(9).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    node = world.nodes[victim]
    world.until(lambda: round_ in node.mine)
    assert node.state is not None
    node.state = node.disk_state = (node.state[0], Sym((("wrong", Fraction(1)),)))
    world.step(node, cmd.StateReady(node.state[0], hash_of(node.state[1])))
    world.until(lambda: world.last_round > round_ and victim in world.commits()[-1].contributors())
    reasons = [c.reason for c in node.log if isinstance(c, cmd.CatchUp)]
    assert any(reason.startswith("the state held here is") for reason in reasons)
    assert not [c for c in node.log if isinstance(c, cmd.Apply) and c.value.round == round_]
    world.until(world.same_states)


def test_when_all_members_came_back_the_round_is_given_up_at_once() -> None:
    world = World(12).swarm(3)
    round_, _leader, _others = next_round(world)
    for peer in world.nodes:
        world.crash(peer)
    for peer in world.nodes:
        world.restart(peer)
    world.until(lambda: round_ in world.decided, limit_s=1.9)  # nobody waits for contributions until seal_s, 2.0
    assert world.decided[round_].aborted
    world.until(lambda: world.commits()[-1].round > round_)
    world.until(world.same_states)


def test_a_member_back_in_the_same_round_votes_but_neither_leads_its_ballot_nor_owns_nor_contributes() -> None:
    world = World(10).swarm(3)
    round_, leader, _others = next_round(world)
    crash_when(world, leader, lambda c: says(c, msg.Propose, round_))
    world.until(lambda: world.nodes[leader].core is None)
    world.restart(leader)
    mark = len(world.nodes[leader].log)
    survivors_commit(world, round_, limit_s=10.0)
    later = world.nodes[leader].log[mark:]
    assert not [c for c in later if isinstance(c, cmd.Transfer | cmd.Reduce) and c.round == round_]
    proposals = [c.message for c in later if says(c, msg.Propose, round_) and isinstance(c, cmd.Send)]
    assert all(p.ballot.counter > 1 for p in proposals)  # type: ignore[union-attr]


def test_who_knows_a_decision_answers_its_round_with_the_commit_record_only() -> None:
    world = World(11).swarm(3)
    core, value = world.core("a"), world.decided[world.last_round]
    for message in (
        msg.Query(RUN, value.epoch, value.round, "b"),
        msg.Prepare(RUN, value.epoch, value.round, "b", Ballot(99, 0), ("a", "b", "c")),
        msg.Ready(RUN, value.epoch, value.round, "b", Ballot(1, 0), value.digest()),
    ):
        answers = [c for c in core.step(cmd.Received(message), world.now) if not _is_background(c)]
        assert [c.message.value for c in answers] == [core.decisions[value.round]]
        assert {c.to for c in answers} == {"b"}


def _is_background(command: cmd.Command) -> bool:
    """What a step may do besides answering: the next round's own business."""
    return not isinstance(command, cmd.Send) or isinstance(command.message, msg.Report | msg.Prepare | msg.Join)


def test_another_run_is_refused_by_name() -> None:
    world = World(12).swarm(2)
    core = world.core("a")
    other = msg.Join("another", Member("z", (), 1.0, 5))
    (answer,) = [c for c in core.step(cmd.Received(other), world.now) if isinstance(c, cmd.Send) and c.to == "z"]
    assert isinstance(answer.message, msg.Refuse)
    assert "trains run 'world', not 'another'" in answer.message.reason
    assert "z" not in core.roster.joining


def test_a_lost_disk_comes_back_as_another_life_that_never_speaks_for_the_old_one() -> None:
    world = World(13).swarm(3)
    _round, _leader, (victim, _other) = next_round(world)
    old = world.nodes[victim].incarnation
    world.crash(victim)
    world.nodes[victim].disk = []
    world.restart(victim)
    fresh = world.member(world.nodes[victim])
    assert fresh.incarnation != old
    world.until(lambda: world.commits()[-1].next_view.has(fresh))
    let_in = len(world.commits())
    world.until(lambda: any(victim in v.contributors() for v in world.commits()[let_in:]))


def test_a_round_in_which_everyone_was_suspected_once_goes_on_with_those_that_live() -> None:
    """Under loss and long delays each owner had been silent for a while, so that none was left to take a dead one's part."""
    chaos(392, 3, seconds=20.0, terms=Terms(rule=Rule("mean", norm_gate=2.0)))


def test_a_run_whose_newest_decision_was_on_a_lost_disk_alone_is_not_asked_to_go_on() -> None:
    """Whoever was let in by that decision is nobody to those who did not hear of it."""
    chaos(7000730, 2, seconds=25.0)


def test_a_run_whose_next_view_lost_its_majority_before_it_was_heard_of_is_not_asked_to_go_on() -> None:
    """Two of three had voted for a view of two, of which one lost its disk then: no other value may be decided."""
    chaos(7001033, 3, seconds=25.0, terms=Terms(rule=Rule("krum")))


def test_a_journal_of_another_peer_or_run_is_refused() -> None:
    world = World(14).swarm(1)
    disk = world.nodes["a"].disk
    with pytest.raises(CorruptedError, match="birth of b"):
        RoundCore.recover(Member("b", (), 1.0, 1), RUN, world.timing, disk)
    with pytest.raises(UsageError, match="belongs to run 'world', not to 'other'"):
        RoundCore.recover(Member("a", (), 1.0, 1), "other", world.timing, disk)


def test_a_compacted_journal_recovers_the_same_member() -> None:
    world = World(15).swarm(3)
    world.until(lambda: len(world.commits()) > 12)
    for node in world.nodes.values():
        whole, short = node.disk, written_anew(node.disk)
        assert len(short) < len(whole) / 2
        member = world.member(node)
        full, brief = (RoundCore.recover(member, RUN, world.timing, r) for r in (whole, short))
        assert (full.round, full.boot, full.me) == (brief.round, brief.boot, brief.me)
        assert full.seat == brief.seat
        assert full.previous is not None
        assert brief.previous is not None
        assert full.previous.results == brief.previous.results


@pytest.mark.parametrize(
    ("rule", "is_lost"),
    [
        ("promise_on_disk", lambda r: isinstance(r, msg.Promised)),
        ("ready_on_disk", lambda r: isinstance(r, msg.Accepted)),
        ("commit_on_disk", lambda r: isinstance(r, msg.Decided)),
    ],
)
def test_a_disk_that_drops_what_was_written_breaks_a_rule(rule: str, is_lost: Callable[[msg.Record], bool]) -> None:
    world = World(18).swarm(3)
    round_, leader, _others = next_round(world)
    keep = world.persist
    world.persist = lambda n, r: None if is_lost(r) else keep(n, r)  # type: ignore[method-assign]
    if rule == "promise_on_disk":
        crash_when(world, leader, lambda c: says(c, msg.Propose, round_))
    with pytest.raises(RuleBrokenError, match=rule):
        world.run(20.0)


def test_idle_members_ask_for_no_wakeup() -> None:
    world = World(16).swarm(2)
    world.training = False
    world.run(30.0)
    for node in world.nodes.values():
        assert node.core is not None
        if node.core.seat is not None and node.core.seat.active_since is None:
            assert node.core.next_wakeup(world.now) is None


def test_a_member_whose_link_is_back_is_no_longer_down_though_nobody_speaks() -> None:
    world = World(18).swarm(3)
    world.training = False
    world.run(30.0)
    core = world.core("a")
    for peer in ("b", "c"):
        world.step(world.nodes["a"], cmd.PeerDown(peer))
    assert core.status().stalled
    world.step(world.nodes["a"], cmd.PeerUp("b"))
    assert not core.status().stalled
    assert dict(core.status().alive) == {"a": True, "b": True, "c": False}


def test_a_view_says_which_state_its_round_starts_from() -> None:
    world = World(19).swarm(2)
    core = world.core("a")
    seat = core.seat
    assert seat is not None
    abort = Value(core.round, seat.view.epoch, b"", (), (), seat.view, seat.state_round)
    entered = [
        c for c in core.step(cmd.Received(msg.Commit(RUN, "b", abort, 0)), world.now) if isinstance(c, cmd.EnterView)
    ]
    assert [(e.round, e.state_round) for e in entered] == [(abort.round + 1, seat.state_round)]


def test_a_promise_on_the_disk_binds_the_next_life() -> None:
    world = World(17).swarm(3)
    round_, leader, (victim, _other) = next_round(world)
    core = world.core(victim)
    seat = core.seat
    assert seat is not None
    high, low = (Ballot(7, seat.order.index(leader)), Ballot(6, seat.order.index(leader)))
    head = (RUN, seat.view.epoch, round_, leader)
    answers = core.step(cmd.Received(msg.Prepare(*head, high, seat.owners)), world.now)
    assert [c.record for c in answers if isinstance(c, cmd.Persist)] == [msg.Promised(round_, high)]
    order = [c for c in answers if isinstance(c, cmd.Persist) or says(c, msg.Promise, round_)]
    assert isinstance(order[0], cmd.Persist), "the promise is on the disk before it is given"
    assert says(order[1], msg.Promise, round_)
    disk = [*world.nodes[victim].disk, msg.Promised(round_, high)]
    again = RoundCore.recover(world.member(world.nodes[victim]), RUN, world.timing, disk)
    again.start(world.now)
    abort = Value(round_, seat.view.epoch, b"", (), (), seat.view, seat.state_round)
    replies = again.step(cmd.Received(msg.Propose(*head, low, seat.owners, (), abort)), world.now)
    assert not [c for c in replies if isinstance(c, cmd.Persist)]
    (nack,) = [c.message for c in replies if says(c, msg.Nack, round_) and isinstance(c, cmd.Send)]
    assert isinstance(nack, msg.Nack)
    assert nack.promised == high
    later = again.step(cmd.Received(msg.Propose(*head, high, seat.owners, (), abort)), world.now)
    votes = [c for c in later if isinstance(c, cmd.Persist) or says(c, msg.Ready, round_)]
    assert votes[0] == cmd.Persist(msg.Accepted(round_, high, abort))
    assert says(votes[1], msg.Ready, round_)
