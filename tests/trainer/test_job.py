"""The job: how one is read, what is said about one that cannot be, and how it goes to another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prime.errors import ConfigError
from prime.trainer.job import JOB, Compression, Gradients, Job, Optimiser, Parallel, PolicyRule, job_of, load_job


def build_model(job: Job) -> Any:
    raise NotImplementedError


def written(folder: Path, text: str) -> Path:
    file = folder / "job.toml"
    file.write_text(text)
    return file


def test_an_empty_file_is_the_job_of_all_defaults(tmp_path: Path) -> None:
    assert load_job(written(tmp_path, "")) == Job()


def test_keys_at_the_top_in_sections_and_in_free_tables_are_read(tmp_path: Path) -> None:
    job = load_job(
        written(
            tmp_path,
            'name = "mine"\nsteps = 7\n[data_options]\ncontext = 64\nfields = ["a", "b"]\n'
            '[optimiser]\nname = "RAdam"\noptions = { betas = [0.9, 0.99] }\n[parallel]\nranks = 2\n'
            '[compression]\ncodec = "int8"\nerror_feedback = true\n[[compression.policy]]\nmatch = "*.norm.*"\n',
        )
    )
    assert (job.name, job.steps, job.parallel.ranks, job.compression.error_feedback) == ("mine", 7, 2, True)
    assert job.data_options == {"context": 64, "fields": ["a", "b"]}
    assert job.optimiser.options == {"betas": [0.9, 0.99]}
    assert job.compression.policy == (PolicyRule(match="*.norm.*", codec="fp16"),)
    assert str(job.run_folder) == "runs/mine"


def test_flags_overrule_the_file_as_text_or_as_values(tmp_path: Path) -> None:
    file = written(tmp_path, "steps = 7\n[parallel]\nranks = 2\n")
    flags = {"steps": "9", "parallel.ranks": "auto", "data_options": "{ context = 3 }", "seed": 4, "folder": None}
    job = load_job(file, flags)
    assert (job.steps, job.parallel.ranks, job.data_options, job.seed) == (9, "auto", {"context": 3}, 4)
    with pytest.raises(ConfigError, match=r"--steps: steps: 0 is out of range"):
        load_job(file, {"steps": "0"})
    with pytest.raises(ConfigError, match="there is no key stepz") as caught:
        load_job(file, {"stepz": "0"})
    assert caught.value.hint == "did you mean steps?"


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("step = 3\n", "1: there is no key step", "did you mean steps?"),
        ("\nlearning_rate = 3\n", "2: there is no key learning_rate", "did you mean optimiser.learning_rate?"),
        ("[optimizer]\nname = 'sgd'\n", "2: there is no section [optimizer]", "did you mean optimiser.name?"),
        ("[parallel]\nranks = 'many'\n", '2: parallel.ranks: "many" is not 1 to 4096, or auto', "parallel.ranks: "),
        ("[parallel]\nranks = 0\n", "2: parallel.ranks: 0 is out of range: 1 to 4096, or auto", "parallel.ranks: "),
        ("[compression]\ncodec = 'int5'\n", '2: compression.codec: "int5" is none of none, int8', "compression.codec"),
        ("[[compression.policy]]\ncodek = 'int8'\n", "1: compression.policy: there is no key codek: ", ""),
        ("[[compression.policy]]\ncodec = 'int3'\n", "1: compression.policy: PolicyRule.codec: ", ""),
        ("[compression]\npolicy = ['int3']\n", "2: compression.policy: 'int3' is not a table of match, codec", ""),
        ("[data_options]\nday = 1979-05-27\n", "1: data_options: {'day': datetime.date(1979, 5, 27)} is not a tab", ""),
        ("optimiser = 3\n", "1: optimiser is no section", "[optimiser]"),
        ("steps = 1" + "0" * 5000 + "\n", " cannot be read (Exceeds the limit", "TOML"),
        ("[model_options]\nx = " + "[" * 2000 + "]" * 2000 + "\n", " cannot be read (maximum recursion depth", "TOML"),
        ('folder = "a\\u0000"\n', '1: folder: "a\\u0000" is no path', "folder: "),
        ("name = '../x'\n", '1: name: "../x" is no name', ""),
        (
            "steps = 5\n[schedule]\nwarmup_steps = 6\n",
            "3, FILE:1: schedule.warmup_steps (6) is over steps (5)",
            "lower",
        ),
        ("[parallel]\nranks = 3\nreplicas = 2\n", "3, FILE:2: parallel.ranks (3) is no multiple", "replicas x shards"),
        ("[parallel]\nreplicas = 2\nstrategy = 'ddp'\n", "2, FILE:3: parallel.replicas (2) are copies", "fsdp"),
        ("[parallel]\nranks = 2\nstrategy = 'single'\n", "3, FILE:2: parallel.strategy single has one rank", "ddp"),
        ("batch_size = 3\n[parallel]\nranks = 4\n", "1, FILE:3: batch_size (3) is under 4 ranks x 1", "needs a sample"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, says: str, hint: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_job(file)
    assert str(caught.value).replace(str(file), "FILE").startswith(f"FILE:{says}")
    assert hint in caught.value.hint


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load_job(written(tmp_path, "\ufeffsteps = 7\n")).steps == 7


def test_options_that_no_other_process_can_get_are_refused() -> None:
    with pytest.raises(ConfigError, match="goes to other processes"):
        Job(model_options={"activation": object})


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(written(tmp_path, "steps = 0\nnaem = 'x'\n"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such configuration file") as caught:
        load_job(tmp_path / "none.toml")
    assert "a preset needs none" in caught.value.hint


def test_files_are_found_beside_the_job_and_modules_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "corpus.txt").touch()
    (tmp_path / "begin.safetensors").touch()
    job = load_job(written(tmp_path, "model = 'mine.py:build'\ndata = 'corpus.txt'\n"))
    assert (job.model, job.data) == (f"{tmp_path}/mine.py:build", f"{tmp_path}/corpus.txt")
    job = load_job(written(tmp_path, "model = 'mine:build'\ndata = 'hf:x'\n"), {"data": "corpus.txt"})
    assert (job.model, job.data) == ("mine:build", "corpus.txt")
    text = "[checkpoint]\nstart = 'begin.safetensors'\n[tracking]\ntrackers = ['mine.py:Chat', 'mine:Chat']\n"
    job = load_job(written(tmp_path, f"{text}[optimiser]\nname = 'mine.py:Lion'\n"))
    assert job.checkpoint.start == f"{tmp_path}/begin.safetensors"
    assert job.tracking.trackers == (f"{tmp_path}/mine.py:Chat", "mine:Chat")
    assert job.optimiser.name == f"{tmp_path}/mine.py:Lion"


def test_a_program_may_give_functions_and_is_held_to_the_same_rules() -> None:
    assert Job(model=build_model).model == f"{__name__}:build_model"
    with pytest.raises(ConfigError, match="is no function at the top of a module"):
        Job(model=lambda _: None)
    with pytest.raises(ConfigError, match=r"Optimiser\.learning_rate: -1 is out of range|-1.0 is out of range"):
        Optimiser(learning_rate=-1)
    with pytest.raises(ConfigError, match="under 2 ranks x 4 microbatches"):
        Job(batch_size=4, parallel=Parallel(ranks=2), gradients=Gradients(accumulate=4))
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        Job(parallel=Parallel(precision="float16", device="cpu"))
    with pytest.raises(ConfigError, match="powersgd works on whole gradients"):
        Job(parallel=Parallel(strategy="fsdp"), compression=Compression(codec="powersgd"))


def test_a_job_goes_to_another_process_and_back() -> None:
    job = Job(
        model=build_model,
        optimiser=Optimiser(options={"betas": (0.9, 0.99)}),
        compression=Compression(codec="int8", policy=[{"match": "*.bias"}]),
        model_options={"width": 3, "deep": {"x": [True]}},
    )
    assert Job.from_json(job.to_json()) == job
    with pytest.raises(ConfigError, match="is no JSON"):
        Job.from_json("{")
    with pytest.raises(ConfigError, match="the checkpoint: there is no key pace"):
        job_of({"pace": 3}, "the checkpoint")


def test_every_key_has_a_meaning_that_ends_as_a_sentence() -> None:
    assert all(key.rule.doc.endswith((".", ".`")) for key in JOB.keys.values())


def test_a_key_says_what_it_can_be() -> None:
    assert JOB.keys["compression.error_feedback"].range == "true, false, or auto"
    assert JOB.keys["parallel.ranks"].range == "1 to 4096, or auto"
    assert JOB.keys["tracking.tensorboard"].range == ""


def test_one_entry_of_a_table_is_set_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("[model_options]\nwidth = 8\nlayers = 2\n")
    flags = {"model_options.width": "16", "model_options.kind": "wide", "optimiser.options.betas": "[0.9, 0.99]"}
    job = load_job(file, flags)
    assert job.model_options == {"width": 16, "layers": 2, "kind": "wide"}
    assert job.optimiser.options == {"betas": [0.9, 0.99]}


def test_a_wrong_value_is_told_with_the_option_that_gave_it(tmp_path: Path) -> None:
    (file := tmp_path / "job.toml").write_text("")
    for key, value, told in [
        ("steps", "0", "--steps: steps: 0 is out of range: 1 to"),
        ("seed", "-1", "--set: seed: -1 is out of range"),
        ("compression.error_feedback", "on", '--set: compression.error_feedback: "on" is not true, false, or auto'),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_job(file, {key: value})
        assert str(caught.value).startswith(told)
