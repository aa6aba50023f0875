"""A plain PyTorch loop of the user's own, on several ranks by two new lines and a changed one.

    from prime.trainer import attach
    loop = attach(model, codec="int8")
    for batch in loop.share(loader):

The ranks are those of torchrun, or of a process group that the program has made; alone, nothing changes. Every rank
takes its share of each batch, and when a backward pass ends, each gradient is the mean over all samples of the batch: so
clipping, schedules and optimisers stay as they are, and the loss curve is that of one rank. What the loop does with a
loss that is a mean over its batch, it does as before; a sum over the batch would be divided by the ranks.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from prime.errors import ConfigError, UsageError
from prime.trainer.codec.policy import Policy
from prime.trainer.collective.backward import at_end_of_backward
from prime.trainer.collective.reduce import CompressedReduce, Pending, Segment
from prime.trainer.data.order import share
from prime.trainer.loop.seeds import step_seed

BATCH = TypeVar("BATCH")
BUCKET_SIZE_BYTES: Final = 25 * 2**20
"""Gradients travel in buckets of about this size, while the backward pass goes on; as in DDP."""


def attach(
    model: nn.Module,
    *,
    codec: str = "none",
    error_feedback: bool | Literal["auto"] = "auto",
    exact_below: int = 4096,
) -> PlainLoop:
    """Have the gradients of a model averaged over all ranks, compressed by `codec`, whenever a backward pass ends.

    The model gets the parameters of rank 0, and each rank draws its own random numbers from here on. Call it once, with
    the model on its device. Under torchrun the process group is made (NCCL where there is a GPU, else gloo), unless the
    program made one. Raises `ConfigError` for a codec that is none, and for a model that does not train.
    """
    return PlainLoop(model, codec=codec, error_feedback=error_feedback, exact_below=exact_below)


class PlainLoop:
    """What `attach` returns: this rank's part in the loop."""

    def __init__(
        self, model: nn.Module, *, codec: str, error_feedback: bool | Literal["auto"], exact_below: int
    ) -> None:
        policy = Policy(codec, exact_below)
        self.rank, self.world = _join()
        """This rank among so many."""
        self._weight = 1.0
        self._device = next((p.device for p in model.parameters() if p.requires_grad), None)
        if self._device is None:
            raise ConfigError("the model has no trainable parameters", hint="attach it before it is frozen")
        self._order = torch.get_rng_state()
        self._reducer: _Reducer | None = None
        if self.world > 1:
            _make_equal(model)
            self._order = _agreed(torch.get_rng_state(), self._device)
            torch.manual_seed(step_seed(torch.initial_seed() % 2**62, 0, self.rank))
            self._reducer = _Reducer(model, policy, error_feedback=error_feedback)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints and saves."""
        return self.rank == 0

    @property
    def bytes_sent(self) -> int:
        """What this rank has sent so far to reduce gradients."""
        return self._reducer.reduce.bytes_sent if self._reducer else 0

    @property
    def bytes_exact(self) -> int:
        """What the same reductions send in float32."""
        return self._reducer.reduce.bytes_exact if self._reducer else 0

    def share(self, loader: Iterable[BATCH]) -> Iterable[BATCH]:
        """Return this rank's share of each batch of a loader, anew each time that it is gone through.

        Of a `DataLoader` over samples by number only the rank's own samples are read, in the order that rank 0
        alone would draw. Any
        other iterable is gone through by every rank and has to give the same batches on each; a batch is then cut along
        the first dimension of its tensors. A batch with fewer samples than ranks is left out.
        """
        if self.world == 1:
            return loader
        if isinstance(loader, DataLoader) and _is_by_number(loader):
            return _SharedLoader(self, loader)
        return _Sliced(self, loader)

    def mean(self, value: torch.Tensor | float) -> float:
        """Return the mean of a figure of the batch in hand over all its samples, the same on every rank."""
        held = torch.as_tensor(value, dtype=torch.float64, device=self._device).detach() * self._weight
        if self.world > 1:
            dist.all_reduce(held)
        return float(held) / self.world

    def weigh(self, mine: int, total: int) -> None:
        """Say how many samples of the next batch are this rank's: for who cuts batches without `share`."""
        self._weight = mine * self.world / total
        if self._reducer is not None:
            self._reducer.weight = self._weight

    def begun(self, batches: Iterable[BATCH]) -> Iterator[BATCH]:
        """Go through what torch's generator shuffles, in the order that rank 0 alone would draw.

        Torch's samplers draw all of it with their first batch.
        """
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._order)
            source = iter(batches)
            first = next(source, None)
            self._order = torch.get_rng_state()
        if first is not None:
            yield first
            yield from source


