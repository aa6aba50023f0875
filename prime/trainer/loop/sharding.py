"""How a model lies on the ranks: whole on one, whole on each (DDP), or a shard on each (FSDP2). All by `torch.distributed`.

The model's own module is not replaced: its parameters keep their names, whatever the strategy. What is wrapped is a
module around it whose forward pass is the loss, so a loss may use the model however it likes.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from attrs import frozen
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from prime.errors import ConfigError
from prime.trainer.codec.policy import Policy
from prime.trainer.collective.ddp import attach_ddp
from prime.trainer.collective.fsdp import attach_fsdp
from prime.trainer.collective.reduce import CompressedReduce, Pending, Segment
from prime.trainer.job import Compression, Job, Parallel
from prime.trainer.loop.hooks import ExactHook, PowerHook, all_reduce_bytes, reduce_bucket
from prime.trainer.loop.units import recompute, units
from prime.trainer.task import Model

TOUCH: Final = object()
"""Stands for a batch: every parameter gets a gradient of 0, by no call of the model."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@frozen
class ToMeasure:
    """A batch of which the model's `measures` are asked, not its loss. They go the same way: a sharded model is gathered."""

    batch: Any


class LossModule(nn.Module):
    """The model with its loss as the forward pass: a batch to its mean loss, a scalar."""

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        super().__init__()
        self.model: nn.Module = model.module
        self._loss: Callable[[Any], torch.Tensor] = model.loss
        self._measures: Callable[[Any], Any] | None = getattr(model, "measures", None)
        self._device, self._dtype = device, DTYPES[precision]

    def forward(self, batch: Any) -> Any:
        """Return the mean loss of a batch, or its measures by name; matrix products are made in the job's precision."""
        if batch is TOUCH:
            return sum((p.sum() * 0 for p in self.model.parameters() if p.requires_grad), torch.zeros(()))
        with self._in_precision():
            if isinstance(batch, ToMeasure):
                return self._measures(batch.batch) if self._measures is not None else {}
            return self._loss(batch)

    def _in_precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


class Sharded:
    """A model on its rank. As `Sharing` it tells the inner step what to share; this one is whole, on a single rank."""

    name = "single"
    world = 1
    reduce: CompressedReduce | None = None
    """What reduces gradients compressed, and keeps their residuals."""
    bytes_sent = 0
    """What this rank has sent to reduce gradients, so far."""
    bytes_exact = 0
    """What the same reduction sends in float32."""

    def __init__(self, loss: LossModule) -> None:
        self.loss: Callable[[Any], torch.Tensor] = loss
        """A batch to its mean loss here; call it as often as the other ranks do."""
        self.quiet_loss: Callable[[Any], torch.Tensor] = loss
        """The same without a backward pass to follow."""

    @contextlib.contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:  # noqa: ARG002 - a `Sharing`
        """Return a context for one forward and backward pass."""
        yield

    def reduce_wait_s(self) -> float:
        """Return how long the last step waited for the reduction, beyond its own computing."""
        return 0.0

    def make_buffers_equal(self) -> None:
        """Give every rank the first one's buffers, where they went apart; every rank calls this."""

    def total(self, value: float) -> float:
        """Return the sum of a figure over all ranks."""
        return value


class _Grouped(Sharded):
    """What DDP and FSDP have in common: a process group, and a reduction that the backward pass may have to wait for."""

    def __init__(self, loss: LossModule, device: torch.device) -> None:
        super().__init__(loss)
        self.world = dist.get_world_size()
        self._buffers = loss.model
        self._device = device
        self._mark_s = 0.0
        self._wait_s = 0.0

    def mark(self) -> None:
        """Note that a reduction begins: what comes after the last one in a backward pass is waiting."""
        self._mark_s = time.perf_counter()

    @contextlib.contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:
        """Reduce gradients between ranks in the last microbatch only."""
        self._mark_s = 0.0
        if self.reduce is not None:
            self.reduce.last_microbatch(last)
        yield
        self._wait_s = time.perf_counter() - self._mark_s if self._mark_s else 0.0

    def reduce_wait_s(self) -> float:
        return self._wait_s

    def make_buffers_equal(self) -> None:
        buffers = list(self._buffers.buffers())
        mine = torch.tensor([_digest(buffer) for buffer in buffers], dtype=torch.int64, device=self._device)
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(rows, mine)
        differs = (torch.stack(rows) != rows[0]).any(0).tolist()
        _broadcast([buffer for buffer, is_other in zip(buffers, differs, strict=True) if is_other], self._device)

    def total(self, value: float) -> float:
        held = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(held)
        return float(held)


