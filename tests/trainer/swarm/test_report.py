"""The report of a swarm's run: its figures add up, and it can be read."""

from __future__ import annotations

import json

import pytest

from prime.trainer.metadata import TrainingConfig
from prime.trainer.swarm.progress import DecidedRound, Progress
from prime.trainer.swarm.report import RunFigures, rows, shape, swarm_report

FIGURES = RunFigures(
    run="demo@0123456789ab",
    founder="peer-a",
    outcome="done",
    elapsed_s=100.0,
    spent_s={"compute": 60.0, "encode": 5.0, "send": 20.0, "vote": 1.0},
    sent_bytes=1000,
    float32_bytes=3900,
    state_bytes=0,
    names={"peer-a": "anna"},
)


def progress() -> Progress:
    made = Progress(3, 10, members=("peer-a", "peer-b"), elements=250, round=3, state_hash="ab" * 32)
    for number, contributors in enumerate((("peer-a", "peer-b"), (), ("peer-a",)), 1):
        made.trained(10, 640, 2.0)
        made.decided(DecidedRound(number, 1, bool(contributors), contributors, 3.0 - number / 2, 2.5, 0.0))
    made.loss_first, made.loss_last, made.unigram = 4.6, 1.4, 3.1
    return made


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rounds": 1, "inner_steps": 1}, "1 round of 1 step"),
        ({"rounds": 20, "inner_steps": 100}, "20 rounds of 100 steps"),
        ({"rounds": 20, "inner_steps": 100, "fragments": 4}, "20 rounds of 25 steps for one of 4 fragments"),
        ({"rounds": 20, "inner_steps": 10, "fragments": 4}, "20 rounds of 2 or 3 steps for one of 4 fragments"),
        ({"rounds": 20, "local_epochs": 1}, "20 rounds of a pass over each node's own data"),
        (
            {"rounds": 20, "local_epochs": 3, "fragments": 2},
            "20 rounds of 3 passes over each node's own data in 2 parts",
        ),
    ],
)
def test_a_run_says_what_a_round_is(settings: dict[str, int], said: str) -> None:
    made = TrainingConfig(**settings)  # type: ignore[arg-type]  # all of these are numbers
    assert shape(made, made.rounds) == said


def test_the_figures_of_a_run() -> None:
    found = swarm_report(progress(), TrainingConfig(rounds=3, inner_steps=10), FIGURES)
    json.dumps(found, allow_nan=False)
    assert (found["name"], found["committed"], found["aborted"]) == ("demo", 2, 1)
    assert found["contributors"] == [
        {"peer": "peer-a", "name": "anna", "rounds": 2},
        {"peer": "peer-b", "name": "", "rounds": 1},
    ]
    assert found["bytes"]["ratio_float32"] == 3.9
    assert found["bytes"]["every_step"] == 30 * 250 * 4
    assert found["bytes"]["ratio_every_step"] == 30.0
    assert found["time_s"] == {"compute": 60.0, "encode": 5.0, "send": 20.0, "vote": 1.0, "wait": 35.0}
    assert found["curves"]["loss"] == [(1, 2.5), (2, 2.0), (3, 1.5)]
    assert found["curves"]["contributors"] == [(1, 2.0), (2, 0.0), (3, 1.0)]
    assert found["settings"]["inner_steps"] == 10


def test_a_person_reads_it_in_80_columns() -> None:
    lines = [f"{name:<12}  {text}" for name, text in rows(swarm_report(progress(), TrainingConfig(), FIGURES))]
    assert [line for line in lines if len(line) > 80] == []
    text = "\n".join(lines)
    assert "anna in 2, …peer-b in 1 of 2 rounds" in text
    assert "1000 bytes sent, float32 3.90 times that, in each step 30 times" in text
    assert "compute 60 %, encode 5 %, wait 35 %, send 20 %, vote 1 %" in text


def test_a_run_that_decided_nothing_has_a_report_too() -> None:
    nothing = RunFigures("demo", "", "left", 0.0, {}, 0, 0, 0, {})
    found = swarm_report(Progress(3, 10), TrainingConfig(), nothing)
    assert found["bytes"]["ratio_float32"] is None
    assert dict(rows(found))["contributors"] == "nobody"


def test_its_curves_are_drawn(tmp_path: object) -> None:
    pytest.importorskip("matplotlib")
    from pathlib import Path

    from prime.trainer.track.plot import draw_rounds

    file = Path(str(tmp_path)) / "curves.png"
    draw_rounds(swarm_report(progress(), TrainingConfig(), FIGURES), file)
    assert file.read_bytes().startswith(b"\x89PNG")
    draw_rounds(swarm_report(Progress(3, 10), TrainingConfig(), FIGURES), file)
