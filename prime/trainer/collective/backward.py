"""What is done when a backward pass ends."""

from __future__ import annotations

from collections.abc import Callable

from torch.autograd import Variable

from prime.trainer.collective.reduce import CompressedReduce


def after_backward(reduce: CompressedReduce) -> None:
    """Have the backward pass that is under way end with `reduce.finish()`, and raise its errors.

    The callback queues another one, so that it comes after those of DDP and FSDP: both end their step first, and stay
    whole when a gradient is refused.
    """
    at_end_of_backward(lambda: at_end_of_backward(reduce.finish))


def at_end_of_backward(work: Callable[[], None]) -> None:
    """Have the backward pass that is under way end with `work`, after what was asked for before, and raise its errors."""
    Variable._execution_engine.queue_callback(work)  # noqa: SLF001 - as DDP and FSDP do; there is no public way
