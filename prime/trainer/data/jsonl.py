"""JSONL: a file of JSON objects, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from prime.errors import DataError
from prime.trainer.data.arrays import Array
from prime.trainer.data.columns import dataset_of_table
from prime.trainer.data.contract import Dataset, Request
from prime.trainer.data.text import require_size

SUFFIXES: Final = (".jsonl", ".ndjson")
_HINT: Final = "each line is one JSON object, in UTF-8"


def open_jsonl(request: Request) -> Dataset:
    """Open the file that a run names. Raises `DataError` for the first line that cannot be used, by its number."""
    return dataset_of_table(Lines(Path(request.data).expanduser()), request)


class Lines:
    """A JSONL file as a table; the columns are the fields of its first object."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self.columns = tuple(next(self._objects(), (0, {}))[1])
        if not self.columns:
            raise DataError(f"{path} is empty", hint=_HINT)

    def texts(self, column: str) -> Iterator[str]:
        """Yield a field of each line."""
        for line, value in self._values(column):
            if not isinstance(value, str):
                raise DataError(
                    f"{self.name} line {line}: {column!r} is {_short(value)}, not text", hint="name a field of text"
                )
            yield value

    def numbers(self, column: str) -> Array:
        """Return a field of each line as numbers."""
        require_size(self.name, self._path.stat().st_size)
        rows: list[Array] = []
        for line, value in self._values(column):
            row = _array(value)
            if row is None or row.dtype.kind not in "iufb" or (rows and row.shape != rows[0].shape):
                wanted = f"numbers of the shape {list(rows[0].shape)} of the first line" if rows else "numbers"
                raise DataError(
                    f"{self.name} line {line}: {column!r} is {_short(value)}, not {wanted}",
                    hint="features are numbers, or lists of them of one length",
                )
            rows.append(row)
        return np.stack(rows)

    def labels(self, column: str) -> Array:
        """Return a field of each line as labels."""
        found: list[Any] = []
        for line, value in self._values(column):
            if not isinstance(value, (str, int, float)) or (
                found and isinstance(value, str) != isinstance(found[0], str)
            ):
                raise DataError(
                    f"{self.name} line {line}: {column!r} is {_short(value)}, no label like those before it",
                    hint="labels are all numbers or all names",
                )
            found.append(value)
        return np.array(found)

    def _values(self, column: str) -> Iterable[tuple[int, Any]]:
        for line, fields in self._objects():
            if column not in fields:
                raise DataError(
                    f"{self.name} line {line} has no field {column!r}; it has {', '.join(fields) or 'none'}",
                    hint="every line needs it: leave the others out",
                )
            yield line, fields[column]

    def _objects(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield each object with the number of its line; blank lines are passed over."""
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _object(line, f"{self.name} line {number}")
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror}", hint="check its permissions") from error


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line.decode("utf-8").removeprefix("\ufeff"))  # some editors begin a file with this mark
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start + 1})", hint=_HINT) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}", hint=_HINT) from None
    if not isinstance(found, dict):
        raise DataError(f"{where} is {_short(found)}, not an object", hint=_HINT)
    return found


def _array(value: Any) -> Array | None:
    try:
        return np.array(value)
    except ValueError:  # lists of several lengths
        return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"
