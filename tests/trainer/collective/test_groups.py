"""The all-reduce between processes: groups of 1, 2, 3, 4 and 7 ranks, each started once for all tests of this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

WORLDS = (1, 2, 3, 4, 7)
HALF_STEP = {"none": 1e-6, "fp16": 1e-3, "int8": 0.015, "int4": 0.25, "fp8": 0.06}
"""More than any of the two quantisations of a normal vector may add up to."""
Found = dict[str, Any]
Groups = Callable[[str, int], list[Found]]


@pytest.fixture(scope="module")
def found(groups: Groups) -> dict[int, list[Found]]:
    """What each rank of each group found, by case."""
    return {world: groups("plain", world) for world in WORLDS}


def same(ranks: list[Found], case: str) -> Any:
    """Return what all ranks found alike in a case."""
    first = ranks[0][case]
    assert all(rank[case] == first for rank in ranks)
    return first


@pytest.mark.parametrize("world", WORLDS)
def test_all_ranks_hold_the_same_bits_near_the_mean(found: dict[int, list[Found]], world: int) -> None:
    for case, (error, _) in same(found[world], "sizes_and_codecs").items():
        codec, elements = case.split()
        assert error <= (0 if world == 1 else HALF_STEP[codec]), case
        assert world == 1 or codec == "none" or int(elements) < 255 or error > 1e-5, f"{case} was not compressed"


@pytest.mark.parametrize("world", WORLDS)
def test_bits_are_the_same_however_many_rounds_there_are(found: dict[int, list[Found]], world: int) -> None:
    assert same(found[world], "many_rounds") == {"int8": True, "int4": True}


@pytest.mark.parametrize("world", WORLDS)
def test_a_sum_is_the_mean_of_as_many(found: dict[int, list[Found]], world: int) -> None:
    assert same(found[world], "sums")["error"] < HALF_STEP["int8"]


@pytest.mark.parametrize("world", WORLDS)
def test_shapes_strides_and_types_are_reduced_in_place(found: dict[int, list[Found]], world: int) -> None:
    for case, (error, _) in same(found[world], "shapes_and_types").items():
        assert error < HALF_STEP["int8"], case


@pytest.mark.parametrize("world", WORLDS[1:])
def test_each_parameter_goes_by_its_codec(found: dict[int, list[Found]], world: int) -> None:
    alike = [{**rank["segmented"], "sent": 0} for rank in found[world]]  # the last ranks own a little less
    assert all(each == alike[0] for each in alike)
    errors = alike[0]["errors"]
    assert errors["norm"] < 1e-3 > errors["bias"]
    assert 1e-3 < errors["up"] < HALF_STEP["int8"] < errors["down"] < HALF_STEP["int4"]
    for rank in found[world]:
        assert 3.5 < rank["segmented"]["exact"] / rank["segmented"]["sent"] < 6


@pytest.mark.parametrize("world", WORLDS)
def test_a_gradient_that_is_not_finite_is_refused_by_name_everywhere(found: dict[int, list[Found]], world: int) -> None:
    case = same(found[world], "refused")
    for name, refusal in case["refused"].items():
        assert refusal["parameter"] == "second", name
        assert refusal["rank"] == int(name.split()[-1]), name
        assert f"gradient of second on rank {refusal['rank']} is not finite" in refusal["text"]
        assert "learning rate" in refusal["hint"]
    error, _ = case["after"]
    assert error < 2 * HALF_STEP["int4"]  # half a step of its own, and the residual of the step before the refusals
    assert case["unmoved"]


@pytest.mark.parametrize("world", WORLDS[1:])
def test_what_float16_cannot_hold_is_refused(found: dict[int, list[Found]], world: int) -> None:
    refusal = same(found[world], "too_large")["refused"]
    assert "too large for fp16" in refusal["text"]
    assert "int8" in refusal["hint"]


@pytest.mark.parametrize("world", WORLDS)
def test_what_cannot_be_reduced_is_a_usage_error(found: dict[int, list[Found]], world: int) -> None:
    misused = same(found[world], "misused")
    assert set(misused) == {"type", "feedback", "op"}
    assert all(hint for _, hint in misused.values())


@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_exchange_for_accelerators_gives_the_same_bits(found: dict[int, list[Found]], world: int) -> None:
    for rank in found[world]:
        assert len(rank["streamed"]) == 10
        assert all(rank["streamed"].values()), rank["streamed"]


@pytest.mark.parametrize("world", [2, 3])
def test_nothing_is_lost_between_results_and_residuals(found: dict[int, list[Found]], world: int) -> None:
    assert same(found[world], "conserved") == {"held": True}


@pytest.mark.parametrize("world", WORLDS[1:])
def test_error_feedback_brings_the_mean_over_steps_nearer(found: dict[int, list[Found]], world: int) -> None:
    errors = same(found[world], "fed_back")
    assert errors["with"] < errors["without"] / 5


@pytest.mark.parametrize("world", WORLDS)
def test_residuals_survive_a_restart_and_are_left_by_another_world(found: dict[int, list[Found]], world: int) -> None:
    for number, rank in enumerate(found[world]):
        assert rank["resumed"]["equal"]
        assert rank["resumed"]["other"] == 0
        assert rank["resumed"]["names"] == (
            [] if world == 1 else [f"rank{number}of{world}/v/0", f"rank{number}of{world}/w/0"]
        )


def test_the_calls_of_those_left_end_when_a_rank_is_killed(groups: Groups) -> None:
    left = groups("lost", 3)
    assert len(left) == 2
    for rank in left:
        assert "another rank was lost during an all-reduce" in rank["lost"]["text"]
        assert "from the last checkpoint" in rank["lost"]["hint"]
        assert rank["lost"]["seconds"] < 30
