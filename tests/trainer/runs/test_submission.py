"""A job as a swarm's run: what of it counts between nodes, and what is said to mean nothing there."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from prime.config import NODE
from prime.errors import ConfigError
from prime.trainer.job import JOB, load_job, loaded_job
from prime.trainer.metadata import OPTIONS_MAX, TrainingConfig
from prime.trainer.presets.jobs import loaded_preset
from prime.trainer.runs.submission import MEANT, settings_of, unmeant


def job(tmp_path: Path, text: str, **flags: object) -> TrainingConfig:
    (tmp_path / "job.toml").write_text(text)
    return settings_of(loaded_job(tmp_path / "job.toml", flags))


def test_a_preset_is_a_whole_run() -> None:
    made = settings_of(loaded_preset("charlm", {"swarm.nodes_min": 2, "swarm.inner_steps": 50}))
    assert (made.model, made.data, made.nodes_min, made.inner_steps) == ("charlm", "stdlib", 2, 50)
    assert (made.learning_rate, made.warmup_steps, made.batch_size) == (1.5e-3, 20, 32)


def test_there_are_rounds_for_the_steps_of_the_job_unless_it_says_how_many(tmp_path: Path) -> None:
    assert job(tmp_path, "steps = 95\n[swarm]\ninner_steps = 10\n").rounds == 10
    assert job(tmp_path, "steps = 95\n[swarm]\ninner_steps = 10\nrounds = 3\n").rounds == 3
    assert settings_of(loaded_preset("charlm", {"swarm.rounds": 7})).rounds == 7
    assert settings_of(loaded_preset("charlm", {"swarm.local_epochs": 1})).rounds == 20
    assert job(tmp_path, "steps = 95\n[swarm]\ninner_steps = 10\nfragments = 4\n").rounds == 38


def test_options_of_model_and_data_travel_with_the_run(tmp_path: Path) -> None:
    made = job(tmp_path, "[model_options]\nwidth = 64\n[data_options]\nsymbols = 30\n")
    assert made.model_options == {"width": 64}
    assert made.data_options == {"symbols": 30}
    assert job(tmp_path, "").options == ""


def test_an_unknown_key_of_the_swarm_table_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[swarm]\ninner_step = 5\n")
    with pytest.raises(ConfigError, match=r"job.toml:2: there is no key swarm.inner_step") as raised:
        load_job(tmp_path / "job.toml")
    assert raised.value.hint == "did you mean swarm.inner_steps?"


def test_a_value_out_of_range_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[swarm]\nrounds = 0\n")
    with pytest.raises(ConfigError, match=r"job.toml:2: swarm.rounds: 0 is out of range"):
        load_job(tmp_path / "job.toml")


def test_values_that_cannot_be_together_are_refused_by_the_job_s_key_and_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"job.toml:3: swarm.fragments is 9: it must be at most inner_steps"
    ) as raised:
        job(tmp_path, "[swarm]\ninner_steps = 5\nfragments = 9\n")
    assert "prime train init" in raised.value.hint
    with pytest.raises(ConfigError, match=r"^--set \(flag\): swarm.fragments is 9"):
        job(tmp_path, "[swarm]\ninner_steps = 5\n", **{"swarm.fragments": 9})


@pytest.mark.parametrize(
    ("rule", "byzantine_max", "needed"),
    [("median", 2, 5), ("trimmed-mean", 2, 5), ("krum", 1, 5), ("multi-krum", 2, 7), ("centred-clipping", 3, 7)],
)
def test_too_few_nodes_for_a_rule_are_refused_with_how_many_it_takes(
    tmp_path: Path, rule: str, byzantine_max: int, needed: int
) -> None:
    text = f'[swarm]\naggregation = "{rule}"\nbyzantine_max = {byzantine_max}\nnodes_min = {needed}\n'
    assert job(tmp_path, text).aggregation == rule
    with pytest.raises(ConfigError, match=rf"job.toml:4: swarm.nodes_min is .* needs {needed} members") as raised:
        job(tmp_path, text.replace(f"= {needed}\n", f"= {needed - 1}\n"))
    assert "raise swarm.nodes_min" in raised.value.hint
    with pytest.raises(ConfigError, match="are asked"):
        job(tmp_path, f"{text}participation = 0.5\n")


def test_what_a_job_sets_twice_over_is_refused_with_its_own_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="count what was learnt twice") as raised:
        job(tmp_path, '[swarm]\ncodec = "topk"\n')
    assert 'set swarm.outer_optimiser = "sgd"' in raised.value.hint
    with pytest.raises(ConfigError, match="outer_learning_rate is 0.0: it must be above 0"):
        job(tmp_path, "[swarm]\nouter_learning_rate = 0.0\n")


def test_what_somebody_set_and_a_swarm_has_no_use_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('steps = 5\n[parallel]\nranks = 2\n[compression]\ncodec = "int4"\n')
    found = unmeant(loaded_job(tmp_path / "job.toml", {"checkpoint.every_steps": 5}))
    assert [text.partition(": ")[2] for text in found] == [
        "parallel.ranks",
        "compression.codec",
        "checkpoint.every_steps",
    ]
    assert str(tmp_path / "job.toml:3") in found[0]
    assert unmeant(loaded_preset("digits")) == ()


def test_every_key_of_a_node_s_own_run_is_one_of_a_job_too() -> None:
    known = {field.name for field in attrs.fields(TrainingConfig)}  # type: ignore[arg-type]  # a @record is an attrs class
    of_train = {key.field for key in NODE.section_keys("train")} & known
    of_swarm = {key.field for key in JOB.section_keys("swarm")}
    assert of_train - of_swarm == set(MEANT.values())
    assert all(name in JOB.keys for name in MEANT)


@pytest.mark.parametrize("options", ["{", "[]", "3", '{"model": 3}', "x" * (OPTIONS_MAX + 1), "[" * 20_000])
def test_options_that_are_none_are_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="options"):
        _ = TrainingConfig(options=options).model_options
