"""The job of each preset, and the file that is written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prime.config.template import template
from prime.errors import ConfigError, NotFoundError
from prime.trainer.job import JOB, Job, load_job
from prime.trainer.presets.jobs import PRESETS, preset_job, preset_keys


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_written_for_a_preset_is_the_same_job(tmp_path: Path, name: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(template(JOB, "# a job\n", preset_keys(name)))
    assert load_job(file) == preset_job(name)
    assert preset_job(name).name == name


def test_a_file_without_a_preset_is_all_defaults_and_names_every_key(tmp_path: Path) -> None:
    text = template(JOB, "# a job\n")
    file = tmp_path / "job.toml"
    file.write_text(text)
    assert load_job(file) == Job()
    assert all(f"# {key.field} = " in text for key in JOB.keys.values())


def test_flags_overrule_a_preset() -> None:
    job = preset_job("digits", {"steps": 7, "compression.codec": "int8", "name": None})
    assert (job.steps, job.compression.codec, job.name) == (7, "int8", "digits")


def test_what_is_no_preset_names_those_that_are() -> None:
    with pytest.raises(NotFoundError, match="no preset mnist") as caught:
        preset_job("mnist")
    assert "fashion-mnist" in caught.value.hint


def test_a_flag_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="steps"):
        preset_job("digits", {"steps": 0})


def test_a_short_run_of_a_preset_warms_up_no_longer_than_it_lasts() -> None:
    assert preset_job("charlm", {"steps": "5"}).schedule.warmup_steps == 5
    assert preset_job("charlm").schedule.warmup_steps == 20
    with pytest.raises(ConfigError, match="warmup_steps"):
        preset_job("charlm", {"steps": 5, "schedule.warmup_steps": 6})
