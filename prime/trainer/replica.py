"""The numeric half of a rank worker: the local model, its optimiser, and the snapshot that deltas are counted from.

Everything here runs in the worker's torch thread. Flat vectors are float32[D] in the order of the module's parameters.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
        self._elements = sum(parameter.numel() for parameter in self._parameters)
        self._inner = self._inner_step()
        self._held_out: dict[int, Sequence[Any]] = {}
        self.step = 0
        """Inner steps made since the start; other threads may read it."""
        self.initial = self.snapshot = self._shared = self.local()

    @property
    def baseline(self) -> float | None:
        """Return the data's trivial baseline, if it names one."""
        return self._data.baseline

    def metadata(self) -> ModelMetadata:
        """Describe the model."""
        layout = tuple(TensorLayout(n, tuple(p.shape), str(p.dtype).removeprefix("torch.")) for n, p in self._named)
        return ModelMetadata(self._config.model or "charlm", self._elements, layout)

    def local(self) -> Vector:
        """Return the parameters as one flat vector, a copy."""
        with torch.no_grad():
            return torch.cat([p.detach().reshape(-1).float() for p in self._parameters]).cpu().numpy()

    def load(self, theta: Vector) -> None:
        """Set parameters and snapshot; the optimiser keeps its state."""
        self._set(theta)
        self.snapshot = self._shared = theta

    def take_snapshot(self) -> Vector:
        """Return the local parameters and remember them."""
        self.snapshot = self.local()
        return self.snapshot

    def rebase(self, theta: Vector) -> None:
        """Move onto new shared parameters, keeping what was learnt since the snapshot."""
        self._check(theta)
        self._set(theta + (self.local() - self.snapshot))
        self.snapshot = self._shared = theta

    def forget_snapshot(self) -> None:
        """Have the next `rebase` keep all that was learnt since the shared parameters were set."""
        self.snapshot = self._shared

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
        mine = self.local()
        self._set(theta)
        try:
            yield
        finally:
            self._set(mine)

    def _set(self, theta: Vector) -> None:
        self._check(theta)
        flat, at = torch.from_numpy(theta), 0
        with torch.no_grad():
            for parameter in self._parameters:
                count = parameter.numel()
                parameter.copy_(flat[at : at + count].view_as(parameter))
                at += count

    def _check(self, theta: Vector) -> None:
        if theta.size != self._elements:
            raise ConfigError(
                f"{theta.size} parameters for a model of {self._elements}",
                hint="every node of a run needs the same model: compare their [train] sections",
            )
