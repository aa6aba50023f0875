"""What a replica does with the preset model, and with any model and data of a user's."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prime.errors import ConfigError, DataError
from prime.trainer.metadata import TrainingConfig

torch = pytest.importorskip("torch")

from prime.trainer.adamw import AdamW  # noqa: E402 - after the check that torch is there
from prime.trainer.replica import Replica  # noqa: E402

LINE = "def add(first, second): return first + second\n"


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    text = tmp_path / "text.py"
    text.write_text(LINE * 100)
    return TrainingConfig(data=str(text), batch_size=4, context=32, learning_rate=3e-3, warmup_steps=5)


def never() -> bool:
    return False


def test_it_learns(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    before = replica.evaluate(None, 2)
    done = replica.train(15, never)
    assert (done.step, done.steps, done.tokens) == (15, 15, 15 * 4 * 32)
    assert before > 4.4
    assert replica.evaluate(None, 2) < 3.2  # one line, over and over


def test_training_is_bit_equal_when_it_is_done_again(config: TrainingConfig) -> None:
    whole = Replica(config, rank=7)
    whole.train(6, never)
    parts = Replica(config, rank=7)
    parts.train(2, never)
    parts.evaluate(whole.local(), 2)  # looking at others' parameters, and writing, leave no trace
    parts.write("def ", 5, seed=1)
    parts.train(4, never)
    assert np.array_equal(whole.local(), parts.local())
    other = Replica(config, rank=8)
    assert np.array_equal(whole.initial, other.initial)
    other.train(6, never)
    assert not np.array_equal(whole.local(), other.local())


def test_a_snapshot_that_is_forgotten_keeps_nothing_back(config: TrainingConfig) -> None:
    replica = Replica(config, 0)
    replica.train(2, lambda: False)
    replica.take_snapshot()
    replica.train(2, lambda: False)
    local, theta = replica.local(), replica.initial + np.float32(1)
    replica.forget_snapshot()
    replica.rebase(theta)
    assert np.array_equal(replica.local(), theta + (local - replica.initial))


def test_rebasing_keeps_what_was_learnt_since_the_snapshot(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    replica.train(2, never)
    snapshot = replica.take_snapshot()
    replica.train(2, never)
    local = replica.local()
    theta = np.random.default_rng(0).standard_normal(local.size).astype(np.float32)
    replica.rebase(theta)
    assert np.array_equal(replica.local(), theta + (local - snapshot))
    replica.rebase(theta)  # again: the new snapshot is theta
    assert np.allclose(replica.local(), theta + (local - snapshot), atol=1e-6)
    replica.load(theta)
    assert np.array_equal(replica.local(), theta)
    assert np.array_equal(replica.snapshot, theta)


def test_a_fragment_is_rebased_alone_with_what_was_learnt_since_its_own_snapshot(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    size = replica.initial.size
    cut = slice(size // 3, size // 2)  # begins and ends within a tensor
    replica.train(2, never)
    snapshot = replica.take_snapshot(cut)
    assert np.array_equal(snapshot, replica.local()[cut])
    replica.train(2, never)
    local = replica.local()
    theta = np.random.default_rng(0).standard_normal(snapshot.size).astype(np.float32)
    replica.rebase(theta, cut.start)
    wanted = local.copy()
    wanted[cut] = theta + (local[cut] - snapshot)
    assert np.array_equal(replica.local(), wanted)
    whole = np.zeros(size, np.float32)
    replica.rebase(whole)  # the other fragments still keep all that was learnt since the start
    since = wanted - replica.initial
    since[cut] = wanted[cut] - theta
    assert np.array_equal(replica.local(), since)


def test_forgetting_the_snapshot_of_a_fragment_leaves_the_others(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    cut, other = slice(0, 1000), slice(1000, replica.initial.size)
    replica.train(2, never)
    local = replica.take_snapshot()
    replica.forget_snapshot(cut)
    assert np.array_equal(replica.snapshot[cut], replica.initial[cut])
    assert np.array_equal(replica.snapshot[other], local[other])


def test_parameters_whose_elements_lie_in_another_order_are_set_too() -> None:
    replica = Replica.__new__(Replica)
    parameter = torch.arange(6.0).reshape(2, 3).t()
    assert not parameter.is_contiguous()
    replica._parameters, replica._edges, replica._elements = [parameter], [0, 6], 6
    replica._set(np.array([7.0, 8.0], np.float32), 1)
    assert parameter.reshape(-1).tolist() == [0.0, 7.0, 8.0, 4.0, 2.0, 5.0]
    assert replica.local(slice(1, 4)).tolist() == [7.0, 8.0, 4.0]


def test_vectors_of_another_model_are_refused_and_change_nothing(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    wrong = np.zeros(3, np.float32)
    beyond = replica.initial.size - 2
    for use in (replica.load, lambda t: replica.rebase(t, beyond), lambda theta: replica.evaluate(theta, 1)):
        with pytest.raises(ConfigError, match="3 parameters for a model of"):
            use(wrong)
    assert np.array_equal(replica.local(), replica.initial)
    assert np.array_equal(replica.snapshot, replica.initial)


def test_a_halt_ends_training_after_the_step_in_hand(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    assert replica.train(100, lambda: replica.step == 3).steps == 3
    assert replica.train(1, lambda: True).steps == 0


def test_the_same_seed_writes_the_same_text(config: TrainingConfig) -> None:
    replica = Replica(config, rank=0)
    first = replica.write("def ", 50, seed=3)
    assert first.startswith("def ")
    assert len(first) == 54
    assert replica.write("def ", 50, seed=3) == first
    assert replica.write("def ", 50, seed=4) != first
    assert len(replica.write("", 4, seed=0)) == 5


def test_data_that_is_missing_or_too_short_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Replica(TrainingConfig(data=str(tmp_path / "nowhere")), rank=0)
    (tmp_path / "short").write_text("short\n" * 40)
    with pytest.raises(DataError, match="too few"):
        Replica(TrainingConfig(data=str(tmp_path / "short")), rank=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_is_torchs_own(weight_decay: float) -> None:
    torch.manual_seed(1)
    mine = [
        torch.randn(3, 4, requires_grad=True),
        torch.randn(5, requires_grad=True),
        torch.ones(2, requires_grad=True),
    ]
    theirs = [parameter.detach().clone().requires_grad_() for parameter in mine]
    ours = AdamW(mine, weight_decay)
    groups = [{"params": theirs[:1], "weight_decay": weight_decay}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(10):
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for parameters in (mine, theirs):
            (parameters[0].square().sum() + (parameters[1] ** 4).sum()).backward()
        ours.update(0.01 * (step + 1))
        reference.step()
        ours.zero_grad()
        reference.zero_grad()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    assert torch.equal(mine[2], torch.ones(2))  # it never had a gradient


# ---------------------------------------------------------------------------------------------- a user's own model


class Line:
    """Fits y = 2x by one weight."""

    def __init__(self, config: TrainingConfig) -> None:
        self.module = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Dropout(0.5))

    def loss(self, batch: Any) -> Any:
        return ((self.module(batch) - 2 * batch) ** 2).mean()


class Numbers:
    """Batches without a baseline."""

    def __init__(self, config: TrainingConfig) -> None:
        self.seed = config.seed

    def __len__(self) -> int:
        return 1000

    def batch(self, indices: Any) -> Any:
        return np.random.default_rng([self.seed, *indices.tolist()]).random((len(indices), 1), np.float32)

    def held_out(self, count: int) -> Any:
        return [np.full((2, 1), 0.5, np.float32)] * count


def no_batches(config: TrainingConfig) -> Any:
    data = Numbers(config)
    data.held_out = lambda count: []  # type: ignore[method-assign]
    return data


def frozen(config: TrainingConfig) -> Any:
    line = Line(config)
    line.module.requires_grad_(False)
    return line


def failing(config: TrainingConfig) -> Any:
    raise ZeroDivisionError("made up")


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make this file's classes importable as a user's module."""
    module = types.ModuleType("users_task")
    vars(module).update(
        line=Line, numbers=Numbers, no_batches=no_batches, frozen=frozen, failing=failing, nothing=lambda config: None
    )
    monkeypatch.setitem(sys.modules, "users_task", module)
    return "users_task"


