"""How long the compressed all-reduce takes on this group's links, against the group's own exact one, in turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import attrs
import torch
import torch.distributed as dist

from prime.trainer.collective.reduce import CompressedReduce


@attrs.frozen
class Race:
    """What one rank measured; the times are medians over all pairs and end when every rank has ended."""

    world: int
    elements: int
    codec: str
    pairs: int
    seconds: float
    exact_seconds: float
    ratio: float
    """The median of exact by compressed, pair by pair: how many times faster."""
    bytes_sent: int
    """By this rank, in one compressed all-reduce."""
    bytes_exact: int
    relative_error: float
    """The norm of the difference from the exact mean by the norm of that."""
    identical: bool
    """Whether all ranks hold the same bits."""


def race_by_environment(elements: int, codec: str, pairs: int) -> Race:
    """Join the group that torchrun's variables name (RANK, WORLD_SIZE, MASTER_ADDR, …), race in it, and leave it."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    torch.set_num_threads(1)
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        return race(elements, codec, pairs, device=device)
    finally:
        dist.destroy_process_group()


def race(
    elements: int, codec: str, pairs: int, *, device: torch.device, group: dist.ProcessGroup | None = None
) -> Race:
    """Reduce normal random float32 numbers both ways; every rank of the group calls this."""
    reduce = CompressedReduce(group, codec)
    rank, world = dist.get_rank(reduce.group), reduce.group.size()
    generator = torch.Generator(device).manual_seed(rank)
    x = torch.randn(elements, generator=generator, device=device)
    exact = x.clone()
    dist.all_reduce(exact, group=reduce.group)
    exact /= world
    reduce.all_reduce(x)
    sent, bytes_exact = reduce.bytes_sent, reduce.bytes_exact
    error = float((x - exact).norm() / exact.norm().clamp(min=1e-30))
    identical = _identical(x, reduce.group)

    def exactly() -> None:
        dist.all_reduce(exact, group=reduce.group)
        exact.mul_(1 / world)

    times = [(_timed(lambda: reduce.all_reduce(x), reduce.group), _timed(exactly, reduce.group)) for _ in range(pairs)]
    reduce.close()
    return Race(
        world=world,
        elements=elements,
        codec=codec,
        pairs=pairs,
        seconds=statistics.median(ours for ours, _ in times),
        exact_seconds=statistics.median(theirs for _, theirs in times),
        ratio=statistics.median(theirs / ours for ours, theirs in times),
        bytes_sent=sent,
        bytes_exact=bytes_exact,
        relative_error=error,
        identical=identical,
    )


def _timed(work: Callable[[], None], group: dist.ProcessGroup) -> float:
    """Return how long `work` takes until the slowest rank has done it: the same on every rank but for a barrier."""
    dist.barrier(group=group)
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier(group=group)
    return time.perf_counter() - started


def _identical(x: torch.Tensor, group: dist.ProcessGroup) -> bool:
    """Tell whether all ranks hold the bits of rank 0."""
    first = x.clone()
    dist.broadcast(first, group=group, group_src=0)
    same = torch.tensor([float(torch.equal(first, x))], device=x.device)
    dist.all_reduce(same, op=dist.ReduceOp.MIN, group=group)
    return bool(same.item())
