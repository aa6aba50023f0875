"""What a node asks its rank worker, and what that answers. The worker lives in a child process, so all have tags."""

from __future__ import annotations

from typing import Annotated

from prime.trainer.metadata import ModelMetadata, TrainingConfig
from prime.wire import Ask, Payload, Range, message, record

Count = Annotated[int, Range(1, 2**31)]
Place = Annotated[int, Range(0, 2**63 - 1)]
"""A place in the flat vector of parameters."""


@message(tag=0x160)
class Setup:
    """What a worker is made with: the model to build, and whose data to read."""

    config: TrainingConfig
    rank: int


@record
class Built:
    """The worker is ready; `unigram` is the data's trivial baseline, if it has one, `samples` how many there are here."""

    metadata: ModelMetadata
    unigram: float | None
    process: int
    samples: int


@record
class Trained:
    """The steps are made: `step` counts all of them since the start, `loss` is their mean."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


@record
class Vector:
    """A flat float32 vector, little-endian."""

    data: Payload


@message(tag=0x161)
class Describe(Ask[Built]):
    """Say what was built."""


@message(tag=0x162)
class Load(Ask[None]):
    """Set the parameters and the snapshot; the optimiser's state stays."""

    theta: Payload


@message(tag=0x163)
class GetInitial(Ask[Vector]):
    """Send the parameters as the seed made them."""


@message(tag=0x164)
class Train(Ask[Trained]):
    """Make that many inner steps."""

    steps: Count


@message(tag=0x165)
class Halt:
    """Stop training after the step in hand, and answer the `Train` before this."""


@message(tag=0x167)
class TakeSnapshot(Ask[Vector]):
    """Send the local parameters from `start` to before `stop`, and remember them."""

    start: Place
    stop: Place


@message(tag=0x168)
class Rebase(Ask[None]):
    """From `start` on, as far as theta goes: local <- theta + (local - snapshot); snapshot <- theta."""

    theta: Payload
    start: Place


@message(tag=0x166)
class ForgetSnapshot(Ask[None]):
    """From `start` to before `stop`: snapshot <- the shared parameters last set.

    What the snapshot stood for is contributed again.
    """

    start: Place
    stop: Place


@message(tag=0x169)
class Evaluate(Ask[float]):
    """Measure the mean loss of held-out batches, with these parameters or (None) the local ones."""

    theta: Payload | None
    batches: Count


@message(tag=0x16B)
class Write(Ask[str]):
    """Continue a prompt with the local parameters; empty if the model cannot write."""

    prompt: str
    length: int
    seed: int