def test_a_users_model_and_data(mine: str) -> None:
    config = TrainingConfig(model=f"{mine}:line", data=f"{mine}:numbers", learning_rate=0.1, weight_decay=0.0)
    replica = Replica(config, rank=0)
    assert replica.baseline is None
    metadata = replica.metadata()
    assert (metadata.name, metadata.parameters) == ("users_task:line", 1)
    assert replica.evaluate(None, 3) == replica.evaluate(None, 3)  # dropout rests while it is measured
    assert replica.write("x", 3, 0) == ""
    replica.train(20, never)
    again = Replica(config, rank=0)
    again.train(20, never)
    assert np.array_equal(replica.local(), again.local())  # dropout is replayed too


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("nowhere_at_all:line", "", "nowhere_at_all cannot be imported"),
        ("users_task:missing", "", "no function 'missing'"),
        ("users_task", "", "no module:function"),
        ("users_task:failing", "", "users_task:failing raised ZeroDivisionError: made up .*test_replica.py, line"),
        ("users_task:nothing", "", "returned a NoneType, which is no model with a loss"),
        ("users_task:frozen", "users_task:numbers", "no trainable parameters"),
        ("users_task:line", "users_task:nothing", "returned a NoneType, which lacks `__len__`"),
        ("users_task:line", "users_task:failing", "train.data: users_task:failing raised"),
    ],
)
def test_a_task_that_cannot_be_used_is_said(mine: str, model: str, data: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Replica(TrainingConfig(model=model, data=data), rank=0)
    assert caught.value.hint


def test_data_that_holds_nothing_out_is_said(mine: str) -> None:
    replica = Replica(TrainingConfig(model=f"{mine}:line", data=f"{mine}:no_batches"), rank=0)
    with pytest.raises(ConfigError, match="gave no batches"):
        replica.evaluate(None, 3)
