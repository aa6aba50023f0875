"""The presets: each job can be read and its parts exist; the pictures are read right, and learnt from."""

from __future__ import annotations

import gzip
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prime.errors import ConfigError, DataError, MissingExtraError
from prime.trainer.catalogue import DATASETS, MODELS, OWN_DATA
from prime.trainer.data.names import open_dataset
from prime.trainer.data.order import step_indices
from prime.trainer.job import Job
from prime.trainer.presets import fashion_mnist
from prime.trainer.presets.digits import open_data
from prime.trainer.presets.fashion_mnist import read_idx
from prime.trainer.presets.jobs import PRESETS, preset_job
from prime.trainer.task import built, resolve

torch = pytest.importorskip("torch")

from prime.trainer.data.tensors import on_device  # noqa: E402 - after the check that torch is there

installed = pytest.mark.skipif(
    not Path(fashion_mnist.FOLDER).is_dir(), reason="apt-get install dataset-fashion-mnist: its pictures are not here"
)


def learnt(job: Job, steps: int, batches: int = 4) -> tuple[float, float]:
    """Train by a plain loop; return loss and accuracy over so many held-out batches."""
    torch.manual_seed(job.seed)
    data, model = open_dataset(job), built(job.model, "model", job)
    optimiser = torch.optim.AdamW(model.module.parameters(), lr=job.optimiser.learning_rate)
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(on_device(data.batch(step_indices(job.seed, step, job.batch_size, len(data))))).backward()
        optimiser.step()
    with torch.no_grad():
        held_out = [on_device(batch) for batch in data.held_out(batches)]
        losses = [float(model.loss(batch)) for batch in held_out]
        right = [float(model.measures(batch)["accuracy"]) for batch in held_out]
    return sum(losses) / len(losses), sum(right) / len(right)


@pytest.mark.parametrize("name", PRESETS)
def test_each_job_names_what_there_is(name: str) -> None:
    job = preset_job(name)
    assert job.model in MODELS
    assert job.data in DATASETS


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_model_can_be_built_for_its_own_data(name: str) -> None:
    assert OWN_DATA[name] in DATASETS
    assert built(name, "model", Job(model=name)).module.training


def test_to_list_them_loads_nothing() -> None:
    code = "import sys; from prime.trainer.presets.jobs import PRESETS; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_nearly_a_presets_is_suggested() -> None:
    with pytest.raises(ConfigError, match="'charml' is no module:function") as caught:
        resolve("charml", "model", MODELS)
    assert "charlm" in caught.value.hint


# ------------------------------------------------------------------------------------------------------ the pictures


@installed
def test_fashion_mnist_is_whole_and_scaled() -> None:
    data = open_dataset(Job(model="mlp", data="fashion-mnist"))
    assert len(data) == 60_000
    inputs, labels = data.batch(np.arange(0, 60_000, 20))
    assert (inputs.shape, inputs.dtype, labels.dtype) == ((3000, 28, 28), np.float32, np.int64)
    assert abs(inputs.mean()) < 0.02
    assert inputs.std() == pytest.approx(1, abs=0.02)
    held = data.held_out(40)
    assert [len(part[1]) for part in held] == [250] * 40
    assert np.bincount(np.concatenate([part[1] for part in held])).tolist() == [1000] * 10
    assert data.baseline == pytest.approx(math.log(10))


@installed
@pytest.mark.parametrize(("model", "steps", "accuracy"), [("mlp", 200, 0.80), ("cnn", 40, 0.65)])
def test_fashion_mnist_is_learnt(model: str, steps: int, accuracy: float) -> None:
    torch.set_num_threads(1)
    job = Job(model=model, data="fashion-mnist", batch_size=128)
    loss, right = learnt(job, steps)
    assert right > accuracy
    assert loss < 0.9


@installed
@pytest.mark.nightly
def test_five_passes_of_the_preset_are_right_in_seven_of_eight() -> None:
    torch.set_num_threads(1)
    job = preset_job("fashion-mnist")
    assert learnt(job, job.steps, job.evaluation.batches)[1] > 0.87


