"""The rules of a round's decision along traces: good ones pass, and each rule has a trace that breaks it alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prime.sim.decision import ROUNDS_MAX, RULES, Decisions, RuleBrokenError
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST, Ballot
from prime.trainer.round.view import Member, Value, view_of

ROUND = 7
A, B, C = "a", "b", "c"
X, Y = b"x" * 32, b"y" * 32
SECOND, THIRD = Ballot(2, 1), Ballot(3, 2)

Trace = Callable[[Decisions], None]


def rules() -> Decisions:
    """Three members, led in the order a, b, c."""
    made = Decisions("run")
    for i, peer in enumerate((A, B, C)):
        made.wrote(peer, msg.Born(Member(peer, (), 1.0, i)))
    made.seated(ROUND, {A: 0, B: 1, C: 2}, (A, B, C))
    return made


def vote(made: Decisions, peer: str, ballot: Ballot, value: bytes) -> None:
    made.accepted(peer, ROUND, ballot, value)
    made.ready(peer, ROUND, ballot, value)


def give(made: Decisions, peer: str, ballot: Ballot, seen: tuple[Ballot, bytes] | None) -> None:
    made.promised(peer, ROUND, ballot)
    made.promise(peer, ROUND, ballot, seen)


def lead(made: Decisions, peer: str, ballot: Ballot) -> None:
    made.promised(peer, ROUND, ballot)
    made.opened(peer, ROUND, ballot)


# ------------------------------------------------------------------------------------------------------- good traces


def without_faults(made: Decisions) -> None:
    made.opened(A, ROUND, FIRST)
    made.proposed(A, ROUND, FIRST, X)
    made.proposed(A, ROUND, FIRST, X)
    for peer in (A, B, C):
        vote(made, peer, FIRST, X)
    for peer in (A, C, B):
        made.committed(peer, ROUND, X)
        made.commit(peer, ROUND, X)


def leader_lost_with_a_minority_ready(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, B, FIRST, X)
    made.crashed(A)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    made.proposed(B, ROUND, SECOND, X)
    vote(made, B, SECOND, X)
    made.crashed(C)
    vote(made, C, SECOND, X)
    made.committed(B, ROUND, X)


def a_vote_that_no_majority_reports_need_not_be_carried_on(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, A, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    give(made, A, SECOND, (FIRST, X))  # on its way when b chooses
    made.proposed(B, ROUND, SECOND, Y)
    vote(made, B, SECOND, Y)
    vote(made, C, SECOND, Y)
    made.committed(B, ROUND, Y)
    made.committed(A, ROUND, Y)


def the_highest_of_two_votes_is_carried_on(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, A, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    made.proposed(B, ROUND, SECOND, Y)
    vote(made, B, SECOND, Y)
    lead(made, C, THIRD)
    give(made, A, THIRD, (FIRST, X))
    give(made, B, THIRD, (SECOND, Y))
    made.proposed(C, ROUND, THIRD, Y)


def a_disk_is_lost_and_its_owner_comes_back_in_the_next_view(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, B, FIRST, X)
    made.lost_disk(B)
    made.wrote(B, msg.Born(Member(B, (), 1.0, 9)))
    vote(made, A, FIRST, X)
    made.committed(A, ROUND, X)
    made.committed(B, ROUND, X)
    made.seated(ROUND + 1, {A: 0, B: 9, C: 2}, (B, A, C))
    made.opened(B, ROUND + 1, FIRST)


GOOD: list[Trace] = [
    without_faults,
    leader_lost_with_a_minority_ready,
    a_vote_that_no_majority_reports_need_not_be_carried_on,
    the_highest_of_two_votes_is_carried_on,
    a_disk_is_lost_and_its_owner_comes_back_in_the_next_view,
]


@pytest.mark.parametrize("trace", GOOD, ids=lambda trace: trace.__name__)
def test_a_good_trace_breaks_no_rule(trace: Trace) -> None:
    made = rules()
    trace(made)
    assert made.acts > 5


# -------------------------------------------------------------------------------------------------------- bad traces


def two_decisions(made: Decisions) -> None:
    without_faults(made)
    made.committed(C, ROUND, Y)


def a_minority_decides(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, A, FIRST, X)
    made.committed(A, ROUND, X)


def votes_of_two_ballots_are_added_up(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, A, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    made.proposed(B, ROUND, SECOND, X)
    vote(made, B, SECOND, X)
    made.committed(B, ROUND, X)


def what_nobody_proposed_is_accepted(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    made.accepted(B, ROUND, FIRST, Y)


def a_leader_proposes_twice(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    made.proposed(A, ROUND, FIRST, Y)


def a_member_votes_twice(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, B, FIRST, X)
    made.crashed(B)
    vote(made, B, FIRST, Y)


def a_vote_below_the_promise(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    made.crashed(C)
    made.accepted(C, ROUND, FIRST, X)


def a_promise_below_the_promise(made: Decisions) -> None:
    made.promised(A, ROUND, THIRD)
    made.promised(A, ROUND, SECOND)


def a_promise_that_is_not_written(made: Decisions) -> None:
    made.promise(C, ROUND, SECOND, None)


def a_ballot_that_is_not_written(made: Decisions) -> None:
    made.opened(B, ROUND, SECOND)


def a_vote_that_is_not_written(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    made.ready(B, ROUND, FIRST, X)


def a_vote_that_the_promise_does_not_report(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, C, FIRST, X)
    made.promised(C, ROUND, SECOND)
    made.promise(C, ROUND, SECOND, None)


def a_vote_without_its_bytes(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    made.accepted(B, ROUND, FIRST, X, bytes_held=False)


def phase_one_is_skipped(made: Decisions) -> None:
    lead(made, B, SECOND)
    made.proposed(B, ROUND, SECOND, X)


def a_reported_vote_is_passed_over(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, C, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, (FIRST, X))
    made.proposed(B, ROUND, SECOND, Y)


def the_leaders_own_vote_is_passed_over(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, B, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    give(made, A, SECOND, None)
    made.proposed(B, ROUND, SECOND, Y)


def the_lower_of_two_votes_is_carried_on(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, A, FIRST, X)
    lead(made, B, SECOND)
    give(made, C, SECOND, None)
    made.proposed(B, ROUND, SECOND, Y)
    vote(made, B, SECOND, Y)
    lead(made, C, THIRD)
    give(made, B, THIRD, (SECOND, Y))
    made.proposed(C, ROUND, THIRD, X)


def a_restarted_leader_goes_on(made: Decisions) -> None:
    made.opened(A, ROUND, FIRST)
    made.crashed(A)
    made.proposed(A, ROUND, FIRST, X)


def the_wrong_member_leads(made: Decisions) -> None:
    made.proposed(B, ROUND, FIRST, X)


def a_decision_told_before_it_is_written(made: Decisions) -> None:
    made.proposed(A, ROUND, FIRST, X)
    vote(made, A, FIRST, X)
    vote(made, B, FIRST, X)
    made.commit(A, ROUND, X)


def a_vote_after_the_decision(made: Decisions) -> None:
    without_faults(made)
    made.promised(C, ROUND, SECOND)


def a_new_life_speaks_for_the_old_one(made: Decisions) -> None:
    made.lost_disk(C)
    made.wrote(C, msg.Born(Member(C, (), 1.0, 9)))
    made.promised(C, ROUND, SECOND)


def a_stranger_votes(made: Decisions) -> None:
    made.promised("z", ROUND, SECOND)


def two_views_decide(made: Decisions) -> None:
    without_faults(made)
    made.seated(ROUND, {A: 0, B: 1}, (A, B))


BAD: list[tuple[str, Trace]] = [
    ("one_decision", two_decisions),
    ("majority_ready", a_minority_decides),
    ("majority_ready", votes_of_two_ballots_are_added_up),
    ("value_proposed", what_nobody_proposed_is_accepted),
    ("one_value", a_leader_proposes_twice),
    ("one_ready", a_member_votes_twice),
    ("promise_kept", a_vote_below_the_promise),
    ("promise_kept", a_promise_below_the_promise),
    ("promise_on_disk", a_promise_that_is_not_written),
    ("promise_on_disk", a_ballot_that_is_not_written),
    ("ready_on_disk", a_vote_that_is_not_written),
    ("ready_on_disk", a_vote_that_the_promise_does_not_report),
    ("bytes_on_disk", a_vote_without_its_bytes),
    ("carried_on", phase_one_is_skipped),
    ("carried_on", a_reported_vote_is_passed_over),
    ("carried_on", the_leaders_own_vote_is_passed_over),
    ("carried_on", the_lower_of_two_votes_is_carried_on),
    ("ballot_once", a_restarted_leader_goes_on),
    ("ballot_leader", the_wrong_member_leads),
    ("commit_on_disk", a_decision_told_before_it_is_written),
    ("decided_is_final", a_vote_after_the_decision),
    ("lost_disk_is_silent", a_new_life_speaks_for_the_old_one),
    ("lost_disk_is_silent", a_stranger_votes),
    ("one_view", two_views_decide),
]


@pytest.mark.parametrize(("rule", "trace"), BAD, ids=lambda given: getattr(given, "__name__", str(given)))
def test_a_bad_trace_breaks_the_rule_it_is_made_for(rule: str, trace: Trace) -> None:
    with pytest.raises(RuleBrokenError) as caught:
        trace(rules())
    assert caught.value.rule == rule
    assert str(caught.value).startswith(f"{rule}: {RULES[rule]}, but ")


def test_every_rule_has_a_trace_that_breaks_it() -> None:
    assert {rule for rule, _ in BAD} == set(RULES)


# --------------------------------------------------------------------------------------- the round's records and words


def value_of(round_: int, peers: str, state_round: int = 0) -> Value:
    members = [Member(peer, (), 1.0, i) for i, peer in enumerate("abc") if peer in peers]
    return Value(round_, 0, b"", (), (), view_of("run", 0, members), state_round)


def test_records_and_messages_of_a_round_are_followed() -> None:
    made, value = Decisions("run"), value_of(0, "a")
    born = Member(A, (), 1.0, 0)
    made.wrote(A, msg.Born(born))
    made.wrote(A, msg.Entered(0, view_of("run", 0, [born]), 0))
    made.wrote(A, msg.Booted(1))
    made.wrote(A, msg.Accepted(0, FIRST, value))  # alone in its view it proposes to nobody
    made.wrote(A, msg.Decided(value))
    made.said(A, msg.Commit("run", A, value, 0))
    assert made.decided(0) == value.digest()
    head = ("run", 0, 1, A)
    made.said(A, msg.Prepare(*head, FIRST, (A,)))
    made.said(A, msg.Query("another", 0, 0, A))
    with pytest.raises(RuleBrokenError, match="promise_on_disk"):
        made.said(A, msg.Prepare(*head, Ballot(2, 0), (A,)))
    with pytest.raises(RuleBrokenError, match="ready_on_disk"):
        made.said(A, msg.Ready(*head, FIRST, value.digest()))
    with pytest.raises(RuleBrokenError, match="bytes_on_disk"):
        made.wrote(A, msg.Accepted(1, FIRST, value_of(1, "a")), bytes_held=False)


def test_old_rounds_are_forgotten() -> None:
    made = Decisions("run")
    for round_ in range(2 * ROUNDS_MAX):
        made.seated(round_, {A: 0}, (A,))
    assert made.decided(0) is None
    made.promised(A, 0, SECOND)  # nothing is known of that round any more
    with pytest.raises(RuleBrokenError, match="lost_disk_is_silent"):
        made.promised(A, 2 * ROUNDS_MAX - 1, SECOND)
