"""The report: its figures, its words, its files."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from prime.trainer.facts import RankLost, RunBegan, RunEnded, StepMade
from prime.trainer.track.course import Course
from prime.trainer.track.files import CURVES, REPORT, write_report
from prime.trainer.track.jsonl import read_events
from prime.trainer.track.plot import smoothed
from prime.trainer.track.report import duration, report, rows, size

STORY = Path(__file__).parent / "testdata" / "charlm"


@pytest.fixture(scope="module")
def course() -> Course:
    found = Course()
    for fact, at_s in read_events(STORY):
        found.take(fact, at_s)
    return found


def test_its_figures_are_those_of_the_run(course: Course) -> None:
    found = report(course)
    assert (found["schema"], found["outcome"], found["step"], found["steps"]) == (1, "done", 120, 120)
    assert found["loss"]["last"] < found["loss"]["first"]
    assert found["held_out"]["best_step"] == 100
    assert found["bytes"]["ratio"] == pytest.approx(found["bytes"]["exact"] / found["bytes"]["sent"])
    assert sum(found["time_s"].values()) == pytest.approx(found["elapsed_s"], abs=0.01)
    assert found["restarts"] == len(found["lost"]) == 1
    assert found["lost"][0]["cause"] == "died"
    assert found["speed"]["tokens_per_s"] == pytest.approx(64 * found["speed"]["samples_per_s"], rel=1e-4)


def test_it_is_json_whatever_the_run_came_to() -> None:
    course = Course()
    json.dumps(report(course), allow_nan=False)
    course.take(RunBegan(name="r", folder="/r", steps=9, batch_size=1, world=1), 1.0)
    nan = StepMade(step=1, generation=0, loss=float("nan"), learning_rate=0.0, samples=1, step_s=0.0)
    course.take(nan, 1.0)
    course.take(RunEnded(outcome="failed", step=1, loss=float("nan"), error="no number", hint="lower it"), 1.0)
    found = json.loads(json.dumps(report(course), allow_nan=False))
    assert (found["outcome"], found["error"], found["hint"]) == ("failed", "no number", "lower it")
    assert found["loss"] == {"first": None, "last": None}


def test_it_reads_as_words(course: Course) -> None:
    said = dict(rows(report(course)))
    assert said["result"] == "done at step 120 of 120"
    assert "4.00 times as much" in said["bytes"]
    assert "int8 (numba)" in said["bytes"]
    assert said["lost"] == "rank 1 died after step 70: killed by SIGKILL"
    assert "without a model 3.1000" in said["held out"]
    assert "fsdp over gloo" in said["ranks"]


def test_an_empty_run_reads_as_words_too() -> None:
    said = dict(rows(report(Course())))
    assert said["speed"] == "no step was made"
    assert said["checkpoints"] == "none was saved"
    assert said["ranks"] == "0 ranks, which have not met"
    assert "loss" not in said


def test_many_losses_are_told_in_short() -> None:
    course = Course()
    for step in range(9):
        course.take(RankLost(rank=0, process=1, generation=step, step=step, cause="stuck"), 1.0)
    said = [text for what, text in rows(report(course)) if what == "lost"]
    assert len(said) == 6
    assert said[-1].startswith("and 4 earlier")


def test_the_files_are_whole_and_a_picture(course: Course, tmp_path: Path) -> None:
    write_report(course, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [CURVES, REPORT]
    assert json.loads((tmp_path / REPORT).read_text())["files"]["curves"] == CURVES
    header = (tmp_path / CURVES).read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", header[16:24])
    assert width > 1000 and height > 800


def test_without_matplotlib_there_are_no_curves(
    course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_report(course, tmp_path)
    assert "curves" not in json.loads((tmp_path / REPORT).read_text())["files"]


def test_what_cannot_be_written_is_left_out_and_no_old_report_stays(
    course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / REPORT).write_text("{}")
    monkeypatch.setattr("tempfile.mkstemp", full)
    write_report(course, tmp_path)
    assert not (tmp_path / REPORT).exists()


def test_a_run_without_a_step_has_curves_all_the_same(tmp_path: Path) -> None:
    write_report(Course(), tmp_path)
    assert (tmp_path / CURVES).exists()


def test_a_running_mean_is_of_the_neighbours() -> None:
    assert smoothed((1.0, 2.0, 3.0, 4.0), 0.5) == [1.5, 2.0, 3.0, 3.5]
    assert smoothed((2.0,) * 50) == [2.0] * 50


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (8.13, "8.1 s"),
        (59.4, "59 s"),
        (185, "3 min 05 s"),
        (3599.8, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert [size(n) for n in (0, 1023, 1536, 3 * 2**20, 5 * 2**30)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "3.0 MiB", "5.0 GiB",
    ]  # fmt: skip
