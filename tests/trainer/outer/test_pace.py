"""The pace of a member: when it contributes, how far it trains on, and that every step is contributed once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.outer.fragments import Fragments
from prime.trainer.outer.pace import Pace

D = 40


def pace_of(count: int = 1, inner_steps: int = 12, overlap_steps: int = -1, *, waits: bool = False) -> Pace:
    return Pace.of(Fragments(D, count), inner_steps, overlap_steps, waits=waits)


def train(pace: Pace, round_: int, *, stalled: bool = False) -> int:
    """Make all the steps that may be made now."""
    room = pace.room(round_, stalled=stalled)
    pace.made += room
    return room


def test_one_fragment_contributes_after_h_steps_and_trains_on_meanwhile() -> None:
    pace = pace_of()
    assert train(pace, 1) == 12
    assert pace.is_due(1)
    pace.contribute(1)
    assert not pace.is_due(1)
    assert train(pace, 1) == 12
    pace.settle()
    assert pace.is_due(2)  # with the steps made meanwhile
    assert pace.steps(2) == 12


def test_without_overlap_a_member_waits_for_the_outcome() -> None:
    for pace in (pace_of(overlap_steps=0), pace_of(waits=True), pace_of(inner_steps=1)):
        train(pace, 1)
        pace.contribute(1)
        assert train(pace, 1) == 0
        pace.settle()
        assert pace.room(2, stalled=False) == pace.inner_steps


def test_a_fragment_overlaps_with_a_pth_of_the_steps_at_most() -> None:
    pace = pace_of(count=4, overlap_steps=100)
    assert pace.overlap_steps == 3
    train(pace, 1)
    pace.contribute(1)
    assert train(pace, 1) == 3


def test_while_nothing_is_decided_a_member_stops_at_two_periods() -> None:
    pace = pace_of(overlap_steps=3)
    train(pace, 1)
    pace.contribute(1)
    assert train(pace, 1) == 3
    assert train(pace, 1, stalled=True) == 9
    assert (pace.made, train(pace, 1, stalled=True)) == (24, 0)
    assert not pace.abort(2)  # what is out is for another round
    assert pace.abort(1)
    assert pace.is_due(2)
    assert (pace.steps(2), pace.room(2, stalled=False)) == (24, 0)
    pace.contribute(2)
    assert train(pace, 2, stalled=True) == 0


def test_an_abort_leaves_the_steps_to_the_fragments_next_turn() -> None:
    pace = pace_of(count=3)
    for round_ in (1, 2, 3, 4):
        train(pace, round_)
        assert pace.is_due(round_)
        pace.contribute(round_)
        pace.abort(1) if round_ == 1 else pace.settle()
    assert pace.steps(1) == 0  # round 4 took them
    assert pace.steps(2) == pace.made - 4  # round 2 was due at once, as round 1 had come to nothing


def test_a_fresh_state_has_no_steps() -> None:
    pace = pace_of(count=3)
    train(pace, 1)
    pace.contribute(1)
    pace.restart()
    assert not pace.is_out
    assert [pace.steps(round_) for round_ in (1, 2, 3)] == [0, 0, 0]


@given(
    st.integers(1, 5),
    st.integers(5, 30),
    st.integers(-1, 30),
    st.lists(st.sampled_from(["committed", "aborted", "without us"]), max_size=40),
)
def test_every_step_is_contributed_once_to_each_fragment(
    count: int, inner_steps: int, overlap_steps: int, outcomes: list[str]
) -> None:
    pace = pace_of(count, inner_steps, overlap_steps)
    settled = [0] * count
    for round_, outcome in enumerate(outcomes, 1):
        if outcome == "without us":  # decided before this member came to it
            pace.made += pace.room(round_, stalled=False) // 2
            continue
        train(pace, round_)
        assert pace.is_due(round_)
        held = pace.steps(round_)
        assert held > 0
        pace.contribute(round_)
        assert 0 <= train(pace, round_) <= max(pace.overlap_steps, 0)
        assert max(pace.steps(r) for r in range(1, count + 1)) <= 2 * inner_steps or not train(pace, round_)
        if outcome == "aborted":
            assert pace.abort(round_)
        else:
            settled[(round_ - 1) % count] += held
            pace.settle()
    assert [pace.made - pace.steps(fragment + 1) for fragment in range(count)] == settled