class MarkedReduce(CompressedReduce):
    """The compressed reduction of a job, which says when each part of it begins."""

    def __init__(self, job: Compression, group: dist.ProcessGroup, mark: Callable[[], None]) -> None:
        rules = Policy.of(job)
        feedback: Any = job.error_feedback  # a bool, or "auto"
        super().__init__(
            group, job.codec, error_feedback=feedback, policy=lambda name, shape: rules(_own_name(name), shape)
        )
        self._mark = mark

    def start(self, flat: torch.Tensor, key: str, segments: Sequence[Segment], scale: float = 1.0) -> Pending:
        """Begin to reduce a flat tensor."""
        self._mark()
        return super().start(flat, key, segments, scale)


def _own_name(name: str) -> str:
    """Return the name that a parameter has in the user's model."""
    return name.removeprefix("model.")


class Replicated(_Grouped):
    """DDP: each rank holds the whole model, and gradients are averaged in buckets while the backward pass goes on."""

    name = "ddp"

    def __init__(self, loss: LossModule, compression: Compression, device: torch.device) -> None:
        super().__init__(loss, device)
        ids = [device.index] if device.type == "cuda" else None
        self._ddp = DistributedDataParallel(loss, device_ids=ids, gradient_as_bucket_view=True)
        self.loss = self._checked
        self._hook: ExactHook | None = None
        if compression.codec in ("none", "powersgd"):
            self._hook = (ExactHook if compression.codec == "none" else PowerHook)(compression, self.mark)
            self._ddp.register_comm_hook(self._hook, reduce_bucket)
        else:
            self.reduce = MarkedReduce(compression, dist.group.WORLD, self.mark)
            attach_ddp(self._ddp, self.reduce)
        self._settle()

    def _settle(self) -> None:
        """Have torch lay its buckets out for good, which it does after a first pass, and sends nothing meanwhile.

        So they are the same in the first step after a restart as in the same step before, and with them each residual
        and the order in which floats are added.
        """
        for _ in range(2):
            with self.microbatch(last=False):
                self._ddp(TOUCH).backward()
        self._ddp.zero_grad(set_to_none=True)

    def _checked(self, batch: Any) -> torch.Tensor:
        try:
            found: torch.Tensor = self._ddp(batch)
        except RuntimeError as error:
            if "finished reduction in the prior iteration" not in str(error):
                raise
            raise ConfigError(
                f"parallel.strategy ddp: the last step gave no gradient to {self._named_in(str(error))}",
                hint="freeze what the loss does not use (requires_grad_(False)), or set parallel.strategy to fsdp",
            ) from error
        return found

    def _named_in(self, text: str) -> str:
        """Return the names of the parameters whose numbers an error of torch's lists."""
        names = [_own_name(name) for name, p in self._ddp.module.named_parameters() if p.requires_grad]
        numbers = [
            int(number) for number in text.rpartition("for rank")[2].partition(":")[2].split() if number.isdigit()
        ]
        return ", ".join(names[number] for number in numbers[:3] if number < len(names)) or "a parameter"

    @contextlib.contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:
        """Reduce gradients in the last microbatch only."""
        if self._hook is not None:
            self._hook.is_last = last
        with super().microbatch(last=last):
            yield
        source = self.reduce if self._hook is None else self._hook
        if source is not None:
            self.bytes_sent, self.bytes_exact = source.bytes_sent, source.bytes_exact


