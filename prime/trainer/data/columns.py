"""From rows with named columns to a dataset: one column of text, or columns of numbers and a label.

The options say which: `text_field` (by default `text`, where there is such a column), or `features` and `label`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, Self

import attrs
import numpy as np

from prime.errors import ConfigError, DataError
from prime.trainer.data.arrays import Array, ArrayDataset, Samples
from prime.trainer.data.contract import Dataset, Request
from prime.trainer.data.options import Options
from prime.trainer.data.text import TextSettings, require_size, text_dataset

TEXT: Final = "text"
_FORMS: Final = "data_options.text_field = a column of text, or features = columns of numbers and label = a column"


class Table(Protocol):
    """Rows of some file. Whatever cannot be read is a `DataError` that names file and row."""

    @property
    def name(self) -> str:
        """Return what the table is called in errors."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of its columns."""
        ...

    def texts(self, column: str) -> Iterable[str]:
        """Yield a column of text, row by row."""
        ...

    def numbers(self, column: str) -> Array:
        """Return a column of numbers or equally long lists of them as an array [N, …]."""
        ...

    def labels(self, column: str) -> Array:
        """Return a column of labels [N]: numbers or strings."""
        ...


@attrs.frozen
class Columns:
    """Which columns make a sample: `text`, or `features` and perhaps a `label`. Features are divided by `scale`."""

    text: str
    features: tuple[str, ...] = ()
    label: str = ""
    scale: float = 1.0

    @classmethod
    def taken(cls, options: Options) -> Self:
        """Take the options. Raises `ConfigError` for a choice that is none."""
        found = cls(
            options.text("text_field", ""),
            options.texts("features"),
            options.text("label", ""),
            options.positive("scale", 1.0),
        )
        if (found.text and found.features) or (found.label and not found.features):
            raise ConfigError("data_options: text_field, features and label do not go together so", hint=_FORMS)
        return found

    def of(self, name: str, columns: Sequence[str]) -> Columns:
        """Return these columns, the default filled in. Raises `DataError` for one that the table has not."""
        chosen = self if self.text or self.features else Columns(TEXT)
        for column in filter(None, (chosen.text, *chosen.features, chosen.label)):
            if column not in columns:
                raise DataError(
                    f"{name} has no column {column!r}; it has {', '.join(columns) or 'none'}",
                    hint=f"set {_FORMS}",
                )
        return chosen


def dataset_of_table(table: Table, request: Request) -> Dataset:
    """Make the dataset that the run's options ask for. Raises `DataError` or `ConfigError`."""
    options = Options(request.data_options, "data_options", "a table")
    columns = Columns.taken(options)
    settings = TextSettings.taken(options, request)
    options.end()
    columns = columns.of(table.name, table.columns)
    if columns.text:
        return text_dataset(documents(table.texts(columns.text), table.name), table.name, settings)
    labels = classes(table.labels(columns.label), table.name) if columns.label else None
    inputs = joined([table.numbers(column) for column in columns.features], table.name)
    return ArrayDataset.split(Samples(inputs, labels), table.name, scale=columns.scale)


def joined(columns: Sequence[Array], name: str) -> Array:
    """Return columns as the inputs float32[N, …]: a single one as it is, several side by side as [N, features]."""
    try:
        found = [column.astype(np.float32) for column in columns]
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: features are no numbers of one shape ({error})", hint=f"set {_FORMS}") from None
    if not all(np.isfinite(column).all() for column in found):
        row = min(int(np.argwhere(~np.isfinite(column))[0][0]) for column in found if not np.isfinite(column).all())
        raise DataError(f"{name}: row {row + 1} holds a number that is not finite", hint="leave such rows out")
    if len(found) == 1:
        return found[0] if found[0].ndim > 1 else found[0][:, None]
    return np.concatenate([column.reshape(len(column), -1) for column in found], axis=1)


def classes(labels: Array, name: str) -> Array:
    """Return labels as classes int64[N] or as float32[N]: names become their places in the sorted list of all names."""
    if labels.dtype.kind in "US":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    found = labels.astype(np.float32)
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found.reshape(len(found), -1)).all(1)))
        raise DataError(f"{name}: the label of row {row + 1} is not finite", hint="leave such rows out")
    return found


def documents(texts: Iterable[str], name: str) -> list[str]:
    """Return the texts that are not empty, each ended by a newline, so that one does not run into the next."""
    found, size_bytes = [], 0
    for text in texts:
        size_bytes += len(text)
        require_size(name, size_bytes)
        if text.strip():
            found.append(text if text.endswith("\n") else f"{text}\n")
    if not found:
        raise DataError(f"{name}: its column of text holds none", hint="name another column as text_field")
    return found
