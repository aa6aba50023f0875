"""Learning rates, seeds, blocks' names and the loss scale: pure functions, by their values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError
from prime.trainer.job import SCHEDULES, Schedule
from prime.trainer.loop.blocks import matching, outermost
from prime.trainer.loop.scale import FIRST, GROWS_AFTER, LEAST, MOST, LossScale
from prime.trainer.loop.schedule import rate
from prime.trainer.loop.seeds import step_seed


def rates(name: str, steps: int, warmup_steps: int = 0, final: float = 0.1) -> list[float]:
    schedule = Schedule(name=name, warmup_steps=warmup_steps, final=final)
    return [rate(schedule, 2.0, step, steps) for step in range(steps)]


def test_the_curves_have_their_values() -> None:
    assert rates("constant", 3) == [2.0, 2.0, 2.0]
    assert rates("linear", 5, final=0.5) == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0])
    assert rates("exponential", 5, final=0.0625) == pytest.approx([2.0, 1.0, 0.5, 0.25, 0.125])
    assert rates("cosine", 5, final=0.0) == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0])


def test_warm_up_rises_to_the_learning_rate_and_the_curve_goes_on_from_there() -> None:
    assert rates("linear", 8, warmup_steps=4, final=0.0) == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates("constant", 6, warmup_steps=2) == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])


@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 500),
    st.integers(0, 500),
    st.floats(0.001, 1.0),
    st.integers(0, 2_000),
)
def test_a_rate_lies_within_its_bounds_and_ends_at_its_fraction(
    name: str, steps: int, warm: int, final: float, step: int
) -> None:
    schedule = Schedule(name=name, warmup_steps=min(warm, steps), final=final)
    found = rate(schedule, 2.0, step, steps)
    assert 0 < found <= 2.0 + 1e-12
    if step >= min(warm, steps):
        assert found >= 2.0 * final - 1e-9
    if step >= steps - 1 and schedule.warmup_steps < steps and steps > 1:
        assert found == pytest.approx(2.0 * (1.0 if name == "constant" else final))


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 4096))
def test_neighbouring_steps_and_ranks_draw_from_other_seeds(seed: int, step: int, rank: int) -> None:
    found = {step_seed(seed, s, r) for s in (step, step + 1, step + 2) for r in (rank, rank + 1)}
    assert len(found) == 6
    assert all(0 <= one < 2**63 for one in found)


def test_a_pattern_names_modules_of_its_depth() -> None:
    names = ["", "layers", "layers.0", "layers.1", "layers.0.attention", "head"]
    assert matching(names, "layers.*") == ["layers.0", "layers.1"]
    assert matching(names, "*.*.attention") == ["layers.0.attention"]
    with pytest.raises(ConfigError, match=r"no module of the model is called 'blocks\.\*'") as caught:
        matching(names, "blocks.*")
    assert "layers.0" in caught.value.hint


def test_what_lies_in_another_block_is_no_block() -> None:
    assert outermost(["a.0", "a.0.experts.1", "a.1", "a.10"]) == ["a.0", "a.1", "a.10"]


def test_the_loss_scale_halves_at_overflow_and_doubles_after_many_steps_without() -> None:
    scale = LossScale()
    assert scale.lower()
    assert scale.value == FIRST / 2
    for _ in range(GROWS_AFTER):
        scale.hold()
    assert (scale.value, scale.held) == (FIRST, 0)


def test_the_loss_scale_has_bounds() -> None:
    low, high = LossScale(LEAST), LossScale(MOST, GROWS_AFTER - 1)
    assert not low.lower()
    high.hold()
    assert (low.value, high.value) == (LEAST, MOST)
