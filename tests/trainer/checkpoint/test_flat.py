"""A flat vector as a safetensors file: what a swarm ends with, read back by what reads such files."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from prime.store.files import SystemFiles
from prime.trainer.checkpoint.flat import write_model
from prime.trainer.metadata import ModelMetadata, TensorLayout

np = pytest.importorskip("numpy")

LAYOUT = (TensorLayout("weight", (3, 2), "float32"), TensorLayout("bias", (3,), "float32"))


def test_each_tensor_is_read_back_as_it_was(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    vector = np.arange(9, dtype="<f4")
    file = tmp_path / "model.safetensors"
    write_model(vector.data, ModelMetadata("m", 9, LAYOUT), file, {"round": 4}, SystemFiles())
    found = safetensors.load_file(file)
    assert found["weight"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found["bias"].tolist() == [6, 7, 8]
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["round"] == 4
    assert about["layout"][1] == {"name": "bias", "shape": [3], "dtype": "float32"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"old")
    (tmp_path / "model.json.new").mkdir()
    with pytest.raises(OSError, match="model.json.new"):
        write_model(
            np.zeros(9, "<f4").data, ModelMetadata("m", 9, LAYOUT), tmp_path / "model.safetensors", {}, SystemFiles()
        )
    assert (tmp_path / "model.safetensors").read_bytes() == b"old"
    assert threading.active_count() < 50
