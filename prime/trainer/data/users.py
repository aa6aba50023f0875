"""What a user's function may return as data: a dataset of Prime's, or one as torch and its libraries have them.

Of the second kind ("map-style") only its length and `[i]` are needed. It may have more, as attributes:

- `collate` or `collate_fn`: makes a batch of a list of samples; torch's default otherwise.
- `held_out`: such a dataset, of samples that nobody trains on; every 20th sample is held out otherwise.
- `baseline`, `fingerprint`: as in `prime.trainer.data.contract.Dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from prime.errors import ConfigError, DataError
from prime.trainer.data.arrays import HELD_OUT_EVERY, spread_batches
from prime.trainer.data.contract import Dataset, Indices

_CONTRACT: Final = "see docs/how-to/own-data.md for what the function may return"


def adapted(found: Any, name: str, batch_size: int) -> Dataset:
    """Return what a user's function returned as a dataset. Raises `ConfigError` where it cannot be one."""
    if _has(found, "batch", "held_out", "__len__"):
        return OwnDataset(found, name)
    if _has(found, "__getitem__", "__len__") and not (_is_stream(found) or isinstance(found, (tuple, dict, str))):
        return MapDataset(found, name, batch_size)
    raise ConfigError(f"{name} returned a {type(found).__name__}, {_why_not(found)}", hint=_CONTRACT)


def _is_stream(found: Any) -> bool:
    """Say whether samples come in an order of their own only. The streams of torch and datasets have a `[i]` that fails."""
    named = any(kind.__name__ == "IterableDataset" for kind in type(found).__mro__)
    return named or (hasattr(found, "__iter__") and not hasattr(found, "__getitem__"))


def _why_not(found: Any) -> str:
    if hasattr(found, "batch_sampler") and hasattr(found, "dataset"):
        return "which draws an order of its own: return its `dataset`; Prime draws the batches"
    if _is_stream(found):
        return (
            "which can only be gone through from its start: the samples of a step are a function of seed and step, so "
            "that a restarted rank sees the same ones, and that takes a length and `[i]`; write the samples to a file "
            "(Parquet, JSONL) first, or number them"
        )
    if isinstance(found, tuple):
        return "not a dataset: return one dataset, and have what is held out as its attribute `held_out`"
    return "which lacks `__len__` and `__getitem__`, or `batch` and `held_out`"


class OwnDataset:
    """A user's dataset that collates by itself; what it leaves unsaid is filled in."""

    def __init__(self, found: Any, name: str) -> None:
        self._found, self._name = found, name
        self.baseline: float | None = getattr(found, "baseline", None)
        self.fingerprint: str = str(getattr(found, "fingerprint", ""))
        self.tokens_per_sample: int = getattr(found, "tokens_per_sample", 0)

    def __len__(self) -> int:
        """Return the user's count."""
        return len(self._found)

    def batch(self, indices: Indices) -> Any:
        """Return the user's batch."""
        return self._found.batch(indices)

    def held_out(self, count: int) -> Sequence[Any]:
        """Return the user's batches. Raises `ConfigError` where there are none."""
        found = self._found.held_out(count)
        batches: Sequence[Any] = list(() if found is None else found)
        if not batches:
            raise ConfigError(f"{self._name}: `held_out` gave no batches", hint=_CONTRACT)
        return batches


class MapDataset:
    """Samples by `[i]`, one after the other, collated. A sample that cannot be had is named in a `DataError`."""

    def __init__(self, samples: Any, name: str, batch_size: int) -> None:
        self._samples, self._name, self._batch_size = samples, name, batch_size
        self._split = not hasattr(samples, "held_out")
        self._reserved: Any = [] if self._split else samples.held_out
        if self._split and len(samples) < HELD_OUT_EVERY:
            raise DataError(
                f"{name}: of {len(samples)} samples none can be held out",
                hint=f"it takes {HELD_OUT_EVERY}, or a dataset as its attribute `held_out`",
            )
        if not self._split and not len(self._reserved):
            raise DataError(
                f"{name}: its attribute `held_out` is empty", hint="leave it away, and every 20th is held out"
            )
        self._collate: Callable[[list[Any]], Any] = _collate_of(samples)
        self.baseline: float | None = getattr(samples, "baseline", None)
        self.tokens_per_sample: int = getattr(samples, "tokens_per_sample", 0)
        lengths = f"{len(samples)} samples" + ("" if self._split else f", {len(self._reserved)} held out")
        self.fingerprint: str = str(getattr(samples, "fingerprint", lengths))

    def __len__(self) -> int:
        """Return how many samples are trained on."""
        count = len(self._samples)
        return count - count // HELD_OUT_EVERY if self._split else count

    def batch(self, indices: Indices) -> Any:
        """Return those samples, collated."""
        kept = indices + indices // (HELD_OUT_EVERY - 1) if self._split else indices
        return self._collated(self._samples, kept)

    def held_out(self, count: int) -> list[Any]:
        """Return at most `count` batches, spread evenly over what is held out."""
        samples, every = (self._samples, HELD_OUT_EVERY) if self._split else (self._reserved, 1)
        places = np.arange(every - 1, len(samples), every)
        return [self._collated(samples, places[part]) for part in spread_batches(places.size, self._batch_size, count)]

    def _collated(self, samples: Any, indices: Indices) -> Any:
        found = self._fetched(samples, indices.tolist())
        try:
            return self._collate(found)
        except Exception as error:
            raise DataError(
                f"{self._name}: samples {indices.tolist()[:8]}… make no batch ({type(error).__name__}: {error})",
                hint="samples of one batch need equal shapes; or give the dataset a function as its attribute "
                "`collate`: it gets a list of samples",
            ) from error

    def _fetched(self, samples: Any, indices: list[int]) -> list[Any]:
        several = getattr(samples, "__getitems__", None)
        if (
            several is not None
        ):  # torch's own loaders prefer it, too: libraries read many samples faster than one by one
            return list(several(indices))
        return [self._one(samples, index) for index in indices]

    def _one(self, samples: Any, index: int) -> Any:
        try:
            return samples[index]
        except Exception as error:
            raise DataError(
                f"{self._name}: sample {index} of {len(samples)} raised {type(error).__name__}: {error}",
                hint=f"ask the dataset for [{index}] by itself to debug it",
            ) from error


def _has(found: Any, *names: str) -> bool:
    return all(callable(getattr(found, name, None)) for name in names)


def _collate_of(samples: Any) -> Callable[[list[Any]], Any]:
    for name in ("collate", "collate_fn"):
        if callable(collate := getattr(samples, name, None)):
            return collate
    from torch.utils.data import default_collate

    return default_collate
