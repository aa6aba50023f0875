"""Samples that lie in memory as arrays: inputs, and a label for each.

Shapes: N samples, n samples of a batch, … the shape of one input.
"""

from __future__ import annotations

from typing import Any, Final, Self

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import DataError
from prime.trainer.data.contract import Indices
from prime.trainer.data.fingerprint import fingerprint

HELD_OUT_EVERY: Final = 20
CLASSES_MAX: Final = 2**20
"""Labels beyond it are numbers of something, not classes that a guess could be made among."""
HELD_OUT_ROWS: Final = 250
"""Samples of a held-out batch: it needs no gradient, so it may be larger than one to train on."""

Array = npt.NDArray[Any]
Batch = tuple[npt.NDArray[np.float32], Array] | npt.NDArray[np.float32]
"""Inputs float32[n, …] and labels int64[n] (classes) or float32[n]; where there are no labels the inputs alone."""


@attrs.frozen(eq=False)
class Samples:
    """Inputs [N, …] of any number type, and labels [N] or none."""

    inputs: Array
    labels: Array | None

    def rows(self, indices: Indices) -> Samples:
        """Return some of them, in that order."""
        return Samples(self.inputs[indices], None if self.labels is None else self.labels[indices])

    def arrays(self) -> list[Array]:
        """Return what there is."""
        return [self.inputs] if self.labels is None else [self.inputs, self.labels]


@attrs.frozen(eq=False)
class ArrayDataset:
    """Samples to train on and samples held out. An input is given as `(value - offset) / scale`, float32."""

    training: Samples
    reserved: Samples
    fingerprint: str
    offset: float = 0.0
    scale: float = 1.0
    tokens_per_sample: int = 0

    @classmethod
    def split(cls, samples: Samples, name: str, every: int = HELD_OUT_EVERY, **scaling: float) -> Self:
        """Hold out every 20th sample, or every so many. Raises `DataError` where there are too few for that."""
        count = len(samples.inputs)
        if count < every:
            raise DataError(
                f"{name}: of {count} samples none can be held out", hint=f"it takes {every} samples at the least"
            )
        places = np.arange(count)
        is_held_out = places % every == every - 1
        training, reserved = samples.rows(places[~is_held_out]), samples.rows(places[is_held_out])
        return cls(training, reserved, fingerprint(samples.arrays(), every), **scaling)  # type: ignore[arg-type]  # floats

    @property
    def baseline(self) -> float | None:
        """Return what a guess by the classes' frequencies costs, in nats; without classes `None`."""
        mine, theirs = self.training.labels, self.reserved.labels
        return None if mine is None or theirs is None else class_baseline(mine, theirs)

    def __len__(self) -> int:
        """Return how many samples are trained on."""
        return len(self.training.inputs)

    def batch(self, indices: Indices) -> Batch:
        """Return those samples."""
        return self._scaled(self.training.rows(indices))

    def held_out(self, count: int) -> list[Batch]:
        """Return at most `count` batches of up to 250 samples, spread evenly over what is held out."""
        places = spread_batches(len(self.reserved.inputs), HELD_OUT_ROWS, count)
        return [self._scaled(self.reserved.rows(part)) for part in places]

    def _scaled(self, samples: Samples) -> Batch:
        inputs = samples.inputs.astype(np.float32)
        if (self.offset, self.scale) != (0.0, 1.0):
            inputs = (inputs - np.float32(self.offset)) / np.float32(self.scale)
        return inputs if samples.labels is None else (inputs, samples.labels)


def class_baseline(training: Array, held_out: Array) -> float | None:
    """Return what a guess by the classes' frequencies costs on labels held out, in nats; `None` if they are no classes.

    Frequencies are those of the training labels, with one added to each count (Laplace).
    """
    if training.dtype.kind != "i" or min(training.min(), held_out.min()) < 0:
        return None
    if max(training.max(), held_out.max()) >= CLASSES_MAX:
        return None
    count = np.bincount(training, minlength=int(held_out.max()) + 1) + 1
    return -float(np.log(count / count.sum())[held_out].mean())


def spread_batches(length: int, rows: int, count: int) -> list[Indices]:
    """Return at most `count` batches of one size, at most `rows`, spread evenly over `length` samples.

    Where `count` is enough for all samples they are all in it, but for fewer than there are batches.
    """
    batches = min(count, -(-length // rows))
    rows = min(rows, length // batches)
    return np.split(np.linspace(0, length - 1, rows * batches).astype(np.int64), batches)
