"""What the facts of a run add up to."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from prime.trainer.facts import (
    CheckpointSaved,
    Evaluated,
    Fact,
    GenerationBegan,
    RankLost,
    RankStarted,
    RunBegan,
    RunEnded,
    RunStopping,
    StepMade,
)
from prime.trainer.track.course import PACE_STEPS, Course
from prime.trainer.track.jsonl import read_events

STORY = Path(__file__).parent / "testdata" / "charlm"
BEGAN = RunBegan(name="r", folder="/r", steps=20, batch_size=8, world=2)
GENERATION = GenerationBegan(generation=0, step=0, world=2, strategy="ddp", backend="gloo")


def made(step: int, generation: int = 0, loss: float = 1.0) -> StepMade:
    return StepMade(
        step=step, generation=generation, loss=loss, learning_rate=0.1, samples=8, step_s=0.5, data_s=0.1,
        compute_s=0.3, reduce_s=0.05, optimiser_s=0.05, bytes_sent=100, bytes_exact=400,
    )  # fmt: skip


def lost(rank: int, step: int, generation: int = 0) -> RankLost:
    return RankLost(rank=rank, process=10 + rank, generation=generation, step=step, cause="died")


def course_of(*facts: tuple[Fact, float]) -> Course:
    course = Course()
    for fact, at_s in facts:
        course.take(fact, at_s)
    return course


def begun(until: int) -> list[tuple[Fact, float]]:
    """Return a run that starts at 100 s, has its ranks at 104 s and makes two steps a second."""
    return [(BEGAN, 100.0), (GENERATION, 104.0), *((made(step), 104.0 + step / 2) for step in range(1, until + 1))]


def test_an_undisturbed_run() -> None:
    course = course_of(*begun(20), (RunEnded(outcome="done", step=20, loss=1.0), 114.5))
    assert course.phase == "done"
    assert course.step == course.steps_made == 20
    assert course.elapsed_s() == course.elapsed_s(1e9) == 14.5
    assert course.samples == 160
    assert course.ratio() == 4.0
    parts = course.split.parts(course.elapsed_s())
    assert parts["start"] == 4.0
    assert parts["compute"] == pytest.approx(6.0)
    assert sum(parts.values()) == pytest.approx(14.5)


def test_before_anything_there_is_nothing_to_say() -> None:
    course = Course()
    assert course.phase == "starting"
    assert course.elapsed_s(5.0) == 0.0
    assert course.eta_s() is course.rate() is course.ratio() is course.newest_checkpoint is None


def test_the_pace_tells_rate_and_time_left() -> None:
    course = course_of(*begun(10))
    assert course.step_every_s() == pytest.approx(0.5)
    assert course.eta_s() == pytest.approx(5.0)
    assert course.rate() == (pytest.approx(16.0), "samples/s")
    assert course_of(*begun(2)).eta_s() is None


def test_the_pace_is_that_of_the_last_steps_alone() -> None:
    slow = [(made(step), float(step * 100)) for step in range(1, 4)]
    fast = [(made(3 + step), 300.0 + step) for step in range(1, PACE_STEPS + 1)]
    course = course_of((BEGAN, 0.0), (GENERATION, 0.0), *slow, *fast)
    assert course.step_every_s() == pytest.approx(1.0)


def test_a_sequence_counts_its_tokens() -> None:
    course = course_of(
        (BEGAN, 0.0),
        (attrs.evolve(GENERATION, tokens_per_sample=64), 0.0),
        *((made(step), float(step)) for step in range(1, 5)),
    )
    assert course.rate() == (pytest.approx(512.0), "tokens/s")


def test_a_lost_rank_takes_the_curves_back_and_the_time_on() -> None:
    course = course_of(
        *begun(8),
        (CheckpointSaved(step=5, generation=0, path="/r/5", blocked_s=0.2), 108.1),
        (lost(1, 8), 109.0),
    )
    assert course.phase == "recovering"
    assert course.eta_s() is None
    assert [course.ranks[rank].state for rank in (0, 1)] == ["starting", "lost"]
    course.take(RankStarted(rank=1, process=99, generation=1), 110.0)
    course.take(attrs.evolve(GENERATION, generation=1, step=5), 111.0)
    assert course.phase == "training"
    assert (course.step, course.restarts) == (5, 1)
    assert [step for step, _ in course.loss] == [1, 2, 3, 4, 5]
    assert course.split.recovery_s == 2.0
    course.take(made(6, 1), 111.5)
    assert course.steps_made == 9  # the sixth was made twice, and both cost time and bytes
    assert course.bytes_sent == 900
    assert (course.ranks[1].process, course.ranks[1].lost, course.ranks[1].state) == (99, 1, "training")


def test_two_ranks_lost_at_once_are_one_restart() -> None:
    course = course_of(*begun(8), (lost(1, 8), 109.0), (lost(0, 8), 109.1), (attrs.evolve(GENERATION, step=0), 110.0))
    assert course.restarts == 1
    assert len(course.lost) == 2
    assert course.split.recovery_s == 1.0


def test_a_spare_that_stands_in_is_one_no_longer() -> None:
    course = course_of((BEGAN, 0.0), (RankStarted(rank=-1, process=7, generation=0), 1.0))
    assert course.spares == {7}
    course.take(RankStarted(rank=1, process=7, generation=1), 2.0)
    assert course.spares == set()
    assert course.ranks[1].process == 7


def test_a_rank_has_the_kind_of_device_that_its_generation_has() -> None:
    course = course_of((BEGAN, 0.0), (RankStarted(rank=1, process=7, generation=0), 1.0))
    assert course.ranks[1].device == ""
    course.take(attrs.evolve(GENERATION, device="cuda:0"), 2.0)  # rank 0's own
    assert course.ranks[1].device == "cuda"


def test_a_resumed_run_is_one_run_with_the_time_of_both_sessions() -> None:
    first = [
        *begun(8),
        (RunStopping(reason="SIGINT", step=8), 108.0),
        (RunEnded(outcome="stopped", step=8, loss=1.0), 109.0),
    ]
    course = course_of(*first)
    assert course.phase == "stopped"
    again = attrs.evolve(BEGAN, resumed_step=8)
    course.take(again, 5000.0)
    assert course.phase == "starting"
    assert course.elapsed_s() == 9.0  # the night between is none of it
    course.take(attrs.evolve(GENERATION, step=8), 5002.0)
    course.take(made(9), 5003.0)
    assert course.elapsed_s() == 12.0
    assert course.elapsed_s(5004.0) == 13.0
    assert (course.sessions, course.resumed, course.restarts) == (2, [8], 0)
    assert [step for step, _ in course.loss] == list(range(1, 10))


def test_held_out_losses_are_a_curve_too() -> None:
    evaluated = Evaluated(step=4, generation=0, loss=2.0, seconds=0.25, measures={"accuracy": 0.5})
    course = course_of(*begun(4), (evaluated, 107.0))
    assert course.measures == {"accuracy": 0.5}
    assert list(course.held_out) == [(4, 2.0)]
    assert course.split.evaluation_s == 0.25


def test_a_gang_that_shrank_has_fewer_ranks() -> None:
    course = course_of((BEGAN, 0.0), (attrs.evolve(GENERATION, world=1), 1.0))
    assert list(course.ranks) == [0]


def test_a_run_that_lost_a_rank_is_read_whole() -> None:
    course = course_of(*read_events(STORY))
    assert course.phase == "done"
    assert course.step == 120
    assert course.restarts == len(course.lost) == 1
    assert course.steps_made > 120
