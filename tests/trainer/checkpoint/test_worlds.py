"""All ranks save and load together: FSDP2's shards on one, two and three ranks, in the background, and what fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

RANKS = Path(__file__).with_name("ranks.py")
PROCESSES = 3
DEADLINE_S = 160


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What rank 0 says of every scene; the processes are started once for all tests of this file."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", RANKS, folder, str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        errors = [rank.communicate(timeout=DEADLINE_S)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0] * PROCESSES, "\n".join(errors)
    found: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    return found


def numbers_of(value: Any) -> list[float]:
    """Return all numbers of nested dictionaries and lists, in order."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [number for one in inside for number in numbers_of(one)]
    return [value]


@pytest.mark.parametrize("worlds", ["2-1", "1-2", "2-3", "3-2"])
def test_another_world_size_loads_the_same_numbers_and_goes_on(answers: dict[str, Any], worlds: str) -> None:
    saved, later = answers[f"{worlds} before"]
    loaded, later_there, dropped, residual = answers[worlds]
    assert loaded == saved
    assert numbers_of(later_there) == pytest.approx(numbers_of(later), rel=1e-5, abs=1e-6)
    assert dropped == [f"rank.{rank}.residuals.0.weight/left" for rank in range(int(worlds[0]))]
    assert residual == [0.0] * 4, "what a rank has as its own is left as it was"


def test_the_same_world_goes_on_bit_equal_with_what_is_each_ranks_own(answers: dict[str, Any]) -> None:
    later, later_there, dropped, own = answers["same"]
    assert later_there == later
    assert dropped == []
    assert own == [[10.0] * 4, [11.0] * 4]


def test_a_replicated_model_is_saved_and_loaded(answers: dict[str, Any]) -> None:
    saved, loaded = answers["copies"]
    assert loaded == saved


def test_a_sharded_model_is_exported_whole_and_starts_another_sharded_run(answers: dict[str, Any]) -> None:
    exported, started = answers["exported"]
    assert started == exported


def test_a_save_in_the_background_is_of_the_state_of_its_call(answers: dict[str, Any]) -> None:
    saved, loaded, is_over, count = answers["background"]
    assert loaded == saved
    assert is_over
    assert count == 2


@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_of_one_rank_is_told_on_all_and_leaves_the_last_good_one(
    answers: dict[str, Any], full: int
) -> None:
    expected = f"WorldError: saving step 2, rank {full}: "
    for heard in (answers[f"full {full} True"], answers[f"full {full} False later"]):
        assert all(one.startswith(expected) and "No space left on device | free space" in one for one in heard)
    assert answers[f"full {full} False"] == ["", ""], "in the background it is told later"
    assert answers["left"] == ["step-00000001", "writer.lock"]


def test_ranks_whose_folder_is_not_shared_are_told_so(answers: dict[str, Any]) -> None:
    assert all("is not there as its rank wrote it | all ranks must see one folder" in one for one in answers["hosts"])
    assert answers["hosts left"] == []


def test_a_damaged_file_is_named_on_all_ranks(answers: dict[str, Any]) -> None:
    assert all("CorruptedError" in one and "rank-00001.safetensors: its SHA-256" in one for one in answers["damaged"])


def test_the_state_of_another_model_is_refused_on_all_ranks(answers: dict[str, Any]) -> None:
    assert all("ConfigError" in one and "optimiser.state" in one for one in answers["other"])


def test_ranks_that_save_different_steps_are_told_so(answers: dict[str, Any]) -> None:
    assert all("ranks save different steps: [0, 1]" in one for one in answers["steps"])
