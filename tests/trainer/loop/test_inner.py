"""One step by itself: weights of microbatches, clipping, the loss scale; optimisers by name, and models of users."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from prime.errors import ConfigError, NonFiniteError  # noqa: E402 - after the check that torch is there
from prime.trainer.job import Job, Optimiser, Parallel  # noqa: E402
from prime.trainer.loop.building import model_of  # noqa: E402
from prime.trainer.loop.inner import InnerStep  # noqa: E402
from prime.trainer.loop.optimisers import TorchUpdates, optimiser_of  # noqa: E402
from prime.trainer.loop.scale import FIRST, LEAST, LossScale  # noqa: E402
from prime.trainer.loop.sharding import LossModule, ToMeasure  # noqa: E402
from prime.trainer.loop.units import recompute, units  # noqa: E402


class Bench:
    """One weight vector w with the loss mean(w * batch): its gradient is batch / n."""

    def __init__(self, clip_norm: float = 0.0, scale: LossScale | None = None, start: float = 0.0) -> None:
        self.weight = torch.nn.Parameter(torch.full((2,), start))
        optimiser = optimiser_of(Optimiser(name="sgd", weight_decay=0.0), [self.weight])
        self.inner = InnerStep(
            lambda batch: (self.weight * batch).mean(),
            [("weight", self.weight)],
            TorchUpdates(optimiser),
            rate=lambda step: 1.0,
            clip_norm=clip_norm,
            seed=0,
            rank=0,
            scale=scale,
        )

    def make(self, *batches: tuple[Any, float]) -> Any:
        return self.inner.make(0, [(torch.tensor(batch), share) for batch, share in batches], len(batches))


def test_microbatches_weigh_by_their_samples() -> None:
    bench = Bench(start=1.0)
    made = bench.make(([2.0, 4.0], 0.75), ([8.0, 0.0], 0.25))
    assert made.loss == pytest.approx(0.75 * 3 + 0.25 * 4)
    assert bench.weight.tolist() == pytest.approx([1 - (0.75 * 1 + 0.25 * 4), 1 - 0.75 * 2])


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_told() -> None:
    bench = Bench(clip_norm=1.0)
    assert bench.make(([6.0, 8.0], 1.0)).grad_norm == pytest.approx(5.0)
    assert bench.weight.tolist() == pytest.approx([-0.6, -0.8])
    small = Bench(clip_norm=10.0)
    small.make(([6.0, 8.0], 1.0))
    assert small.weight.tolist() == pytest.approx([-3.0, -4.0])


def test_a_gradient_that_is_not_finite_is_refused_by_name_and_nothing_moves() -> None:
    bench = Bench()
    with pytest.raises(NonFiniteError, match="the gradient is not finite in weight"):
        bench.make(([float("inf"), 1.0], 1.0))
    assert bench.weight.tolist() == [0.0, 0.0]


def test_the_scale_changes_nothing_but_the_range() -> None:
    plain, scaled = Bench(clip_norm=1.0), Bench(clip_norm=1.0, scale=LossScale())
    for bench in (plain, scaled):
        assert bench.make(([6.0, 8.0], 1.0)).grad_norm == pytest.approx(5.0)
    assert scaled.weight.tolist() == pytest.approx(plain.weight.tolist())


def test_an_overflow_skips_the_update_and_halves_the_scale() -> None:
    scale = LossScale()
    bench = Bench(scale=scale)
    made = bench.make(([3e38, 1.0], 1.0))  # finite, but not times the scale
    assert made.skipped
    assert bench.weight.tolist() == [0.0, 0.0]
    assert scale.value == FIRST / 2
    assert not bench.make(([1.0, 1.0], 1.0)).skipped


def test_what_no_scale_mends_is_refused() -> None:
    with pytest.raises(NonFiniteError):
        Bench(scale=LossScale(LEAST)).make(([float("nan"), 1.0], 1.0))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "SGD", "RAdam", "Adagrad", "torch.optim:NAdam"])
def test_optimisers_are_had_by_name(name: str) -> None:
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimiser = optimiser_of(Optimiser(name=name, weight_decay=0.5), [weight, bias])
    assert type(optimiser).__name__.lower() == name.rpartition(":")[2].lower()
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert (decays[id(weight)], decays[id(bias)]) == (0.5, 0.0)


def test_an_optimiser_takes_options_and_lists_stand_for_tuples() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimiser = optimiser_of(Optimiser(options={"betas": [0.8, 0.9], "foreach": False}), [weight])
    assert optimiser.param_groups[0]["betas"] == (0.8, 0.9)
    assert not optimiser.param_groups[0]["fused"]
    assert optimiser_of(Optimiser(), [weight]).param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["adamw", "sgd", "Muon"])
def test_no_weight_decay_is_none_whatever_the_class_does_by_itself(name: str) -> None:
    optimiser = optimiser_of(Optimiser(name=name, weight_decay=0.0), [torch.nn.Parameter(torch.ones(2, 2))])
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.0]


@pytest.mark.parametrize(
    ("wanted", "says", "hint"),
    [
        (Optimiser(name="adamv"), "'adamv' is no optimiser", "sgd, adam, adamw"),
        (Optimiser(name="lr_scheduler"), "'lr_scheduler' is no optimiser", ""),
        (Optimiser(name="os:getcwd"), "'os:getcwd' is no optimiser", ""),
        (Optimiser(name="nowhere:Class"), "nowhere cannot be imported", "optimiser.name"),
        (Optimiser(name="LBFGS"), "LBFGS needs to compute the loss several times", "sgd"),
        (Optimiser(name="SparseAdam"), "SparseAdam needs sparse gradients", "sgd"),
        (Optimiser(options={"lr": 1}), "optimiser.options.lr: a job has a key", "optimiser.learning_rate"),
        (Optimiser(options={"weight_decay": 1}), "a job has a key for that", "optimiser.weight_decay"),
        (Optimiser(options={"beta": 1}), "adamw refused its arguments: .*beta", "betas"),
        (Optimiser(options={"betas": [2.0, 0.9]}), "adamw refused its arguments: Invalid beta", "betas"),
    ],
)
def test_what_is_no_optimiser_is_said(wanted: Optimiser, says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        optimiser_of(wanted, [torch.nn.Parameter(torch.ones(2))])
    assert hint in caught.value.hint


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user's with functions that build models."""
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Own(nn.Linear):\n"
        "    def loss(self, batch):\n"
        "        return self(batch).sum()\n"
        "class Seen(Own):\n"
        "    def measures(self, batch):\n"
        "        return {'mean': batch.mean()}\n"
        "def own(job): return Own(1, 1)\n"
        "def seen(job): return Seen(1, 1)\n"
        "def pair(job): return nn.Linear(1, 1), nn.MSELoss()\n"
        "def bare(job): return nn.Linear(1, 1)\n"
        "def three(job): return 1, 2, 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_models"
    sys.modules.pop("my_models", None)