# ------------------------------------------------------------------------------------------------------- the reduction


class _Bucket:
    """Parameters whose gradients travel together.

    Shape: flat [D + P], the gradients of P parameters one after the other, and for each whether it has one: an optimiser
    leaves a parameter alone that got none on any rank.
    """

    def __init__(self, number: int, named: Sequence[tuple[str, nn.Parameter]], reduce: CompressedReduce) -> None:
        self.parameters = [parameter for _, parameter in named]
        self.key = f"bucket {number}"
        self.segments = [Segment(n, p.numel(), reduce.codec_of(n, p.shape)) for n, p in named]
        self.segments.append(Segment("", len(named), "none"))
        self.missing = len(named)
        self.pending: Pending | None = None

    def start(self, reduce: CompressedReduce, weight: float) -> None:
        """Begin to reduce."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        has = gradients[0].new_tensor([p.grad is not None for p in self.parameters])
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), has])
        self.pending = reduce.start(flat.mul_(weight), self.key, self.segments)

    def end(self) -> None:
        """Put the reduced gradients back, and be ready for the next backward pass."""
        assert self.pending is not None  # noqa: S101 - a pair with `start`
        *reduced, has = self.pending.flat.split([segment.elements for segment in self.segments])
        for parameter, gradient, is_there in zip(self.parameters, reduced, has.tolist(), strict=True):
            if not is_there:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(gradient.view_as(parameter))
        self.pending, self.missing = None, len(self.parameters)


class _Reducer:
    """Starts a bucket when its gradients are there, all in one order on every rank, and ends them with the pass."""

    def __init__(self, model: nn.Module, policy: Policy, *, error_feedback: bool | Literal["auto"]) -> None:
        self.reduce = CompressedReduce(None, policy.codec, error_feedback=error_feedback, policy=policy)
        self.weight = 1.0
        """What the gradients of this rank weigh in the mean over ranks: its samples, over those of the average rank."""
        self._buckets = list(_buckets(model, self.reduce))
        self._owners = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        self._started = 0
        self._is_under_way = False
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hear)

    def _hear(self, parameter: torch.Tensor) -> None:
        """Note that a gradient is there."""
        if not self._is_under_way:
            self._is_under_way, self._started = True, 0
            at_end_of_backward(self._end)
        self._owners[id(parameter)].missing -= 1
        while self._started < len(self._buckets) and self._buckets[self._started].missing <= 0:
            self._start_next()

    def _start_next(self) -> None:
        self._buckets[self._started].start(self.reduce, self.weight)
        self._started += 1

    def _end(self) -> None:
        while self._started < len(self._buckets):
            self._start_next()
        self._is_under_way = False
        try:
            self.reduce.finish()
        finally:
            for bucket in self._buckets:
                bucket.end()


def _buckets(model: nn.Module, reduce: CompressedReduce) -> Iterator[_Bucket]:
    """Cut the parameters into buckets, the last ones first: a backward pass comes by them in that order."""
    named = [(name, p) for name, p in reversed(list(model.named_parameters())) if p.requires_grad]
    held: list[tuple[str, nn.Parameter]] = []
    number, size_bytes = 0, 0
    for name, parameter in named:
        is_other = bool(held) and parameter.dtype != held[0][1].dtype
        if held and (is_other or size_bytes >= BUCKET_SIZE_BYTES):
            yield _Bucket(number, held, reduce)
            number, size_bytes, held = number + 1, 0, []
        held.append((name, parameter))
        size_bytes += parameter.numel() * parameter.element_size()
    yield _Bucket(number, held, reduce)


def _make_equal(model: nn.Module) -> None:
    """Give the model rank 0's parameters and buffers."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


