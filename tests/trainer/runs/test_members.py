"""What follows from where a run's members stand."""

from __future__ import annotations

import pytest

from prime.trainer.runs.board import MEMBERS_MAX, STALE_S
from prime.trainer.runs.members import contacts_of, is_needed, is_over, members_inside, within_reach
from prime.trainer.runs.messages import RunMember, Standing


def one(peer: str, standing: Standing = "member", age_s: float = 0.0, stamp_ms: int = 1) -> RunMember:
    return RunMember(peer, "", (f"/{peer}",), standing, "", 0, stamp_ms, age_s)


@pytest.mark.parametrize(
    ("others", "over", "needed"),
    [
        ([], False, False),
        ([one("a")], False, True),
        ([one("a", "done")], True, False),
        ([one("a", "done"), one("b")], False, True),
        ([one("a", "done"), one("b", age_s=STALE_S)], True, False),
        ([one("a", "done"), one("b", "joining")], True, True),
        ([one("a", "left"), one("b", "cannot")], False, False),
    ],
)
def test_a_run_is_over_when_one_is_done_and_nobody_that_lives_is_in_it(
    others: list[RunMember], over: bool, needed: bool
) -> None:
    assert (is_over(others), is_needed(others)) == (over, needed)


def test_who_is_inside_was_heard_lately() -> None:
    others = [one("a"), one("b", "joining"), one("c", age_s=STALE_S)]
    assert [member.peer for member in members_inside(others)] == ["a"]


def test_those_in_the_run_are_asked_by_their_link_or_their_address_and_others_where_there_are_none() -> None:
    assert contacts_of([one("a"), one("b", "joining"), one("c", "left")], {"b"}) == ("b", "/a")
    assert contacts_of([one("c", "left"), one("d", "done")], ()) == ("/c", "/d")


def test_the_latest_of_very_many_that_can_be_dialled_are_kept() -> None:
    many = [one(f"p{stamp}", stamp_ms=stamp) for stamp in range(MEMBERS_MAX + 2)]
    silent = RunMember("q", "", (), "member", "", 0, 10**6)
    found = within_reach([*many, silent, one("r", "left", stamp_ms=10**6)])
    assert [member.stamp_ms for member in found] == list(range(MEMBERS_MAX + 1, 1, -1))
