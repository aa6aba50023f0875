"""What a gang tells its ranks, and the news that it asks them for. A rank lives in a child process, so all have tags.

A rank says nothing by itself: the gang asks each for news, again and again, and is answered as soon as there is any, or
when it is time for a sign of life. So news come in order, never more at a time than the gang takes, and from the
process's own socket alone: nobody else on a network can speak for a rank.
"""

from __future__ import annotations

from typing import Annotated

from prime.trainer.gang.trouble import Trouble
from prime.wire import Ask, Range, message, record

Count = Annotated[int, Range(0, 2**62)]


@message(tag=0x170)
class Setup:
    """What a member is made with: its job as JSON, and how often it gives a sign of life."""

    job: str
    folder: str
    """The run's folder, an absolute path."""
    pulse_s: float
    world: Count
    """How many ranks there will be."""


@message(tag=0x172)
class TakeRank:
    """Be this rank of a generation; meet the others through the file `meeting`, and go on from the checkpoint of `step`."""

    generation: Count
    rank: Count
    world: Count
    step: int
    """-1: from the beginning."""
    meeting: str
    """A file, or on several hosts `tcp://address:port`, where rank 0 listens."""
    local_rank: Count = 0
    """The rank among those of its machine."""
    interface: str = ""
    """The network interface towards the other hosts, where there are several."""


@message(tag=0x173)
class LeaveRank:
    """Give the rank back as soon as torch's thread is idle; a thread that waits in a collective is not."""

    generation: Count


@message(tag=0x174)
class HaltAfter:
    """Do not go past this step before it is settled."""

    generation: Count
    step: Count


@message(tag=0x175)
class HaltSettled:
    """This step, which the rank agreed to, is the last."""

    generation: Count
    step: Count


@record
class Placed:
    """The rank has met the others and holds the state; what it says of the run is the same on all ranks."""

    strategy: str
    backend: str
    device: str
    engine: str
    parameters: int
    tokens_per_sample: int
    baseline: float | None


@record
class Made:
    """One step; see `prime.trainer.facts.StepMade`."""

    step: int
    loss: float
    learning_rate: float
    samples: int
    step_s: float
    data_s: float
    compute_s: float
    reduce_s: float
    optimiser_s: float
    grad_norm: float | None
    bytes_sent: int
    bytes_exact: int


@record
class Measured:
    """The loss on held-out data; see `prime.trainer.facts.Evaluated`."""

    step: int
    loss: float
    seconds: float
    measures: dict[str, float]


@record
class Kept:
    """A whole checkpoint; see `prime.trainer.facts.CheckpointSaved`."""

    step: int
    path: str
    size_bytes: int
    seconds: float
    blocked_s: float


@record
class Halt:
    """The answer to `HaltAfter`: whether the rank still can."""

    step: int
    agreed: bool


@record
class Item:
    """One piece of news, in the order in which it came: exactly one field but the first two is set.

    `generation` is -1 for one who has no rank, and `made` is the last step made when it came.
    """

    generation: int
    step: int
    ready: bool = False
    """It has no rank, and can take one."""
    placed: Placed | None = None
    made: Made | None = None
    measured: Measured | None = None
    kept: Kept | None = None
    halt: Halt | None = None
    trouble: Trouble | None = None
    finished: bool = False


@record
class News:
    """A sign of life: where the rank is, how much work it has done in its generation, and what came since the last one."""

    generation: int
    step: int
    work: int
    process: int
    items: tuple[Item, ...] = ()


@message(tag=0x171)
class GetNews(Ask[News]):
    """Answer when there is news, or when it is time for a sign of life."""


# --------------------------------------------------------------------------------------------------- several hosts


@record
class Welcome:
    """Whether the host belongs to the run now; `refusal` says why it never can, else it may ask again."""

    taken: bool
    refusal: str = ""
    hint: str = ""


@message(tag=0x176)
class JoinHost(Ask[Welcome]):
    """A host is there. It is not taken where its job is another one, or while a host of this number is there already."""

    host: Count
    hosts: Count
    name: str
    ranks: Count
    local: Count
    """The first of its ranks among those of its machine."""
    reached: str
    """The address at which it reached the first host."""
    interface: str
    """Its own network interface towards that."""
    job: str


@message(tag=0x177)
class StartMember(Ask[bool]):
    """Start a process, an actor at `/members/member-NUMBER` of the host; answered when it runs."""

    number: Count
    start_s: float


@message(tag=0x178)
class StopMember(Ask[bool]):
    """End a process at once; answered when it is gone."""

    number: Count


@message(tag=0x179)
class EndHost(Ask[bool]):
    """The run is over, and how; `text` and `hint` are of one that failed."""

    outcome: str
    step: Count
    text: str = ""
    hint: str = ""


@message(tag=0x17A)
class AskStop(Ask[bool]):
    """Somebody on another host wants the run to end in order."""

    reason: str
