"""Datasets of Hugging Face's library: `hf:NAME[:SPLIT]`, by their name on the hub or by a folder.

Rows stay in the library's Arrow files, which are mapped: a table of any size can be trained on. Text is read into
memory. The split is `train` by default; the option `configuration` chooses one of a dataset that has several, and
`held_out_split` names the split that nobody trains on: every 20th row is held out otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from prime.errors import DataError, MissingExtraError
from prime.trainer.data.arrays import HELD_OUT_EVERY, HELD_OUT_ROWS, Array, Batch, class_baseline, spread_batches
from prime.trainer.data.columns import Columns, documents, joined
from prime.trainer.data.contract import Dataset, Indices, Request
from prime.trainer.data.fingerprint import fingerprint
from prime.trainer.data.options import Options
from prime.trainer.data.text import TextSettings, text_dataset

PREFIX: Final = "hf:"
SPLIT: Final = "train"
FINGERPRINT_ROWS: Final = 64
ROWS: Final = 1024
"""Texts that are read at a time."""


def open_hub(request: Request) -> Dataset:
    """Open what a run names. Raises `DataError`, `ConfigError`, or `MissingExtraError` without the library."""
    options = Options(request.data_options, "data_options", "a Hugging Face dataset")
    columns = Columns.taken(options)
    settings = TextSettings.taken(options, request)
    configuration, reserved_split = options.text("configuration", ""), options.text("held_out_split", "")
    options.end()
    name, split = _parted(request.data.removeprefix(PREFIX))
    rows = _loaded(name, split or SPLIT, configuration)
    columns = columns.of(f"{PREFIX}{name}", rows.column_names)
    reserved = _loaded(name, reserved_split, configuration) if reserved_split else None
    if columns.text:
        held_out = None if reserved is None else documents(_texts(reserved, columns.text, name), name)
        return text_dataset(documents(_texts(rows, columns.text, name), name), request.data, settings, held_out)
    return HubDataset.made(rows, reserved, columns, f"{PREFIX}{name}")


def _parted(name: str) -> tuple[str, str]:
    if Path(name).expanduser().exists():
        return name, ""
    found, _, split = name.rpartition(":")
    return (found, split) if found else (name, "")


def is_saved(path: Path) -> bool:
    """Say whether a folder is one that the library's `save_to_disk` wrote."""
    files = ("dataset_info.json", "dataset_dict.json")
    return any(os.path.isfile(path / file) for file in files)  # noqa: PTH113 - thousands of letters are no path


