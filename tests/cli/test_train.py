"""`prime train`, as a user runs it: jobs that are refused, runs that end well, lose a rank, and are told to stop."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prime.cli.main import run
from prime.cli.train import command
from prime.testing.nodes import children_of, environment, lives, until
from prime.trainer.facts import RunBegan, RunEnded, StepMade
from prime.trainer.track.jsonl import read_events

MINE = '''
import time

import numpy as np
import torch
from torch import nn


class Sums:
    """Twelve numbers, and whether their sum is above 0."""

    baseline = 0.6931
    fingerprint = "sums"
    tokens_per_sample = 0

    def __len__(self):
        return 4096

    def batch(self, indices):
        time.sleep(0.004)
        drawn = np.random.default_rng(0).standard_normal((8192, 12), dtype=np.float32)[indices]
        return torch.from_numpy(drawn), torch.from_numpy((drawn.sum(1) > 0).astype(np.int64))

    def held_out(self, count):
        return [self.batch(np.arange(4096 + 64 * i, 4160 + 64 * i)) for i in range(count)]


def model(job):
    return nn.Sequential(nn.Linear(12, 512), nn.ReLU(), nn.Linear(512, 2)), nn.CrossEntropyLoss()


def data(job):
    return Sums()
'''
JOB = """
name = "sums"
model = "mine.py:model"
data = "mine.py:data"
batch_size = 32
steps = {steps}

[parallel]
ranks = {ranks}
device = "cpu"

[checkpoint]
every_steps = {checkpoint}

[evaluation]
every_steps = 10
batches = 2
"""
ENDING_S = 60.0
TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="the extra [train] is not installed")


def write_job(folder: Path, *, steps: int, ranks: int = 1, checkpoint: int = 10) -> Path:
    (folder / "mine.py").write_text(MINE)
    file = folder / "job.toml"
    file.write_text(JOB.format(steps=steps, ranks=ranks, checkpoint=checkpoint))
    return file


def words(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "prime", "train", "run", *map(str, arguments)]


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def steps_made(folder: Path) -> int:
    return max((fact.step for fact, _ in read_events(folder) if isinstance(fact, StepMade)), default=0)


def finished(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `prime train run` in a folder to its end."""
    return subprocess.run(
        words(*arguments), capture_output=True, text=True, env=environment(), cwd=folder, timeout=ENDING_S, check=False
    )


