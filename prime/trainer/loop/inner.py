"""One step of training: forward and backward over microbatches, the norm of the gradient, the update.

The step is the same for a rank of a gang and for the one rank of a swarm's node: what differs is how gradients are
shared, and that is a `Sharing`.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from attrs import frozen

from prime.errors import ConfigError, NonFiniteError
from prime.trainer.loop.scale import LossScale
from prime.trainer.loop.seeds import step_seed

EPSILON: Final = 1e-6
"""As torch's own clipping adds it to the norm."""
Microbatch = tuple[Any, float]
"""A batch, and its samples as a fraction of the samples of the whole step."""


class Sharing(Protocol):
    """What the ranks share in a step."""

    world: int
    """Gradients are averaged over so many ranks."""

    def microbatch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context for one forward and backward pass; gradients are reduced in the `last` one."""
        ...

    def reduce_wait_s(self) -> float:
        """Return how long the step's backward passes waited for the reduction."""
        ...

    def total(self, value: float) -> float:
        """Return the sum of a figure over all ranks, the same on each."""
        ...


class Updates(Protocol):
    """What an optimiser does in a step."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        ...

    def update(self, learning_rate: float) -> None:
        """Move the parameters along their gradients."""
        ...


class Alone:
    """One rank, which shares nothing."""

    world = 1

    def microbatch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002 - a `Sharing`
        """Return a context without effect."""
        return contextlib.nullcontext()

    def reduce_wait_s(self) -> float:
        """Return 0."""
        return 0.0

    def total(self, value: float) -> float:
        """Return the figure."""
        return value


@frozen
class InnerReport:
    """What one step came to: the mean loss over its samples, the norm before clipping, and the seconds of each part."""

    loss: float
    grad_norm: float
    learning_rate: float
    data_s: float
    compute_s: float
    reduce_s: float
    optimiser_s: float
    skipped: bool = False


class InnerStep:
    """Makes steps. `loss` maps a batch to its mean loss, a scalar tensor; `rate` maps a step to its learning rate."""

    def __init__(
        self,
        loss: Callable[[Any], torch.Tensor],
        named: Sequence[tuple[str, torch.nn.Parameter]],
        optimiser: Updates,
        *,
        rate: Callable[[int], float],
        clip_norm: float,
        seed: int,
        rank: int,
        sharing: Sharing | None = None,
        scale: LossScale | None = None,
    ) -> None:
        self._loss, self._named, self._optimiser = loss, named, optimiser
        self._rate, self._clip_norm, self._seed, self._rank = rate, clip_norm, seed, rank
        self._sharing = Alone() if sharing is None else sharing
        self._scale = scale

    def make(self, step: int, microbatches: Iterable[Microbatch], count: int) -> InnerReport:
        """Make step `step` (from 0) of `count` microbatches, which are asked for one after the other.

        Raises `NonFiniteError` where the gradient is not finite, on every rank alike; parameters stay as they were. With
        a loss scale the update is skipped, and the scale halved, as long as there is room to.
        """
        sow(step_seed(self._seed, step, self._rank))
        self._optimiser.zero_grad()
        watch = _Watch()
        loss, error = self._passes(watch.around(microbatches), count)
        loss = self._sharing.total(loss)
        passes_s = watch.lap()
        norm, error = (math.nan, error) if error is not None else self._clipped()
        learning_rate = self._rate(step)
        if error is None:
            self._optimiser.update(learning_rate)
        self._judge(error)
        reduce_s = min(self._sharing.reduce_wait_s(), passes_s)
        times = (watch.inside_s, passes_s - reduce_s, reduce_s, watch.lap())
        return InnerReport(loss, norm, learning_rate, *times, skipped=error is not None)

    def _passes(self, microbatches: Iterable[Microbatch], count: int) -> tuple[float, NonFiniteError | None]:
        """Go forward and backward over all microbatches; return this rank's part of the mean loss."""
        # Gradients are averaged over the ranks: each sample then weighs the same, however uneven the shares.
        factor = self._sharing.world * (self._scale.value if self._scale else 1.0)
        total, error = 0.0, None
        for number, (batch, fraction) in enumerate(microbatches, start=1):
            with self._sharing.microbatch(last=number == count):
                loss = _scalar(self._loss(batch))
                try:
                    (loss * (fraction * factor)).backward()
                except NonFiniteError as refused:  # by a codec, on every rank alike
                    error = refused
            total += float(loss.detach()) * fraction
        return total, error

    def _clipped(self) -> tuple[float, NonFiniteError | None]:
        """Take the scale out of the gradients and clip them; return their norm before that, over all shards."""
        gradients = [parameter.grad for _, parameter in self._named if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        found = float(norm) / (self._scale.value if self._scale else 1.0)
        if not math.isfinite(found):
            return found, self._not_finite()
        factor = min(1.0, self._clip_norm / (found + EPSILON)) if self._clip_norm > 0 else 1.0
        factor /= self._scale.value if self._scale else 1.0
        if factor != 1.0:
            torch._foreach_mul_([_local(gradient) for gradient in gradients], factor)
        return found, None

    def _judge(self, error: NonFiniteError | None) -> None:
        """Have the scale follow from how the step went; raise what it cannot mend."""
        if error is None and self._scale is not None:
            self._scale.hold()
        if error is not None and not (self._scale is not None and self._scale.lower()):
            raise error

    def _not_finite(self) -> NonFiniteError:
        """Name the parameters: those whose shard here is not finite."""
        names = [n for n, p in self._named if p.grad is not None and not bool(torch.isfinite(_local(p.grad)).all())]
        where = f" in {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}" if names else " on another rank"
        return NonFiniteError(
            f"the gradient is not finite{where}",
            hint="lower the learning rate, add warm-up steps, or look for it in the data",
        )


def sow(seed: int) -> None:
    """Have all that a model or a dataset may draw from begin anew: torch, numpy and Python's own generator."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that other libraries draw from
    random.seed(seed)


def _scalar(loss: Any) -> torch.Tensor:
    """Refuse a loss that no backward pass can begin with."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = f"a tensor of the shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ConfigError(
            f"the model's loss is {what}, not one number", hint="return the mean over the batch, a tensor"
        )
    if not loss.requires_grad:
        raise ConfigError(
            "the model's loss depends on no trainable parameter",
            hint="compute it without detach, item or no_grad, from parameters with requires_grad",
        )
    return loss


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a sharded tensor that is here."""
    found: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


class _Watch:
    """Tells laps apart, and what was spent inside an iterator."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.inside_s = 0.0

    def around(self, items: Iterable[Microbatch]) -> Iterator[Microbatch]:
        source = iter(items)
        while True:
            before = time.perf_counter()
            item = next(source, None)
            self.inside_s += time.perf_counter() - before
            self._last += time.perf_counter() - before
            if item is None:
                return
            yield item

    def lap(self) -> float:
        """Return the time since the last lap, without what was spent inside the iterator."""
        now = time.perf_counter()
        self._last, passed_s = now, now - self._last
        return passed_s