class FullySharded(_Grouped):
    """FSDP2: each rank holds a shard of every parameter, and gathers a unit while it is needed."""

    name = "fsdp"

    def __init__(self, loss: LossModule, parallel: Parallel, compression: Compression, device: torch.device) -> None:
        super().__init__(loss, device)
        self._replicas = parallel.replicas
        self._exact_scattered = 0
        self._elements = sum(p.numel() for p in loss.model.parameters() if p.requires_grad)
        mesh = _mesh(parallel.replicas, self.world, device)
        # torch reduces over a second dimension by itself, exactly; a codec of ours takes its place by a hook.
        inner = mesh["shard"] if compression.codec != "none" else mesh
        _make_equal(loss.model, device)
        half = None if parallel.precision == "float32" else DTYPES[parallel.precision]
        precision = MixedPrecisionPolicy(
            param_dtype=half, reduce_dtype=half and torch.float32, cast_forward_inputs=False
        )
        for unit in units(loss.model, parallel):
            fully_shard(unit, mesh=inner, mp_policy=precision)
        self._root: FSDPModule = fully_shard(loss, mesh=inner, mp_policy=precision)
        if compression.codec != "none":
            self.reduce = MarkedReduce(compression, mesh["replica"].get_group(), self.mark)
            attach_fsdp(loss, mesh, self.reduce)

    @contextlib.contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:
        """Reduce gradients within a replica in each microbatch, so that a rank keeps its shard only; else in the last."""
        self._root.set_requires_all_reduce(last)
        with super().microbatch(last=last):
            yield
        self._count(last=last)

    def _count(self, *, last: bool) -> None:
        shards = self.world // self._replicas
        scattered = (shards - 1) * 4 * self._elements // shards
        across = all_reduce_bytes(4 * self._elements // shards, self._replicas) if last else 0
        self._exact_scattered += scattered
        self.bytes_exact += scattered + across
        self.bytes_sent += scattered + (across if self.reduce is None else 0)
        if self.reduce is not None:
            self.bytes_sent = self._exact_scattered + self.reduce.bytes_sent


def sharded(model: Model, job: Job, strategy: str, device: torch.device) -> Sharded:
    """Lay a model on this rank. Raises `ConfigError` where its blocks cannot be found, or share parameters."""
    parallel = job.parallel
    if strategy != "fsdp":
        model.module.to(device)
    if parallel.checkpoint_activations:
        recompute(model.module, parallel)
    loss = LossModule(model, device, parallel.precision)
    match strategy:
        case "ddp":
            return Replicated(loss, job.compression, device)
        case "fsdp":
            return FullySharded(loss, parallel, job.compression, device)
        case _:
            return Sharded(loss)


def reduced_in(module: nn.Module, job: Job, world: int) -> set[str]:
    """Return the codecs in which the model's gradients travel in a group of that size; none where all go as they are."""
    if job.compression.codec in ("none", "powersgd") or world == 1:
        return set()
    rules = Policy.of(job.compression)
    return {rules(name, value.shape) for name, value in module.named_parameters() if value.requires_grad}


def _mesh(replicas: int, world: int, device: torch.device) -> DeviceMesh:
    """Return the ranks in one line, or as replicas x shards: the ranks of one copy are neighbours."""
    if world % replicas:
        raise ConfigError(
            f"{world} ranks are no multiple of parallel.replicas ({replicas})", hint="ranks = replicas x shards"
        )
    if replicas == 1:
        return dist.init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    return dist.init_device_mesh(device.type, (replicas, world // replicas), mesh_dim_names=("replica", "shard"))


def _make_equal(module: nn.Module, device: torch.device) -> None:
    """Give every rank the first rank's parameters and buffers: a model that was built by chance is built once."""
    _broadcast([*module.parameters(), *module.buffers()], device)


def _broadcast(tensors: Sequence[torch.Tensor], device: torch.device) -> None:
    for tensor in tensors:
        held = tensor.detach().to(device)
        dist.broadcast(held, 0)
        tensor.detach().copy_(held)


def _digest(tensor: torch.Tensor) -> int:
    found = tensor.detach().cpu().contiguous().reshape(-1)
    return int.from_bytes(hashlib.blake2b(found.view(torch.uint8).numpy(), digest_size=7).digest())


def strategy_of(parallel: Parallel, world: int) -> str:
    """Return single, ddp or fsdp for a group of that size; `ConfigError` where the job says another size."""
    if parallel.strategy == "auto":
        return ("fsdp" if parallel.replicas > 1 else "ddp") if world > 1 else "single"
    if parallel.strategy == "single" and world > 1:
        raise ConfigError(
            f"parallel.strategy single has one rank, and there are {world}", hint="set parallel.strategy to ddp or fsdp"
        )
    return "single" if world == 1 and parallel.strategy == "ddp" else parallel.strategy
