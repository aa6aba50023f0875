"""From the name of a run's data to the dataset: a preset's, a path, or a function of the user's."""

from __future__ import annotations

import os
from pathlib import Path

from prime.errors import DataError
from prime.trainer.catalogue import DATASETS, OWN_DATA
from prime.trainer.data.contract import Dataset, Request
from prime.trainer.data.hub import PREFIX, is_saved, open_hub
from prime.trainer.data.jsonl import SUFFIXES, open_jsonl
from prime.trainer.data.parquet import is_parquet, open_parquet
from prime.trainer.data.text import open_text
from prime.trainer.data.users import adapted
from prime.trainer.task import built


def open_dataset(request: Request) -> Dataset:
    """Open what `request.data` names; where it names nothing, what its model is made for.

    Raises `DataError` where the data is missing or cannot be trained on, `ConfigError` where the name or an option is
    wrong, `MissingExtraError` where a format needs what is not installed.
    """
    name = request.data or OWN_DATA.get(request.model, "stdlib")
    dataset = _opened(name, request)
    if len(dataset) < request.batch_size:
        raise DataError(
            f"{name}: {len(dataset)} samples are fewer than one batch of {request.batch_size}",
            hint=f"set batch_size to at most {len(dataset)}, or bring more data",
        )
    return dataset


def _opened(name: str, request: Request) -> Dataset:
    path = Path(name).expanduser()
    if name in DATASETS:
        found: Dataset = built(name, "data", request)
        return found
    if name.startswith(PREFIX) or is_saved(path):
        return open_hub(request)
    if os.path.exists(path):  # noqa: PTH110 - thousands of letters are no path, and no error
        return _from_path(path, request)
    if ":" in name:
        return adapted(built(name, "data", request), name, request.batch_size)
    raise DataError(
        f"{name}: no such file or folder",
        hint=f"name a text file or a folder of them, module:function, or one of {', '.join(sorted(DATASETS))}",
    )


def _from_path(path: Path, request: Request) -> Dataset:
    if path.suffix in SUFFIXES:
        return open_jsonl(request)
    if is_parquet(path):
        return open_parquet(request)
    return open_text(request)
