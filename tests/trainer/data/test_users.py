"""Data that a user's function returns: map-style ones, Prime's own kind, and what cannot be numbered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, IterableDataset, TensorDataset  # noqa: E402 - after the check that torch is there

from prime.errors import ConfigError, DataError  # noqa: E402
from prime.trainer.data.contract import Dataset  # noqa: E402
from prime.trainer.data.names import open_dataset  # noqa: E402
from prime.trainer.data.tensors import on_device  # noqa: E402
from prime.trainer.data.users import adapted  # noqa: E402
from prime.trainer.job import Job  # noqa: E402


class Squares:
    """Sample i is i and its square."""

    def __init__(self, length: int = 100) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return np.float32(index), index * index


def made(found: Any) -> Dataset:
    return adapted(found, "mine:data", 4)


def test_a_map_style_dataset_is_collated_as_torch_does_and_a_twentieth_held_out() -> None:
    data = made(Squares())
    assert len(data) == 95
    numbers, squares = data.batch(np.array([0, 18, 19, 94]))
    assert numbers.tolist() == [0, 18, 20, 98]
    assert squares.tolist() == [0, 18**2, 20**2, 98**2]
    assert [part[0].tolist() for part in data.held_out(5)] == [[19, 39], [59, 99]]
    assert not {19, 39, 59, 79, 99} & set(data.batch(np.arange(95))[0].tolist())
    assert data.baseline is None


def test_what_is_held_out_may_be_a_dataset_of_its_own() -> None:
    samples = Squares(50)
    samples.held_out = Squares(10)  # type: ignore[attr-defined]
    data = made(samples)
    assert len(data) == 50
    assert data.batch(np.array([19]))[0].tolist() == [19]
    assert [len(part[0]) for part in data.held_out(9)] == [3, 3, 3]
    assert data.fingerprint == "50 samples, 10 held out"


@pytest.mark.parametrize("name", ["collate", "collate_fn"])
def test_its_own_collating(name: str) -> None:
    samples = Squares()
    setattr(samples, name, lambda rows: {"sum": sum(square for _, square in rows)})
    assert made(samples).batch(np.array([1, 2, 3])) == {"sum": 14}


def test_torchs_own_and_lists() -> None:
    tensors = TensorDataset(torch.arange(40.0), torch.arange(40))
    assert made(tensors).batch(np.array([3, 20]))[1].tolist() == [3, 21]
    assert made([float(i) for i in range(40)]).batch(np.array([3])).tolist() == [3.0]


def test_nothing_held_out_is_said() -> None:
    samples = Squares(50)
    samples.held_out = Squares(0)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="`held_out` is empty"):
        made(samples)


@pytest.mark.parametrize("found", [None, iter(())])
def test_own_batches_that_are_none_are_said(found: Any) -> None:
    class Own:
        def __len__(self) -> int:
            return 9

        def batch(self, indices: Any) -> Any:
            return indices

        def held_out(self, count: int) -> Any:
            return found

    with pytest.raises(ConfigError, match="gave no batches"):
        made(Own()).held_out(2)


@pytest.mark.parametrize("line", ["def open_data(job:", "1 / 0", "import argparse, sys; sys.exit(2)"])
def test_a_file_that_cannot_be_imported_is_the_configurations_fault(tmp_path: Path, line: str) -> None:
    (tmp_path / "mine.py").write_text(line + "\n")
    with pytest.raises(
        ConfigError, match=r"data: .*mine.py raised (SyntaxError|ZeroDivisionError|SystemExit)"
    ) as caught:
        open_dataset(Job(data=f"{tmp_path / 'mine.py'}:open_data"))
    assert "__main__" in caught.value.hint


def test_a_name_that_is_no_path_is_said() -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(Job(data="a" * 5000 + ".txt"))


def test_many_samples_are_asked_for_at_once_where_the_dataset_can() -> None:
    class Several(Squares):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(np.float32(-i), 0) for i in indices]

    assert made(Several()).batch(np.array([1, 2]))[0].tolist() == [-1, -2]


def test_prime_s_own_kind_is_taken_as_it_is() -> None:
    class Mine:
        tokens_per_sample = 7

        def __len__(self) -> int:
            return 12

        def batch(self, indices: Any) -> Any:
            return indices * 2

        def held_out(self, count: int) -> list[Any]:
            return [np.array([1])] * min(count, self.several)

        several = 2

    data = made(mine := Mine())
    assert (len(data), data.tokens_per_sample, data.baseline, data.fingerprint) == (12, 7, None, "")
    assert data.batch(np.array([4])).tolist() == [8]
    assert len(data.held_out(5)) == 2
    mine.several = 0
    with pytest.raises(ConfigError, match="gave no batches") as caught:
        data.held_out(5)
    assert caught.value.hint


class Stream(IterableDataset):
    """Samples without numbers."""

    def __iter__(self) -> Any:
        return iter(range(3))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Stream(), "which can only be gone through from its start: the samples of a step are a function of seed"),
        (iter([1, 2]), "which can only be gone through"),
        (DataLoader([1, 2]), "draws an order of its own: return its `dataset`"),
        ((Squares(), Squares()), "return one dataset"),
        (7, "lacks `__len__`"),
        ({"a": 1}, "lacks `__len__`"),
    ],
)
def test_what_is_no_dataset_is_said(found: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        made(found)
    assert "own-data.md" in caught.value.hint


def test_samples_that_cannot_be_had_are_named() -> None:
    class Broken(Squares):
        def __getitem__(self, index: int) -> Any:
            if index == 5:
                raise OSError("disk")
            return np.zeros(index)

    data = made(Broken())
    with pytest.raises(DataError, match="mine:data: sample 5 of 100 raised OSError: disk"):
        data.batch(np.array([4, 5]))
    with pytest.raises(DataError, match=r"samples \[2, 3\]… make no batch") as caught:
        data.batch(np.array([2, 3]))
    assert "`collate`" in caught.value.hint
    with pytest.raises(DataError, match="of 19 samples none can be held out"):
        made(Squares(19))


def test_by_name_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def data(job):\n    return [float(i) for i in range(job.data_options['count'])]\n")
    data = open_dataset(Job(data=f"{file}:data", data_options={"count": 60}))
    assert len(data) == 57
    with pytest.raises(DataError, match="19 samples are fewer than one batch of 32"):
        open_dataset(Job(data=f"{file}:data", data_options={"count": 20}))
    with pytest.raises(ConfigError, match="raised KeyError: 'count'"):
        open_dataset(Job(data=f"{file}:data"))
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_dataset(Job(data=f"{tmp_path}/nowhere.py:data"))


class Pair(NamedTuple):
    """A batch with names."""

    inputs: Any
    labels: Any


def test_arrays_become_tensors_wherever_they_are_in_a_batch() -> None:
    frozen = np.frombuffer(b"\0\0\x80\x3f", np.float32)
    batch = {"pair": Pair(frozen, torch.ones(2)), "list": [np.arange(3)[::-1], "word"], "tuple": (np.float64(3), None)}
    found = on_device(batch)
    assert torch.equal(found["pair"].inputs, torch.ones(1))
    assert isinstance(found["pair"], Pair)
    assert found["list"][0].tolist() == [2, 1, 0]
    assert (found["list"][1], found["tuple"]) == ("word", (3.0, None))
    shared = np.zeros(3, np.float32)
    on_device(shared)[0] = 1
    assert shared[0] == 1  # no copy on the CPU
