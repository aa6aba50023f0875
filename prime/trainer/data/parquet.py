"""Parquet: a file, or a folder of files with the same columns. Only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from prime.errors import DataError, MissingExtraError
from prime.trainer.data.arrays import Array
from prime.trainer.data.columns import dataset_of_table
from prime.trainer.data.contract import Dataset, Request

SUFFIX: Final = ".parquet"
TABLE_SIZE_BYTES_MAX: Final = 2 * 2**30
"""What the columns of one table may take in memory, on each rank."""
ROWS: Final = 4096
"""Texts that are decoded at a time."""


def open_parquet(request: Request) -> Dataset:
    """Open the file or folder that a run names. Raises `DataError`, or `MissingExtraError` without pyarrow."""
    path = Path(request.data).expanduser()
    return dataset_of_table(Parquet(str(path), sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]), request)


def is_parquet(path: Path) -> bool:
    """Say whether a path is a Parquet file or a folder that holds some."""
    return path.suffix == SUFFIX or (path.is_dir() and any(path.glob(f"*{SUFFIX}")))


class Parquet:
    """Files as one table."""

    def __init__(self, name: str, paths: list[Path]) -> None:
        self.name = name
        self._paths = paths
        self._files = [_opened(path) for path in paths]
        self.columns: tuple[str, ...] = tuple(self._files[0].schema_arrow.names)
        if not sum(file.metadata.num_rows for file in self._files):
            raise DataError(f"{name} has no rows", hint="name a table with rows")

    def texts(self, column: str) -> Iterator[str]:
        """Yield a column of strings; rows without one are refused."""
        self._require_alike(column)
        row = 0
        for file in self._files:
            for batch in _read(file.iter_batches(ROWS, columns=[column]), self.name):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if not isinstance(value, str):
                        raise DataError(
                            f"{self.name} row {row}: {column!r} is {value!r:.40}, not text",
                            hint="name a column of text",
                        )
                    yield value

    def numbers(self, column: str) -> Array:
        """Return a column of numbers."""
        return _numbers(self._column(column), f"{self.name}: column {column!r}")

    def labels(self, column: str) -> Array:
        """Return a column of numbers or names."""
        import pyarrow.types

        values = self._column(column)
        if pyarrow.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
            _require_no_nulls(values, f"{self.name}: column {column!r}")
            return np.array(values.to_pylist())
        return _numbers(values, f"{self.name}: column {column!r}")

    def _require_alike(self, column: str) -> None:
        """Refuse a column that is not in all files of a folder, or is of several types."""
        kinds = [dict(zip(each.schema_arrow.names, each.schema_arrow.types, strict=True)) for each in self._files]
        for path, types in zip(self._paths, kinds, strict=True):
            if types.get(column) != kinds[0][column]:
                found = f"of the type {types[column]}" if column in types else "missing"
                raise DataError(
                    f"{path}: column {column!r} is {found}, and {kinds[0][column]} in {self._paths[0].name}",
                    hint="the files of a folder are one table: write them alike, or name one of them",
                )

    def _column(self, column: str) -> Any:
        """Read one column of all files as one pyarrow array."""
        from pyarrow import chunked_array

        self._require_alike(column)
        size_bytes = sum(_column_bytes(file, column) for file in self._files)
        if size_bytes > TABLE_SIZE_BYTES_MAX:
            raise DataError(
                f"{self.name}: column {column!r} takes {size_bytes / 2**30:.1f} GiB, and is read into memory",
                hint="load it once with Hugging Face's datasets, save_to_disk, and name that folder: it is mapped",
            )
        tables = _read((file.read([column]) for file in self._files), self.name)
        chunks = [chunk for table in tables for chunk in table.column(0).chunks]
        return chunked_array(chunks).combine_chunks()


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtraError("Parquet needs pyarrow", hint="pip install 'prime-actors[hf]'") from None
    try:
        return ParquetFile(path, memory_map=True)
    except (ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {error}", hint="write it again, or check its path"
        ) from error


def _read(parts: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield what is read. Raises `DataError` where the file turns out to be damaged."""
    from pyarrow import ArrowException

    try:
        yield from parts
    except (ArrowException, OSError) as error:
        text = str(error).partition("\n")[0]
        raise DataError(f"{name} cannot be read as Parquet: {text}", hint="it is damaged: write it again") from error


def _column_bytes(file: Any, column: str) -> int:
    metadata = file.metadata
    parts = [
        metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in range(metadata.num_columns)
    ]
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] == column)


def _numbers(values: Any, where: str) -> Array:
    """Return a pyarrow array of numbers, or of lists of one length, as [N, …]."""
    import pyarrow.types as kinds

    _require_no_nulls(values, where)
    if kinds.is_list(values.type) or kinds.is_large_list(values.type) or kinds.is_fixed_size_list(values.type):
        flat = values.flatten()
        width, rest = divmod(len(flat), len(values))
        lengths = values.value_lengths() if hasattr(values, "value_lengths") else None
        if rest or (lengths is not None and len(set(lengths.to_pylist())) > 1):
            raise DataError(f"{where} holds lists of several lengths", hint="bring them to one length")
        inner = _numbers(flat, where)
        return inner.reshape(len(values), width, *inner.shape[1:])
    if not (kinds.is_integer(values.type) or kinds.is_floating(values.type) or kinds.is_boolean(values.type)):
        raise DataError(f"{where} is {values.type}, not numbers", hint="name columns of numbers")
    found: Array = values.to_numpy(zero_copy_only=False)
    return found


def _require_no_nulls(values: Any, where: str) -> None:
    if values.null_count:
        row = values.is_null().to_pylist().index(True) + 1
        raise DataError(f"{where} is null in row {row}", hint="fill or leave out such rows")
