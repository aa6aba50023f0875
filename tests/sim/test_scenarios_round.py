"""The training round under faults: a calm run, named plans that once failed, and a member killed at each message."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import pytest

from prime import sim
from prime.sim.plan import Crash, DiskFaults, DiskFull, DiskGone, NetworkFaults, Partition, Pause, Plan, SlowReader
from prime.sim.scenarios import round as round_scenario
from prime.sim.scenarios.ledgers import Life
from prime.sim.scenarios.round import (
    Kill,
    Swarm,
    survive,
    train,
    training_round,
    training_round_ends,
    training_round_feedback,
    training_round_fragments,
)
from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import desk
from prime.trainer.round import messages as msg

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
    # Messages that came before the aggregator knew its journal were handled before its wish to join: let in by one of
    # them, it took itself for one that had changed its mind, and left again.
    "a_commit_that_came_before_the_wish_to_join": (
        211,
        Plan(
            NetworkFaults(latency_s=0.00966, loss=0.00594, duplication=0.3, corruption=0.00676),
            DiskFaults(unsynced=True, torn=True, latency_s=0.0176),
            actions=(
                DiskFull("n3", 1.562, 1.48),
                SlowReader("n5", 2.969, 0.431, 1630.0),
                DiskFull("n2", 3.244, 8.21),
                Partition(("n1",), 5.374, 6.76),
                SlowReader("n5", 7.7, 0.847, 161000.0),
                Partition(("n1", "n3", "n5"), 10.494, 0.828),
                DiskGone("n1", 10.692, 0.26),
                Partition(("n1", "n4", "n5"), 13.738, 1.92),
                DiskFull("n2", 15.638, 0.526),
                DiskFull("n3", 16.831, 0.173),
            ),
            params={"size": 5},
        ),
    ),
    # A member that came back in a round contributed to it again, and what it had sent before was in the sum: the second
    # contribution was taken for the first.
    "a_member_that_contributes_before_and_after_its_disk_was_full": (
        0,
        Plan(
            actions=tuple(DiskFull(f"n{1 + i % 3}", 2.0 + 0.77 * i, 0.2) for i in range(14)),
            params={"size": 3},
            storm_s=15.0,
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
    outcome = sim.run(seed, training_round, attrs.evolve(plan, params={**plan.params, "leaver": 0}))
    assert outcome.ok, outcome.error
    assert not is_lost(outcome)


def test_a_member_leaves_in_order_and_comes_back() -> None:
    plan = Plan(storm_s=10.0, params={"size": 3, "leaver": 2, "leaves": 3})
    outcome = sim.run(0, training_round, plan)
    assert outcome.ok, outcome.error
    (wish,) = [event for event in outcome.history if event.kind == "wants to leave"]
    (end,) = [event for event in outcome.history if event.kind == "crashes"]
    assert wish.node == end.node == "n2"
    assert 0 < end.at_s - wish.at_s < 3  # let out by a decision, not by its own deadline
    decided = [event for event in outcome.history if event.kind == "decides" and event.node == "n2"]
    assert decided[-1].at_s > end.at_s


def test_who_missed_more_aborted_rounds_than_anybody_remembers_contributes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Krum needs all three: without what the third has had in flight since it was cut off no round would commit again."""
    monkeypatch.setattr(desk, "HISTORY", 2)
    monkeypatch.setattr(round_scenario, "RULES", (Rule("krum"),))
    params = {"size": 3, "leaver": 0, "rule": 0, "rates": 0}
    outcome = sim.run(0, training_round, Plan(actions=(Partition(("n3",), 5.0, 25.0),), storm_s=34.0, params=params))
    assert outcome.ok, outcome.error


CALM = Plan(storm_s=4.0, params={"leaver": 0, "rule": 0, "rates": 0})
JUDGED = Plan(storm_s=4.0, params={"leaver": 0, "rule": 1, "rates": 1})
"""Candidates are judged before the final seal, and the members have all kinds of links: one is a client."""
ROUND = 2
"""The round in which a member dies."""


def killing(kill: Kill) -> sim.Scenario:
    @sim.scenario(nodes=3, storm_s=4.0, quiet_s=120.0)
    async def body(world: sim.World) -> None:
        await train(world, Swarm(world, 3, kill))

    return body


