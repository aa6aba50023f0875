"""What the trainer and the aggregator of one node say to each other. Local: nothing here has a wire form.

Control flows down as plans and comes up as facts: the trainer says what it holds and contributes, the aggregator says
what was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prime.trainer.round.settings import Setting
from prime.trainer.round.status import Status
from prime.trainer.round.view import Value, View
from prime.wire import Ask, message

Vector = Any
"""A vector as the run's `Numbers` has it: float32[D] in training."""


@message
class Begin:
    """The worker can run the model of `elements` parameters: found, join or recover now.

    A round carries one of `fragments` fragments (`prime.trainer.outer.fragments`). `settings` are those that all
    members have to have alike.
    """

    elements: int
    fragments: int = 1
    settings: tuple[Setting, ...] = ()


@message
class FurtherContacts:
    """More peers that may be asked to be let into the run."""

    peers: tuple[str, ...]


@message
class StateHeld:
    """This node holds the committed state after `round`, with that hash over parameters and the outer optimiser's slots."""

    round: int
    state_hash: bytes


@message
class Contribute:
    """This node's delta (outer minus local parameters) for `round`, and its weight in tokens."""

    round: int
    delta: Vector
    weight: float


@message
class LeaveSwarm:
    """Ask to be left out of the next view; `LeftView` is the answer."""


@message
class EndSwarm:
    """Ask that the run end, for all of its members, with the next round that is decided with contributions."""


@message
class GetRound(Ask[Status]):
    """Ask how the round stands."""


Plan = Begin | FurtherContacts | StateHeld | Contribute | LeaveSwarm | EndSwarm | GetRound
"""What the aggregator hears."""


@message
class ViewEntered:
    """`view` decides `round` from now on and this node is in it; it starts from the state after `state_round`.

    `chosen`: it is asked to contribute.
    """

    round: int
    view: View
    state_round: int
    chosen: bool = True


@message
class RoundCommitted:
    """`value` was decided; `aggregate` is what the run's rule made of its contributors' deltas. `included`: this node is one."""

    value: Value
    aggregate: Vector
    included: bool


@message
class RoundAborted:
    """`value` is an abort: the state stays and the delta goes on growing."""

    value: Value


@message
class StateMissed:
    """The state after `round` cannot be computed here: fetch it from the members of `view`.

    With `base` there is one here, but a leader says that it is wrong: the right one has this hash.
    """

    round: int
    view: View
    reason: str
    base: bytes = b""


@message
class LeftView:
    """This node is in no view; `rejoining`: it asks to be let in."""

    round: int
    reason: str
    rejoining: bool


@message
class RunEnded:
    """The members decided that `round` was the last one."""

    round: int


@message
class RoundStalled:
    """Nothing can be committed now; `hint` is the next step for a person."""

    round: int
    reason: str
    hint: str


@message
class RoundResumed:
    """What `RoundStalled` said is over."""

    round: int


@message
class CommitKept:
    """`value` was decided while the state that it starts from is not here, and its bytes are: `join` makes them the aggregate.

    A state that is on its way when rounds go on is brought forward by these, as far as they follow one another.
    """

    value: Value
    join: Callable[[], Vector]


@message
class StateSaved:
    """The state with this hash is on the disk: what is contributed from now on may build on it."""

    state_hash: bytes


Outcome = (
    ViewEntered
    | RoundCommitted
    | RoundAborted
    | StateMissed
    | CommitKept
    | LeftView
    | RunEnded
    | RoundStalled
    | RoundResumed
)
"""What the trainer hears."""
