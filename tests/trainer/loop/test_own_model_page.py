"""The how-tos about models and ranks: each job of theirs trains, and the loop on the page is that of the example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from prime.trainer.job import load_job  # noqa: E402 - after the check that torch is there
from prime.trainer.loop.learner import Learner  # noqa: E402
from prime.trainer.loop.place import Place  # noqa: E402

ROOT = Path(__file__).parents[3]
HOW_TO = ROOT / "docs" / "how-to"
PAGE = (HOW_TO / "own-model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:toml|python)\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
JOBS = [text for name, text in BLOCKS if name == "job.toml"]


@pytest.mark.parametrize("number", range(2))
def test_each_job_of_the_page_trains(tmp_path: Path, number: int) -> None:
    for name, text in BLOCKS:
        if name != "job.toml":
            (tmp_path / name).write_text(text)
    (tmp_path / "job.toml").write_text(JOBS[number])
    if "digits" in JOBS[number]:
        pytest.importorskip("sklearn", reason="pip install scikit-learn")
    learner = Learner(load_job(tmp_path / "job.toml", {"parallel.device": "cpu"}), Place())
    losses = [learner.train_step().loss for _ in range(12)]
    assert losses[-1] < losses[0]


def test_the_tables_of_the_page_about_ranks_are_read(tmp_path: Path) -> None:
    tables = re.findall(r"^```toml\n(.*?)^```", (HOW_TO / "several-gpus.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(tables) == 2
    for text in tables:
        (tmp_path / "job.toml").write_text(text)
        load_job(tmp_path / "job.toml")


def test_the_loop_of_the_page_is_that_of_the_example() -> None:
    example = (ROOT / "examples" / "09_plain_loop.py").read_text(encoding="utf-8")
    lines = [re.sub(r"  # .*$", "", line).strip() for line in example.splitlines()]
    shown = re.search(r"^```diff\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    kept = [line[1:].strip() for line in shown.group(1).splitlines() if not line.startswith("-")]
    assert len([line for line in shown.group(1).splitlines() if line.startswith("+")]) == 3
    for line in kept:
        assert line == "..." or line in lines or line.startswith("loader = ")