def is_of_round(thing: object) -> bool:
    """Tell whether a command or an event is about the round in question."""
    inner = getattr(thing, "message", getattr(thing, "record", thing))
    value = getattr(inner, "value", None)
    return ROUND in (getattr(inner, "round", None), getattr(value, "round", None))


def steps_of_the_round(plan: Plan = CALM) -> list[object]:
    """Return the commands and events that the round consists of in a run without deaths."""
    seen: list[object] = []
    outcome = sim.run(0, killing(lambda _life, thing: is_of_round(thing) and bool(seen.append(thing))), plan)
    assert outcome.ok, outcome.error
    return seen


def is_telling(thing: object) -> bool:
    """Tell whether the decision itself passes here: a record for the disk, or one of the messages that carry it."""
    decisive = (msg.Seal, msg.Propose, msg.Ready, msg.Commit)
    return isinstance(thing, cmd.Persist) or isinstance(getattr(thing, "message", None), decisive)


def die_at(step: int, plan: Plan = CALM) -> sim.Outcome:
    """Run with a death at the `step`-th command or event of the round: of a process or a machine, short or long."""
    count = 0
    down_s, machine = ((0.3, False), (3.0, False), (10.0, True))[step % 3]

    def kill(life: Life, thing: object) -> bool:
        nonlocal count
        count += is_of_round(thing)
        if count != step + 1 or not is_of_round(thing):
            return False
        count += 1
        life.node.note("is killed", type(thing).__name__)
        life.node.crash(down_s, machine=machine)
        return True

    outcome = sim.run(0, killing(kill), plan)
    killed = [event for event in outcome.history if event.kind == "is killed"]
    assert len(killed) == 1
    return outcome


def failures(steps: Iterable[int], plan: Plan = CALM) -> dict[int, str]:
    """Run with a death at each of these steps, and return what went wrong."""
    outcomes = {step: die_at(step, plan) for step in steps}
    return {step: outcome.error for step, outcome in outcomes.items() if not outcome.ok}


@pytest.fixture(scope="module")
def telling() -> list[int]:
    """Return the steps of a round at which its decision passes."""
    return [step for step, thing in enumerate(steps_of_the_round()) if is_telling(thing)]


@pytest.mark.parametrize("way", range(3))
def test_a_member_killed_wherever_the_decision_passes(way: int, telling: list[int]) -> None:
    assert len(telling) > 20
    steps = [step for step in telling if step % 3 == way]  # each way to die
    assert steps
    assert not failures(steps)


def test_a_member_killed_while_candidates_are_judged() -> None:
    judging = [
        step for step, thing in enumerate(steps_of_the_round(JUDGED)) if isinstance(thing, cmd.Multiply | cmd.GramReady)
    ]
    assert len(judging) >= 6
    assert not failures(judging, JUDGED)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(12))
@pytest.mark.parametrize("plan", [CALM, JUDGED], ids=["plain", "judged"])
def test_a_member_killed_at_each_step_of_a_round(plan: Plan, part: int) -> None:
    steps = len(steps_of_the_round(plan))
    assert steps > 100
    assert not failures(range(part, steps, 12), plan)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(40))
def test_a_thousand_drawn_plans_hold(part: int) -> None:
    found = {seed: sim.run(seed, training_round).error for seed in range(1000 + 25 * part, 1025 + 25 * part)}
    assert not {seed: error for seed, error in found.items() if error}


def is_lost(outcome: sim.Outcome) -> bool:
    """Tell whether the storm took more than a run outlives, so that its end was not asked for."""
    return any(event.kind == "is lost" for event in outcome.history)


# The last one: who votes after its restart for a value whose bytes it had staged had them hashed in a thread.
@pytest.mark.parametrize("seed", [*range(5), 7000012])
def test_a_drawn_plan_holds(seed: int) -> None:
    outcome = sim.run(seed, training_round)
    assert outcome.ok, f"{outcome.command}: {outcome.error}"


