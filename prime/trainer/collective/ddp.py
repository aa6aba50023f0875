"""The compressed all-reduce as the communication hook of torch's DistributedDataParallel."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from prime.trainer.collective.backward import after_backward
from prime.trainer.collective.reduce import CompressedReduce, Segment


def attach_ddp(model: DistributedDataParallel, reduce: CompressedReduce) -> None:
    """Have DDP reduce its buckets through `reduce`, beside the backward pass; afterwards train as before.

    The backward pass raises NonFiniteError on every rank alike when a gradient is not finite; zero the gradients and go on,
    or end. DDP has the gradients of a bucket in one buffer, which is reduced in place, parameter by parameter in the codec
    of `reduce`'s policy.

    DDP arranges its buckets anew after its first step, so a residual of that step is lost, and a run that is resumed from a
    checkpoint is not equal to the bit to one that went on. With `find_unused_parameters=True` it does not.
    """
    names = {parameter: name for name, parameter in model.module.named_parameters()}
    # DDP compares the annotations with its types, which postponed ones are not.
    _reduce_bucket.__annotations__.update(bucket=dist.GradBucket, **{"return": torch.futures.Future[torch.Tensor]})
    model.register_comm_hook(_Hook(reduce, names), _reduce_bucket)


class _Hook:
    """What DDP hands back to the hook: the reduction, and the names of the parameters."""

    def __init__(self, reduce: CompressedReduce, names: dict[torch.nn.Parameter, str]) -> None:
        self.reduce = reduce
        self._names = names

    def segments(self, bucket: Any) -> list[Segment]:
        """Return the parameters of a bucket in the order of its buffer."""
        return [
            Segment(name := self._names[each], each.numel(), self.reduce.codec_of(name, each.shape))
            for each in bucket.parameters()
        ]


def _reduce_bucket(hook: _Hook, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    buffer = bucket.buffer()
    if not hook.reduce.is_last:  # it stays in the gradients, and is reduced with those of the last microbatch
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(buffer)
        return future
    segments = hook.segments(bucket)
    pending = hook.reduce.start(buffer, f"{segments[0].name}+{len(segments)}", segments)
    after_backward(hook.reduce)
    return pending.future
