"""What a node and its rank worker say to each other over their socket pair: one question at a time, and heartbeats."""

from __future__ import annotations

from typing import Annotated

from prime.trainer.metadata import ModelMetadata, TrainingConfig
from prime.wire import Payload, Range, message

Count = Annotated[int, Range(1, 2**31)]


@message(tag=0x160)
class Setup:
    """Build the model and read the data. Answered with `Built`."""

    config: TrainingConfig
    rank: int


@message(tag=0x161)
class Built:
    """The worker is ready; `unigram` is the data's trivial baseline, if it has one."""

    metadata: ModelMetadata
    unigram: float | None


@message(tag=0x162)
class Load:
    """Set the parameters and the snapshot; the optimiser's state stays. Answered with `Done`."""

    theta: Payload


@message(tag=0x163)
class GetInitial:
    """Send the parameters as the seed made them. Answered with `Vector`."""


@message(tag=0x164)
class Train:
    """Make that many inner steps. Answered with `Trained`."""

    steps: Count


@message(tag=0x165)
class Halt:
    """Stop training after the step in hand; it has no answer of its own: `Trained` comes earlier."""


@message(tag=0x166)
class Trained:
    """The steps are made: `step` counts all of them since the start, `loss` is their mean."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


@message(tag=0x167)
class TakeSnapshot:
    """Send the local parameters and remember them. Answered with `Vector`."""


@message(tag=0x168)
class Rebase:
    """local <- theta + (local - snapshot); snapshot <- theta. Answered with `Done`."""

    theta: Payload


@message(tag=0x169)
class Evaluate:
    """Measure the mean loss of held-out batches, with these parameters or (None) the local ones. Answered with `Loss`."""

    theta: Payload | None
    batches: Count


@message(tag=0x16A)
class Loss:
    """The answer to `Evaluate`."""

    loss: float


@message(tag=0x16B)
class Write:
    """Continue a prompt with the local parameters. Answered with `Written`."""

    prompt: str
    length: int
    seed: int


@message(tag=0x16C)
class Written:
    """The answer to `Write`; empty if the model cannot write."""

    text: str


@message(tag=0x16D)
class Vector:
    """A flat float32 vector, little-endian."""

    data: Payload


@message(tag=0x16E)
class Done:
    """It is done."""


@message(tag=0x16F)
class Failed:
    """The question could not be answered. `code` names the error's class, `trace` is text."""

    code: str
    text: str
    hint: str
    trace: str


@message(tag=0x170)
class Alive:
    """A sign of life every half second; `step` shows progress."""

    step: int