@pytest.mark.nightly
def test_drawn_plans_hold_and_at_most_one_in_ten_loses_the_run() -> None:
    lost = []
    for seed in range(10):
        outcome = sim.run(seed, training_round)
        assert outcome.ok, f"{outcome.command}: {outcome.error}"
        lost += [seed] if is_lost(outcome) else []
    assert len(lost) <= 1, lost


@pytest.mark.parametrize("seed", [0, 3])
def test_what_a_codec_leaves_out_is_owed_to_a_fraction(seed: int) -> None:
    outcome = sim.run(seed, training_round_feedback)
    assert outcome.ok, f"{outcome.command}: {outcome.error}"


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(8))
def test_what_a_codec_leaves_out_is_owed_in_every_storm(part: int) -> None:
    failed = {seed: outcome.error for seed in range(10 + part, 250, 8) if not (outcome := run_feedback(seed)).ok}
    assert not failed


@pytest.mark.parametrize("seed", [5, 7])
def test_each_round_carries_its_fragment_and_all_fragments_are_one_state_at_all(seed: int) -> None:
    outcome = sim.run(seed, training_round_fragments)
    assert outcome.ok, f"{outcome.command}: {outcome.error}"
    assert rounds(outcome) >= 20


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_run_ends_for_all_with_one_round_and_one_state(seed: int) -> None:
    outcome = sim.run(seed, training_round_ends)
    assert outcome.ok, f"{outcome.command}: {outcome.error}"


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(8))
def test_a_run_ends_for_all_in_every_storm(part: int) -> None:
    failed = {seed: sim.run(seed, training_round_ends).error for seed in range(part, 240, 8)}
    assert not {seed: error for seed, error in failed.items() if error}


def end_while_dying(step: int) -> sim.Outcome:
    """Let a member ask for the end before the round in question, and whoever takes the round's step die at it."""
    asked: list[Swarm] = []
    count = 0

    def kill(life: Life, thing: object) -> bool:
        nonlocal count
        if not is_of_round(thing):
            return False
        if not count:
            asked[0].ask_for_end(asked[0].nodes[step % 3].name)
        count += 1
        if count != step + 1:
            return False
        life.node.note("is killed", type(thing).__name__)
        life.node.crash(0.3 if step % 2 else 20.0)
        return True

    @sim.scenario(nodes=3, storm_s=30.0, quiet_s=60.0)
    async def body(world: sim.World) -> None:
        swarm = Swarm(world, 3, kill)
        asked.append(swarm)
        assert await survive(world, swarm)
        for node in swarm.nodes:
            swarm.ask_for_end(node.name)
        await world.eventually("ended", swarm.has_ended, within_s=20.0)

    return sim.run(0, body, attrs.evolve(CALM, storm_s=30.0))


def ends_badly(steps: Iterable[int]) -> dict[int, str]:
    outcomes = {step: end_while_dying(step) for step in steps}
    return {step: outcome.error for step, outcome in outcomes.items() if not outcome.ok}


def test_a_run_ends_alike_though_a_member_dies_where_its_end_is_decided(telling: list[int]) -> None:
    assert not ends_badly(telling[::6])


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(8))
def test_a_run_ends_alike_though_a_member_dies_at_any_step_of_its_last_round(part: int, telling: list[int]) -> None:
    assert not ends_badly(range(part, telling[-1] + 20, 8))


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(8))
def test_fragments_take_turns_in_every_storm(part: int) -> None:
    failed = {seed: sim.run(seed, training_round_fragments).error for seed in range(part, 240, 8)}
    assert not {seed: error for seed, error in failed.items() if error}


def run_feedback(seed: int) -> sim.Outcome:
    return sim.run(seed, training_round_feedback)


def test_a_run_whose_majority_lost_its_disks_says_that_it_is_lost() -> None:
    wiped: list[str] = []

    def kill(life: Life, thing: object) -> bool:
        if not is_of_round(thing) or len(wiped) == 2 or life.node.name in wiped:
            return False
        wiped.append(life.node.name)
        life.node.disk.wipe()
        life.node.crash(0.5)
        return True

    outcome = sim.run(0, killing(kill), CALM)
    assert outcome.ok, outcome.error
    (event,) = [event for event in outcome.history if event.kind == "is lost"]
    assert event.subject.endswith("have their disks")
