"""Datasets of Hugging Face's library, from folders: no network. What it says against a name is passed on."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prime.errors import DataError, MissingExtraError
from prime.trainer.data.hub import HubDataset, open_hub
from prime.trainer.data.names import open_dataset
from prime.trainer.data.text import TextDataset
from prime.trainer.job import Job

datasets = pytest.importorskip("datasets", reason="pip install 'prime-actors[hf]'")

ROWS = {
    "x": [float(i) for i in range(100)],
    "v": [[i, 2 * i] for i in range(100)],
    "kind": [i % 2 for i in range(100)],
    "name": ["cat" if i % 2 else "ape" for i in range(100)],
    "text": [f"line {i} " * 10 for i in range(100)],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two splits, as the library saves it."""
    folder = tmp_path_factory.mktemp("saved") / "rows"
    table = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict({"train": table, "test": table.select(range(30))}).save_to_disk(folder)
    return folder


def opened(name: object, **options: Any) -> Any:
    return open_dataset(Job(data=str(name), data_options=options, batch_size=4))


def test_columns_are_read_where_they_lie(saved: Path) -> None:
    data = opened(f"hf:{saved}", features=["x", "v"], label="kind")
    assert isinstance(data, HubDataset)
    assert len(data) == 95
    inputs, labels = data.batch(np.array([0, 19, 94]))  # row 19 is held out
    assert inputs.tolist() == [[0, 0, 0], [20, 20, 40], [98, 98, 196]]
    assert (inputs.dtype, labels.dtype, labels.tolist()) == (np.float32, np.int64, [0, 0, 0])
    assert np.concatenate([part[0] for part in data.held_out(9)])[:, 0].tolist() == [19, 39, 59, 79, 99]
    assert 0.69 < data.baseline < 5  # every row held out is odd here
    assert data.fingerprint == opened(saved, features=["x", "v"], label="kind").fingerprint
    assert data.fingerprint != opened(saved, features=["x"], label="kind").fingerprint


def test_a_split_held_out_and_names_as_classes(saved: Path) -> None:
    data = opened(f"hf:{saved}:train", features=["x"], label="name", held_out_split="test", scale=2)
    assert len(data) == 100
    inputs, labels = data.batch(np.array([0, 1, 50]))
    assert (inputs.tolist(), labels.tolist()) == ([[0], [0.5], [25]], [0, 1, 0])
    assert sum(len(part[0]) for part in data.held_out(9)) == 30
    assert data.baseline == pytest.approx(math.log(2), abs=0.01)
    assert len(opened(f"hf:{saved}:test", features=["x"])) == 29


def test_text(saved: Path) -> None:
    text = opened(f"hf:{saved}", context=16)
    assert isinstance(text, TextDataset)
    assert text.reserved.size == sum(len(ROWS["text"][i]) + 1 for i in range(19, 100, 20))
    other = opened(f"hf:{saved}", context=16, held_out_split="test")
    assert other.reserved.size == sum(len(line) + 1 for line in ROWS["text"][:30])


def test_a_table_in_a_folder_is_loaded_by_the_librarys_own_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "train.csv").write_text("x,kind\n" + "".join(f"{i},{i % 3}\n" for i in range(60)))
    data = opened(f"hf:{folder}", features=["x"], label="kind")
    assert data.batch(np.array([58 - 2]))[0].tolist() == [[58]]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("{}:dev", {}, "no split 'dev'; there are train, test"),
        ("{}", {"features": ["nope"]}, "has no column 'nope'; it has x, v, kind, name, text"),
        ("{}", {"text_field": "kind"}, "'kind' holds 0, not text"),
        ("{}", {"features": ["name"], "label": "kind"}, "features are no numbers of one shape"),
    ],
)
def test_what_is_not_there_is_said(saved: Path, name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        opened("hf:" + name.format(saved), **options).batch(np.arange(2))
    assert caught.value.hint


def test_without_a_network_the_cause_and_a_way_on_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'some/thing' on the Hub (LocalEntryNotFoundError)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match="hf:some/thing, split 'train', cannot be loaded: Couldn't reach") as caught:
        opened("hf:some/thing")
    assert "save_to_disk" in caught.value.hint


def test_a_folder_that_is_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        opened(f"hf:{tmp_path / 'empty'}")
    assert "load_dataset" in caught.value.hint


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="needs Hugging Face's datasets") as caught:
        open_hub(Job(data="hf:some/thing"))
    assert caught.value.hint == "pip install 'prime-actors[hf]'"
