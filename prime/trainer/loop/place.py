"""Where a rank stands in its group, and what a step of it reports. Pure."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Place:
    """A rank's place. With a world above 1, `torch.distributed` must be initialised before the learner is built."""

    rank: int = 0
    local_rank: int = 0
    """The rank among those of its machine: it chooses the GPU."""
    world: int = 1
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or auto: the GPU of the local rank where there is one."""


@frozen(kw_only=True)
class StepReport:
    """One step, as its rank saw it; loss, norm and samples are those of the whole group.

    The parts of the time cover `step_s` but for what is between them; `reduce_s` is what the step waited for gradients
    beyond its own computing.
    """

    step: int
    """Counts from 1."""
    loss: float
    samples: int
    grad_norm: float
    """The norm of the reduced gradient before it was clipped."""
    learning_rate: float
    step_s: float
    data_s: float
    compute_s: float
    reduce_s: float
    optimiser_s: float
    bytes_sent: int = 0
    bytes_exact: int = 0
    skipped: bool = False
    """The gradient overflowed float16: the step was made without an update, and the loss scale was halved."""
