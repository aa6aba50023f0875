"""What a safetensors file says of itself, in good files and in broken ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prime.errors import DataError, NotFoundError
from prime.trainer.metadata import TensorLayout
from prime.trainer.publish.header import dtypes, read_layout
from prime.trainer.publish.publishing import Origin, origin_beside


def test_the_layout_of_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int64), "c": np.zeros(2, np.float16)}, path)
    found = read_layout(path, "m")
    assert set(found.layout) == {
        TensorLayout("a", (2, 3), "float32"),
        TensorLayout("b", (), "int64"),
        TensorLayout("c", (2,), "float16"),
    }
    assert found.parameters == 9
    assert dtypes(found) == "float32, float16, int64"


def packed(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no header"),
        (b"no model at all", "no header"),
        (struct.pack("<Q", 1 << 60), "no header"),
        (packed(b"{}"), "no tensors"),
        (packed(b"[1, 2]"), "cannot be read"),
        (packed(b"{" * 5000), "cannot be read"),
        (packed({"a": 1}), "cannot be read"),
        (packed({"a": {**ONE, "shape": [-1]}}, bytes(4)), "cannot be read"),
        (packed({"a": {**ONE, "shape": "x"}}, bytes(4)), "cannot be read"),
        (packed({"a": ONE}, bytes(3)), "its tensors end at byte"),
        (packed({"a": ONE}, bytes(5)), "its tensors end at byte"),
        (packed({"a": {**ONE, "shape": [2**62, 2**62]}}, bytes(4)), "cannot be read"),
        (packed({"a": {**ONE, "shape": [2**62, 0, 2**62]}}, bytes(4)), "cannot be read"),
        (packed({"a": {**ONE, "shape": [2]}}, bytes(4)), "cannot be read"),
        (packed({"a": {**ONE, "dtype": 5}}, bytes(4)), "cannot be read"),
        (packed({"a": {**ONE, "dtype": "F4", "shape": [99]}}, bytes(4)), "cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(DataError, match=why) as caught:
        read_layout(path, "m")
    assert str(path) in str(caught.value)
    assert "prime model export" in caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_layout(tmp_path / "none", "m")


@pytest.mark.parametrize(
    ("told", "origin"),
    [
        ({"file": "m.safetensors", "run": "r", "round": 3, "loss": 2}, Origin(run="r", round=3, loss=2.0)),
        ({"file": "m.safetensors", "job": {"name": "j"}, "step": 9}, Origin(run="j", step=9)),
        ({"file": "other.safetensors", "run": "r"}, Origin()),
        ({"file": "m.safetensors", "run": 5, "round": "x", "loss": 1e999, "step": True}, Origin()),
        ([], Origin()),
    ],
)
def test_what_stands_beside_a_file_is_believed_as_far_as_it_makes_sense(
    tmp_path: Path, told: Any, origin: Origin
) -> None:
    (tmp_path / "m.json").write_text(json.dumps(told), encoding="utf-8")
    assert origin_beside(tmp_path / "m.safetensors") == origin