def _agreed(state: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return rank 0's state of a generator."""
    held = state.to(device)
    dist.broadcast(held, 0)
    return held.cpu()


def _join() -> tuple[int, int]:
    """Return this rank and the world; make torchrun's process group where the program has not."""
    if not dist.is_available() or (not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1):
        return 0, 1
    if not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        except ValueError as error:
            raise UsageError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and there is no way to the other ranks: {error}",
                hint="start the program by `torchrun --nproc-per-node N program.py`",
            ) from error
        atexit.register(_leave)
    return dist.get_rank(), dist.get_world_size()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------------- shares of batches


def _is_by_number(loader: DataLoader[Any]) -> bool:
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


class _SharedBatches:
    """A batch sampler that gives this rank's numbers of each batch."""

    def __init__(self, loop: PlainLoop, batches: Iterable[Sequence[int]]) -> None:
        self._loop, self._batches = loop, batches
        self.sizes: deque[tuple[int, int]] = deque()
        """For each batch that was drawn and not yet taken: how many samples are this rank's, and how many there are."""

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type] # as torch's loader asks its sampler

    def __iter__(self) -> Iterator[list[int]]:
        self.sizes.clear()
        for numbers in self._batches:
            if len(numbers) < self._loop.world:
                continue
            mine = share(np.asarray(numbers), self._loop.rank, self._loop.world).tolist()
            self.sizes.append((len(mine), len(numbers)))
            yield mine


class _SharedLoader(Generic[BATCH]):
    """A loader that reads this rank's samples."""

    def __init__(self, loop: PlainLoop, loader: DataLoader[Any]) -> None:
        self._loop = loop
        self._batches = _SharedBatches(loop, loader.batch_sampler or ())
        self._loader: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=self._batches,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[BATCH]:
        for batch in self._loop.begun(self._loader):
            self._loop.weigh(*self._batches.sizes.popleft())
            yield batch


class _Sliced(Generic[BATCH]):
    """Batches of any iterable, cut."""

    def __init__(self, loop: PlainLoop, batches: Iterable[BATCH]) -> None:
        self._loop, self._batches = loop, batches

    def __iter__(self) -> Iterator[BATCH]:
        loop = self._loop
        for batch in loop.begun(self._batches):
            length = _length(batch)
            if length >= loop.world:
                mine = share(np.arange(length), loop.rank, loop.world)
                loop.weigh(mine.size, length)
                yield _cut(batch, slice(int(mine[0]), int(mine[-1]) + 1))


def _length(batch: Any) -> int:
    """Return how many samples a batch has: the first dimension of the first tensor in it."""
    match batch:
        case torch.Tensor() | np.ndarray() if batch.ndim:
            return len(batch)
        case Mapping():
            return next((n for part in batch.values() if (n := _length(part))), 0)
        case tuple() | list():
            return next((n for part in batch if (n := _length(part))), 0)
    raise UsageError(
        f"a batch holds a {type(batch).__name__}, which has no first dimension to cut",
        hint="cut it yourself by loop.rank and loop.world, and say so with loop.weigh",
    )


def _cut(batch: Any, part: slice) -> Any:
    match batch:
        case Mapping():
            return {key: _cut(value, part) for key, value in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(_cut(value, part) for value in batch))
        case tuple() | list():
            return type(batch)(_cut(value, part) for value in batch)
    return batch[part]
