"""The compressed all-reduce as the hook of torch's FSDP2 (`fully_shard`), over the replicas of a sharded model.

The ranks form a mesh of replicas x shards. `fully_shard` gets the shard dimension alone, so within a replica gradients are
reduced and scattered exactly; then this hook reduces each rank's shard with the same shard of the other replicas,
compressed. Error feedback costs one float32 vector of the size of the *shard* there. (On the reduce-scatter it would cost
one of the size of the whole model on every rank, which is what sharding is meant to save.) With shards of 1 every rank is
a replica, and all that gradients cost on the wire is compressed.

FSDP's hooks are not recursive, so each sharded module gets its own. It fires after every reduce-scatter, hence the switch
`last_microbatch`: of an earlier microbatch the shard's gradient is kept here and added to that of the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from prime.errors import UsageError
from prime.trainer.collective.backward import after_backward
from prime.trainer.collective.reduce import CompressedReduce, Segment


def attach_fsdp(model: nn.Module, mesh: DeviceMesh, reduce: CompressedReduce) -> None:
    """Have every sharded module of `model` reduce its gradients over the replicas through `reduce`; then train as before.

    `mesh` is 2-D, replicas x shards; every module was given its second dimension (`fully_shard(module, mesh=mesh["shard"])`),
    and the group of `reduce` is its first. The mean (`op="mean"`) is that over all ranks of the mesh. Before every backward
    pass but the last of a step call `reduce.last_microbatch(False)`, before the last one `reduce.last_microbatch(True)`. The
    backward pass raises NonFiniteError on every rank alike when a gradient is not finite.

    Raises UsageError when the mesh is not such, or nothing of the model is sharded.
    """
    shards = _shards(mesh, reduce)
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    if not modules:
        raise UsageError("no module of the model is sharded", hint="call fully_shard on its layers and on it first")
    reduce.agree_over(mesh.get_group(1), torch.device(mesh.device_type))
    stream = torch.cuda.Stream() if mesh.device_type == "cuda" else None
    for name, module in modules:
        hook = _Hook(reduce, name, module, shards)
        # FSDP would divide by the shards after the hook, while the reduction may still be going on.
        module.set_force_sum_reduction_for_comms(True)
        if shards > 1:
            module.set_gradient_divide_factor(1.0)
        module.set_all_reduce_hook(hook, stream=stream)


def _shards(mesh: DeviceMesh, reduce: CompressedReduce) -> int:
    if mesh.ndim != 2 or mesh.size(0) != reduce.group.size():
        raise UsageError(
            f"a mesh of shape {tuple(mesh.shape)} has no replicas for a group of {reduce.group.size()} ranks to reduce over",
            hint='init_device_mesh(device, (replicas, shards), mesh_dim_names=("replicate", "shard"))',
        )
    return mesh.size(1)


class _Hook:
    """The hook of one sharded module. Shape: flat [D], the shards of its parameters' gradients one after the other."""

    def __init__(self, reduce: CompressedReduce, name: str, module: nn.Module, shards: int) -> None:
        self._reduce = reduce
        self._key = name or "root"
        self._parameters = list(_managed(module, f"{name}." if name else ""))
        self._shards = shards
        self._scale = 1 / shards if reduce.op == "mean" else 1.0
        self._kept: torch.Tensor | None = None
        self._in_place = False

    def __call__(self, flat: torch.Tensor) -> None:
        """Reduce `flat` in place, or keep it where more microbatches follow."""
        if not self._reduce.is_last:
            self._keep(flat)
            return
        if self._kept is not None:
            flat += self._kept
            self._kept = None
        later = self._in_place and self._may_end_later(flat)
        pending = self._reduce.start(flat, self._key, self._segments(flat), self._scale)
        if not later:
            pending.wait()
            self._reduce.then(lambda: self._look(flat))
        after_backward(self._reduce)

    def _keep(self, flat: torch.Tensor) -> None:
        if self._kept is None:
            self._kept = flat.clone()
        else:
            self._kept += flat
        flat.zero_()

    def _may_end_later(self, flat: torch.Tensor) -> bool:
        """Tell whether FSDP only makes views of `flat` after the hook, and nobody reads them before the pass ends."""
        return flat.device.type == "cpu" and all(
            each.grad is None and each.dtype == flat.dtype and not getattr(each, "_post_accumulate_grad_hooks", None)
            for _, each in self._parameters
        )

    def _look(self, flat: torch.Tensor) -> None:
        """Learn, at the end of a pass, whether the gradients are views of what the hook was given: so they can come later."""
        first, last = flat.data_ptr(), flat.data_ptr() + flat.numel() * flat.element_size()
        grads = [each.grad for _, each in self._parameters if each.grad is not None]
        self._in_place = all(first <= _local(grad).data_ptr() < last for grad in grads if _local(grad).numel())

    def _segments(self, flat: torch.Tensor) -> list[Segment]:
        """Return the parameters in `flat`; where some had no gradient their places are not known, and it has no names."""
        segments = [
            Segment(name, self._padded(each), self._reduce.codec_of(name, each.shape))
            for name, each in self._parameters
        ]
        if sum(each.elements for each in segments) != flat.numel():
            return [Segment("", flat.numel(), self._reduce.codec)]
        return segments

    def _padded(self, parameter: nn.Parameter) -> int:
        """Return the elements of a shard: all shards are as long as the first, padded with zeros."""
        dim = next((each.dim for each in getattr(parameter, "placements", ()) if isinstance(each, Shard)), 0)
        shape = list(parameter.shape) or [1]
        shape[dim] = -(-shape[dim] // self._shards)
        return math.prod(shape)


def _managed(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that a sharded module reduces itself: those of its own, not those of sharded modules in it."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.requires_grad:
            yield f"{prefix}{name}", parameter
    for name, child in module.named_children():
        if not isinstance(child, FSDPModule):
            yield from _managed(child, f"{prefix}{name}.")


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
