"""The training round under faults: a calm run, named plans that once failed, and a member killed at each message."""

from __future__ import annotations

import pytest

from prime import sim
from prime.sim.plan import Crash, NetworkFaults, Partition, Pause, Plan
from prime.sim.scenarios.round import training_round

NAMED = {
    # Two newcomers had found only each other and asked each other for ever, while the founder was back.
    "newcomers_that_found_only_each_other": (0, Plan(actions=(Partition(("n1",), 0.0, 8.0),), storm_s=12.0)),
    # The founder made its parameters only in its first life, also if that ended before anybody had heard of the run.
    "a_founder_that_died_before_its_run_began": (
        1,
        Plan(actions=(Partition(("n1",), 0.0, 4.0), Crash("n1", 2.0, 0.5)), storm_s=6.0),
    ),
    # Links that broke while nobody contributed counted as dead members until the next round: the run said it stalled.
    "links_that_broke_while_nobody_contributed": (
        6,
        Plan(
            NetworkFaults(loss=0.0732, duplication=0.0292, bandwidth_bytes_per_s=67500.0),
            actions=(
                Partition(("n2", "n4"), 4.475, 0.613),
                Crash("n3", 5.854, 0.086, 159),
                Crash("n1", 6.408, 0.16, 93),
                Partition(("n1", "n2"), 6.42, 6.24),
                Pause("n3", 15.882, 0.268),
                Partition(("n1",), 18.449, 0.0979),
                Partition(("n1", "n3"), 19.963, 0.05),
            ),
        ),
    ),
    # Members that fetched the state after a round's abort held it under an older number, and never trained again.
    "a_state_that_is_older_than_the_aborted_rounds_since": (
        35,
        Plan(
            NetworkFaults(latency_s=0.456, corruption=0.00133),
            actions=(
                Crash("n1", 3.234, 0.26, 95),
                Partition(("n3",), 4.31, 0.177),
                Pause("n3", 5.346, 0.52),
                Pause("n1", 6.172, 5.56),
                Pause("n1", 8.712, 4.32),
                Partition(("n1", "n2"), 8.828, 0.0693),
                Pause("n3", 16.656, 0.79),
            ),
            params={"size": 3},
        ),
    ),
}


def rounds(outcome: sim.Outcome) -> int:
    return len({event.subject for event in outcome.history if event.kind == "decides"})


def test_without_faults_a_round_takes_little_more_than_its_steps() -> None:
    outcome = sim.run(0, training_round, Plan(storm_s=10.0))
    assert outcome.ok, outcome.error
    assert rounds(outcome) >= 15


@pytest.mark.parametrize("name", NAMED)
def test_a_named_plan(name: str) -> None:
    seed, plan = NAMED[name]
    outcome = sim.run(seed, training_round, plan)
    assert outcome.ok, outcome.error
    assert not [event for event in outcome.history if event.kind == "is lost"]


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_plan(seed: int) -> None:
    outcome = sim.run(seed, training_round)
    assert outcome.ok, f"{outcome.command}: {outcome.error}"
