"""JSONL and Parquet: text or columns out of them, and each way in which a row cannot be used, by its number."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prime.errors import ConfigError, DataError, MissingExtraError
from prime.trainer.data import parquet as parquet_module
from prime.trainer.data import text as text_module
from prime.trainer.data.arrays import ArrayDataset
from prime.trainer.data.jsonl import open_jsonl
from prime.trainer.data.names import open_dataset
from prime.trainer.data.parquet import open_parquet
from prime.trainer.data.symbols import ASCII
from prime.trainer.data.text import TextDataset
from prime.trainer.job import Job

Rows = list[dict[str, Any]]
Write = Callable[[Path, Rows], Path]


def jsonl(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(folder: Path, rows: Rows) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'prime-actors[hf]'")
    import pyarrow.parquet as files

    path = folder / "rows.parquet"
    files.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    return path


both = pytest.mark.parametrize("write", [jsonl, parquet])

NUMBERS: Rows = [{"a": i, "b": i / 2, "v": [i, i + 1, 0.5], "kind": i % 3, "name": "xyz"[i % 3]} for i in range(100)]


def opened(path: Path, **options: Any) -> Any:
    return open_dataset(Job(data=str(path), data_options=options, batch_size=4))


@both
def test_documents_become_text_and_every_twentieth_is_held_out(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, [{"text": chr(65 + i) * 10, "id": i} for i in range(40)])
    text = opened(path, context=8)
    assert isinstance(text, TextDataset)
    assert ASCII.decode(text.reserved) == chr(65 + 19) * 10 + "\n" + chr(65 + 39) * 10 + "\n"
    assert ASCII.decode(text.training).startswith("A" * 10 + "\n" + "B" * 10)


@both
def test_another_field_of_text(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, [{"text": "no", "body": "\u00e9" * 30} for _ in range(40)])
    text = opened(path, text_field="body", context=8, symbols="bytes")
    assert text.training.size == 38 * 61
    assert set(text.training.tolist()) == {0xC3, 0xA9, 10}


@both
def test_columns_of_numbers_and_a_label(tmp_path: Path, write: Write) -> None:
    data = opened(write(tmp_path, NUMBERS), features=["a", "b"], label="kind")
    assert isinstance(data, ArrayDataset)
    assert len(data) == 95
    inputs, labels = data.batch(np.array([0, 18, 19, 94]))  # row 19 is held out
    assert inputs.tolist() == [[0, 0], [18, 9], [20, 10], [98, 49]]
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int64)
    assert labels.tolist() == [0, 0, 2, 2]
    held = data.held_out(8)
    assert np.concatenate([part[0] for part in held])[:, 0].tolist() == [19, 39, 59, 79, 99]
    assert data.baseline == pytest.approx(math.log(3), abs=0.1)


@both
def test_a_list_is_an_input_and_names_are_classes(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, NUMBERS)
    inputs, labels = opened(path, features="v", label="name", scale=0.5).batch(np.array([4]))
    assert inputs.tolist() == [[8, 10, 1]]
    assert labels.tolist() == [1]
    assert opened(path, features=["v", "a"]).batch(np.array([4])).tolist() == [[4, 5, 0.5, 4]]
    _, targets = opened(path, features="v", label="b").batch(np.array([5]))
    assert (targets.dtype, targets.tolist()) == (np.float32, [2.5])
    assert opened(path, features="v", label="b").baseline is None


@both
def test_equal_rows_have_equal_fingerprints(tmp_path: Path, write: Write) -> None:
    changed = [*NUMBERS[:50], {**NUMBERS[0], "a": 7}, *NUMBERS[51:]]
    tables = (NUMBERS, NUMBERS, NUMBERS[:-1], changed)
    found = [opened(write(tmp_path, rows), features=["a"], label="kind").fingerprint for rows in tables]
    assert found[0] == found[1]
    assert len(set(found)) == 3


@both
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "has no column 'text'; it has a, b, v, kind, name"),
        ({"text_field": "body"}, "has no column 'body'"),
        ({"features": ["a", "c"]}, "has no column 'c'"),
        ({"features": ["a"], "label": "c"}, "has no column 'c'"),
        ({"text_field": "a"}, "'a' is 0, not text"),
        ({"features": ["name"]}, "not numbers"),
    ],
)
def test_columns_that_are_not_there_or_of_another_kind(
    tmp_path: Path, write: Write, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        opened(write(tmp_path, NUMBERS), **options)
    assert "rows" in str(caught.value)
    assert caught.value.hint


@both
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_field": "name", "features": ["a"]}, "do not go together"),
        ({"label": "kind"}, "do not go together"),
        ({"features": [1]}, r"features is \[1\], not a name or a list of names"),
        ({"featurs": ["a"]}, "a table has no such option"),
        ({"features": ["a"], "scale": 0}, "scale is 0, not a number above 0"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, write: Write, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        opened(write(tmp_path, NUMBERS), **options)
    assert caught.value.hint


@both
def test_too_few_rows(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match="of 19 samples none can be held out"):
        opened(write(tmp_path, NUMBERS[:19]), features=["a"])
    path = write(tmp_path, NUMBERS[:20])
    with pytest.raises(DataError, match="19 samples are fewer than one batch of 32") as caught:
        open_dataset(Job(data=str(path), data_options={"features": ["a"]}))
    assert "at most 19" in caught.value.hint
    with pytest.raises(DataError, match="too few for windows of 129"):
        opened(write(tmp_path, [{"text": "short"}] * 30))


@both
def test_text_without_a_character_and_text_that_does_not_fit(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="its column of text holds none"):
        opened(write(tmp_path, [{"text": " "}] * 30))
    monkeypatch.setattr(text_module, "TEXT_SIZE_BYTES_MAX", 2**20)
    with pytest.raises(DataError, match="more than 1 MiB") as caught:
        opened(write(tmp_path, [{"text": "x" * 2**18}] * 5))
    assert caught.value.hint


GOOD = b'{"text": "abc", "n": 1}\n'


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b"", {}, "is empty"),
        (b"\n  \n", {}, "is empty"),
        (b"{}\n", {}, "is empty"),
        (GOOD * 2 + b"{nope}\n", {}, "rows.jsonl line 3 is not JSON"),
        (GOOD + b"\n" + b"[" * 100_000 + b"\n", {}, "line 3 is not JSON"),
        (GOOD + b'{"text": "caf\xe9"}\n', {}, r"line 2 is not UTF-8 \(byte 14\)"),
        (GOOD + b'["abc"]\n', {}, r'line 2 is \["abc"\], not an object'),
        (GOOD + b'{"n": 2}\n', {}, "line 2 has no field 'text'; it has n"),
        (GOOD + b'{"text": null}\n', {}, "line 2: 'text' is null, not text"),
        (GOOD + b'{"n": "2"}\n', {"features": ["n"]}, "line 2: 'n' is \"2\", not numbers"),
        (GOOD + b'{"n": [2]}\n', {"features": ["n"]}, r"line 2: 'n' is \[2\], not numbers of the shape \[\]"),
        (GOOD + b'{"n": [[2], [2, 3]]}\n', {"features": ["n"]}, "line 2"),
        (GOOD + b'{"n": null}\n', {"features": ["n"]}, "line 2: 'n' is null, not numbers"),
        (GOOD * 25 + b'{"n": NaN}\n', {"features": ["n"]}, "row 26 holds a number that is not finite"),
        (
            b'{"n": 1, "y": 2}\n' * 25 + b'{"n": 1, "y": NaN}\n',
            {"features": ["n"], "label": "y"},
            "row 26 is not finite",
        ),
        (GOOD + b'{"n": 1, "text": 5}\n', {"features": ["n"], "label": "text"}, "line 2: 'text' is 5, no label like"),
        (GOOD + b'{"n": 1, "text": {}}\n', {"features": ["n"], "label": "text"}, "line 2: 'text' is {}, no label"),
    ],
)
def test_lines_that_cannot_be_used_are_named(
    tmp_path: Path, content: bytes, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        opened(path, **options)
    assert caught.value.hint


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD * 30)
    assert len(opened(path, features=["n"])) == 29


def test_labels_that_are_numbers_of_something_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"n": 1, "user": 10**12 + i}) + "\n" for i in range(30)))
    assert opened(path, features=["n"], label="user").baseline is None


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.jsonl: no such file"):
        opened(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="gone.jsonl cannot be read: No such file"):
        open_jsonl(Job(data=str(tmp_path / "gone.jsonl")))


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    first = parquet(tmp_path, NUMBERS[:60])
    first.rename(tmp_path / "a.parquet")
    parquet(tmp_path, NUMBERS[60:]).rename(tmp_path / "b.parquet")
    data = opened(tmp_path, features=["a"], label="name")
    assert len(data) == 95
    assert data.batch(np.array([94]))[0].tolist() == [[98]]


def test_a_folder_of_parquet_files_needs_the_columns_that_are_read_alike(tmp_path: Path) -> None:
    parquet(tmp_path, [{"a": 1, "b": None, "t": "abc"}] * 30).rename(tmp_path / "a.parquet")
    parquet(tmp_path, [{"a": 1, "b": 2.5}] * 30).rename(tmp_path / "b.parquet")
    assert len(opened(tmp_path, features=["a"])) == 57
    with pytest.raises(DataError, match=r"b.parquet: column 'b' is of the type double, and null in a\.parquet"):
        opened(tmp_path, features=["b"])
    with pytest.raises(DataError, match=r"b.parquet: column 't' is missing, and string in"):
        opened(tmp_path, text_field="t")


@pytest.mark.parametrize("options", [{"features": ["a"]}, {"text_field": "name"}])
def test_parquet_whose_pages_are_damaged(tmp_path: Path, options: dict[str, Any]) -> None:
    path = parquet(tmp_path, NUMBERS)
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        opened(path, **options)


def test_parquet_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path, [*NUMBERS, {"a": None, "v": [1], "name": None}])
    for options, said in (
        ({"features": ["a"]}, "'a' is null in row 101"),
        ({"features": ["v"]}, "'v' holds lists of several lengths"),
        ({"text_field": "name"}, "row 101: 'name' is None, not text"),
        ({"features": ["kind"], "label": "name"}, "'name' is null in row 101"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            opened(path, **options)
        assert caught.value.hint
    monkeypatch.setattr(parquet_module, "TABLE_SIZE_BYTES_MAX", 100)
    with pytest.raises(DataError, match="is read into memory"):
        opened(path, features=["kind"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        opened(path)
    with pytest.raises(DataError, match="has no rows"):
        opened(parquet(tmp_path, [{"a": 1}][:0]))


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="needs pyarrow") as caught:
        open_parquet(Job(data=str(tmp_path / "rows.parquet")))
    assert caught.value.hint == "pip install 'prime-actors[hf]'"