@attrs.frozen(eq=False)
class HubDataset:
    """Columns of numbers and a label, read from the mapped files row by row."""

    rows: Any
    """A `datasets.Dataset`."""
    reserved: Any
    """One, too, of what is held out; None: every 20th of `rows`."""
    columns: Columns
    name: str
    classes: tuple[str, ...]
    """The names that the label's column holds, where it holds names."""
    tokens_per_sample: int = 0

    @classmethod
    def made(cls, rows: Any, reserved: Any, columns: Columns, name: str) -> HubDataset:
        """Have both parts give arrays. Raises `DataError` where nothing could be held out."""
        if reserved is None and len(rows) < HELD_OUT_EVERY:
            raise DataError(
                f"{name}: of {len(rows)} rows none can be held out",
                hint=f"it takes {HELD_OUT_EVERY}, or data_options.held_out_split",
            )
        names: set[Any] = set()
        if columns.label and getattr(rows.features[columns.label], "dtype", "") in ("string", "large_string"):
            names = {name for part in (rows, reserved) if part is not None for name in part.unique(columns.label)}
        if reserved is not None and not len(reserved):
            raise DataError(f"{name}: data_options.held_out_split has no rows", hint="name another split, or none")
        wanted = [column for column in (*columns.features, columns.label) if column]
        first, second = (
            None if part is None else part.with_format("numpy", columns=wanted) for part in (rows, reserved)
        )
        return cls(first, second, columns, name, tuple(sorted(map(str, names))))

    @property
    def fingerprint(self) -> str:
        """Return a hash of the sizes and of 64 rows, spread evenly: an edit between them is not noticed."""
        (places,) = spread_batches(len(self.rows), FINGERPRINT_ROWS, 1)
        found = self._batch(self.rows, places)
        sizes = (len(self.rows), 0 if self.reserved is None else len(self.reserved))
        return fingerprint(found if isinstance(found, tuple) else [found], sizes)

    @property
    def baseline(self) -> float | None:
        """Return what a guess by the classes' frequencies costs, in nats; without classes `None`."""
        if not self.columns.label:
            return None
        labels = self._labels(self.rows[self.columns.label][:])
        if self.reserved is not None:
            return class_baseline(labels, self._labels(self.reserved[self.columns.label][:]))
        places = np.arange(len(labels))
        return class_baseline(
            labels[self._trained(np.arange(len(self)))], labels[places % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
        )

    def __len__(self) -> int:
        """Return how many rows are trained on."""
        return len(self.rows) - (len(self.rows) // HELD_OUT_EVERY if self.reserved is None else 0)

    def batch(self, indices: Indices) -> Batch:
        """Return those rows."""
        return self._batch(self.rows, self._trained(indices))

    def held_out(self, count: int) -> list[Batch]:
        """Return at most `count` batches of up to 250 rows, spread evenly over what is held out."""
        rows, every = (self.rows, HELD_OUT_EVERY) if self.reserved is None else (self.reserved, 1)
        places = np.arange(every - 1, len(rows), every)
        return [self._batch(rows, places[part]) for part in spread_batches(places.size, HELD_OUT_ROWS, count)]

    def _trained(self, indices: Indices) -> Indices:
        return indices + indices // (HELD_OUT_EVERY - 1) if self.reserved is None else indices

    def _batch(self, rows: Any, indices: Indices) -> Batch:
        found = rows[indices.tolist()]
        inputs = joined([_array(found[column]) for column in self.columns.features], self.name)
        inputs /= np.float32(self.columns.scale)
        return (inputs, self._labels(found[self.columns.label])) if self.columns.label else inputs

    def _labels(self, values: Any) -> Array:
        found = _array(values)
        if self.classes:
            return np.searchsorted(np.array(self.classes), found.astype(str)).astype(np.int64)
        return found.astype(np.int64) if found.dtype.kind in "iub" else found.astype(np.float32)


def _array(values: Any) -> Array:
    return values if isinstance(values, np.ndarray) else np.array(values)


def _texts(rows: Any, column: str, name: str) -> Iterator[str]:
    for batch in rows.select_columns(column).with_format(None).iter(ROWS):
        for text in batch[column]:
            if not isinstance(text, str):
                raise DataError(
                    f"{PREFIX}{name}: {column!r} holds {text!r:.40}, not text", hint="name a column of text"
                )
            yield text


def _loaded(name: str, split: str, configuration: str) -> Any:
    """Load one split. Whatever the library, the network or the disk says against it is a `DataError` with its words."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("hf: needs Hugging Face's datasets", hint="pip install 'prime-actors[hf]'") from None
    path = Path(name).expanduser()
    try:
        if is_saved(path):
            return _split_of(datasets.load_from_disk(str(path)), split)
        found = datasets.load_dataset(str(path) if path.exists() else name, configuration or None, split=split)
    except DataError:
        raise
    except Exception as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{PREFIX}{name}, split {split!r}, cannot be loaded: {cause}", hint=_next_step(error)
        ) from error
    if not hasattr(found, "column_names") or not hasattr(found, "__getitem__"):
        raise DataError(f"{PREFIX}{name} is a stream, which has no order of its own", hint="load it with its rows")
    return found


def _split_of(found: Any, split: str) -> Any:
    if not isinstance(found, dict):
        return found  # saved without splits: it is one
    if split not in found:
        raise DataError(f"there is no split {split!r}; there are {', '.join(found)}", hint="name it: hf:NAME:SPLIT")
    return found[split]


def _next_step(error: Exception) -> str:
    if isinstance(error, ConnectionError) or "offline" in str(error).lower():
        return (
            "check the network; or load the dataset where there is one, `save_to_disk` it, and name that folder: "
            f"data = '{PREFIX}/path/to/folder'"
        )
    return "check name, split and data_options.configuration; `datasets.load_dataset` in Python shows more"