def test_a_model_may_be_a_module_with_its_loss_or_a_pair(mine: str) -> None:
    job = Job(model=f"{mine}:own")
    own = model_of(job.model, job, "model")
    assert float(own.loss(torch.zeros(1)).detach()) == pytest.approx(float(own.module.bias.detach()))
    assert not hasattr(own, "measures")
    assert float(model_of(f"{mine}:seen", job, "model").measures(torch.ones(2))["mean"]) == 1
    pair = model_of(f"{mine}:pair", job, "model")
    inputs = torch.ones(3, 1)
    assert float(pair.loss((inputs, pair.module(inputs))).detach()) == 0.0


@pytest.mark.parametrize("name", ["bare", "three"])
def test_what_is_no_model_is_said(mine: str, name: str) -> None:
    job = Job(model=f"{mine}:{name}")
    with pytest.raises(ConfigError, match="is no model with a loss") as caught:
        model_of(job.model, job, "model")
    assert "loss_function" in caught.value.hint


def test_blocks_are_the_items_of_lists_that_have_parameters() -> None:
    nn = torch.nn
    inner = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    model = nn.ModuleDict({"layers": nn.ModuleList([inner, nn.Linear(1, 1)]), "head": nn.Sequential(nn.Linear(1, 1))})
    assert units(model, Parallel()) == [inner, model["layers"][1]]
    assert units(model, Parallel(blocks="layers.*.0")) == [inner[0]]
    assert units(model, Parallel(shard="full")) == []


def test_a_parameter_that_two_units_share_is_refused() -> None:
    nn = torch.nn
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    last.weight = first.weight
    with pytest.raises(ConfigError, match=r"0\.weight is shared between a block") as caught:
        units(nn.Sequential(first, last), Parallel())
    assert 'parallel.shard = "full"' in caught.value.hint


def test_activations_of_a_model_without_blocks_cannot_be_recomputed() -> None:
    with pytest.raises(ConfigError, match="the model has no blocks") as caught:
        recompute(torch.nn.Linear(2, 2), Parallel())
    assert "parallel.blocks" in caught.value.hint


def test_recomputed_blocks_have_the_same_gradients_and_names() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    names, x = [name for name, _ in model.named_parameters()], torch.randn(4, 3)
    found = []
    for turn in (0, 1):
        if turn:
            recompute(model, Parallel())
        torch.manual_seed(5)
        model(x).sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
        model.zero_grad()
    assert [name for name, _ in model.named_parameters()] == names
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Scored:
    """A linear model of float inputs whose measure calls the module, too."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(2, 1)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.module(batch) ** 2).mean()

    def measures(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"output": self.module(batch).mean()}


def test_measures_are_computed_in_the_precision_of_the_loss() -> None:
    model = Scored()
    module = LossModule(model, torch.device("cpu"), "bfloat16")
    model.module.to(torch.bfloat16)  # as fsdp gathers parameters
    batch = torch.ones(3, 2)
    assert torch.isfinite(module(batch))
    assert module(ToMeasure(batch))["output"].dtype == torch.bfloat16