@contextlib.contextmanager
def started(folder: Path, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `prime train run` in a folder; whatever happens it is gone after, and its ranks with it."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen(words(*arguments), text=True, env=environment(), cwd=folder, **settings)
    below: set[int] = set()
    try:
        yield process
        below = set(children_of(process.pid))
    finally:
        process.kill()
        process.communicate()
        until(lambda: not [child for child in below if lives(child)], 10, "the end of every rank")


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        ("steps = 10\n[optimizer]\nname = 'sgd'\n", 3, "no section [optimizer]", "did you mean optimiser.name?"),
        ("steps = 10\nbatchsize = 3\n", 2, "no key batchsize", "did you mean batch_size?"),
        ("\nsteps = -1\n", 2, "-1 is out of range", "Optimiser steps"),
        ("[compression]\n\ncodec = 'int3'\n", 3, "none of none, int8", "codec of gradients"),
        ("steps = 10\nsteps = 11\n", 2, "", "TOML"),
    ],
)
def test_a_job_that_cannot_be_is_refused_with_its_line(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, said: str, hint: str
) -> None:
    (here / "job.toml").write_text(text)
    assert run(["train", "run", "job.toml"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: job.toml:{line}" in captured.err
    assert said in captured.err
    assert hint in captured.err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["job.toml"], 3, "no such configuration file"),
        (["nosuch"], 6, "there is no preset nosuch"),
        ([], 2, "name one job"),
        (["charlm", "--preset", "digits"], 2, "name one job"),
        (["charlm", "--set", "steps"], 2, "no KEY=VALUE"),
        (["charlm", "--set", "stepz=3"], 3, "did you mean steps?"),
        (["charlm", "--codec", "int3"], 3, "--codec"),
        (["charlm", "--steps", "0"], 3, "--steps"),
        (["charlm", "--steps", "many"], 2, "--steps"),
        (["charlm", "--resume"], 6, "no checkpoint to go on from"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    assert run(["train", "run", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert not (here / "runs").exists()


def test_modules_in_the_current_folder_are_found(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # as the script `prime` has it
    (here / "my_trackers_here.py").write_text("Chat = None\n", encoding="utf-8")
    assert run(["train", "run", "charlm", "--set", "tracking.trackers=my_trackers_here:Chat"]) == 3
    assert "tracking.trackers: my_trackers_here has no function 'Chat'" in capsys.readouterr().err


def test_without_torch_the_extra_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    assert run(["train", "run", "charlm"]) == 2
    captured = capsys.readouterr()
    assert "training needs torch" in captured.err
    assert "pip install 'prime-actors[train]'" in captured.err


# ------------------------------------------------------------------------------------------------- init and presets


def test_a_job_is_written_for_a_preset_and_not_over_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "init", "digits"]) == 0
    assert "prime train run job.toml" in capsys.readouterr().out
    assert 'data = "digits"' in (here / "job.toml").read_text()
    assert run(["train", "init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["train", "init", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "file": "job.toml", "preset": "charlm"}
    assert run(["train", "init", "nosuch", "-o", "other.toml"]) == 6


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "presets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["presets"]
    assert [one["name"] for one in found] == ["charlm", "fashion-mnist", "digits"]
    assert run(["train", "presets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_command_that_goes_on_is_the_one_that_was_given() -> None:
    flags = {"steps": 9, "parallel.ranks": None, "compression.codec": "int8", "optimiser.name": "my opt"}
    assert command("job.toml", flags) == (
        "prime train run job.toml --steps 9 --codec int8 --set 'optimiser.name=my opt'"
    )


# ------------------------------------------------------------------------------------- a run that loses a rank, JSON


@pytest.fixture(scope="module")
def lost_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """Train on two ranks, kill one of them with SIGKILL, and give the folder, the events and standard error."""
    folder = tmp_path_factory.mktemp("lost")
    write_job(folder, steps=60, ranks=2)
    killed, lines = False, []
    with started(folder, "job.toml", "--json") as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            event = json.loads(line)
            if event["event"] == "train.rank_started" and event["rank"] == 1:
                victim = event["process"]
            if event["event"] == "train.step_made" and event["step"] > 25 and not killed:
                killed = True
                os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate(timeout=ENDING_S)
        assert process.returncode == 0, errors
    return folder, events_of("".join(lines)), errors


@TORCH
def test_a_run_that_lost_a_rank_ends_well_and_says_so(lost_one: tuple[Path, list[dict[str, Any]], str]) -> None:
    _, events, _ = lost_one
    assert {event["schema"] for event in events} == {1}
    names = [event["event"] for event in events]
    assert names[0] == "train.run_began"
    assert names[-2:] == ["train.run_ended", "train.result"]
    assert names.count("train.generation_began") == 2
    (lost,) = [event for event in events if event["event"] == "train.rank_lost"]
    assert (lost["rank"], lost["cause"]) == (1, "died")
    assert lost["noticed_s"] is None or lost["noticed_s"] < 5


@TORCH
def test_its_result_has_the_figures(lost_one: tuple[Path, list[dict[str, Any]], str]) -> None:
    folder, events, _ = lost_one
    result = events[-1]
    assert (result["outcome"], result["step"], result["restarts"]) == ("done", 60, 1)
    assert result["loss"]["last"] < result["loss"]["first"]
    assert result["held_out"]["last"] < result["held_out"]["baseline"]
    assert result["bytes"]["sent"] == result["bytes"]["exact"] > 0
    assert result["checkpoints"]["newest_step"] == 60
    assert result["folder"] == str(folder / "runs" / "sums")
    assert result["next"] == "prime model export runs/sums --to sums.safetensors"
    assert 0.5 < sum(result["time_s"].values()) / result["elapsed_s"] <= 1.01


@TORCH
def test_its_folder_has_events_report_and_curves(lost_one: tuple[Path, list[dict[str, Any]], str]) -> None:
    folder, events, _ = lost_one
    found = folder / "runs" / "sums"
    written = [json.loads(line) for line in (found / "events.jsonl").read_text().splitlines()]
    plain = [{name: value for name, value in event.items() if name != "time"} for event in written]
    assert plain == [{name: value for name, value in event.items() if name != "time"} for event in events[:-1]]
    assert json.loads((found / "report.json").read_text())["restarts"] == 1
    assert (found / "curves.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------ Ctrl-C, and going on; off a terminal


@TORCH
def test_one_interrupt_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write_job(tmp_path, steps=100_000, checkpoint=0)
    found = tmp_path / "runs" / "sums"
    with started(tmp_path, "job.toml") as process:
        until(lambda: steps_made(found) > 3, ENDING_S, "some steps")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=ENDING_S)
    assert process.returncode == 130, errors
    assert "stopping (SIGINT)" in errors
    assert "stopped as asked at step" in output
    assert "next         prime train run job.toml" in output
    assert "\x1b" not in output + errors
    assert errors.isascii()
    stopped = steps_made(found)
    (file := tmp_path / "job.toml").write_text(file.read_text().replace("100000", str(stopped + 5)))
    done = finished(tmp_path, "job.toml", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"on from step {stopped}" in done.stderr
    facts = [fact for fact, _ in read_events(found)]
    assert [fact.resumed_step for fact in facts if isinstance(fact, RunBegan)] == [0, stopped]
    steps = [fact.step for fact in facts if isinstance(fact, StepMade)]
    assert steps == list(range(1, stopped + 6))  # none is missing, and none was made twice
    assert json.loads((found / "report.json").read_text())["sessions"] == 2


# ------------------------------------------------------------------------------------------------------ on a terminal


def read_until(terminal: int, wanted: str, within_s: float, seen: str = "") -> str:
    """Read a terminal until it showed a text."""
    deadline = time.monotonic() + within_s
    while not re.search(wanted, seen):
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"not shown within {within_s:g} s: {wanted}; the end was {seen[-500:]!r}"
        try:
            seen += os.read(terminal, 65_536).decode(errors="replace")
        except OSError:  # the other end is gone
            assert re.search(wanted, seen), seen[-2000:]
    return seen


@TORCH
def test_on_a_terminal_there_is_a_screen_and_two_interrupts_end_it_at_once(tmp_path: Path) -> None:
    write_job(tmp_path, steps=100_000, checkpoint=0)
    ours, theirs = pty.openpty()
    colourful = {name: value for name, value in environment().items() if name != "NO_COLOR"} | {
        "TERM": "xterm-256color",
        "COLUMNS": "110",
        "LINES": "40",
    }
    name = os.ttyname(theirs)
    # The shell leads a session of its own, so the terminal that it opens is its: Ctrl-C reaches what it becomes.
    shell = ["sh", "-c", f'exec "$@" <{name} >{name} 2>&1', "sh", *words("job.toml")]
    process = subprocess.Popen(shell, env=colourful, cwd=tmp_path, start_new_session=True)
    try:
        seen = read_until(ours, r"samples/s", ENDING_S)
        assert "\x1b[" in seen
        assert "sums" in seen and "loss" in seen and "checkpoint" in seen
        below = set(children_of(process.pid))
        os.write(ours, b"\x03")
        time.sleep(0.05)
        os.write(ours, b"\x03")
        rest = read_until(ours, r"next +prime train run job.toml", ENDING_S)
        assert process.wait(ENDING_S) == 130
        until(lambda: not [child for child in below if lives(child)], 10, "the end of every rank")
        assert "\x1b[?25h" in rest  # the cursor is back
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)


@TORCH
@pytest.mark.nightly
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_told_to_end_it_saves_first(tmp_path: Path, number: int, status: int) -> None:
    write_job(tmp_path, steps=100_000, checkpoint=0)
    found = tmp_path / "runs" / "sums"
    with started(tmp_path, "job.toml", "--json") as process:
        until(lambda: steps_made(found) > 3, ENDING_S, "some steps")
        process.send_signal(number)
        output, errors = process.communicate(timeout=ENDING_S)
    assert process.returncode == status, errors
    result = events_of(output)[-1]
    assert (result["event"], result["outcome"]) == ("train.result", "stopped")
    assert result["checkpoints"]["newest_step"] == result["step"] > 3


@TORCH
@pytest.mark.nightly
def test_a_run_that_fails_says_where_and_ends_with_eight(tmp_path: Path) -> None:
    file = write_job(tmp_path, steps=20)
    (tmp_path / "mine.py").write_text(MINE.replace("nn.Linear(512, 2)", "nn.Linear(511, 2)"))
    done = finished(tmp_path, file, "--json")
    assert done.returncode == 8, done.stderr
    assert "mat1 and mat2" in done.stderr
    assert "Traceback" not in done.stderr
    result = events_of(done.stdout)[-1]
    assert (result["event"], result["outcome"]) == ("train.result", "failed")
    ended = [fact for fact, _ in read_events(tmp_path / "runs" / "sums") if isinstance(fact, RunEnded)]
    assert len(ended) == 1


@TORCH
@pytest.mark.nightly
def test_fresh_starts_anew_and_keeps_what_was_there(tmp_path: Path) -> None:
    write_job(tmp_path, steps=3)
    for more in ((), ("--fresh",)):
        done = finished(tmp_path, "job.toml", *more)
        assert done.returncode == 0, done.stderr
    assert steps_made(tmp_path / "runs" / "sums.1") == 3
    assert [fact.resumed_step for fact, _ in read_events(tmp_path / "runs" / "sums") if isinstance(fact, RunBegan)] == [
        0
    ]
