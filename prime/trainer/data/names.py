"""From the name of a run's data to the dataset: a preset's, a path, or a function of the user's."""

from __future__ import annotations

from pathlib import Path

from prime.errors import DataError
from prime.trainer.data.contract import Dataset, Request
from prime.trainer.presets import DATASETS
from prime.trainer.task import built


def open_dataset(request: Request) -> Dataset:
    """Open what `request.data` names; `""` is the text of the standard library.

    Raises `DataError` where the data is missing or cannot be trained on, `ConfigError` where the name or an option is
    wrong, `MissingExtraError` where a format needs what is not installed.
    """
    dataset = _opened(request)
    if len(dataset) < request.batch_size:
        raise DataError(
            f"{request.data or 'the standard library'}: {len(dataset)} samples are fewer than one batch of "
            f"{request.batch_size}",
            hint=f"set batch_size to at most {len(dataset)}, or bring more data",
        )
    return dataset


def _opened(request: Request) -> Dataset:
    name = request.data or "stdlib"
    path = Path(name).expanduser()
    if name not in DATASETS and path.exists():
        return _from_path(path, request)
    if name in DATASETS:
        found: Dataset = built(name, "data", request)
        return found
    if ":" in name:
        from prime.trainer.data.users import adapted

        return adapted(built(name, "data", request), name, request.batch_size)
    raise DataError(
        f"{name}: no such file or folder",
        hint=f"name a text file or a folder of them, module:function, or one of {', '.join(sorted(DATASETS))}",
    )


def _from_path(path: Path, request: Request) -> Dataset:  # noqa: ARG001 - formats by suffix
    from prime.trainer.data.text import open_text

    return open_text(request)
