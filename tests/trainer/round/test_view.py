"""Views, owners and the value a round decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import UsageError
from prime.trainer.round.ballot import FIRST, NONE, Ballot
from prime.trainer.round.names import lineage
from prime.trainer.round.partition import owners_of
from prime.trainer.round.roster import PENDING_MAX, Roster
from prime.trainer.round.validity import MEMBERS_MAX, view_fault
from prime.trainer.round.view import Member, Share, Value, View, next_view, recovered, seal_digest, view_of

NAMES = st.sets(st.sampled_from("abcdefgh"), min_size=1)


def member(peer: str, incarnation: int = 1) -> Member:
    return Member(peer, (), 1.0, incarnation)


def view(peers: str, epoch: int = 3) -> View:
    return view_of("run", epoch, map(member, peers))


@given(NAMES, st.integers(0, 1000))
def test_every_member_leads_once_in_an_order_that_all_agree_on(peers: set[str], round_: int) -> None:
    order = view("".join(peers)).order(round_)
    assert sorted(order) == sorted(peers)
    assert order == view("".join(sorted(peers, reverse=True))).order(round_)


def test_the_lead_moves_from_round_to_round() -> None:
    assert {view("abc").order(r)[0] for r in range(30)} == {"a", "b", "c"}


@given(NAMES, st.sets(st.sampled_from("abcdefgh")))
def test_unfit_owners_hand_only_their_own_part_to_the_next_member(peers: set[str], unfit: set[str]) -> None:
    whole = view("".join(peers))
    owners, names = owners_of(whole, unfit), whole.peers()
    fit = set(names) - unfit
    for part, owner in enumerate(owners):
        if names[part] in fit or not fit:
            assert owner == names[part]
        else:
            turned = names[part:] + names[:part]
            assert owner == next(p for p in turned if p in fit)


def test_the_epoch_grows_only_with_the_members() -> None:
    old = view("abc")
    assert next_view(old, (), {}) is old
    smaller = next_view(old, {"b"}, {})
    assert (smaller.peers(), smaller.epoch) == (("a", "c"), 4)
    again = next_view(old, (), {"b": member("b", 2)})
    assert again.epoch == 4
    assert again.has(member("b", 2))
    assert not again.has(member("b", 1))


def test_the_last_member_cannot_be_left_out() -> None:
    old = view("a")
    assert next_view(old, {"a"}, {}) is old


def test_a_recovered_view_is_another_run() -> None:
    once = recovered(view("abc"), [member("a")])
    assert (lineage(once.run), once.epoch, once.peers()) == (("run", 1), 4, ("a",))
    assert lineage(recovered(once, [member("a")]).run) == ("run", 2)


def test_the_successors_that_two_survivors_found_have_different_names() -> None:
    names = {recovered(view("abc"), [survivor]).run for survivor in (member("a"), member("b"), member("a", 2))}
    assert len(names) == 3
    assert {lineage(name) for name in names} == {("run", 1)}


@pytest.mark.parametrize("peers", ["", "aa"])
def test_a_view_that_cannot_be(peers: str) -> None:
    with pytest.raises(UsageError, match="at least one member|twice"):
        view(peers)


@pytest.mark.parametrize(("size", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority_counts_heads(size: int, majority: int) -> None:
    assert view("abcde"[:size]).majority() == majority


def test_the_digest_sees_every_field() -> None:
    value = Value(1, 3, b"base", (Share("a", 1.0),), (b"h",), view("ab"), 1)
    others = [
        Value(2, 3, b"base", (Share("a", 1.0),), (b"h",), view("ab"), 1),
        Value(1, 3, b"other", (Share("a", 1.0),), (b"h",), view("ab"), 1),
        Value(1, 3, b"base", (Share("a", 2.0),), (b"h",), view("ab"), 1),
        Value(1, 3, b"base", (Share("a", 1.0),), (b"g",), view("ab"), 1),
        Value(1, 3, b"base", (Share("a", 1.0),), (b"h",), view("ac"), 1),
        Value(1, 3, b"base", (Share("a", 1.0),), (b"h",), view("ab"), 0),
    ]
    assert len({v.digest() for v in (value, *others)}) == 7
    assert seal_digest(1, b"base", value.shares) != seal_digest(1, b"base", others[2].shares)


def test_ballots_are_ordered_by_counter_then_rank() -> None:
    assert NONE < FIRST < Ballot(1, 1) < Ballot(2, 0)
    assert str(Ballot(4, 2)) == "4.2"


@pytest.mark.parametrize("members", [MEMBERS_MAX - 2, MEMBERS_MAX])
def test_a_view_grows_no_larger_than_one_may_be(members: int) -> None:
    full = View("run", 3, tuple(member(f"{number:04}") for number in range(members)))
    roster = Roster()
    for peer in ("z", "y", "x", "0001"):
        roster.want_in(member(peer, 2), 0.0)
    following = roster.next_view(full, (), (), {})
    assert len(following.members) == MEMBERS_MAX
    assert not view_fault(following)
    assert following.has(member("0001", 2))
    assert [peer for peer in following.peers() if peer in "xyz"] == ["y", "z"][: MEMBERS_MAX - members]


@pytest.mark.parametrize(("participation", "asked"), [(1.0, 5), (0.5, 3), (0.41, 3), (0.4, 2), (0.01, 1)])
def test_of_the_members_a_fraction_is_asked_rounded_up(participation: float, asked: int) -> None:
    members = view("abcde")
    chosen = [members.chosen(round_, participation) for round_ in range(40)]
    assert {len(peers) for peers in chosen} == {asked}
    assert set().union(*chosen) == set("abcde")  # each has its turn


def test_wishes_to_join_are_bounded_and_those_that_are_there_are_renewed() -> None:
    roster = Roster()
    assert all(roster.want_in(member(f"m{number}"), 0.0) for number in range(PENDING_MAX))
    assert not roster.want_in(member("late"), 1.0)
    assert roster.want_in(member("m0"), 1.0)
    assert len(roster.joining) == PENDING_MAX


def test_a_time_in_which_nobody_listened_is_no_silence_of_anybody() -> None:
    roster = Roster()
    roster.hear("a", 1.0)
    assert roster.silence_s("a", 0.0, 11.0) == 10.0
    roster.forgive(8.0)
    assert roster.silence_s("a", 0.0, 11.0) == 2.0
