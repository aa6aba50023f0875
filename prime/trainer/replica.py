"""The numeric half of a rank worker: the local model, its optimiser, and the snapshot that deltas are counted from.

Everything here runs in the worker's torch thread. Flat vectors are float32[D] in the order of the module's parameters.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch

from prime.errors import ConfigError
from prime.trainer import pipe
from prime.trainer.adamw import AdamW
from prime.trainer.codec import Vector
from prime.trainer.data.names import open_dataset
from prime.trainer.data.order import seed_of_node, step_indices
from prime.trainer.data.tensors import on_device
from prime.trainer.job import Schedule
from prime.trainer.loop.building import model_of
from prime.trainer.loop.inner import InnerStep
from prime.trainer.loop.schedule import rate
from prime.trainer.metadata import ModelMetadata, TensorLayout, TrainingConfig

WHOLE: Final = slice(None)
"""All of the flat vector."""


class Replica:
    """One copy of the model. Raises `ConfigError` or `DataError` where the model or the data cannot be had."""

    def __init__(self, config: TrainingConfig, rank: int) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self._config, self._rank = config, rank
        self._model = model_of(config.model or "charlm", config, "train.model")
        self._data = open_dataset(config)
        self._order = seed_of_node(config.seed, rank)
        self._named = [(n, p) for n, p in self._model.module.named_parameters() if p.requires_grad]
        if not self._named:
            raise ConfigError("the model has no trainable parameters", hint="train.model must build a torch module")
        self._parameters = [parameter for _, parameter in self._named]
        ends = itertools.accumulate(parameter.numel() for parameter in self._parameters)
        self._edges = [0, *ends]  # where each parameter begins in the flat vector, and its end
        self._elements = self._edges[-1]
        self._inner = self._inner_step()
        self._held_out: dict[int, Sequence[Any]] = {}
        self.step = 0
        """Inner steps made since the start; other threads may read it."""
        self.initial = self.local()
        self._shared, self.snapshot = self.initial.copy(), self.initial.copy()

    @property
    def baseline(self) -> float | None:
        """Return the data's trivial baseline, if it names one."""
        return self._data.baseline

    def metadata(self) -> ModelMetadata:
        """Describe the model."""
        layout = tuple(TensorLayout(n, tuple(p.shape), str(p.dtype).removeprefix("torch.")) for n, p in self._named)
        return ModelMetadata(self._config.model or "charlm", self._elements, layout)

    @property
    def samples(self) -> int:
        """Return how many samples one pass over the data has; where they overlap, as text does, what it takes to see it once."""
        return getattr(self._data, "samples_of_a_pass", len(self._data))

    def local(self, cut: slice = WHOLE) -> Vector:
        """Return the parameters, or a slice of them, as one flat vector, a copy."""
        with torch.no_grad():
            pieces = [parameter.detach().reshape(-1)[own].float() for parameter, own, _ in self._pieces(cut)]
            return torch.cat(pieces).cpu().numpy() if pieces else np.empty(0, np.float32)

    def load(self, theta: Vector) -> None:
        """Set parameters and snapshot; the optimiser keeps its state."""
        self._check(theta)
        self._set(theta)
        self._shared[:] = self.snapshot[:] = theta

    def take_snapshot(self, cut: slice = WHOLE) -> Vector:
        """Return the local parameters in that slice, a copy, and remember them."""
        local = self.local(cut)
        self.snapshot[cut] = local
        return local

    def rebase(self, theta: Vector, start: int = 0) -> None:
        """Move onto new shared parameters from `start` on, keeping what was learnt since the snapshot of that slice."""
        cut = slice(start, start + theta.size)
        if cut.stop > self._elements:
            self._check(theta)
        self._set(theta + (self.local(cut) - self.snapshot[cut]), start)
        self._shared[cut] = self.snapshot[cut] = theta

    def forget_snapshot(self, cut: slice = WHOLE) -> None:
        """Have the next `rebase` of that slice keep all that was learnt since the shared parameters were set."""
        self.snapshot[cut] = self._shared[cut]

    def train(self, steps: int, halted: Callable[[], bool]) -> pipe.Trained:
        """Make inner steps: AdamW, linear warm-up, clipping by the norm; ends early when halted."""
        started, total, made = time.monotonic(), 0.0, 0
        while made < steps and not halted():
            total += self._one_step()
            made += 1
        tokens = made * self._config.batch_size * self._config.context
        return pipe.Trained(self.step, made, total / max(made, 1), tokens, time.monotonic() - started)

    def _one_step(self) -> float:
        samples = step_indices(self._order, self.step, self._config.batch_size, len(self._data))
        made = self._inner.make(self.step, [(on_device(self._data.batch(samples)), 1.0)], 1)
        self.step += 1
        return made.loss

    def _inner_step(self) -> InnerStep:
        config = self._config
        schedule = Schedule(name="constant", warmup_steps=config.warmup_steps)
        return InnerStep(
            self._model.loss,
            self._named,
            AdamW(self._parameters, config.weight_decay),
            rate=lambda step: rate(schedule, config.learning_rate, step, step + 1),
            clip_norm=config.clip_norm,
            seed=config.seed,
            rank=self._rank,
        )

    def evaluate(self, theta: Vector | None, batches: int) -> float:
        """Return the mean held-out loss with `theta`, or with the local parameters where it is None."""
        if batches not in self._held_out:
            self._held_out[batches] = [on_device(batch) for batch in self._data.held_out(batches)]
        found = self._held_out[batches]
        with self._evaluating(), self._holding(theta):
            return sum(float(self._model.loss(batch)) for batch in found) / len(found)

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Let the model write, if it can."""
        write = getattr(self._model, "write", None)
        if write is None:
            return ""
        with self._evaluating():
            return str(write(prompt, length, seed))

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._model.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._model.module.train()

    @contextlib.contextmanager
    def _holding(self, theta: Vector | None) -> Iterator[None]:
        """Hold other parameters for a while."""
        if theta is None:
            yield
            return
        self._check(theta)
        mine = self.local()
        self._set(theta)
        try:
            yield
        finally:
            self._set(mine)

    def _set(self, theta: Vector, start: int = 0) -> None:
        values = torch.from_numpy(theta)
        with torch.no_grad():
            for parameter, own, place in self._pieces(slice(start, start + theta.size)):
                flat = parameter.reshape(-1)
                flat[own] = values[place].to(flat.device)
                if flat.data_ptr() != parameter.data_ptr():  # its elements lie in another order: that was a copy
                    parameter.copy_(flat.view_as(parameter))

    def _pieces(self, cut: slice) -> Iterator[tuple[torch.Tensor, slice, slice]]:
        """Yield each parameter that a slice of the flat vector touches, which of its elements, and where they stand in it."""
        start, stop, _ = cut.indices(self._elements)
        for parameter, (low, high) in zip(self._parameters, itertools.pairwise(self._edges), strict=True):
            first, last = max(low, start), min(high, stop)
            if first < last:
                yield parameter, slice(first - low, last - low), slice(first - start, last - start)

    def _check(self, theta: Vector) -> None:
        if theta.size != self._elements:
            raise ConfigError(
                f"{theta.size} parameters for a model of {self._elements}",
                hint="every node of a run needs the same model: compare their [train] sections",
            )