def test_digits_are_learnt() -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn: its digits are not here")
    torch.set_num_threads(1)
    job = preset_job("digits")
    loss, right = learnt(job, job.steps)
    assert right > 0.95
    assert loss < 0.25


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match="scikit-learn") as caught:
        open_data(Job())
    assert caught.value.hint == "pip install scikit-learn"


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(folder: Path, count: int = 12, *, packed: bool = False) -> Path:
    """Write a small set of the same form."""
    for part in ("train", "t10k"):
        for name, array in (
            ("images-idx3", (np.arange(count * 16) % 256).astype(np.uint8).reshape(count, 4, 4)),
            ("labels-idx1", (np.arange(count) % 3).astype(np.uint8)),
        ):
            content = idx(array)
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_elsewhere(tmp_path: Path, packed: bool) -> None:
    options = {"path": str(pictures(tmp_path, packed=packed))}
    data = open_dataset(Job(data="fashion-mnist", data_options=options, batch_size=4))
    inputs, labels = data.batch(np.array([1, 11]))
    assert labels.tolist() == [1, 2]
    assert inputs[0, 0, 0] == pytest.approx((16 - 72.94) / 90.02)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no IDX file"),
        (b"\0\0\x0d\1\0\0\0\1abcd", "is no IDX file of bytes"),
        (idx(np.zeros((3, 4), np.uint8))[:-1], r"is damaged: 23 bytes for the shape \(3, 4\)"),
        (b"\0\0\x08\3\0\0", "is damaged"),
        (b"\0\0\x08\2" + b"\xff" * 8, "is damaged"),
    ],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_idx(path)
    assert caught.value.hint


def test_packed_files_that_are_cut_or_missing(tmp_path: Path) -> None:
    pictures(tmp_path, packed=True)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    whole = packed.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], b"no gzip"):
        packed.write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            read_idx(packed)
    packed.unlink()
    options: dict[str, Any] = {"path": str(tmp_path)}
    with pytest.raises(DataError, match="there is no train-images-idx3-ubyte.gz") as caught:
        open_dataset(Job(data="fashion-mnist", data_options=options))
    assert "dataset-fashion-mnist" in caught.value.hint
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 4, 4), np.uint8)))
    with pytest.raises(DataError, match=r"train has \(2, 4, 4\) pictures and \(12,\) labels"):
        open_dataset(Job(data="fashion-mnist", data_options=options))


# --------------------------------------------------------------------------------------------------- the classifiers


def test_sizes_of_the_classifiers() -> None:
    mlp = built("mlp", "model", Job(model="mlp", data="own", model_options={"inputs": 6, "width": 5, "classes": 3}))
    assert mlp.module(torch.zeros(2, 3, 2)).shape == (2, 3)
    linear = built("mlp", "model", Job(model="mlp", data="digits", model_options={"layers": 0}))
    assert sum(parameter.numel() for parameter in linear.module.parameters()) == 64 * 10 + 10
    cnn = built("cnn", "model", Job(model="cnn", data="digits", model_options={"width": 2}))
    assert cnn.module(torch.zeros(5, 8, 8)).shape == (5, 10)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("mlp", {}, "model_options.inputs is missing: how large an input of 'own.jsonl' is"),
        ("cnn", {}, "model_options.side is missing"),
        ("mlp", {"inputs": 4, "classes": 1}, "classes is 1"),
        ("cnn", {"side": 28, "sides": 1}, "cnn has no such option"),
    ],
)
def test_sizes_that_cannot_be_are_said(model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        built(model, "model", Job(model=model, data="own.jsonl", model_options=options))
    assert caught.value.hint


def test_data_without_classes_is_refused() -> None:
    model = built("mlp", "model", Job(model="mlp", data="own", model_options={"inputs": 4}))
    for batch in (torch.zeros(2, 4), (torch.zeros(2, 4), torch.zeros(2))):
        with pytest.raises(ConfigError, match="need inputs and classes"):
            model.loss(batch)
