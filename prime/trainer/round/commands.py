"""What goes into the round's core and what comes out of it (pure).

The core is symbolic about numbers: it knows parts, hashes and sets of contributors. Its shell holds the bytes.

**Ordering law.** The commands of one step are carried out in their order, and a `Persist` is on the disk before the
next command starts. A shell that stops in the middle (a crash) must not carry out the rest.
"""

from __future__ import annotations

import attrs

from prime.trainer.round.messages import Offer, PeerMessage, Record
from prime.trainer.round.view import Share, Value, View

# ------------------------------------------------------------------------------------------------------------ events


@attrs.frozen
class Contributing:
    """The trainer's contribution to `round` is frozen and being encoded: its chunks may be sent as they are made."""

    round: int


@attrs.frozen
class Contributed:
    """The trainer's contribution to `round` is encoded and frozen; the shell keeps its bytes until the outcome."""

    round: int
    offer: Offer


@attrs.frozen
class Received:
    """A message from another member, or from one who would be."""

    message: PeerMessage


@attrs.frozen
class PartHeld:
    """All bytes of `sender`'s contribution to `part` of `round` are stored here."""

    round: int
    sender: str
    part: int
    hash: bytes


@attrs.frozen
class GramReady:
    """This owner has the inner products of the seal's candidates over `part`: the upper triangle, row by row."""

    round: int
    part: int
    seal: bytes
    entries: tuple[float, ...]


@attrs.frozen
class RateMeasured:
    """How fast this node can send, as its shell saw it, in bytes a second."""

    rate_bytes_s: float


@attrs.frozen
class Reduced:
    """This owner reduced `part` under the seal; the result's bytes are stored here."""

    round: int
    part: int
    seal: bytes
    hash: bytes


@attrs.frozen
class ResultHeld:
    """The bytes of a reduced part are stored here and match `hash`."""

    round: int
    part: int
    hash: bytes


@attrs.frozen
class StateReady:
    """This node holds the committed state after `round`; `state_hash` is over parameters and the outer optimiser's slots."""

    round: int
    state_hash: bytes


@attrs.frozen
class PeerDown:
    """The link to a peer, or its aggregator, ended: an instant suspicion."""

    peer: str


@attrs.frozen
class PeerUp:
    """A peer and its aggregator are there again, though it has said nothing yet."""

    peer: str


@attrs.frozen
class JoinRun:
    """Ask to join through these peers (an observer's contacts)."""

    contacts: tuple[str, ...]


@attrs.frozen
class LeaveRun:
    """Ask to be left out of the next view."""


@attrs.frozen
class EndRun:
    """Ask that the run end, for all, with the next round that is decided with contributions."""


@attrs.frozen
class Tick:
    """Time passed: resend, suspect, take over."""


Event = (
    Contributing
    | Contributed
    | Received
    | PartHeld
    | GramReady
    | Reduced
    | ResultHeld
    | StateReady
    | RateMeasured
    | PeerDown
    | PeerUp
    | JoinRun
    | LeaveRun
    | EndRun
    | Tick
)


# ---------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class Persist:
    """Write the record (for `Accepted`: with the bytes of the value's parts) and fsync before the next command."""

    record: Record


@attrs.frozen
class Send:
    """Tell another member; it may be lost."""

    to: str
    message: PeerMessage


@attrs.frozen
class Transfer:
    """Send the bytes of this member's own contribution to `part` to its owner (`to` may be this member itself).

    It may be that they are still being encoded: then each chunk goes when it is made.
    """

    round: int
    part: int
    to: str


@attrs.frozen
class Multiply:
    """Compute the inner products of the candidates' contributions to `part`, in float64, then report `GramReady`."""

    round: int
    part: int
    seal: bytes
    shares: tuple[Share, ...]


@attrs.frozen
class Reduce:
    """Aggregate `part` over `shares` in their order, encode it once, store it, then report `Reduced`.

    Only those that count are named, and by `Share.counts`.
    """

    round: int
    part: int
    seal: bytes
    shares: tuple[Share, ...]


@attrs.frozen
class SendResult:
    """Send the bytes of a reduced part."""

    round: int
    part: int
    hash: bytes
    to: str


@attrs.frozen
class Apply:
    """Committed, and all parts' bytes are here. `included`: this member is in C, so `e <- y - decode(encode(y))`;
    otherwise its `y` is carried. Comes exactly once for a round that this member takes part in.
    """  # noqa: D205

    value: Value
    included: bool


@attrs.frozen
class Keep:
    """⊥ was decided: state, residual and carry stay; the delta goes on growing."""

    value: Value


@attrs.frozen
class Settle:
    """Committed, and the state after it is already here (fetched from a donor): only residual and carry are settled."""

    value: Value
    included: bool


@attrs.frozen
class CatchUp:
    """The state after `round` cannot be computed here: fetch it from a member of `view`.

    `value` is the decision, if it is known; `included` tells whether this member's contribution was applied by it.
    `base` is there where a leader says that the state held here is another than the one after `round`: its hash.
    """

    round: int
    view: View
    value: Value | None
    included: bool
    reason: str
    base: bytes = b""


@attrs.frozen
class EnterView:
    """`view` decides `round` from now on, and this member is in it. Chunks of rounds before `round - 1` can go.

    `state_round` is the round whose state it starts from: all between them were aborted. `chosen`: it is asked to
    contribute (it votes and owns its part all the same).
    """

    round: int
    view: View
    state_round: int
    chosen: bool = True


@attrs.frozen
class Outside:
    """This member is in no view: it left, was left out, or waits to be let in (`rejoining`)."""

    round: int
    reason: str
    rejoining: bool


@attrs.frozen
class Ended:
    """The run ended with `round`, as its value says: no round comes after it."""

    round: int


@attrs.frozen
class Stalled:
    """Nothing can be committed now. `hint` is the next step for a person. Said once until `Resumed`."""

    round: int
    reason: str
    hint: str


@attrs.frozen
class Resumed:
    """What `Stalled` said is over."""

    round: int


@attrs.frozen
class Warn:
    """Something that a person should read in the log: a refused contribution, a message of another run."""

    text: str


Command = (
    Persist
    | Send
    | Transfer
    | Multiply
    | Reduce
    | SendResult
    | Apply
    | Keep
    | Settle
    | CatchUp
    | EnterView
    | Outside
    | Ended
    | Stalled
    | Resumed
    | Warn
)
