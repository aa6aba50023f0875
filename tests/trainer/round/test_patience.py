"""How long a leader waits: the arithmetic by itself, and swarms in which some are slower than the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.round.patience import LATE_MIN, ROUNDS_MAX, Patience, worth_s
from prime.trainer.round.timing import Timing

sys.path.insert(0, str(Path(__file__).parent))
from round_world import World  # type: ignore[import-not-found]

SLOW_S = 12.0
TIMING = Timing(
    resend_s=0.1,
    transfer_s=0.4,
    suspect_s=1.0,
    stagger_s=0.3,
    seal_s=30.0,
    seal_min_s=1.1,
    reduce_s=1.0,
    deadline_s=60.0,
)
times = st.floats(0.01, 1e4)
weights = st.floats(0.1, 100)


@given(period_s=times, here=weights, late=weights, off=st.floats(0.01, 0.99))
def test_up_to_the_limit_waiting_pays_and_beyond_it_does_not(
    period_s: float, here: float, late: float, off: float
) -> None:
    limit_s = worth_s(period_s, here, late, least_s=0.0)
    alone = here / period_s
    assert (here + late) / (period_s + limit_s) == pytest.approx(alone)
    assert (here + late) / (period_s + limit_s * off) > alone
    assert (here + late) / (period_s + limit_s * (1 + off)) < alone


@given(period_s=times, here=weights, late=weights, least_s=times)
def test_a_floor_holds_whatever_the_period_is(period_s: float, here: float, late: float, least_s: float) -> None:
    assert worth_s(period_s, here, late, least_s=least_s) >= least_s


@given(st.lists(st.booleans(), max_size=40))
def test_a_member_is_a_straggler_by_its_latest_rounds_alone(late: list[bool]) -> None:
    patience = Patience()
    for round_, each in enumerate(late):
        patience.learn("a", round_, late=each)
        patience.learn("a", round_, late=True)  # a second ballot of the same round
    assert patience.are_stragglers({"a"}) == (sum(late[-ROUNDS_MAX:]) >= LATE_MIN)
    assert not patience.are_stragglers({"a", "b"})
    patience.keep({"b"})
    assert not patience.are_stragglers({"a"})


def took_s(world: World, round_: int) -> float:
    return world.decided_at[round_] - world.decided_at[round_ - 1]


@pytest.mark.parametrize("size", [3, 4])
def test_one_straggler_slows_two_rounds_of_each_leader_and_stays_a_member(size: int) -> None:
    world = World(size, timing=TIMING)
    world.paces_s = {"b": SLOW_S}
    world.swarm(size)
    world.until(lambda: world.last_round >= 5 * size, 1000)
    by_leader: dict[str, list[float]] = {}
    for round_ in range(2, world.last_round + 1):
        leader = world.decided[round_ - 1].next_view.order(round_)[0]
        by_leader.setdefault(leader, []).append(took_s(world, round_))
    assert sum(max(rounds) > SLOW_S / 2 - 1.5 for rounds in by_leader.values()) >= size - 1
    assert all(sum(each > 4 for each in rounds) <= LATE_MIN for rounds in by_leader.values())
    assert max(took_s(world, round_) for round_ in range(4 * size, world.last_round + 1)) < 4
    assert "b" in world.decided[world.last_round].next_view.peers()  # it is slow, not gone


def test_one_that_is_fast_again_is_waited_for_again() -> None:
    world = World(3, timing=TIMING)
    world.paces_s = {"b": SLOW_S}
    world.swarm(3)
    world.until(lambda: "b" not in world.commits()[-1].contributors(), 1000)
    world.paces_s = {}
    before = world.last_round
    world.until(lambda: world.last_round >= before + 20, 1000)
    assert all(len(value.shares) == 3 for value in world.commits()[-10:])
