"""How a model lies on the ranks: whole on one, whole on each (DDP), or a shard on each (FSDP2). All by `torch.distributed`.

The model's own module is not replaced: its parameters keep their names, whatever the strategy. What is wrapped is a
module around it whose forward pass is the loss, so a loss may use the model however it likes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from prime.errors import ConfigError
from prime.trainer.job import Parallel
from prime.trainer.loop.blocks import matching, outermost
from prime.trainer.task import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LossModule(nn.Module):
    """The model with its loss as the forward pass: a batch to its mean loss, a scalar."""

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        super().__init__()
        self.module: nn.Module = model.module
        self._loss: Callable[[Any], torch.Tensor] = model.loss
        self._device, self._dtype = device, DTYPES[precision]

    def forward(self, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch; matrix products are made in the job's precision."""
        if self._dtype == torch.float32:
            return self._loss(batch)
        with torch.autocast(self._device.type, dtype=self._dtype):
            return self._loss(batch)


class Sharded:
    """A model on its rank. As `Sharing` it tells the inner step what to share; this one is whole, on a single rank."""

    name = "single"
    world = 1

    def __init__(self, loss: LossModule) -> None:
        self.loss: Callable[[Any], torch.Tensor] = loss
        """A batch to its mean loss here; call it as often as the other ranks do."""
        self.quiet_loss: Callable[[Any], torch.Tensor] = loss
        """The same without a backward pass to follow."""
        self.module = loss.module

    @contextlib.contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:  # noqa: ARG002 - a `Sharing`
        """Return a context for one forward and backward pass."""
        yield

    def reduce_wait_s(self) -> float:
        """Return how long the last step waited for the reduction, beyond its own computing."""
        return 0.0

    def total(self, value: float) -> float:
        """Return the sum of a figure over all ranks."""
        return value


class _Grouped(Sharded):
    """What DDP and FSDP have in common: a process group."""

    def __init__(self, loss: LossModule, device: torch.device) -> None:
        super().__init__(loss)
        self.world = dist.get_world_size()
        self._device = device

    def total(self, value: float) -> float:
        held = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(held)
        return float(held)


class Replicated(_Grouped):
    """DDP: each rank holds the whole model, and gradients are averaged in buckets while the backward pass goes on."""

    name = "ddp"

    def __init__(self, loss: LossModule, device: torch.device) -> None:
        super().__init__(loss, device)
        ids = [device.index] if device.type == "cuda" else None
        self.ddp = DistributedDataParallel(loss, device_ids=ids, gradient_as_bucket_view=True)
        self.loss = self.ddp

    @contextlib.contextmanager
    def microbatch(self, *, last: bool) -> Iterator[None]:
        """Reduce gradients in the last microbatch only."""
        with contextlib.nullcontext() if last else self.ddp.no_sync():
            yield


class FullySharded(_Grouped):
    """FSDP2: each rank holds a shard of every parameter, and gathers a unit while it is needed."""

    name = "fsdp"

    def __init__(self, loss: LossModule, parallel: Parallel, device: torch.device) -> None:
        super().__init__(loss, device)
        mesh = _mesh(parallel.replicas, self.world, device)
        self.mesh: DeviceMesh = mesh["shard"] if parallel.replicas > 1 else mesh
        """The ranks over which one copy of the model is sharded."""
        self.replica_mesh: DeviceMesh | None = mesh["replica"] if parallel.replicas > 1 else None
        """The ranks that hold the same shard."""
        _make_equal(loss.module, device)
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        if parallel.precision != "float32":
            policy = MixedPrecisionPolicy(
                param_dtype=DTYPES[parallel.precision], reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        # torch reduces over a second dimension by itself, exactly; a codec of ours takes its place by a hook.
        for unit in units(loss.module, parallel):
            fully_shard(unit, mesh=mesh, mp_policy=policy)
        self.root: FSDPModule = fully_shard(loss, mesh=mesh, mp_policy=policy)


def sharded(model: Model, parallel: Parallel, strategy: str, device: torch.device) -> Sharded:
    """Lay a model on this rank. Raises `ConfigError` where its blocks cannot be found, or share parameters."""
    if strategy != "fsdp":
        model.module.to(device)
    if parallel.checkpoint_activations:
        for block in _blocks(model.module, parallel):
            _recompute(block)
    loss = LossModule(model, device, parallel.precision)
    match strategy:
        case "ddp":
            return Replicated(loss, device)
        case "fsdp":
            return FullySharded(loss, parallel, device)
        case _:
            return Sharded(loss)


def units(module: nn.Module, parallel: Parallel) -> list[nn.Module]:
    """Return the modules that are sharded by themselves; the rest of the model is one unit more."""
    if parallel.shard == "full":
        return []
    found = _blocks(module, parallel)
    _refuse_shared(module, found)
    return found


def _blocks(module: nn.Module, parallel: Parallel) -> list[nn.Module]:
    modules = dict(module.named_modules())
    if parallel.blocks:
        return [modules[name] for name in outermost(matching(modules, parallel.blocks))]
    lists = [n for n, m in modules.items() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 1]
    items = [f"{name}.{i}" if name else str(i) for name in lists for i in range(len(modules[name]))]
    return [modules[name] for name in outermost(items) if any(True for _ in modules[name].parameters())]


def _refuse_shared(module: nn.Module, blocks: list[nn.Module]) -> None:
    """Refuse a parameter that a block shares with what lies outside of it: each unit would gather a copy of its own."""
    owners: dict[int, set[int]] = {}
    for number, block in enumerate(blocks):
        for parameter in block.parameters():
            owners.setdefault(id(parameter), set()).add(number)
    inside = {id(part) for block in blocks for part in block.modules()}
    for part in module.modules():
        if id(part) not in inside:
            for parameter in part.parameters(recurse=False):
                owners.setdefault(id(parameter), set()).add(-1)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    shared = [names[key] for key, found in owners.items() if len(found) > 1]
    if shared:
        raise ConfigError(
            f"parallel.shard: {shared[0]} is shared between a block and another part of the model",
            hint='set parallel.shard = "full", or name blocks that share nothing with parallel.blocks',
        )


def _recompute(block: nn.Module) -> None:
    """Have a block's activations computed again in the backward pass (Chen et al., "Sublinear Memory Cost", 2016)."""
    forward = block.forward

    def recomputed(*args: Any, **named: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **named)

    block.forward = recomputed  # an instance's own: names of parameters stay


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
    for tensor in (*module.parameters(), *module.buffers()):
        held = tensor.detach().to(device)
        dist.broadcast(held, 0)
        tensor.detach().copy_(held)


def strategy_of(parallel: Parallel, world: int) -> str:
    """Return single, ddp or fsdp for a group of that size; `ConfigError` where the job says another size."""
    if parallel.strategy == "auto":
        return ("fsdp" if parallel.replicas > 1 else "ddp") if world > 1 else "single"
    if parallel.strategy == "single" and world > 1:
        raise ConfigError(
            f"parallel.strategy single has one rank, and there are {world}", hint="set parallel.strategy to ddp or fsdp"
        )
    return "single" if world == 1 and parallel.strategy == "ddp" else parallel.strategy
