"""What happens in a run, as plain records in the past tense. Pure: observers and trackers get them in this order.

`RunBegan`; then for each generation `GenerationBegan` and, as they come, `RankStarted`, `StepMade`, `Evaluated`,
`CheckpointSaved`, `RankLost`; over several hosts `HostAwaited` and `HostJoined`; `RunStopping` where somebody asked for
an end; and `RunEnded`, always the last.

Units stand last in the names: `_s` is seconds, `_bytes` bytes. Losses are means over the samples of a batch, in the
model's own unit (nats for cross-entropy). Bytes are summed over all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

LossCause = Literal["died", "silent", "stuck", "failed"]
"""Why a rank was lost: its process ended, gave no sign of life, made no progress, or raised an error."""

Outcome = Literal["done", "stopped", "failed"]
"""How a run ended: all steps were made, somebody asked for the end, or it cannot go on."""


@attrs.frozen(kw_only=True)
class RunBegan:
    """A job is about to be trained; nothing has been started for it yet."""

    name: str
    folder: str
    """The run's folder, an absolute path."""
    steps: int
    """The step at which the run is done."""
    batch_size: int
    """Samples a step, over all ranks and microbatches."""
    world: int
    """How many ranks."""
    spares: int = 0
    codec: str = "none"
    resumed_step: int = 0
    """The step of the checkpoint that the run goes on from; 0 for a fresh one."""


@attrs.frozen(kw_only=True)
class RankStarted:
    """A process of the gang is ready: as a rank, or (rank -1) as a warm spare."""

    rank: int
    process: int
    """Its process id on its host."""
    generation: int
    host: str = ""
    """Empty: this machine."""


@attrs.frozen(kw_only=True)
class GenerationBegan:
    """All ranks have met and go on from `step`: the first time, or again after a restart."""

    generation: int
    """Counts from 0."""
    step: int
    """The step that is made already: that of the checkpoint, or 0."""
    world: int
    strategy: str = "single"
    """How the model lies on the ranks: single, ddp or fsdp."""
    backend: str = ""
    """What carries the gradients: gloo, nccl, or empty with one rank."""
    device: str = "cpu"
    engine: str = ""
    """What runs the codec: numpy, torch, numba, triton, or empty where nothing is compressed."""
    parameters: int = 0
    tokens_per_sample: int = 0
    """Above 0 where a sample is a sequence: then speed is told in tokens."""
    baseline: float | None = None
    """The loss of a guess without a model, where the data knows one."""
    recovery_s: float | None = None
    """From the loss of a rank to here; None in the first generation."""


@attrs.frozen(kw_only=True)
class StepMade:
    """One optimiser step was made, by all ranks together.

    The parts of the time are those of the slowest rank and cover `step_s` but for what is between them; overlapped
    parts may sum to more.
    """

    step: int
    """Counts from 1."""
    generation: int
    loss: float
    learning_rate: float
    samples: int
    """Samples in this step, over all ranks."""
    step_s: float
    data_s: float = 0.0
    compute_s: float = 0.0
    reduce_s: float = 0.0
    optimiser_s: float = 0.0
    grad_norm: float | None = None
    """The norm of the reduced gradient before it was clipped; None where nobody asked for it."""
    bytes_sent: int = 0
    """What the reduction of gradients sent."""
    bytes_exact: int = 0
    """What the same reduction sends in float32."""


@attrs.frozen(kw_only=True)
class Evaluated:
    """The model met samples that it is never trained on."""

    step: int
    generation: int
    loss: float
    seconds: float = 0.0
    measures: Mapping[str, float] = attrs.field(factory=dict)
    """What the model measures beside its loss, by name, such as its accuracy."""


@attrs.frozen(kw_only=True)
class CheckpointSaved:
    """A checkpoint is whole: from now on a restart goes on from it."""

    step: int
    generation: int
    path: str
    size_bytes: int = 0
    seconds: float = 0.0
    """From the call to the metadata file, which is written last."""
    blocked_s: float = 0.0
    """How long training stood still for it."""


@attrs.frozen(kw_only=True)
class RankLost:
    """A rank is gone; the whole gang goes back to the newest whole checkpoint and starts the next generation."""

    rank: int
    process: int
    generation: int
    step: int
    """The last step that was made."""
    cause: LossCause
    text: str = ""
    """Status and last words of the process, or its error."""
    noticed_s: float | None = None
    """From the last sign of life to the notice, where it is known."""


@attrs.frozen(kw_only=True)
class HostAwaited:
    """Another host of the run is not there, at the start or because it was lost; until it is, no generation begins."""

    host: int
    """0 is the first host, whose gang decides."""
    wait_s: float
    """The run fails unless it comes within this time."""
    text: str = ""
    """Why it is not there, as far as that is known."""


@attrs.frozen(kw_only=True)
class HostJoined:
    """Another host is there, and starts its ranks."""

    host: int
    name: str
    ranks: int


@attrs.frozen(kw_only=True)
class RunStopping:
    """Somebody asked for the end: the step in hand is finished, then a checkpoint is saved."""

    reason: str
    """Who asked: a signal's name, or the program."""
    step: int
    """The last step that was made when it was asked for."""


@attrs.frozen(kw_only=True)
class TrackerDropped:
    """A tracker failed and gets no more facts; the run goes on without it."""

    tracker: str
    error: str


@attrs.frozen(kw_only=True)
class RunEnded:
    """The run is over, and this is what came of it."""

    outcome: Outcome
    step: int
    loss: float | None
    """That of the last step; None where none was made."""
    held_out: float | None = None
    """The last held-out loss, where one was measured."""
    restarts: int = 0
    elapsed_s: float = 0.0
    checkpoint_step: int | None = None
    """The newest whole checkpoint; None where there is none."""
    error: str = ""
    """Why a failed run failed."""
    hint: str = ""
    """What to do next about it."""


Fact = (
    RunBegan
    | RankStarted
    | GenerationBegan
    | StepMade
    | Evaluated
    | CheckpointSaved
    | RankLost
    | HostAwaited
    | HostJoined
    | RunStopping
    | TrackerDropped
    | RunEnded
)
"""All there is."""
