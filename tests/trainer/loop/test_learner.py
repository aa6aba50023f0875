"""The learner: one job has one loss curve, on one rank and on two, however the model lies on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prime.errors import ConfigError
from prime.trainer.job import job_of
from tests.trainer.loop import ranks
from tests.trainer.loop.group import group
from tests.trainer.loop.ranks import Place, done

HERE = Path(__file__).parent
STEPS = 6
Found = dict[str, Any]


def tables(**sections: Any) -> dict[str, Any]:
    """Return a job whose shares are uneven: 7 samples a step."""
    base = {
        "model": f"{HERE / 'tiny.py'}:build_model",
        "data": f"{HERE / 'tiny.py'}:open_data",
        "steps": 12,
        "batch_size": 7,
        "optimiser": {"learning_rate": 0.02},
        "parallel": {"device": "cpu"},
    }
    for name, value in sections.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    return base


def fsdp(**more: Any) -> dict[str, Any]:
    return {"strategy": "fsdp", **more}


def coded(name: str) -> dict[str, Any]:
    return {"codec": name, "exact_below": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone() -> Found:
    """What the job comes to on one rank, here."""
    return done(tables(), Place(), STEPS, {})


@pytest.fixture(scope="module")
def two(folder: Path) -> list[Found]:
    """What each of two ranks found in all cases."""
    deep, hybrid = {"dropout": 0.2}, fsdp(replicas=2)
    odd = {"noisy": True, "unused": True}
    wild = {"optimiser": {"name": "sgd", "learning_rate": 900.0}, "gradients": {"clip_norm": 0}}
    saved, saved_ddp = str(folder / "saved"), str(folder / "saved-ddp")
    cases = [
        ("ddp", tables(), STEPS, {}),
        ("ddp accumulate", tables(gradients={"accumulate": 3}), STEPS, {}),
        ("fsdp layers", tables(parallel=fsdp()), STEPS, {}),
        ("fsdp pattern", tables(parallel=fsdp(blocks="blocks.*.up")), STEPS, {}),
        ("fsdp full", tables(parallel=fsdp(shard="full")), STEPS, {}),
        ("fsdp accumulate", tables(parallel=fsdp(), gradients={"accumulate": 3}), STEPS, {}),
        ("fsdp recomputed", tables(parallel=fsdp(checkpoint_activations=True)), STEPS, {}),
        ("fsdp hybrid", tables(parallel=fsdp(replicas=2)), STEPS, {}),
        ("fsdp hybrid accumulate", tables(parallel=hybrid, gradients={"accumulate": 3}), STEPS, {}),
        ("ddp clipped", tables(gradients={"clip_norm": 0.05}), STEPS, {}),
        ("fsdp clipped", tables(parallel=fsdp(), gradients={"clip_norm": 0.05}), STEPS, {}),
        ("ddp bfloat16", tables(parallel={"precision": "bfloat16"}), STEPS, {}),
        ("fsdp bfloat16", tables(parallel=fsdp(precision="bfloat16")), STEPS, {}),
        ("fsdp drawn", tables(parallel=fsdp(), model_options=deep), 3, {"save": saved, "more": 3}),
        ("fsdp replayed", tables(parallel=fsdp(), model_options=deep), 3, {"load": saved}),
        ("ddp drawn", tables(model_options=deep), 3, {"save": saved_ddp, "more": 3}),
        ("ddp replayed", tables(model_options=deep), 3, {"load": saved_ddp}),
        ("ddp noisy", tables(model_options={"noisy": True}), 3, {"save": str(folder / "noisy-ddp"), "more": 3}),
        ("ddp noisy replayed", tables(model_options={"noisy": True}), 3, {"load": str(folder / "noisy-ddp")}),
        ("fsdp noisy", tables(parallel=fsdp(), model_options=odd), 3, {"save": str(folder / "noisy"), "more": 3}),
        ("fsdp noisy replayed", tables(parallel=fsdp(), model_options=odd), 3, {"load": str(folder / "noisy")}),
        ("fsdp saved", tables(parallel=fsdp()), 3, {"save": str(folder / "moved")}),
        ("ddp from fsdp", tables(), 3, {"load": str(folder / "moved")}),
        ("ddp int8", tables(compression=coded("int8")), STEPS, {}),
        ("ddp int8 accumulate", tables(compression=coded("int8"), gradients={"accumulate": 3}), STEPS, {}),
        ("fsdp int8", tables(compression=coded("int8"), parallel=fsdp(replicas=2)), STEPS, {}),
        (
            "fsdp int8 accumulate",
            tables(compression=coded("int8"), parallel=hybrid, gradients={"accumulate": 3}),
            STEPS,
            {},
        ),
        ("ddp int4", tables(compression=coded("int4")), 3, {"save": str(folder / "int4"), "more": 3}),
        ("ddp int4 replayed", tables(compression=coded("int4")), 3, {"load": str(folder / "int4")}),
        ("fsdp int4", tables(compression=coded("int4"), parallel=hybrid), 3, {"save": str(folder / "h4"), "more": 3}),
        ("fsdp int4 replayed", tables(compression=coded("int4"), parallel=hybrid), 3, {"load": str(folder / "h4")}),
        ("ddp powersgd", tables(compression=coded("powersgd"), steps=60), 16, {}),
        ("infinite int8", tables(compression=coded("int8"), **wild), 40, {}),
        ("no such block", tables(parallel=fsdp(blocks="layers.*")), 1, {}),
        ("ddp unused", tables(model_options={"unused": True}), 3, {}),
        ("fsdp unused", tables(model_options={"unused": True}, parallel=fsdp()), STEPS, {}),
        ("too few samples", tables(batch_size=1), 1, {}),
        ("single", tables(parallel={"strategy": "single"}), 1, {}),
        ("odd replicas", tables(parallel=fsdp(replicas=3)), 1, {}),
        ("float16", tables(parallel={"precision": "float16", "device": "auto"}), 1, {}),
        ("infinite", tables(**wild), 40, {}),
        ("fsdp marked", tables(parallel=fsdp(), data_options={"fingerprint": "a"}), 1, {"save": str(folder / "a")}),
        (
            "fsdp the same data",
            tables(parallel=fsdp(), data_options={"fingerprint": "a"}),
            1,
            {"load": str(folder / "a")},
        ),
        ("other data", tables(data_options={"fingerprint": "b"}), 1, {"load": str(folder / "a")}),
        ("torn data", tables(data_options={"fingerprint": "torn"}), 1, {}),
    ]
    return group(folder, 2, cases)


def test_a_step_says_what_it_did(alone: Found) -> None:
    assert alone["strategy"] == "single"
    assert alone["losses"][-1] < 0.85 * alone["losses"][0]
    assert alone["held_out"] < alone["losses"][0]
    assert alone["rates"][0] == pytest.approx(0.02)
    assert alone["rates"][5] < alone["rates"][1] < 0.02
    assert alone["step"] == STEPS


def test_an_evaluation_says_what_the_model_measures(alone: Found) -> None:
    assert set(alone["measures"]) == {"accuracy"}
    assert 1 / 11 < alone["measures"]["accuracy"] < 1


def test_data_that_changed_since_the_checkpoint_or_differs_between_ranks_is_refused(two: list[Found]) -> None:
    for rank, found in enumerate(two):
        assert found["fsdp the same data"]["step"] == 2
        assert "DataError: the data is not that of the checkpoint of step 1" in found["other data"]["error"]
        assert f"that of rank {rank} has the fingerprint {rank}" in found["torn data"]["error"]
        assert found["other data"]["hint"]
        assert found["torn data"]["hint"]


@pytest.mark.parametrize(
    "name",
    [
        "ddp",
        "ddp accumulate",
        "fsdp layers",
        "fsdp pattern",
        "fsdp full",
        "fsdp accumulate",
        "fsdp recomputed",
        "fsdp hybrid",
        "fsdp hybrid accumulate",
    ],
)
def test_one_job_has_one_loss_curve(alone: Found, two: list[Found], name: str) -> None:
    for found in two:
        assert found[name]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert found[name]["norms"] == pytest.approx(alone["norms"], rel=1e-4)
        assert found[name]["held_out"] == pytest.approx(alone["held_out"], rel=1e-5)
        assert found[name]["measures"] == pytest.approx(alone["measures"], rel=1e-5)
        assert found[name]["strategy"] == name.split(maxsplit=1)[0]


def test_ranks_report_the_same_figures_to_the_bit(two: list[Found]) -> None:
    for name, found in two[0].items():
        other = two[1][name]
        assert "error" in found or (found["losses"], found["norms"]) == (other["losses"], other["norms"])


def test_a_parameter_that_the_loss_does_not_use_stays_as_it_is_under_fsdp(alone: Found, two: list[Found]) -> None:
    assert two[0]["fsdp unused"]["losses"] == pytest.approx(alone["losses"], rel=1e-5)


def test_a_rank_holds_its_shard_only(two: list[Found]) -> None:
    for name in ("fsdp layers", "fsdp full"):
        held = [found[name]["local_elements"] for found in two]
        assert sum(held) == two[0][name]["elements"]
        assert max(held) < 0.6 * sum(held)
    assert [found["fsdp hybrid"]["local_elements"] for found in two] == [two[0]["ddp"]["elements"]] * 2


def test_clipping_is_by_the_norm_of_the_whole_reduced_gradient(two: list[Found]) -> None:
    clipped = done(tables(gradients={"clip_norm": 0.05}), Place(), STEPS, {})
    assert min(clipped["norms"]) > 0.05  # so each step is clipped
    for name in ("ddp clipped", "fsdp clipped"):
        assert two[1][name]["losses"] == pytest.approx(clipped["losses"], rel=1e-5)


def test_activations_are_computed_again(two: list[Found]) -> None:
    once, twice = two[0]["fsdp layers"]["calls"], two[0]["fsdp recomputed"]["calls"]
    evaluations = 4  # two batches, each for its loss and for what the model measures beside it
    assert [n - evaluations for n in twice] == [2 * (n - evaluations) for n in once]


def test_bfloat16_is_near_float32_and_parameters_stay_float32(alone: Found, two: list[Found]) -> None:
    for name in ("ddp bfloat16", "fsdp bfloat16"):
        losses = two[0][name]["losses"]
        assert losses != alone["losses"]
        assert losses == pytest.approx(alone["losses"], rel=0.02)


@pytest.mark.parametrize("name", ["ddp int8", "ddp int8 accumulate", "fsdp int8", "fsdp int8 accumulate"])
def test_a_quarter_of_the_bytes_has_the_loss_curve_of_all(alone: Found, two: list[Found], name: str) -> None:
    for found in two:
        assert found[name]["losses"] != alone["losses"]
        assert found[name]["losses"] == pytest.approx(alone["losses"], rel=0.01)
        sent, exact = found[name]["bytes"]
        assert 0 < sent < 0.4 * exact  # scales, and norms and biases as fp16, are more than usual of a model so small


def test_what_runs_the_codec_is_told(two: list[Found]) -> None:
    engines = {name: two[0][name]["codec_engine"] for name in ("ddp", "fsdp hybrid", "ddp powersgd")}
    assert engines == {"ddp": "", "fsdp hybrid": "", "ddp powersgd": "torch"}
    assert {two[0][name]["codec_engine"] for name in ("ddp int8", "fsdp int4")} <= {"numba", "numpy"}


def test_what_is_not_compressed_is_counted(two: list[Found]) -> None:
    elements = two[0]["ddp"]["elements"]
    for name in ("ddp", "ddp accumulate", "fsdp hybrid"):
        assert two[0][name]["bytes"] == [4 * elements] * 2
    assert two[0]["fsdp layers"]["bytes"] == [2 * elements] * 2
    assert two[0]["fsdp accumulate"]["bytes"] == [6 * elements] * 2


def test_powersgd_is_torchs_own(two: list[Found]) -> None:
    found = two[0]["ddp powersgd"]
    assert found["losses"][-1] < 0.8 * found["losses"][0]
    assert found["bytes"][0] < found["bytes"][1]


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("fsdp drawn", "fsdp replayed"),
        ("ddp drawn", "ddp replayed"),
        ("fsdp int4", "fsdp int4 replayed"),
        ("ddp int4", "ddp int4 replayed"),
        ("ddp noisy", "ddp noisy replayed"),
        ("fsdp noisy", "fsdp noisy replayed"),
    ],
)
def test_replayed_steps_are_equal_to_the_bit(two: list[Found], first: str, again: str) -> None:
    """Buffers that go apart over ranks, what numpy and Python draw, and parameters without a gradient are in it, too."""
    assert two[0][again]["held_out"] == two[0][first]["held_out"] == two[1][first]["held_out"]
    assert two[0][again]["losses"] == two[0][first]["losses"][3:]
    assert two[0][again]["bits"] == two[0][first]["bits"] != ""
    assert two[0][again]["step"] == 6


def test_a_checkpoint_is_gone_on_from_by_another_strategy_and_world(
    alone: Found, two: list[Found], folder: Path
) -> None:
    assert two[0]["ddp from fsdp"]["losses"] == pytest.approx(alone["losses"][3:], rel=1e-5)
    moved = done(tables(), Place(), 3, {"load": str(folder / "moved")})
    assert moved["losses"] == pytest.approx(alone["losses"][3:], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no such block", "ConfigError: parallel.blocks: no module of the model is called 'layers.*'"),
        (
            "ddp unused",
            "ConfigError: parallel.strategy ddp: the last step gave no gradient to unused.weight, unused.bias",
        ),
        ("too few samples", "ConfigError: batch_size (1) is under 2 ranks x 1 microbatches"),
        ("single", "ConfigError: parallel.strategy single has one rank, and there are 2"),
        ("odd replicas", "ConfigError: 2 ranks are no multiple of parallel.replicas (3)"),
        ("infinite int8", "NonFiniteError: the gradient of model."),
        ("infinite", "NonFiniteError: the gradient is not finite"),
    ],
)
def test_what_cannot_be_is_refused_on_every_rank_alike(two: list[Found], name: str, says: str) -> None:
    assert [found[name]["error"].startswith(says) for found in two] == [True, True], two[0][name]
    assert two[0][name]["hint"]


@pytest.mark.skipif(ranks.torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_needs_a_gpu_says_so(two: list[Found]) -> None:
    assert "float16 needs a GPU" in two[0]["float16"]["error"]
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        ranks.Learner(job_of(tables(parallel={"device": "cuda"})), Place())


def test_a_run_starts_with_the_parameters_of_a_file(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from prime.trainer.loop.learner import Learner

    file = tmp_path / "start.safetensors"
    taught = Learner(job_of(tables()), Place())
    taught.train_step()
    save_file(ranks.full_parameters(taught), file)
    fresh = Learner(job_of(tables(seed=9, checkpoint={"start": str(file)})), Place())
    before = ranks.full_parameters(fresh)
    fresh.start()
    started = ranks.full_parameters(fresh)
    assert all(torch.equal(started[name], tensor) for name, tensor in ranks.full_parameters(taught).items())
    assert not all(torch.equal(started[name], tensor) for name, tensor in before.items())
    file.unlink()
    with pytest.raises(ConfigError, match=r"checkpoint\.start: there is no file"):
        fresh.start()


def resumed(job: dict[str, Any], folder: Path) -> Any:
    learner = ranks.Learner(job_of(job), Place())
    ranks.load(learner, str(folder))
    return learner


@pytest.mark.parametrize("before", [0.0, 0.2])
def test_what_the_job_says_of_the_optimiser_holds_after_it_was_edited(tmp_path: Path, before: float) -> None:
    first = ranks.Learner(job_of(tables(optimiser={"name": "adam", "weight_decay": before})), Place())
    first.train_step()
    ranks.save(first, str(tmp_path))
    for decay in (0.0, 0.3):
        wanted = {"name": "adamw", "weight_decay": decay, "options": {"betas": [0.5, 0.6]}}
        optimiser = resumed(tables(optimiser=wanted), tmp_path)._optimiser
        assert {each["weight_decay"] for each in optimiser.param_groups} == {0.0, decay}
        assert all(each["betas"] == (0.5, 0.6) and each["decoupled_weight_decay"] for each in optimiser.param_groups)
        assert len(optimiser.state) == sum(len(each["params"]) for each in optimiser.param_groups)


def test_what_an_optimiser_keeps_beside_its_arguments_goes_on(tmp_path: Path) -> None:
    first = ranks.Learner(job_of(tables()), Place())
    for each in first._optimiser.param_groups:
        each["seen"] = 7
    first.train_step()
    ranks.save(first, str(tmp_path))
    second = ranks.Learner(job_of(tables()), Place())
    for each in second._optimiser.param_groups:
        each["seen"] = 0
    ranks.load(second, str(tmp_path))
    assert [each["seen"] for each in second._optimiser.param_groups] == [7, 7]


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    first = ranks.Learner(job_of(tables(optimiser={"name": "sgd"})), Place())
    first.train_step()
    ranks.save(first, str(tmp_path))
    with pytest.raises(ConfigError, match="of another model or optimiser: it lacks"):
        resumed(tables(optimiser={"name": "sgd", "options": {"momentum": 0.9}}), tmp_path)


def test_what_was_frozen_before_an_evaluation_is_frozen_after_it() -> None:
    learner = ranks.Learner(job_of(tables(model_options={"noisy": True})), Place())
    noise: Any = learner.model.module.get_submodule("noise")
    learner.evaluate(1)
    assert (noise.means.training, noise.still.training) == (True, False)


@pytest.fixture
def unfit(tmp_path: Path) -> str:
    """A module of models that cannot be trained or saved."""
    file = tmp_path / "unfit.py"
    file.write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, loss=None, **parts):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(9, 1)\n"
        "        self.found = loss or (lambda x: x.mean())\n"
        "        for name, part in parts.items():\n"
        "            self.register_buffer(name, part) if torch.is_tensor(part) else setattr(self, name, part)\n"
        "    def loss(self, batch):\n"
        "        return self.found(self.head(batch.float()))\n"
        "def sparse(job): return Net(words=nn.Embedding(3, 2, sparse=True))\n"
        "def complex(job): return Net(turns=torch.ones(2, dtype=torch.complex64))\n"
        "def many(job): return Net(lambda x: x)\n"
        "def number(job): return Net(lambda x: 1.5)\n"
        "def parted(job): return Net(lambda x: x.mean().detach())\n"
    )
    return str(file)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sparse", "the model's words has sparse gradients"),
        ("complex", r"cannot be saved: model\.turns is complex64"),
        ("many", r"loss is a tensor of the shape \[7, 1\], not one number"),
        ("number", "loss is float, not one number"),
        ("parted", "loss depends on no trainable parameter"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_a_step(unfit: str, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        ranks.Learner(job_of(tables(model=f"{unfit}:{name}")), Place()).train_step()
    assert caught.value.hint
