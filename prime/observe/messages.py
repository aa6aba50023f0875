"""The status protocol: one read-only question over the control socket, one answer. Tags 0x080-0x0ff."""

from __future__ import annotations

from prime.dht.messages import DhtStatus
from prime.wire import Ask, Payload, message, record

STATUS_PATH = "/node/status"
"""Where every node answers `GetStatus`."""


@record
class ActorStatus:
    """One actor: `mailbox` counts waiting messages, `age_s` is of the present incarnation.

    `oldest_s` is how long the oldest message was seen waiting, `p50_s` and `p99_s` the time to handle one (right within
    a factor of two), `dropped` its dead letters and refusals, `waits_for` the local actor that it asks now,
    `process` the id of the child process it lives in, or 0.
    """

    path: str
    actor: str
    state: str
    age_s: float
    restarts: int
    mailbox: int
    handled: int
    last_failure: str
    oldest_s: float = 0.0
    rate_per_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0
    dropped: int = 0
    waits_for: str = ""
    process: int = 0


@record
class SupervisorStatus:
    """One supervisor with its actors in start order; `restarts_left` is what its window has room for now."""

    path: str
    strategy: str
    state: str
    children: tuple[ActorStatus, ...]
    restarts_left: int = 0


@record
class MemberStatus:
    """A member of the present view as this node sees it.

    `chunks_held` of its `chunks_expected` for the parts that are stored here have come; `contributed` counts the rounds
    that have a contribution of its; `waited_for` says what the round waits for from it, if it does. `score` is how far
    its last contribution lay from the others, 1 being as far as usual (0: nobody looked); `left_out` says why it did not
    count, if so.
    """

    peer: str
    alive: bool
    weight: float
    chunks_held: int = 0
    chunks_expected: int = 0
    contributed: int = 0
    waited_for: str = ""
    score: float = 0.0
    left_out: str = ""


@record
class RoundStatus:
    """One decided round. Losses are in nats a character; `held_out` is there where this node measured it."""

    round: int
    epoch: int
    committed: bool
    contributors: tuple[str, ...]
    loss: float | None
    held_out: float | None
    at_s: float


@record
class RunStatus:
    """The training run as this node sees it.

    `wire_bytes` counts every byte of the round messages this node sent, headers and resends included;
    `float32_bytes` the same exchanges at 4 bytes an element; `state_bytes` the state transfers it sent.
    `state_hash` is that of the parameters after round `round`. `stalled` and `hint` are empty while all is well.
    `history` has the last rounds one by one, of those asked for.

    Of the round under way, `round_phase` is training, gathering, reducing, voting, stalled or outside; `ballot` and
    `leader` say who leads it, `contributors` whom it was sealed with, and of the chunks of its result
    `results_held` are here of `results_expected`. `every_step_bytes` is what float32 gradients in each step would have
    been, and `spent_s` what the time went into: compute, encode, and a round's phases.
    """

    phase: str
    round: int
    rounds: int
    epoch: int
    step: int
    round_step: int
    inner_steps: int
    tokens_per_s: float
    members: tuple[MemberStatus, ...]
    waiting_for: tuple[str, ...]
    stalled: str
    hint: str
    state_hash: str
    wire_bytes: int
    float32_bytes: int
    state_bytes: int
    loss_first: float | None
    loss_last: float | None
    unigram: float | None
    text_first: str
    text_last: str
    history: tuple[RoundStatus, ...]
    run: str = ""
    round_phase: str = ""
    ballot: str = ""
    leader: str = ""
    contributors: tuple[str, ...] = ()
    results_held: int = 0
    results_expected: int = 0
    committed: int = 0
    aborted: int = 0
    parameters: int = 0
    every_step_bytes: int = 0
    spent_s: tuple[tuple[str, float], ...] = ()
    loss: float | None = None
    held_out: float | None = None


@record
class NodeStatus:
    """What `prime status` shows of one node.

    `reachability` is unknown, public, relayed or client-only, with the reason and what peers said; `relayed` are the links
    that go through a relay; `turned_away` counts callers that proved who they are and got no link. `dht` is there where the
    node is in the DHT.
    """

    peer: str
    name: str
    version: str
    process: int
    transport: str
    addresses: tuple[str, ...]
    links: tuple[str, ...]
    uptime_s: float
    memory_bytes: int
    dead_letters: int
    supervisors: tuple[SupervisorStatus, ...]
    run: RunStatus | None
    reachability: str = "unknown"
    reachability_why: str = ""
    evidence: tuple[str, ...] = ()
    relayed: tuple[str, ...] = ()
    turned_away: int = 0
    dht: DhtStatus | None = None


@message(tag=0x080)
class GetStatus(Ask[NodeStatus]):
    """Ask a node what it is doing; `rounds_after` leaves the rounds up to that one out of the history."""

    rounds_after: int = -1


@message(tag=0x081)
class StopNode(Ask[None]):
    """Ask a node to stop in order: drain the round in hand, then end. Control socket only."""


LINK_PATH = "/node/link"
"""Where every node lets its links be measured."""


@record
class Bulk:
    """Bytes without a meaning."""

    data: Payload


@message(tag=0x082)
class Ping(Ask[None]):
    """Answer at once: the time that takes is the link's, there and back."""


@message(tag=0x083)
class TakeBulk(Ask[None]):
    """Take these bytes and forget them, to measure the way here. Refused to one that has sent too many."""

    data: Payload


@message(tag=0x084)
class GiveBulk(Ask[Bulk]):
    """Answer with so many bytes, to measure the way back. Refused as `TakeBulk`, and for more than a piece at once."""

    size_bytes: int


@record
class LinkMeasured:
    """A link as it was measured from here: `error` says why it could not be.

    Times there and back in seconds, the shortest and the middle one of `pings`, of which `lost` had no answer in time.
    Goodput in bytes a second, over `up_bytes` and `down_bytes`; `relayed` goes through another node.
    """

    peer: str
    address: str
    transport: str
    relayed: bool
    rtt_min_s: float
    rtt_s: float
    pings: int
    lost: int
    up_bytes_s: float
    down_bytes_s: float
    up_bytes: int
    down_bytes: int
    error: str = ""


@message(tag=0x085)
class MeasureLinks(Ask[tuple[LinkMeasured, ...]]):
    """Measure the links that this node has, one after the other; `peers` names some of them. Control socket only."""

    peers: tuple[str, ...]
    seconds: float
    bytes_max: int
