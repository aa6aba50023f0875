"""The gang's core: what it does about each loss, by hand and in a world of random faults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.trainer.gang import gang as core
from prime.trainer.gang.gang import Gang, Rules
from prime.trainer.gang.trouble import Trouble

sys.path.insert(0, str(Path(__file__).parent))
from gang_world import World, undisturbed  # type: ignore[import-not-found]

BUG = Trouble("ValueError", "made up", "model.py:7")
PEER = Trouble("RuntimeError", "connection closed by peer", of_peer=True)


class Told:
    """A gang under test: `hear` feeds events at a time and keeps the commands."""

    def __init__(self, **rules: Any) -> None:
        self.gang = Gang(Rules(**{"world": 2, "steps": 100, **rules}))
        self.now = 0.0
        self.commands: list[core.Command] = []

    def hear(self, *events: core.Event, after_s: float = 0.0) -> list[core.Command]:
        self.now += after_s
        said = [command for event in events for command in self.gang.step(event, self.now)]
        self.commands += said
        return said

    def wait(self, seconds: float, *, alive: tuple[int, ...] = (), step: int = 0, work: int = 0) -> list[core.Command]:
        """Let time pass, with ticks, and with signs of life of some members."""
        said: list[core.Command] = []
        for _ in range(round(seconds / 0.25)):
            said += self.hear(core.Ticked(), after_s=0.25)
            said += self.hear(*(core.Heard(each, self.gang.generation, step, work) for each in alive))
        return said

    def training(self, step: int = 5, found: int = -1) -> Told:
        """Come to a generation of members 1 and 2 that has made `step`."""
        self.hear(core.Opened(), core.Readied(1), core.Readied(2), core.Found(0, found))
        self.hear(core.Joined(1, 0), core.Joined(2, 0))
        self.hear(core.Heard(1, 0, step, step), core.Heard(2, 0, step, step))
        return self


def kinds(commands: list[core.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_a_generation_begins_once_all_are_ready_and_the_checkpoint_is_known() -> None:
    told = Told()
    assert told.hear(core.Opened()) == [core.Spawn(1), core.Spawn(2), core.Find(0, frozenset())]
    assert told.hear(core.Readied(2), core.Found(0, 40)) == []
    assert told.hear(core.Readied(1)) == [core.Begin(1, 0, 0, 40), core.Begin(2, 0, 1, 40)]
    assert told.hear(core.Joined(1, 0)) == []
    assert told.hear(core.Joined(2, 0)) == [core.Began(0, 40, None)]


def test_spares_are_started_when_the_generation_has_made_a_step() -> None:
    told = Told(spares=2)
    told.hear(core.Opened(), core.Readied(1), core.Readied(2), core.Found(0, -1), core.Joined(1, 0), core.Joined(2, 0))
    assert "Spawn" not in kinds(told.commands[3:])
    assert told.hear(core.Heard(1, 0, 1, 1)) == [core.Spawn(3), core.Spawn(4)]


def test_with_spares_enough_a_death_kills_all_and_the_spares_go_on_once_they_are_gone() -> None:
    told = Told(spares=2).training()
    told.hear(core.Readied(3), core.Readied(4))
    lost = told.hear(core.Died(2, "signal SIGKILL"))
    assert lost == [core.Lost(2, 1, 0, 5, "died", "signal SIGKILL", None), core.Kill(1)]
    assert told.hear(core.Died(1, "killed"), after_s=0.25) == [core.Find(1, frozenset())]
    assert told.hear(core.Found(1, 3)) == [core.Begin(3, 1, 0, 3), core.Begin(4, 1, 1, 3)]
    assert told.hear(core.Joined(3, 1), core.Joined(4, 1)) == [core.Began(1, 3, 0.25)]
    assert told.hear(core.Heard(3, 1, 4, 1)) == [core.Spawn(5), core.Spawn(6)]


def test_without_spares_enough_an_idle_survivor_is_kept() -> None:
    told = Told().training()
    assert kinds(told.hear(core.Died(2, "signal SIGKILL"))) == ["Lost", "Leave", "Spawn"]
    assert told.hear(core.Readied(1)) == [core.Find(1, frozenset())]
    begun = told.hear(core.Found(1, 3), core.Readied(3))
    assert begun == [core.Begin(1, 1, 0, 3), core.Begin(3, 1, 1, 3)]


def test_a_survivor_that_is_not_idle_is_killed() -> None:
    told = Told().training()
    told.hear(core.Died(2, "signal SIGKILL"))
    assert core.Kill(1) in told.wait(core.IDLE_S + 0.5, alive=(1,))


@pytest.mark.parametrize(("member", "rank"), [(1, 0), (2, 1)])
def test_a_silent_rank_is_noticed_within_its_limit(member: int, rank: int) -> None:
    told = Told(silent_s=3.0).training()
    said = told.wait(3.5, alive=(3 - member,), step=6, work=6)
    lost = [command for command in said if isinstance(command, core.Lost)]
    assert [(each.rank, each.cause) for each in lost] == [(rank, "silent")]
    assert lost[0].noticed_s == pytest.approx(3.25, abs=0.26)


def test_ranks_that_live_and_make_no_step_are_stuck_and_the_one_behind_is_named() -> None:
    told = Told(step_s=4.0).training()
    told.hear(core.Heard(2, 0, 6, 6))
    said = told.wait(4.5, alive=(1, 2))
    lost = [command for command in said if isinstance(command, core.Lost)]
    assert [(each.rank, each.cause) for each in lost] == [(0, "stuck")]


def test_the_first_step_may_take_longer() -> None:
    told = Told(step_s=1.0).training(step=0)
    assert told.wait(core.FIRST_STEP_S - 1, alive=(1, 2)) == []
    assert "Lost" in kinds(told.wait(2, alive=(1, 2)))


def test_a_process_that_lives_and_is_never_ready_is_stuck_and_the_second_of_them_ends_the_run() -> None:
    told = Told(start_s=20.0)
    told.hear(core.Opened(), core.Readied(1), core.Found(0, -1))
    assert told.wait(20.0, alive=(1, 2)) == []
    assert kinds(told.wait(1.0, alive=(1, 2))) == ["Kill", "Spawn"]
    end = told.wait(21.0, alive=(1, 3))[-1]
    assert isinstance(end, core.End)
    assert (end.outcome, end.exhausted) == ("failed", False)
    assert end.trouble is not None
    assert "supervision.start_s" in end.trouble.hint


def test_a_spare_that_is_never_ready_does_not_end_a_run_that_works() -> None:
    told = Told(start_s=20.0, spares=1, step_s=1000.0).training()
    said = told.wait(21.0, alive=(1, 2, 3), step=6, work=6)
    assert kinds(said) == ["Kill", "Spawn"]
    assert not told.gang.over


def test_a_process_that_is_ready_in_time_is_no_longer_watched_for_it() -> None:
    told = Told(start_s=20.0)
    told.hear(core.Opened(), core.Readied(1), core.Found(0, -1))
    told.wait(19.0, alive=(1, 2))
    told.hear(core.Readied(2))
    assert told.wait(10.0, alive=(1, 2)) == []


def test_the_gang_blames_nobody_for_the_time_in_which_it_stood_still_itself() -> None:
    told = Told(silent_s=3.0).training()
    told.hear(core.Ticked())
    assert told.hear(core.Ticked(), after_s=60.0) == []
    assert told.wait(2.0, alive=(1, 2), step=6, work=6) == []


def test_an_error_in_the_same_step_twice_ends_the_run() -> None:
    told = Told().training()
    assert "End" not in kinds(told.hear(core.Failed(1, 0, 5, BUG)))
    told.hear(core.Died(1, "killed"), core.Readied(2), core.Readied(3), core.Found(1, 3))
    told.hear(core.Joined(2, 1), core.Joined(3, 1), core.Heard(2, 1, 5, 2))
    end = told.hear(core.Failed(3, 1, 5, BUG))[-1]
    assert isinstance(end, core.End)
    assert end.outcome == "failed"
    assert "a rank failed twice after step 5" in end.text
    assert "model.py:7" in end.text


def test_an_error_in_another_step_is_another_error() -> None:
    told = Told().training()
    told.hear(core.Failed(1, 0, 5, BUG), core.Died(1, "killed"), core.Readied(2), core.Readied(3), core.Found(1, 3))
    told.hear(core.Joined(2, 1), core.Joined(3, 1), core.Heard(2, 1, 9, 6))
    assert kinds(told.hear(core.Failed(3, 1, 9, BUG)))[0] == "Lost"


def test_a_hopeless_error_ends_the_run_at_once() -> None:
    told = Told()
    told.hear(core.Opened())
    end = told.hear(core.Died(1, "it failed", Trouble("DataError", "no such file", hopeless=True)))[-1]
    assert isinstance(end, core.End)
    assert end.outcome == "failed"


def test_ranks_that_fail_to_start_in_the_same_way_again_end_the_run() -> None:
    told = Told()
    told.hear(core.Opened())
    told.hear(core.Died(1, "it failed", BUG), core.Died(2, "it failed", BUG))
    assert not told.gang.over, "both belong to the first try"
    assert kinds(told.wait(2)) == ["Spawn", "Spawn"]
    end = told.hear(core.Died(3, "it failed", BUG))[-1]
    assert isinstance(end, core.End)
    assert "failed twice to start" in end.text


def test_what_another_ranks_end_explains_is_not_the_cause() -> None:
    told = Told().training()
    assert told.hear(core.Failed(1, 0, 5, PEER)) == []
    lost = told.hear(core.Died(2, "signal SIGKILL"), after_s=0.1)[0]
    assert isinstance(lost, core.Lost)
    assert (lost.rank, lost.cause) == (1, "died")


def test_a_lost_connection_that_nothing_explains_is_the_cause_after_a_while() -> None:
    told = Told().training()
    told.hear(core.Failed(1, 0, 5, PEER))
    lost = next(each for each in told.wait(1, alive=(1, 2)) if isinstance(each, core.Lost))
    assert (lost.rank, lost.cause) == (0, "failed")


def test_a_checkpoint_that_cannot_be_read_is_passed_over() -> None:
    told = Told().training(step=40, found=40)
    told.hear(core.Failed(1, 0, 40, Trouble("CorruptedError", "bad", loading=True)))
    told.hear(core.Died(1, "killed"))
    told.hear(core.Readied(2), core.Readied(3))
    told.wait(2, alive=(2, 3))
    assert core.Find(1, frozenset({40})) in told.commands


def test_restarts_beyond_the_budget_end_the_run() -> None:
    told = Told(restarts_max=1).training()
    told.hear(core.Died(1, "signal SIGKILL"), core.Readied(2), core.Readied(3), core.Found(1, 3))
    told.hear(core.Joined(2, 1), core.Joined(3, 1), core.Heard(2, 1, 5, 2))
    end = told.hear(core.Died(3, "signal SIGKILL"))[-1]
    assert isinstance(end, core.End)
    assert end.exhausted


def test_a_new_checkpoint_renews_the_budget() -> None:
    told = Told(restarts_max=1).training()
    told.hear(core.Died(1, "signal SIGKILL"), core.Readied(2), core.Readied(3), core.Found(1, 3))
    told.hear(core.Joined(2, 1), core.Joined(3, 1), core.Heard(2, 1, 5, 2), core.Saved(2, 1, 5))
    told.hear(core.Died(3, "signal SIGKILL"))
    assert not told.gang.over


def test_a_gang_without_progress_waits_longer_before_each_try() -> None:
    told = Told(restarts_max=100)
    told.hear(core.Opened())
    waited = []
    for member in (1, 2, 3, 4):
        told.hear(core.Died(member, "signal SIGKILL"))
        begun = told.now
        while not any(each in told.gang.members for each in (member + 2,)):
            told.hear(core.Ticked(), after_s=0.25)
        waited.append(told.now - begun)
    assert waited == sorted(waited)
    assert waited[-1] > 2 * waited[0]


def test_a_run_that_works_goes_on_without_spares_that_cannot_start() -> None:
    told = Told(spares=1, restarts_max=2).training()
    for _ in range(10):
        dead = [each for each in told.gang.members if each > 2]
        told.hear(*(core.Died(each, "signal SIGKILL") for each in dead))
        told.wait(40, alive=(1, 2), step=told.gang.newest_step + 1, work=told.gang.newest_step + 1)
    assert not told.gang.over
    assert kinds(told.commands).count("Spawn") == 2 + core.SPARE_LOSSES_MAX


def test_a_stop_is_settled_when_all_agree_and_asked_again_when_one_is_past_it() -> None:
    told = Told().training()
    assert told.hear(core.StopAsked("SIGINT")) == [
        core.Stopping("SIGINT", 5),
        core.Limit(1, 0, 6),
        core.Limit(2, 0, 6),
    ]
    assert told.hear(core.Answered(1, 0, 6, True, 5)) == []
    assert told.hear(core.Answered(2, 0, 6, False, 6)) == [core.Limit(1, 0, 8), core.Limit(2, 0, 8)]
    told.hear(core.Answered(1, 0, 8, True, 6))
    assert told.hear(core.Answered(2, 0, 8, True, 6)) == [core.Settle(1, 0, 8), core.Settle(2, 0, 8)]
    told.hear(core.Finished(1, 0, 8))
    assert told.hear(core.Finished(2, 0, 8)) == [core.End("stopped", 8)]


def test_a_stop_between_generations_ends_the_run() -> None:
    told = Told().training()
    told.hear(core.Died(1, "signal SIGKILL"))
    assert kinds(told.hear(core.StopAsked("SIGINT"))) == ["Stopping", "End"]


def test_words_of_an_earlier_generation_change_nothing() -> None:
    told = Told().training()
    told.hear(core.Died(2, "signal SIGKILL"), core.Readied(1), core.Readied(3), core.Found(1, 3))
    stale = [core.Joined(1, 0), core.Failed(1, 0, 5, BUG), core.Finished(1, 0, 9), core.Answered(1, 0, 6, False, 9)]
    assert told.hear(*stale) == []


# ------------------------------------------------------------------------------------------------ a world of faults

FAULTS = st.lists(
    st.tuples(st.floats(0, 40), st.sampled_from(["kill", "stop", "stick"]), st.integers(0, 3)), max_size=6
)


@given(st.integers(0, 2**32), FAULTS, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_whatever_dies_the_run_ends_with_the_state_of_the_undisturbed_one(
    seed: int, faults: list[tuple[float, str, int]], world: int, spares: int
) -> None:
    rules = Rules(world=world, steps=40, spares=spares, silent_s=2.0, step_s=3.0, start_s=10.0, restarts_max=50)
    lived = World(rules, seed)
    for when_s, what, rank in faults:
        lived.fault(when_s, what, rank % world)
    end = lived.run()
    assert end.outcome == "done"
    assert set(lived.finished.values()) == {(40, undisturbed(40))}
    assert len(lived.finished) == world


@given(st.integers(0, 2**32), FAULTS, st.floats(0, 30), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_stop_ends_all_ranks_after_one_step(
    seed: int, faults: list[tuple[float, str, int]], asked_s: float, world: int
) -> None:
    rules = Rules(world=world, steps=100, silent_s=2.0, step_s=3.0, start_s=10.0, restarts_max=50)
    lived = World(rules, seed)
    for when_s, what, rank in faults:
        lived.fault(when_s, what, rank % world)
    lived.at(asked_s, lived.hear, core.StopAsked("SIGINT"))
    end = lived.run()
    assert end.outcome in ("stopped", "done")
    lost = [command for _, command in lived.commands if isinstance(command, core.Lost)]
    if not lost and lived.finished:
        assert set(lived.finished.values()) == {(end.step, undisturbed(end.step))}
        assert end.step in lived.checkpoints


@given(st.integers(0, 2**32), st.integers(1, 39), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_an_error_that_comes_again_ends_the_run_on_the_second_try(seed: int, step: int, world: int) -> None:
    lived = World(Rules(world=world, steps=40, restarts_max=50), seed)
    lived.fails_at[step] = BUG
    end = lived.run()
    assert end.outcome == "failed"
    assert lived.gang.restarts == 1


def test_a_process_that_cannot_take_another_rank_is_not_kept() -> None:
    told = Told(reusable=False).training()
    said = told.hear(core.Died(2, "signal SIGKILL"))
    assert core.Kill(1) in said
    assert not any(isinstance(each, core.Leave) for each in said)


# ---------------------------------------------------------------------------------------------------- several hosts


def two_hosts(**rules: Any) -> Told:
    """Return a gang of two hosts with a rank each, at its beginning."""
    return Told(hosts=2, host_s=30.0, **rules)


def test_a_host_is_awaited_and_its_ranks_are_started_there() -> None:
    told = two_hosts()
    said = told.hear(core.Opened())
    assert said == [core.Awaiting(1, "it has not come yet", 30.0), core.Spawn(1, 0), core.Find(0, frozenset())]
    told.hear(core.Readied(1), core.Found(0, -1))
    assert told.hear(core.HostCame(1), after_s=5.0) == [core.Spawn(2, 1)]
    assert told.hear(core.Readied(2)) == [core.Begin(1, 0, 0, -1), core.Begin(2, 0, 1, -1)]


def test_a_host_that_does_not_come_in_time_fails_the_run_by_its_number() -> None:
    told = two_hosts()
    told.hear(core.Opened(), core.Readied(1), core.Found(0, -1))
    assert told.wait(29.0, alive=(1,)) == []
    (end,) = told.wait(1.5, alive=(1,))
    assert isinstance(end, core.End)
    assert (end.outcome, end.text) == ("failed", "host 1 did not come within 30 s")


def trained() -> Told:
    told = two_hosts()
    told.hear(core.Opened(), core.HostCame(1), core.Readied(1), core.Readied(2), core.Found(0, -1))
    told.hear(core.Joined(1, 0), core.Joined(2, 0))
    told.hear(core.Heard(1, 0, 5, 5), core.Heard(2, 0, 5, 5))
    return told


def test_a_lost_host_ends_the_generation_and_the_next_one_waits_for_it() -> None:
    told = trained()
    assert told.hear(core.HostWent(1, "gone")) == [core.Awaiting(1, "gone", 30.0)]
    said = told.hear(core.Died(2, "host 1 is gone"))
    assert kinds(said) == ["Lost", "Leave"]
    said = told.hear(core.Readied(1), core.Found(1, 5))
    assert kinds(said) == ["Find"]
    told.hear(core.Found(1, 5))
    assert told.wait(20.0, alive=(1,)) == []
    assert told.hear(core.HostCame(1)) == [core.Spawn(3, 1)]
    assert told.hear(core.Readied(3)) == [core.Begin(1, 1, 0, 5), core.Begin(3, 1, 1, 5)]


def test_what_dies_with_its_host_without_a_rank_is_no_loss_of_its_own() -> None:
    told = two_hosts(restarts_max=0)
    told.hear(core.Opened(), core.HostCame(1))
    told.hear(core.HostWent(1, "gone"))
    assert told.hear(core.Died(2, "host 1 is gone")) == []
    assert not told.gang.over


def test_a_stop_while_a_host_is_awaited_ends_at_the_checkpoint() -> None:
    told = trained()
    told.hear(core.HostWent(1, "gone"), core.Died(2, "host 1 is gone"))
    assert kinds(told.hear(core.StopAsked("SIGTERM"))) == ["Stopping", "End"]


@settings(max_examples=60, deadline=None)
@given(
    hosts=st.integers(2, 3),
    each=st.integers(1, 2),
    spares=st.integers(0, 1),
    seed=st.integers(0, 10_000),
    faults=st.lists(
        st.tuples(st.floats(0.0, 60.0), st.sampled_from(["host", "host", "kill", "stop", "stuck"]), st.integers(0, 5)),
        max_size=6,
    ),
)
def test_whatever_befalls_ranks_and_hosts_the_run_ends_as_the_undisturbed_one(
    hosts: int, each: int, spares: int, seed: int, faults: list[tuple[float, str, int]]
) -> None:
    rules = Rules(
        world=hosts * each,
        steps=40,
        spares=spares,
        silent_s=2.0,
        step_s=3.0,
        start_s=10.0,
        restarts_max=50,
        hosts=hosts,
    )
    lived = World(rules, seed)
    for when_s, what, rank in faults:
        lived.fault(when_s, what, rank)
    end = lived.run()
    assert end.outcome == "done"
    assert set(lived.finished.values()) == {(40, undisturbed(40))}
