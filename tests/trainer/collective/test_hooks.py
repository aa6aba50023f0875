"""Training through the hooks of DDP and FSDP2: near the exact run, the same bits on every rank, refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Found = dict[str, Any]
Groups = Callable[[str, int], list[Found]]
NEAR = {"none": 1e-5, "int8": 0.03, "int4": 0.35}
"""How far the change of the parameters may be from the exact run's, relative to its size."""


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, groups: Groups) -> list[Found]:
    """What the ranks of a group found."""
    return groups("hooks", request.param)


def far(found: Found, wanted: Found) -> float:
    """Return how far two runs' changes of the parameters are apart."""
    off = sum((a - b) ** 2 for a, b in zip(found["moved"], wanted["moved"], strict=True))
    return float((off / sum(b**2 for b in wanted["moved"])) ** 0.5)


def runs(ranks: list[Found], case: str) -> dict[str, Found]:
    """Return the runs of rank 0, once all ranks have their bits."""
    for rank in ranks:
        for name, run in rank[case].items():
            assert run["bits"] == ranks[0][case][name]["bits"], f"{case} {name}: the ranks hold different parameters"
    found: dict[str, Found] = ranks[0][case]
    return found


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
@pytest.mark.parametrize("codec", ["none", "int8", "int4"])
def test_training_through_the_hook_is_near_the_exact_run(ranks: list[Found], case: str, codec: str) -> None:
    wanted = ranks[0]["exact"]["plain"]
    for name, run in runs(ranks, case).items():
        if name.split()[-1] == codec:
            assert far(run, wanted) < NEAR[codec], name
            assert codec == "none" or far(run, wanted) > 1e-4, f"{name} was not compressed"
            assert run["refused"] == []


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
def test_bytes_are_a_quarter_and_an_eighth(ranks: list[Found], case: str) -> None:
    found = {name.split()[-1]: run["exact"] / run["sent"] for name, run in runs(ranks, case).items()}
    assert 3.4 < found["int8"] < 3.94, "less than the limit by the exact norms and the headers of small messages"
    assert 5.5 < found["int4"] < 7.11
    assert found["none"] == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
def test_microbatches_are_added_up_and_reduced_once(ranks: list[Found], case: str) -> None:
    wanted = ranks[0]["exact"]["halves"]
    halves = {name: run for name, run in runs(ranks, case).items() if name.endswith("halves")}
    whole = {name: run for name, run in runs(ranks, case).items() if name.endswith("none")}
    for name, run in halves.items():
        assert far(run, wanted) < NEAR["none"], name
        assert run["sent"] == pytest.approx(whole[name.replace("halves", "none")]["sent"], rel=0.01)


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
def test_a_refused_step_is_named_and_training_goes_on(ranks: list[Found], case: str) -> None:
    for name, run in runs(ranks, case).items():
        if name.endswith("broken"):
            assert all(rank[case][name]["refused"] == run["refused"] for rank in ranks), name
            ((parameter, culprit),) = run["refused"]
            assert culprit in (0, 1), "the NaN is rank 1's; its shards share it"
            assert culprit == 1 or name.startswith("2")
            assert parameter.endswith(("weight", "bias"))


def test_what_one_shard_refuses_is_refused_by_all(ranks: list[Found]) -> None:
    for rank in ranks:
        assert rank["one_element"] == ranks[0]["one_element"]
        for name, refused in rank["one_element"].items():
            assert refused == [["0.0.weight", 1]], name


def test_a_residual_is_as_large_as_the_shard(ranks: list[Found]) -> None:
    for name, run in runs(ranks, "fsdp").items():
        kept = sum(run["residuals"])
        shards, codec = name.split()
        assert kept == 0 if codec != "int4" else kept == pytest.approx(len(run["moved"]) * 7 / int(shards), rel=0.01)


def test_gradients_of_other_types_are_reduced_too(ranks: list[Found]) -> None:
    wanted = ranks[0]["exact"]["plain"]
    for name, run in runs(ranks, "fsdp_of_types").items():
        assert far(run, wanted) < 0.05, name


def test_what_cannot_be_attached_is_refused(ranks: list[Found]) -> None:
    for rank in ranks:
        assert set(rank["misused"]) == {"line", "not sharded"}
        assert all(hint for _, hint in rank["misused"].values())
