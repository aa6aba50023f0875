"""Cases of ranks that train a small model through the hooks of DDP and FSDP2. See `ranks.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from prime.errors import NonFiniteError, UsageError
from prime.trainer.collective import CompressedReduce, attach_ddp, attach_fsdp

Found = dict[str, Any]
WIDTH, STEPS = 48, 4


def built() -> nn.Sequential:
    """Return the model, the same everywhere."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)) for _ in range(3)]
    return nn.Sequential(*layers, nn.LayerNorm(WIDTH))


def drawn(step: int, rank: int) -> torch.Tensor:
    """Return the batch of a step of a rank: float32[6, WIDTH]."""
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(100 * step + rank))


def flat(model: nn.Module) -> torch.Tensor:
    """Return all parameters, whole."""
    whole = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in model.parameters()]
    return torch.cat([each.detach().flatten() for each in whole])


def trained(
    model: nn.Module, reduce: CompressedReduce | None, *, microbatches: int = 1, broken: int = -1, local: Any = None
) -> Found:
    """Train; return the parameters' hash, how far they went, and what was refused. `broken`: at that step rank 1 has a NaN."""
    optimiser = torch.optim.SGD(model.parameters(), 0.2)
    refused = []
    for step in range(STEPS):
        optimiser.zero_grad()
        for part in range(microbatches):
            last = part == microbatches - 1
            if reduce is not None:
                reduce.last_microbatch(last)
            x = drawn(step, dist.get_rank()).chunk(microbatches)[part]
            loss = (model(x) - x.roll(1, 1)).square().mean() / microbatches
            loss = loss * (float("nan") if step == broken and dist.get_rank() == 1 else 1.0)
            try:
                with local() if local is not None and not last else torch.enable_grad():
                    loss.backward()
            except NonFiniteError as error:
                refused.append([error.parameter, error.rank])
                optimiser.zero_grad()
        optimiser.step()
    moved = flat(model) - flat(built())
    return {
        "bits": hashlib.sha256(flat(model).numpy().tobytes()).hexdigest(),
        "moved": moved.tolist()[::7],
        "refused": refused,
        "sent": reduce.bytes_sent if reduce else 0,
        "exact": reduce.bytes_exact if reduce else 0,
    }


def exact(rank: int, world: int) -> Found:
    """DDP by itself; the same steps with a skipped one, and by microbatches, come to what they come to."""
    found = {}
    for name, more in {"plain": {}, "halves": {"microbatches": 2}}.items():
        model = DistributedDataParallel(built())
        found[name] = trained(model, None, **more)  # type: ignore[arg-type]
    return found


def ddp(rank: int, world: int) -> Found:
    """DDP with the hook."""
    found: Found = {}
    for name, codec, more in (
        ("none", "none", {}),
        ("int8", "int8", {}),
        ("int4", "int4", {}),
        ("halves", "none", {"microbatches": 2}),
        ("broken", "int8", {"broken": 2}),
    ):
        reduce = CompressedReduce(codec=codec, policy=lambda _, shape, c=codec: c if len(shape) > 1 else "none")
        model = DistributedDataParallel(built(), bucket_cap_mb=0.1)
        attach_ddp(model, reduce)
        found[name] = trained(model, reduce, **more)  # type: ignore[arg-type]
        reduce.close()
    return found


def fsdp(rank: int, world: int) -> Found:
    """FSDP2 with the hook: replicas alone, and with 4 ranks two replicas of two shards."""
    found: Found = {}
    for shards in (1, 2)[: world // 2]:
        for name, codec, more in (
            ("none", "none", {}),
            ("int8", "int8", {}),
            ("int4", "int4", {}),
            ("halves", "none", {"microbatches": 2}),
            ("broken", "int8", {"broken": 2}),
        ):
            mesh = init_device_mesh("cpu", (world // shards, shards), mesh_dim_names=("replicate", "shard"))
            model = built()
            for module in [*model, model]:
                fully_shard(module, mesh=mesh["shard"])
            reduce = CompressedReduce(mesh["replicate"].get_group(), codec)
            attach_fsdp(model, mesh, reduce)
            found[f"{shards} {name}"] = trained(model, reduce, **more)  # type: ignore[arg-type]
            found[f"{shards} {name}"]["residuals"] = sorted(value.numel() for value in reduce.state_dict().values())
            reduce.close()
    return found


def one_element(rank: int, world: int) -> Found:
    """One element of one rank's gradient is infinite, so that one shard of it is not finite, and the others are."""
    found: Found = {}
    for shards in (1, 2)[: world // 2]:
        mesh = init_device_mesh("cpu", (world // shards, shards), mesh_dim_names=("replicate", "shard"))
        model = built()
        for module in [*model, model]:
            fully_shard(module, mesh=mesh["shard"])
        reduce = CompressedReduce(mesh["replicate"].get_group(), "int8")
        attach_fsdp(model, mesh, reduce)
        x = drawn(0, rank)
        bent = model[0][0].register_forward_hook(lambda _, __, y: y * 1.0 if rank != 1 else _Bent.apply(y))
        try:
            model(x).square().mean().backward()
            refused = []
        except NonFiniteError as error:
            refused = [[error.parameter, error.rank]]
        bent.remove()
        reduce.close()
        found[str(shards)] = refused
    return found


class _Bent(torch.autograd.Function):
    """Leaves its input as it is; the gradient of the last output channel becomes infinite."""

    @staticmethod
    def forward(context: Any, y: torch.Tensor) -> torch.Tensor:
        """Return a copy."""
        return y.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Bend it."""
        bent = gradient.clone()
        bent[0, -1] = float("inf")
        return bent


def fsdp_of_types(rank: int, world: int) -> Found:
    """bfloat16 compute with gradients reduced in bfloat16 or float32: what the hook gets is no view of the gradient."""
    found: Found = {}
    for name, reduce_dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        mesh = init_device_mesh("cpu", (world, 1), mesh_dim_names=("replicate", "shard"))
        model = built()
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduce_dtype, output_dtype=torch.float32)
        for module in [*model, model]:
            fully_shard(module, mesh=mesh["shard"], mp_policy=policy)
        reduce = CompressedReduce(mesh["replicate"].get_group(), "int8")
        attach_fsdp(model, mesh, reduce)
        found[name] = trained(model, reduce)
        reduce.close()
    return found


def misused(rank: int, world: int) -> Found:
    """A mesh without replicas and a model that is not sharded are refused."""
    found: Found = {}
    line = init_device_mesh("cpu", (world,))
    mesh = init_device_mesh("cpu", (world, 1), mesh_dim_names=("replicate", "shard"))
    for name, place in (("line", line), ("not sharded", mesh)):
        try:
            attach_fsdp(built(), place, CompressedReduce())
        except UsageError as error:
            found[name] = [str(error), error.hint]
    return found


CASES: tuple[Callable[[int, int], Found], ...] = (exact, ddp, fsdp, one_element, fsdp_of_types, misused)
