"""What a dataset is: samples by their number, collated into batches, and batches that nobody trains on.

A dataset knows no step, no rank and no pass. Which samples a step takes is a function of (seed, step) alone, and which
of them a rank takes one of (rank, world): both stand in `prime.trainer.data.order`. So a run that goes on from a
checkpoint, on as many ranks or on others, reads the very samples that it would have read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
"""Numbers of samples, from 0 to under the length of their dataset."""


class Dataset(Protocol):
    """Samples 0 to n - 1. What a batch is, is between dataset and model.

    A batch holds numpy arrays or torch tensors, by themselves or within tuples, lists and dicts. The arrays become
    tensors, and all of them are moved to the rank's device, before the model sees them.
    """

    @property
    def baseline(self) -> float | None:
        """Return a loss that a trivial guess reaches on what is held out, for the curve; `None` if there is none."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what is equal for equal data; empty where it is not known, and then it is not compared.

        It is kept with a checkpoint and compared over the ranks, so that data which changed between two is noticed.
        """
        ...

    @property
    def tokens_per_sample(self) -> int:
        """Return how many predictions one sample holds, where it is a sequence; 0 elsewhere."""
        ...

    def __len__(self) -> int:
        """Return how many samples there are to train on."""
        ...

    def batch(self, indices: Indices) -> Any:
        """Return those samples, collated: always the same for the same indices, in their order."""
        ...

    def held_out(self, count: int) -> Sequence[Any]:
        """Return at most `count` batches that nobody trains on, the same for everyone."""
        ...


class Request(Protocol):
    """What a function that makes a dataset is told: a `Job`, or in a swarm the `TrainingConfig`. Both have these."""

    @property
    def model(self) -> str:
        """Return what the run names as its model."""
        ...

    @property
    def data(self) -> str:
        """Return what the run names as its data."""
        ...

    @property
    def data_options(self) -> Mapping[str, Any]:
        """Return the table `[data_options]` of the run."""
        ...

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Return the table `[model_options]` of the run."""
        ...

    @property
    def batch_size(self) -> int:
        """Return how many samples a step takes."""
        ...

    @property
    def seed(self) -> int:
        """Return the run's seed."""
        ...
