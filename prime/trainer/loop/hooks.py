"""How DDP's buckets are reduced where no codec of Prime's does it: exactly, or by PowerSGD. Both count their bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from prime.trainer.job import Compression

POWER_RANK: Final = 4
"""Rank of PowerSGD's approximation: of a matrix [N, M] it sends 4 (N + M) elements."""
POWER_FIRST: Final = 10
"""Steps that are reduced exactly first: early gradients are far from low rank."""


class ExactHook:
    """Averages DDP's buckets in the last microbatch as DDP itself does, and counts."""

    def __init__(self, compression: Compression, mark: Callable[[], None]) -> None:  # noqa: ARG002 - as `PowerHook`
        self._mark = mark
        self.is_last = True
        self.bytes_sent = self.bytes_exact = 0

    def start(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Begin to reduce a bucket."""
        buffer = bucket.buffer()
        if not self.is_last:
            devices = [buffer.device] if buffer.is_cuda else None
            future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=devices)
            future.set_result(buffer)
            return future
        self._mark()
        self.bytes_exact += all_reduce_bytes(buffer.numel() * buffer.element_size(), dist.get_world_size())
        return self._reduced(bucket)

    def _reduced(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.bytes_sent = self.bytes_exact
        return default_hooks.allreduce_hook(dist.group.WORLD, bucket)


class PowerHook(ExactHook):
    """PowerSGD (Vogels et al., "PowerSGD: Practical Low-Rank Gradient Compression", 2019), by torch's own hook."""

    def __init__(self, compression: Compression, mark: Callable[[], None]) -> None:
        super().__init__(compression, mark)
        self._state = powerSGD_hook.PowerSGDState(
            dist.group.WORLD,
            matrix_approximation_rank=POWER_RANK,
            start_powerSGD_iter=POWER_FIRST,
            use_error_feedback=compression.error_feedback is not False,
        )

    def _reduced(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        future = powerSGD_hook.powerSGD_hook(self._state, bucket)
        share = self._state.total_numel_after_compression / max(self._state.total_numel_before_compression, 1)
        is_exact = self._state.iter < POWER_FIRST
        self.bytes_sent += round(self._bytes(bucket) * (1.0 if is_exact else share))
        return future

    @staticmethod
    def _bytes(bucket: dist.GradBucket) -> int:
        buffer = bucket.buffer()
        return all_reduce_bytes(buffer.numel() * buffer.element_size(), dist.get_world_size())


def reduce_bucket(hook: ExactHook, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Hand a bucket to its hook: what DDP calls."""
    return hook.start(bucket)


# DDP compares the annotations with its types, which postponed ones are not.
reduce_bucket.__annotations__.update({"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]})


def all_reduce_bytes(size_bytes: int, world: int) -> int:
    """Return what one rank sends in an all-reduce of so many bytes (a ring, or any other that sends the least)."""
    return 2 * (world - 1) * size_bytes // world
