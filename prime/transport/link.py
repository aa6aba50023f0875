"""The link between two nodes as a pure core: `step(event, now) -> commands`. No I/O, no clock, no entropy lives here.

One `Link` is one authenticated byte stream from its HELLO to its end. It decides what is sent when, and what the other
side may send; `carrier.py` moves the bytes and carries the commands out.

Credit. Each side announces windows in HELLO (`Allowance`). A message to a target path needs room in that target's
window (messages and bytes; one message of any allowed size when nothing is outstanding) and in the link's window over
all targets. The receiver grants as messages enter the mailbox, in lots of at least half a window, earlier when the
sender says BLOCKED, and for targets gone idle when much is held back. So a full far mailbox stops the senders of that
actor and of no other, and no queue here is longer than what this side itself announced.

Ordering laws. Messages to one target are released in the order they were submitted, and delivered one at a time
(`Deliver`, then the shell's `Taken`). Targets that wait for the outbox take turns. The commands of a step are carried
out in order; `Disconnect` is the last command a link ever gives.

Events and commands are `define`, not `frozen`: some are built for every message.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any, Final

import attrs

from prime.errors import (
    DeadlineError,
    LinkLostError,
    LocalProtocolError,
    PrimeError,
    RefusedError,
    RemoteProtocolError,
)
from prime.transport import frames as fr
from prime.transport.failures import from_frame, to_frame
from prime.transport.heartbeat import Heartbeat, Pulse
from prime.transport.pieces import (
    FEATURE,
    MESSAGES_MAX,
    PIECE_BYTES_FIRST,
    STALL_S,
    Arrival,
    Arrivals,
    Cut,
    Departure,
    Departures,
)
from prime.wire import dumps
from prime.wire.cbor import dumps_closed

Buffers = Sequence[memoryview]
"""The payloads of a frame, in order; never copied here."""

OUTBOX_FRAMES: Final = 4
"""Of the biggest frames that leave whole, so many may wait to be written: on a slow line that is less than `outbox_bytes`."""


@attrs.frozen
class LinkLimits:
    """Every bound of a link. `allowance` is what the peer may do; the rest is this side's own."""

    allowance: fr.Allowance = attrs.field(factory=fr.Allowance)
    outbox_bytes: int = 4 * 2**20
    """Messages released and not yet written; further ones wait with their callers."""
    answers_bytes: int = 16 * 2**20
    """Answers not yet written above which nothing more is delivered: who does not read is not served."""
    urgent_bytes_max: int = 32 * 2**20
    """Failures, credits and notices not yet written above which the link is closed."""
    waiting_max: int = 65_536
    heartbeat_interval_s: float = 2.0
    heartbeat_timeout_s: float = 6.0
    heartbeat_rest_s: float = 30.0
    """After how long a silence a peer is pinged on which nothing depends: no ask, watch or message."""
    dial_s: float = 10.0
    greeting_s: float = 5.0
    write_s: float = 30.0
    farewell_s: float = 1.0
    reliable_messages: int = 256
    reliable_bytes: int = 16 * 2**20
    reliable_give_up_s: float = 60.0
    """Messages told reliably and not acknowledged, for each far actor, and for how long they are sent again."""
    signed_age_s: float = 300.0
    signed_ahead_s: float = 60.0
    """How old a signed message may be, and how far its signer's clock ahead of ours; see `replay.py`."""
    signers_max: int = 8192
    signers_by_peer_max: int = 256
    """Signers whose messages are remembered, in all and by the peer that brought the first of them."""
    links_max: int = 1024
    greetings_max: int = 64
    peers_max: int = 4096

    def __attrs_post_init__(self) -> None:
        """Refuse limits under which the biggest message could wait for ever."""
        if self.allowance.frame_bytes_max > self.allowance.link_bytes // 2:
            raise LocalProtocolError(
                f"frame_bytes_max={self.allowance.frame_bytes_max} is over half of link_bytes="
                f"{self.allowance.link_bytes}",
                hint="Raise link_bytes or lower frame_bytes_max.",
            )


class Lane(IntEnum):
    """How a frame travels: URGENT overtakes; ANSWER and MESSAGE share one queue and are accounted apart."""

    URGENT = 0
    ANSWER = 1
    MESSAGE = 2


# ------------------------------------------------------------------------------------------------------------- events


@attrs.define
class Start:
    """The stream stands and this side dialled it."""


@attrs.define
class Arrived:
    """A frame came; `size_bytes` is all of it, prefix and payloads included."""

    frame: fr.Frame
    payloads: Buffers
    size_bytes: int


@attrs.define
class Malformed:
    """Bytes came that are no frame."""

    text: str


@attrs.define
class Admit:
    """The link that the peer dialled shall be used."""


@attrs.define
class Submit:
    """A local message for a far actor. `token` is unique on this link; `timeout_s` is set for an ask only."""

    token: int
    target: str
    body: list[Any]
    payloads: Buffers
    tag: int
    timeout_s: float | None = None
    sender: str | None = None
    trace: str | None = None
    numbered: tuple[int, int, int] | None = None
    chain: tuple[str, ...] = ()


@attrs.define
class Acknowledge:
    """Numbered messages of a series of the peer's are taken; see `frames.Ack`."""

    series: int
    number: int
    again: str


@attrs.define
class Withdraw:
    """The caller of a `Submit` gave up."""

    token: int


@attrs.define
class Answer:
    """A local actor answered the ask `correlation`."""

    correlation: int
    value: Any
    payloads: Buffers
    tag: int


@attrs.define
class Refuse:
    """The ask `correlation` failed here."""

    correlation: int
    error: BaseException
    tag: int = 0


@attrs.define
class Taken:
    """The message last delivered to `target` is in its mailbox, or was dropped."""

    target: str


@attrs.define
class StartWatch:
    """Wants to know when the far actor at `target` ends."""

    token: int
    target: str


@attrs.define
class StopWatch:
    """Wants that no more."""

    token: int


@attrs.define
class Ended:
    """A local actor ended that the peer watches."""

    watch_id: int
    reason: str


@attrs.define
class Written:
    """The writer handed bytes of these lanes to the stream."""

    urgent: int
    answers: int
    messages: int
    pieces: bool = False
    """Whether there were pieces of messages among them, which `messages` does not count."""


@attrs.define
class PieceCame:
    """A piece was put into the rooms that `Link.rooms` gave for its parts."""

    number: int
    sizes: tuple[int, ...]


@attrs.define
class Tick:
    """`Link.due` has come."""


@attrs.define
class Lost:
    """The stream ended."""

    cause: str


@attrs.define
class Close:
    """This side ends the link."""

    reason: fr.Reason
    text: str


Event = (
    Start
    | Arrived
    | Malformed
    | Admit
    | Submit
    | Acknowledge
    | Withdraw
    | Answer
    | Refuse
    | Taken
    | StartWatch
    | StopWatch
    | Ended
    | Written
    | PieceCame
    | Tick
    | Lost
    | Close
)


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.define
class Send:
    """Write a frame; frames of one lane in order."""

    header: bytes
    payloads: Buffers
    size_bytes: int
    lane: Lane
    tag: int


@attrs.define
class Pieced:
    """A frame is there that leaves in pieces: take them with `Link.next_piece`."""


@attrs.define
class Greeted:
    """The peer said HELLO. If it dialled, nothing goes on before the shell's `Admit` or `Close`."""

    hello: fr.Hello


@attrs.define
class Up:
    """Both sides said HELLO: messages may go."""


@attrs.define
class Released:
    """The submitted message is on its way to the writer."""

    token: int


@attrs.define
class Resolved:
    """The ask got its reply."""

    token: int
    value: Any
    payloads: Buffers


@attrs.define
class Rejected:
    """The submitted message will not be sent, or its ask failed."""

    token: int
    error: PrimeError


@attrs.define
class Deliver:
    """Offer a message to the local actor at `target`; then say `Taken`. `correlation` is set for an ask."""

    target: str
    body: Any
    payloads: Buffers
    correlation: int | None
    deadline: float | None
    sender: str | None
    trace: str | None
    numbered: tuple[int, int, int] | None = None
    chain: tuple[str, ...] = ()


@attrs.define
class Acknowledged:
    """The peer has taken numbered messages of ours; see `frames.Ack`."""

    series: int
    number: int
    again: str


@attrs.define
class Observe:
    """Watch a local actor for the peer."""

    watch_id: int
    target: str


@attrs.define
class Unobserve:
    """Watch it no more."""

    watch_id: int


@attrs.define
class Notify:
    """The watched far actor ended, or the link did. Exactly once for each watch that was not stopped."""

    token: int
    reason: str


@attrs.define
class Dropped:
    """An answer came, or was made, that nobody waits for."""

    reason: str


@attrs.define
class Doubt:
    """Nothing answers: try a new link, which may be heard where this one is not any more; see `Link.doubtful`."""


@attrs.define
class Disconnect:
    """End the stream: after what is queued if `drain`, after the urgent lane otherwise."""

    cause: str
    drain: bool
    reason: fr.Reason | None


Command = (
    Send
    | Pieced
    | Greeted
    | Up
    | Released
    | Resolved
    | Acknowledged
    | Rejected
    | Deliver
    | Observe
    | Unobserve
    | Notify
    | Dropped
    | Doubt
    | Disconnect
)


# ----------------------------------------------------------------------------------------------- links that cross


class Verdict(Enum):
    """What to do with a link that a peer dialled."""

    ADMIT = "admit"
    REPLACE = "replace"
    DUPLICATE = "duplicate"
    HOLD = "hold"


@attrs.frozen
class Standing:
    """The link with a peer that is up now: who dialled it, its id, and the run of the node at its other end."""

    dialled_here: bool
    link_id: int
    instance: int


def judge(me: str, peer: str, hello: fr.Hello, standing: Standing | None, *, dialling: bool) -> Verdict:
    """Decide about a link that `peer` dialled, so that both sides of two crossing dials keep the same one.

    A dial of ours in progress wins if ours is the smaller peer id: the peer's waits (`HOLD`) until ours is settled. With
    a link up, the newcomer is a leftover of such a crossing, or was long under way (`DUPLICATE`), unless the peer shows
    that it has lost the standing one, or is in doubt about it: it restarted, it has dialled again since it dialled the
    standing link itself (its link ids rise), or it names the standing link as its previous one.
    """
    if standing is not None and not _supersedes(hello, standing):
        return Verdict.DUPLICATE
    if dialling and me < peer:
        return Verdict.HOLD
    return Verdict.ADMIT if standing is None else Verdict.REPLACE


def _supersedes(hello: fr.Hello, standing: Standing) -> bool:
    if hello.instance != standing.instance:
        return True
    if standing.dialled_here:
        return hello.previous_id == standing.link_id
    return hello.link_id > standing.link_id


# ---------------------------------------------------------------------------------------------------- parts of a link


class _Obstacle(Enum):
    """What keeps the first message of a target from being released."""

    CREDIT = "credit"
    OUTBOX = "outbox"
    ROOM = "room"
    ASKS = "asks"
    TURN = "turn"
    """As many messages leave in pieces as may at a time."""
    BEHIND = "behind"
    """The one before it leaves in pieces."""


_NOTHING_SAID: Final = fr.Allowance()
_LINES: Final = (_Obstacle.ASKS, _Obstacle.ROOM, _Obstacle.TURN, _Obstacle.OUTBOX)


@attrs.define(eq=False)
class _Entry:
    """A submitted message."""

    token: int
    frame: fr.Tell | fr.Ask
    header: bytes
    payloads: Buffers
    size_bytes: int
    tag: int
    asks: bool
    deadline: float
    timeout_s: float


_NO_DEPARTURES: Final = Departures(0)
_NO_ARRIVALS: Final = Arrivals()
"""Those of a link on which nothing ever went in pieces; never added to."""
_NONE: Final[deque[Any]] = deque(maxlen=0)
"""The queue in which nothing ever waited: nearly every one, and a deque of its own would be most of what a link takes."""


@attrs.define(eq=False)
class _Outgoing:
    """A far target: what waits for it, and what was sent and not yet credited."""

    path: str
    queue: deque[_Entry] = _NONE
    messages: int = 0
    size_bytes: int = 0
    in_line: bool = False
    said_blocked: bool = False
    head: bytes = b""
    departing: Departure | None = None
    queued_bytes: int = 0
    """How many bytes of messages the link had queued, in all its time, after the last one to this target."""


@attrs.define(eq=False)
class _Incoming:
    """A local target: `messages` and `size_bytes` came and were not yet granted; `taken_*` of them could be."""

    path: str
    queue: deque[tuple[fr.Tell | fr.Ask, Buffers, int, float | None]] = _NONE
    messages: int = 0
    size_bytes: int = 0
    taken_messages: int = 0
    taken_bytes: int = 0
    offered_bytes: int = 0
    seq: int = 0
    busy: bool = False
    wanted: bool = False


@attrs.define
class _Asked:
    """An ask of ours that waits for its answer."""

    tag: int
    target: str
    deadline: float
    timeout_s: float


class _Deadlines:
    """Deadlines by token, soonest first; forgotten ones are swept when they are the most."""

    __slots__ = ("_heap", "_live", "due")

    def __init__(self) -> None:
        self.due = math.inf
        self._heap: list[tuple[float, int]] = []
        self._live: dict[int, None] = {}

    def add(self, token: int, deadline: float) -> None:
        if deadline != math.inf:
            heapq.heappush(self._heap, (deadline, token))
            self._live[token] = None
            self.due = min(self.due, deadline)

    def forget(self, token: int) -> None:
        live, heap = self._live, self._heap
        live.pop(token, None)
        if not live:
            heap.clear()
            self.due = math.inf
            return
        while heap[0][1] not in live:  # or its time would be waited for
            heapq.heappop(heap)
        if len(heap) > 64 + 2 * len(live):
            self._heap = [item for item in heap if item[1] in live]
            heapq.heapify(self._heap)
        self.due = self._heap[0][0]

    def passed(self, now: float) -> list[int]:
        tokens: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            token = heapq.heappop(self._heap)[1]
            if token in self._live:
                del self._live[token]
                tokens.append(token)
        self.due = self._heap[0][0] if self._heap else math.inf
        return tokens


class _Phase(Enum):
    GREETING = "greeting"
    GREETED = "greeted"
    UP = "up"
    CLOSED = "closed"


# ----------------------------------------------------------------------------------------------------------- the link


class Link:
    """One link with `peer`. `hello` is what this side says; an accepted link takes over the dialler's link id."""

    __slots__ = (
        "_arrivals",
        "_asks",
        "_cause",
        "_commands",
        "_deadlines",
        "_departed",
        "_departing",
        "_departures",
        "_dialled",
        "_frame_bytes_max",
        "_heartbeat",
        "_held",
        "_hello",
        "_idle",
        "_incoming",
        "_incoming_bytes",
        "_limits",
        "_lines",
        "_link_id",
        "_lot_bytes",
        "_lot_messages",
        "_mine",
        "_outgoing",
        "_outstanding_bytes",
        "_peer",
        "_phase",
        "_pieces",
        "_ponged",
        "_queued_bytes",
        "_quick_bytes_max",
        "_replying",
        "_said",
        "_seq",
        "_serving",
        "_targets_open",
        "_theirs",
        "_unacknowledged",
        "_ungranted_bytes",
        "_unsent",
        "_waiting",
        "_watched",
        "_watches",
        "whole_bytes_max",
    )

    def __init__(self, peer: str, hello: fr.Hello, limits: LinkLimits, now: float, *, dialled: bool) -> None:
        self._peer = peer
        self._hello = hello
        self._link_id = hello.link_id
        self._limits = limits
        self._mine = limits.allowance
        self._theirs = _NOTHING_SAID
        self._frame_bytes_max = 0
        self._quick_bytes_max = 0
        self._lot_messages = (self._mine.window_messages + 1) // 2
        self._lot_bytes = (self._mine.window_bytes + 1) // 2
        self._dialled = dialled
        self._phase = _Phase.GREETING
        self._cause = "it is not up yet"
        self._commands: list[Command] = []
        self._heartbeat = _heartbeat(limits, now, dialled=dialled)
        self._said = False
        self._deadlines = _Deadlines()
        # What goes out.
        self._seq = 0
        self._outgoing: dict[str, _Outgoing] = {}
        self._waiting: dict[int, tuple[_Outgoing, _Entry]] = {}
        self._lines: dict[_Obstacle, deque[_Outgoing]] = {}
        self._targets_open = 0
        self._outstanding_bytes = 0
        self._asks: dict[int, _Asked] = {}
        self._watches: dict[int, str] = {}
        self._unacknowledged: dict[int, int] = {}
        self._unsent = [0, 0, 0]
        self._queued_bytes = 0
        self._ponged = False
        self._pieces = False
        self._departures = _NO_DEPARTURES
        self._departing: dict[int, Departure] = {}
        self._replying: dict[int, Departure] = {}
        self._departed: list[Departure] = []
        self.whole_bytes_max = PIECE_BYTES_FIRST
        """Frames up to this size go whole, also with payloads: as many bytes as a piece may have."""
        # What comes in.
        self._incoming: dict[str, _Incoming] = {}
        self._idle: dict[str, _Incoming] = {}
        self._held: deque[_Incoming] = _NONE
        self._incoming_bytes = 0
        self._ungranted_bytes = 0
        self._serving: dict[int, None] = {}
        self._watched: dict[int, None] = {}
        self._arrivals = _NO_ARRIVALS

    def step(self, event: Event, now: float) -> list[Command]:
        """Take an event at `now` (seconds, monotonic) and return what to do, in order. Never raises for input."""
        commands: list[Command] = []
        self._commands = commands
        if self._phase is _Phase.CLOSED:
            self._too_late(event)
            return commands
        try:
            _STEPS[type(event)](self, event, now)
        except RemoteProtocolError as error:
            self._end(fr.Reason.PROTOCOL, f"the peer broke the protocol: {error}", drain=False)
        if self._unsent[Lane.URGENT] > self._limits.urgent_bytes_max:
            self._lose("the peer does not read", fr.Reason.OVERLOAD)
        return commands

    # ---- short ways
    #
    # For the commonest messages (small, without payloads) with nothing in their way: what `step` would do, without the
    # objects it is told in. Each says whether it did; where not, it has changed nothing and `step` decides. A shell
    # uses them only while no command of an earlier step is left to carry out, as they would overtake it.

    def start_now(self) -> bytes:
        """Say HELLO as `Start` would; returns the header to write in the urgent lane."""
        header = self._hello.header(self._link_id)
        self._unsent[0] += fr.PREFIX_BYTES + len(header)
        return header

    def hello_in(self, frame: fr.Hello, now: float) -> bool:
        """Let a HELLO arrive as `Arrived` would; the shell does what `Greeted` says, and `Up` where this side dialled."""
        if self._phase is not _Phase.GREETING or frame.version != fr.PROTOCOL_VERSION:
            return False
        self._take_hello(frame, now)
        return True

    def admit_now(self, now: float) -> bytes | None:
        """Admit as `Admit` would; returns the header to write in the urgent lane, before the shell does what `Up` says."""
        if self._phase is not _Phase.GREETED:
            return None
        self._open(now)
        return self.start_now()

    def heard_now(self, now: float) -> None:
        """Note that bytes came, whole frames or not."""
        beat = self._heartbeat  # as `Heartbeat.heard`, for every read
        beat.heard_at = now
        beat.asked = self._said = False

    def flowed_now(self, now: float) -> None:
        """Note that the stream went on taking bytes after a wait; what is to be answered is so still."""
        self._heartbeat.flowed(now)

    def tell_now(self, path: str, body: bytes) -> bytes | None:
        """Release a tell as `Submit` would; returns the header to write in the lane of messages."""
        target = self._outgoing.get(path) or self._new_target(path)
        if target is None or target.queue:
            return None
        header = fr.TELL_START + (target.head or _head(target)) + fr.uint(self._seq + 1) + body
        return header if self._release_now(target, fr.PREFIX_BYTES + len(header)) else None

    def ask_now(
        self,
        path: str,
        body: bytes,
        token: int,
        tag: int,
        timeout_s: float,
        now: float,
        chain: tuple[str, ...] = (),
    ) -> bytes | None:
        """Release an ask as `Submit` would; returns the header to write in the lane of messages."""
        target = self._outgoing.get(path) or self._new_target(path)
        if target is None or target.queue or len(self._asks) >= self._theirs.asks_max:
            return None
        left = b"\xf6" if timeout_s == math.inf else fr.uint(max(1, math.ceil(timeout_s * 1000)))
        head = target.head or _head(target)
        header = fr.ASK_START + head + fr.uint(self._seq + 1) + body + fr.uint(token) + left
        if chain:
            header = fr.with_chain(header, chain)
        if not self._release_now(target, fr.PREFIX_BYTES + len(header)):
            return None
        self._asks[token] = _Asked(tag, path, now + timeout_s, timeout_s)
        self._deadlines.add(token, now + timeout_s)
        if self._heartbeat.rests:
            self._heartbeat.wake(now)
        return header

    def _new_target(self, path: str) -> _Outgoing | None:
        """Return a target that nothing was sent to, if one more may be open; `_release_now` remembers it."""
        if self._phase is not _Phase.UP or len(path) > fr.PATH_CHARS_MAX:
            return None
        return _Outgoing(path)

    def _release_now(self, target: _Outgoing, size_bytes: int) -> bool:
        """Account for a message as `_release` does, if it has no obstacle."""
        theirs = self._theirs
        if (
            size_bytes > self._quick_bytes_max
            or target.departing is not None
            or target.messages >= theirs.window_messages
            or target.size_bytes + size_bytes > theirs.window_bytes
            or self._outstanding_bytes + size_bytes > theirs.link_bytes
            or self._unsent[2] >= self._limits.outbox_bytes
            or len(self._waiting) >= self._limits.waiting_max
        ):
            return False
        if not target.messages:
            if self._targets_open >= theirs.targets_max:
                return False
            self._targets_open += 1
            self._outgoing[target.path] = target
        self._seq += 1
        target.messages += 1
        target.size_bytes += size_bytes
        self._outstanding_bytes += size_bytes
        self._unsent[2] += size_bytes
        self._queued_bytes = target.queued_bytes = self._queued_bytes + size_bytes
        return True

    def tell_in(self, path: str, seq: int, size_bytes: int) -> bool:
        """Let a tell arrive as `Arrived` would: it is to be delivered now, and then `taken_now` or `Taken` said."""
        target = self._incoming.get(path)
        return target is not None and self._arrive(target, seq, size_bytes)

    def ask_in(self, path: str, seq: int, size_bytes: int, correlation: int) -> bool:
        """Let an ask arrive, as `tell_in`."""
        target, serving = self._incoming.get(path) or self._new_source(path), self._serving
        if target is None or correlation in serving or len(serving) >= self._mine.asks_max:
            return False
        if not self._arrive(target, seq, size_bytes):
            return False
        serving[correlation] = None
        return True

    def _new_source(self, path: str) -> _Incoming | None:
        """Return a target that nothing came for yet, if one more may be; `_arrive` remembers it."""
        most = self._mine.targets_max
        if self._phase is not _Phase.UP or not 0 < len(path) <= fr.PATH_CHARS_MAX or len(self._incoming) >= most:
            return None
        return _Incoming(path)

    def _arrive(self, target: _Incoming, seq: int, size_bytes: int) -> bool:
        """Account for a message as `_admitted` and `_offer` do, if it may be delivered at once."""
        mine = self._mine
        if (
            target.busy
            or target.queue
            or seq <= target.seq
            or target.messages >= mine.window_messages
            or target.size_bytes + size_bytes > mine.window_bytes
            or self._incoming_bytes + size_bytes > mine.link_bytes
            or self._unsent[0] + self._unsent[1] > self._limits.answers_bytes
        ):
            return False
        if target.messages:
            self._idle.pop(target.path, None)
        else:
            self._incoming[target.path] = target
        target.seq = seq
        target.messages += 1
        target.size_bytes += size_bytes
        self._incoming_bytes += size_bytes
        target.busy = True
        target.offered_bytes = size_bytes
        return True

    def taken_now(self, path: str) -> list[Command] | None:
        """Do as `step(Taken(path))`; `None` is no commands."""
        target = self._incoming.get(path)
        if target is None or not target.offered_bytes:
            return None
        mine, size_bytes = self._mine, target.offered_bytes
        if (
            target.queue
            or target.wanted
            or target.taken_messages + 1 >= self._lot_messages
            or target.taken_bytes + size_bytes >= self._lot_bytes
            or (self._ungranted_bytes + size_bytes) * 4 > mine.link_bytes
            or len(self._incoming) * 2 > mine.targets_max
        ):
            commands: list[Command] = []
            self._commands = commands
            self._take(target)
            return commands
        target.busy = False
        target.taken_messages += 1
        target.taken_bytes += size_bytes
        self._ungranted_bytes += size_bytes
        target.offered_bytes = 0
        self._idle[path] = target
        return None

    def reply_in(self, correlation: int) -> bool:
        """Let a reply arrive: the ask is settled."""
        if (self._lines and self._lines.get(_Obstacle.ASKS)) or self._asks.pop(correlation, None) is None:
            return False
        self._deadlines.forget(correlation)
        if not self._depends():
            self._heartbeat.rest()
        return True

    def answer_now(self, correlation: int, value: bytes) -> bytes | None:
        """Answer as `Answer` would; returns the header to write in the lane of answers."""
        header = fr.REPLY_START + fr.uint(correlation) + value
        size_bytes = fr.PREFIX_BYTES + len(header)
        if correlation not in self._serving or size_bytes > self._quick_bytes_max:
            return None
        self._serving.pop(correlation, None)
        self._unsent[1] += size_bytes
        return header

    def written(self, urgent: int, answers: int, messages: int, now: float) -> list[Command] | None:
        """Do as `step(Written(...))` without pieces; `None` is no commands."""
        if self._departed or self._lines or self._held or self._phase is _Phase.CLOSED:
            return self.step(Written(urgent, answers, messages), now)
        unsent = self._unsent  # as `_count_written`
        unsent[0] -= urgent
        unsent[1] -= answers
        unsent[2] -= messages
        if urgent:
            self._ponged = False
        if messages:
            self._said = True
        if self._heartbeat.rests and self._depends():
            self._heartbeat.wake(now)
        return None

    def next_piece(self, size_bytes: int) -> Cut | None:
        """Cut the next piece of a frame that leaves in pieces; then say `Written`. Also after the link's farewell."""
        cut = self._departures.next(size_bytes)
        if cut is not None and cut.last:
            self._departed.append(cut.departure)
        return cut

    def rooms(self, number: int, sizes: Sequence[int]) -> list[memoryview] | None:
        """Return where the parts of a piece are to be put, before `PieceCame`; `None` if `Arrived` shall judge it."""
        return self._arrivals.rooms(number, sizes) if self._phase is _Phase.UP else None

    # ---- what the shell may read

    @property
    def has_pieces(self) -> bool:
        """Tell whether `next_piece` has one."""
        return bool(self._departures)

    @property
    def up(self) -> bool:
        """Tell whether both sides said HELLO and the link has not ended."""
        return self._phase is _Phase.UP

    @property
    def doubtful(self) -> bool:
        """Tell whether the peer does not answer, and whether it will is in doubt."""
        return self._phase is _Phase.UP and self._heartbeat.doubtful

    @property
    def due(self) -> float:
        """When the next `Tick` is wanted."""
        if self._phase is not _Phase.UP:
            return math.inf
        beat_at, deadline = self._heartbeat.due, self._deadlines.due
        if self._arrivals:
            deadline = min(deadline, self._arrivals.due)
        return beat_at if beat_at < deadline else deadline  # noqa: FURB136 - half the price

    @property
    def link_id(self) -> int:
        """The id that the dialler chose."""
        return self._link_id

    @property
    def asks_open(self) -> int:
        """How many asks of ours wait for an answer."""
        return len(self._asks)

    @property
    def serving_open(self) -> int:
        """How many asks of the peer's wait for ours."""
        return len(self._serving)

    def serves(self, correlation: int) -> bool:
        """Tell whether the peer still waits for our answer to this ask of its own."""
        return correlation in self._serving

    def asked_tag(self, correlation: int) -> int:
        """Return the message tag of an ask that waits for its answer, 0 if there is none."""
        asked = self._asks.get(correlation)
        return 0 if asked is None else asked.tag

    def arriving_tag(self, number: int) -> int:
        """Return the message tag of a frame that comes in pieces, 0 if there is none."""
        return self._arrivals.tag(number)

    def sizes(self) -> dict[str, int]:
        """Count what the link remembers, by table: what a leak test looks at."""
        return {
            "waiting": len(self._waiting),
            "outgoing": len(self._outgoing),
            "asks": len(self._asks),
            "watches": len(self._watches),
            "incoming": len(self._incoming),
            "serving": len(self._serving),
            "watched": len(self._watched),
            "departing": len(self._departing),
            "arriving": len(self._arrivals),
        }

    # ---- greeting

    def _start(self, _event: Start, _now: float) -> None:
        self._greet()

    def _admit(self, _event: Admit, now: float) -> None:
        if self._phase is _Phase.GREETED:
            self._greet()
            self._open(now)
            self._commands.append(Up())

    def _greet(self) -> None:
        header = self._hello.header(self._link_id)
        self._emit(header, (), fr.PREFIX_BYTES + len(header), Lane.URGENT, 0)

    def _open(self, now: float) -> None:
        self._phase = _Phase.UP
        self._heartbeat.begin(now)

    def _hello_arrived(self, frame: fr.Hello, now: float) -> None:
        if self._phase is not _Phase.GREETING:
            raise RemoteProtocolError("a second HELLO")
        if frame.version != fr.PROTOCOL_VERSION:
            text = f"link protocol {frame.version} is not spoken here, {fr.PROTOCOL_VERSION} is"
            self._end(fr.Reason.VERSION, text, drain=False)
            return
        self._commands.append(Greeted(frame))
        self._take_hello(frame, now)
        if self._dialled:
            self._commands.append(Up())

    def _take_hello(self, frame: fr.Hello, now: float) -> None:
        theirs = self._theirs = frame.allowance
        self._frame_bytes_max = most = min(theirs.frame_bytes_max, theirs.link_bytes // 2)
        self._quick_bytes_max = min(most, theirs.header_bytes_max, fr.QUICK_BYTES_MAX)
        self._pieces = FEATURE in frame.features and FEATURE in self._hello.features
        if self._dialled:
            self._open(now)
        else:
            self._phase = _Phase.GREETED
            self._link_id = frame.link_id

    # ---- frames

    def _malformed(self, event: Malformed, _now: float) -> None:
        raise RemoteProtocolError(event.text)

    def _arrived(self, event: Arrived, now: float) -> None:
        frame = event.frame
        if self._phase is not _Phase.UP:
            self._arrived_early(frame, now)
        elif type(frame) is fr.Tell or type(frame) is fr.Ask:  # half the price of isinstance, for every message
            self._message_arrived(frame, event.payloads, event.size_bytes, now)
        elif type(frame) is fr.Reply:
            self._reply_arrived(frame, event.payloads, now)
        elif type(frame) is fr.Piece:
            self._piece_arrived(frame, event.payloads, now)
        else:
            _FRAMES[type(frame)](self, frame, now)

    def _arrived_early(self, frame: fr.Frame, now: float) -> None:
        if isinstance(frame, fr.Hello):
            self._hello_arrived(frame, now)
        elif isinstance(frame, fr.Bye):
            self._bye_arrived(frame, now)
        else:
            raise RemoteProtocolError(f"{frame.kind.name} before HELLO was answered")

    def _ping_arrived(self, _frame: fr.Ping, _now: float) -> None:
        if not self._ponged:  # one PONG waits at a time, however many PINGs came
            self._ponged = True
            self._send(fr.Pong(), Lane.URGENT)

    def _pong_arrived(self, _frame: fr.Pong, _now: float) -> None:
        """Nothing to do: its bytes were heard."""

    def _bye_arrived(self, frame: fr.Bye, _now: float) -> None:
        said = f": {frame.text}" if frame.text else ""
        self._lose(f"the peer said goodbye ({frame.reason.name.lower()}){said}", frame.reason)

    # ---- sending messages

    def _submit(self, event: Submit, now: float) -> None:
        self._seq += 1
        timeout_s = event.timeout_s
        frame: fr.Tell | fr.Ask
        if timeout_s is None:
            frame = fr.Tell(event.target, self._seq, event.body, event.sender, event.trace, event.numbered)
            deadline = timeout_s = math.inf
            if event.numbered is not None:
                self._unacknowledged[event.numbered[0]] = event.numbered[1]
                self._heartbeat.wake(now)
        else:
            left_ms = _milliseconds(timeout_s)
            chain = event.chain
            frame = fr.Ask(event.target, self._seq, event.body, event.token, left_ms, event.sender, event.trace, chain)
            deadline = now + timeout_s
        header = dumps(frame.plain())
        if event.chain and isinstance(frame, fr.Ask) and len(header) > self._theirs.header_bytes_max:
            frame.chain = ()  # better no chain than no ask
            header = dumps(frame.plain())
        size_bytes = fr.size_of_frame(header, event.payloads)
        asks = event.timeout_s is not None
        self._enqueue(
            _Entry(event.token, frame, header, event.payloads, size_bytes, event.tag, asks, deadline, timeout_s), now
        )

    def _enqueue(self, entry: _Entry, now: float) -> None:
        """Release a message at once if nothing is in its way, else let it wait behind the others of its target."""
        path = entry.frame.target
        if self._excess(entry):
            self._commands.append(Rejected(entry.token, self._refusal(entry)))
            return
        target = self._outgoing.get(path)
        if target is None:
            target = self._outgoing[path] = _Outgoing(path)
        if entry.asks:
            self._deadlines.add(entry.token, entry.deadline)
        if target.queue is _NONE:
            target.queue = deque()
        target.queue.append(entry)
        if len(target.queue) == 1:
            obstacle = self._obstacle(target)
            if obstacle is None:
                self._release(target, now)
                return
            self._line_up(target, obstacle)
        self._waiting[entry.token] = (target, entry)

    def _excess(self, entry: _Entry) -> bool:
        """Tell whether a message cannot be sent at all."""
        theirs = self._theirs
        return (
            entry.size_bytes > self._frame_bytes_max
            or len(entry.header) > theirs.header_bytes_max
            or len(entry.payloads) > theirs.payloads_max
            or len(entry.frame.target) > fr.PATH_CHARS_MAX
            or len(self._waiting) >= self._limits.waiting_max
            or self._phase is not _Phase.UP
        )

    def _refusal(self, entry: _Entry) -> PrimeError:
        if self._phase is not _Phase.UP:
            return self._loss()
        if entry.size_bytes > self._frame_bytes_max:
            return LocalProtocolError(
                f"a message of {entry.size_bytes} bytes for {entry.frame.target}: {self._peer} takes at most "
                f"{self._frame_bytes_max}",
                hint="Send it in parts.",
            )
        if len(entry.header) > self._theirs.header_bytes_max or len(entry.payloads) > self._theirs.payloads_max:
            return LocalProtocolError(
                f"a message for {entry.frame.target} with {len(entry.header)} bytes of header and "
                f"{len(entry.payloads)} payloads: {self._peer} takes at most {self._theirs.header_bytes_max} and "
                f"{self._theirs.payloads_max}",
                hint="Put big values into Payload fields, or send the message in parts.",
            )
        if len(entry.frame.target) > fr.PATH_CHARS_MAX:
            return LocalProtocolError(
                f"a target path of over {fr.PATH_CHARS_MAX} characters",
                hint="Give actors and supervisors shorter names.",
            )
        return RefusedError(
            f"{len(self._waiting)} callers already wait for {self._peer}",
            hint="Wait for earlier messages before sending more.",
        )

    def _obstacle(self, target: _Outgoing) -> _Obstacle | None:
        theirs, entry = self._theirs, target.queue[0]
        size_bytes = entry.size_bytes
        if target.messages:
            if target.messages >= theirs.window_messages or target.size_bytes + size_bytes > theirs.window_bytes:
                return _Obstacle.CREDIT
        elif self._targets_open >= theirs.targets_max:
            return _Obstacle.ROOM
        if self._outstanding_bytes and self._outstanding_bytes + size_bytes > theirs.link_bytes:
            return _Obstacle.ROOM
        if entry.asks and len(self._asks) >= theirs.asks_max:
            return _Obstacle.ASKS
        return self._jam(target, entry)

    def _jam(self, target: _Outgoing, entry: _Entry) -> _Obstacle | None:
        """Return what keeps a message back that the peer would take."""
        if target.departing is not None:
            return _Obstacle.BEHIND
        if self._leaves_in_pieces(entry.payloads, entry.size_bytes):
            if self._queued_bytes - self._unsent[Lane.MESSAGE] < target.queued_bytes:
                return _Obstacle.OUTBOX  # pieces overtake what is queued whole, also what goes to the same target
            return _Obstacle.TURN if self._departures.messages >= MESSAGES_MAX else None
        most_bytes = self._limits.outbox_bytes
        if entry.size_bytes > self._quick_bytes_max:  # what is small waits behind all of these
            most_bytes = min(most_bytes, OUTBOX_FRAMES * self.whole_bytes_max)
        return _Obstacle.OUTBOX if self._unsent[Lane.MESSAGE] >= most_bytes else None

    def _leaves_in_pieces(self, payloads: Buffers, size_bytes: int) -> bool:
        return size_bytes > self.whole_bytes_max and self._pieces and any(payload.nbytes for payload in payloads)

    def _line_up(self, target: _Outgoing, obstacle: _Obstacle) -> None:
        """Let a target wait where what it lacks will come."""
        if obstacle is _Obstacle.BEHIND:
            return
        if obstacle is not _Obstacle.CREDIT:
            target.in_line = True
            self._lines.setdefault(obstacle, deque()).append(target)
        elif target.queue[0].size_bytes > self._theirs.window_bytes // 2 and not target.said_blocked:
            # Smaller ones never need to ask: what the receiver may hold back is under half a window.
            target.said_blocked = True
            self._send(fr.Blocked(target.path), Lane.MESSAGE)

    def _release(self, target: _Outgoing, now: float) -> None:
        entry = target.queue.popleft()
        if self._waiting.pop(entry.token, None) is not None and isinstance(entry.frame, fr.Ask):
            entry.frame.left_ms = _milliseconds(entry.deadline - now)  # it waited, so less is left
            entry.header = dumps(entry.frame.plain())
            entry.size_bytes = fr.size_of_frame(entry.header, entry.payloads)
        if not target.messages:
            self._targets_open += 1
        target.messages += 1
        target.size_bytes += entry.size_bytes
        self._outstanding_bytes += entry.size_bytes
        if entry.asks:
            self._asks[entry.token] = _Asked(entry.tag, target.path, entry.deadline, entry.timeout_s)
            self._heartbeat.wake(now)
        if self._leaves_in_pieces(entry.payloads, entry.size_bytes):
            self._depart(target, entry)
            return
        self._emit(entry.header, entry.payloads, entry.size_bytes, Lane.MESSAGE, entry.tag)
        target.queued_bytes = self._queued_bytes
        self._commands.append(Released(entry.token))

    def _advance(self, target: _Outgoing, now: float) -> None:
        """Release from a target in no line as far as it may go in one turn, then let it line up again."""
        if not target.queue:
            self._forget_if_done(target)
            return
        obstacle = self._obstacle(target)
        if obstacle is None:
            self._release(target, now)
            if not target.queue:
                return
            obstacle = self._obstacle(target) or _Obstacle.OUTBOX  # it goes on when the others had their turn
        self._line_up(target, obstacle)

    def _pump(self, line: _Obstacle, now: float) -> None:
        """Release from the targets that wait in a line, in turns, until the line's obstacle is back."""
        waiting = self._lines.get(line)
        while waiting:
            target = waiting[0]
            if target.queue and self._obstacle(target) is line:
                return
            waiting.popleft()
            target.in_line = False
            self._advance(target, now)

    def _pump_all(self, now: float) -> None:
        if self._lines:
            for line in _LINES:
                self._pump(line, now)

    def _forget_if_done(self, target: _Outgoing) -> None:
        if not target.messages and not target.queue and not target.in_line:
            self._outgoing.pop(target.path, None)

    def _credit_arrived(self, frame: fr.Credit, now: float) -> None:
        target = self._outgoing.get(frame.target)
        if target is None or frame.messages > target.messages or frame.size_bytes > target.size_bytes:
            raise RemoteProtocolError("CREDIT for more than was sent")
        target.messages -= frame.messages
        target.size_bytes -= frame.size_bytes
        if (target.messages == 0) != (target.size_bytes == 0):
            raise RemoteProtocolError("CREDIT whose messages and bytes do not agree")
        self._outstanding_bytes -= frame.size_bytes
        self._targets_open -= target.messages == 0
        target.said_blocked = False
        if not target.in_line:
            self._advance(target, now)
        self._pump_all(now)

    def _withdraw(self, event: Withdraw, now: float) -> None:
        self._give_up(event.token, now)

    def _give_up(self, token: int, now: float) -> _Asked | _Entry | None:
        """Forget a submitted message in whatever state it is; say so to the peer if its ask is out."""
        self._deadlines.forget(token)
        asked = self._asks.pop(token, None)
        if asked is not None:
            self._arrivals.forsake(token)
        if self._abandon_message(token, now):
            return asked
        if asked is not None:
            # In the lane of messages, so that it can overtake neither its ask nor be overtaken by the next one.
            self._send(fr.Cancel(token), Lane.MESSAGE)
            self._pump_all(now)
            return asked
        target, entry = self._waiting.pop(token, (None, None))
        if target is None or entry is None:
            return None
        first = target.queue[0] is entry
        target.queue.remove(entry)
        if first and not target.in_line:
            self._advance(target, now)
        self._pump_all(now)
        return entry

    # ---- frames that leave in pieces

    def _depart(self, target: _Outgoing, entry: _Entry) -> None:
        """Let a message leave in pieces. A very big one counts as released when it has left, and may be withdrawn till then."""
        departure = self._start_departures().message(
            entry.token, target, entry.header, entry.payloads, entry.size_bytes, entry.tag
        )
        self._departing[entry.token] = target.departing = departure
        departure.awaited = not entry.asks and entry.size_bytes > self._limits.outbox_bytes
        if not departure.awaited:
            self._commands.append(Released(entry.token))
        self._commands.append(Pieced())

    def _start_departures(self) -> Departures:
        if self._departures is _NO_DEPARTURES:
            self._departures = Departures(self._theirs.link_bytes)
        return self._departures

    def _finish_departed(self, now: float) -> None:
        """Go on behind the frames whose last piece was written."""
        departed, self._departed = self._departed, []
        for departure in departed:
            target = departure.target
            if target is None:
                if self._replying.get(departure.key) is departure:
                    del self._replying[departure.key]
                continue
            self._departing.pop(departure.key, None)
            if departure.awaited:
                self._commands.append(Released(departure.key))
            self._go_on_behind(target, now)

    def _go_on_behind(self, target: _Outgoing, now: float) -> None:
        target.departing = None
        if not target.in_line:
            self._advance(target, now)
        self._pump_all(now)

    def _abandon_message(self, token: int, now: float) -> bool:
        """Let a message that is leaving leave no further; `False` if it is not, or has left."""
        departure = self._departing.get(token)
        if departure is None or not self._abandon(departure):
            return False
        del self._departing[token]
        target = departure.target
        target.messages -= 1
        target.size_bytes -= departure.size_bytes
        self._outstanding_bytes -= departure.size_bytes
        self._targets_open -= target.messages == 0
        self._go_on_behind(target, now)
        return True

    def _abandon_answer(self, correlation: int) -> None:
        departure = self._replying.get(correlation)
        if departure is not None and self._abandon(departure):
            del self._replying[correlation]
            self._unsent[Lane.ANSWER] -= departure.rest_bytes

    def _abandon(self, departure: Departure) -> bool:
        if not self._departures.drop(departure):
            return False
        if departure.begun:
            self._send(fr.Abandon(departure.number), Lane.URGENT)
        return True

    # ---- frames that come in pieces

    def _bulk_arrived(self, bulk: fr.Bulk, now: float) -> None:
        mine, frame = self._mine, bulk.frame
        if not isinstance(frame, fr.Tell | fr.Ask | fr.Reply):
            raise RemoteProtocolError("BULK announces no message and no answer")
        if bulk.size_bytes > mine.frame_bytes_max or len(bulk.header) > mine.header_bytes_max:
            raise RemoteProtocolError(f"BULK of {bulk.size_bytes} bytes, {len(bulk.header)} of them header")
        if len(bulk.sizes) > mine.payloads_max:
            raise RemoteProtocolError(f"BULK with over {mine.payloads_max} payloads")
        arrivals = self._arrivals
        if arrivals is _NO_ARRIVALS:
            arrivals = self._arrivals = Arrivals()
        unwanted = isinstance(frame, fr.Reply) and frame.correlation not in self._asks
        arrivals.begin(bulk, frame, now, unwanted=unwanted)
        if max(arrivals.messages_bytes + self._incoming_bytes, arrivals.answers_bytes) > mine.link_bytes:
            raise RemoteProtocolError("more bytes on their way than the link's window allows")

    def _piece_came(self, event: PieceCame, now: float) -> None:
        self._arrive_whole(self._arrivals.came(event.number, event.sizes, now), now)

    def _piece_arrived(self, frame: fr.Piece, payloads: Buffers, now: float) -> None:
        self._arrive_whole(self._arrivals.add(frame.number, payloads, now), now)

    def _arrive_whole(self, arrival: Arrival | None, now: float) -> None:
        if arrival is None:
            return
        if isinstance(arrival.frame, fr.Reply):
            self._reply_arrived(arrival.frame, arrival.payloads, now)
        else:
            self._message_arrived(arrival.frame, arrival.payloads, arrival.size_bytes, now)

    def _abandon_arrived(self, frame: fr.Abandon, _now: float) -> None:
        self._arrivals.abandon(frame.number)

    # ---- answers to our asks

    def _reply_arrived(self, frame: fr.Reply, payloads: Buffers, now: float) -> None:
        asked = self._asks.pop(frame.correlation, None)
        if asked is None:
            self._commands.append(Dropped("a reply to an ask that nobody waits for any more"))
            return
        self._deadlines.forget(frame.correlation)
        self._commands.append(Resolved(frame.correlation, frame.value, payloads))
        self._slot_freed(now)
        if not self._depends():
            self._heartbeat.rest()

    def _fail_arrived(self, frame: fr.Fail, now: float) -> None:
        if self._asks.pop(frame.correlation, None) is None:
            self._commands.append(Dropped("a failure of an ask that nobody waits for any more"))
            return
        self._deadlines.forget(frame.correlation)
        self._commands.append(Rejected(frame.correlation, from_frame(frame)))
        self._slot_freed(now)

    def _slot_freed(self, now: float) -> None:
        if self._lines and self._lines.get(_Obstacle.ASKS):
            self._pump_all(now)

    # ---- messages from the peer

    def _message_arrived(self, frame: fr.Tell | fr.Ask, payloads: Buffers, size_bytes: int, now: float) -> None:
        target = self._admitted(frame, size_bytes)
        deadline = None
        if isinstance(frame, fr.Ask):
            self._serve(frame.correlation)
            deadline = None if frame.left_ms is None else now + frame.left_ms / 1000
        if target.queue is _NONE:
            target.queue = deque()
        target.queue.append((frame, payloads, size_bytes, deadline))
        self._offer(target)

    def _admitted(self, frame: fr.Tell | fr.Ask, size_bytes: int) -> _Incoming:
        """Account for a message, or find that the peer exceeds what it was allowed."""
        mine = self._mine
        target = self._incoming.get(frame.target)
        if target is None:
            if len(self._incoming) >= mine.targets_max:
                raise RemoteProtocolError(f"messages to over {mine.targets_max} targets at once")
            target = self._incoming[frame.target] = _Incoming(frame.target)
        else:
            self._idle.pop(frame.target, None)
            if target.messages >= mine.window_messages or target.size_bytes + size_bytes > mine.window_bytes:
                raise RemoteProtocolError("more messages to one target than its window allows")
        if self._incoming_bytes and self._incoming_bytes + size_bytes > mine.link_bytes:
            raise RemoteProtocolError("more bytes than the link's window allows")
        if frame.seq <= target.seq:
            raise RemoteProtocolError("a message came twice or out of order")
        target.seq = frame.seq
        target.messages += 1
        target.size_bytes += size_bytes
        self._incoming_bytes += size_bytes
        return target

    def _serve(self, correlation: int) -> None:
        if correlation in self._serving:
            raise RemoteProtocolError("two open asks with one correlation")
        if len(self._serving) >= self._mine.asks_max:
            raise RemoteProtocolError(f"over {self._mine.asks_max} open asks")
        self._serving[correlation] = None

    def _holding(self) -> bool:
        return self._unsent[Lane.URGENT] + self._unsent[Lane.ANSWER] > self._limits.answers_bytes

    def _offer(self, target: _Incoming) -> None:
        """Deliver the next message of a target, unless one is being delivered or the peer does not read."""
        while target.queue and not target.busy:
            if self._holding():
                target.busy = True
                if self._held is _NONE:
                    self._held = deque()
                self._held.append(target)
                return
            frame, payloads, target.offered_bytes, deadline = target.queue.popleft()
            correlation = frame.correlation if isinstance(frame, fr.Ask) else None
            if correlation is not None and correlation not in self._serving:
                self._count_taken(target)  # cancelled while it waited: never run
                continue
            target.busy = True
            numbered, chain = (frame.numbered, ()) if isinstance(frame, fr.Tell) else (None, frame.chain)
            self._commands.append(
                Deliver(
                    target.path, frame.body, payloads, correlation, deadline, frame.sender, frame.trace, numbered, chain
                )
            )
        if not target.busy and target.messages:
            self._idle[target.path] = target
            self._sweep_idle()

    def _taken(self, event: Taken, _now: float) -> None:
        target = self._incoming.get(event.target)
        if target is not None and target.busy and target.offered_bytes:
            self._take(target)

    def _take(self, target: _Incoming) -> None:
        """Count the delivered message as credit to give back, and go on with the next one."""
        target.busy = False
        self._count_taken(target)
        self._offer(target)

    def _count_taken(self, target: _Incoming) -> None:
        target.taken_messages += 1
        target.taken_bytes += target.offered_bytes
        self._ungranted_bytes += target.offered_bytes
        target.offered_bytes = 0
        if target.wanted or target.taken_messages >= self._lot_messages or target.taken_bytes >= self._lot_bytes:
            self._grant(target)

    def _sweep_idle(self) -> None:
        """Grant what is held back for idle targets, oldest first, before it keeps others out."""
        mine = self._mine
        while self._idle and (
            self._ungranted_bytes * 4 > mine.link_bytes or len(self._incoming) * 2 > mine.targets_max
        ):
            self._grant(next(iter(self._idle.values())))

    def _grant(self, target: _Incoming) -> None:
        self._send(fr.Credit(target.path, target.taken_messages, target.taken_bytes), Lane.URGENT)
        target.messages -= target.taken_messages
        target.size_bytes -= target.taken_bytes
        self._incoming_bytes -= target.taken_bytes
        self._ungranted_bytes -= target.taken_bytes
        target.taken_messages = target.taken_bytes = 0
        target.wanted = False
        self._idle.pop(target.path, None)
        if not target.messages:
            self._incoming.pop(target.path, None)

    def _blocked_arrived(self, frame: fr.Blocked, _now: float) -> None:
        target = self._incoming.get(frame.target)
        if target is None:
            return
        if target.taken_messages:
            self._grant(target)
        else:
            target.wanted = True

    def _cancel_arrived(self, frame: fr.Cancel, _now: float) -> None:
        self._serving.pop(frame.correlation, None)
        if self._replying:
            self._abandon_answer(frame.correlation)

    # ---- reliable delivery: numbers are checked above this core, which only carries them

    def _acknowledge(self, event: Acknowledge, _now: float) -> None:
        if self._phase is _Phase.UP:
            self._send(
                fr.Ack(event.series, event.number, fr.clipped(event.again, fr.PATH_CHARS_MAX) or None), Lane.URGENT
            )

    def _ack_arrived(self, frame: fr.Ack, _now: float) -> None:
        if frame.number >= self._unacknowledged.get(frame.series, math.inf):
            del self._unacknowledged[frame.series]
        self._commands.append(Acknowledged(frame.series, frame.number, frame.again or ""))

    # ---- our answers

    def _answer(self, event: Answer, now: float) -> None:
        if event.correlation not in self._serving:
            self._commands.append(Dropped("an answer that came after its asker gave up"))
            return
        header = dumps(fr.Reply(event.correlation, event.value).plain())
        size_bytes = fr.size_of_frame(header, event.payloads)
        theirs = self._theirs
        if size_bytes > theirs.frame_bytes_max or len(header) > theirs.header_bytes_max:
            error = LocalProtocolError(
                f"a reply of {size_bytes} bytes, {len(header)} of them header: the asker takes at most "
                f"{theirs.frame_bytes_max}, {theirs.header_bytes_max} of them header",
                hint="Answer in parts, and put big values into Payload fields.",
            )
            self._refuse(Refuse(event.correlation, error, event.tag), now)
            return
        self._serving.pop(event.correlation, None)
        if self._leaves_in_pieces(event.payloads, size_bytes):
            self._answer_in_pieces(event, header, size_bytes)
        else:
            self._emit(header, event.payloads, size_bytes, Lane.ANSWER, event.tag)

    def _answer_in_pieces(self, event: Answer, header: bytes, size_bytes: int) -> None:
        self._unsent[Lane.ANSWER] += size_bytes
        self._replying[event.correlation] = self._start_departures().answer(
            event.correlation, header, event.payloads, size_bytes, event.tag
        )
        self._commands.append(Pieced())

    def _refuse(self, event: Refuse, _now: float) -> None:
        if event.correlation not in self._serving:
            self._commands.append(Dropped("a failure that came after its asker gave up"))
            return
        self._serving.pop(event.correlation, None)
        self._send(to_frame(event.correlation, event.error), Lane.URGENT, event.tag)

    # ---- watches

    def _start_watch(self, event: StartWatch, now: float) -> None:
        if self._phase is not _Phase.UP or len(self._watches) >= self._theirs.watches_max:
            full = f"refused: over {self._theirs.watches_max} watches on the link to {self._peer}"
            self._commands.append(Notify(event.token, full if self.up else f"link lost: {self._cause}"))
            return
        self._watches[event.token] = event.target
        self._heartbeat.wake(now)
        self._send(fr.Watch(event.token, event.target), Lane.URGENT)

    def _stop_watch(self, event: StopWatch, _now: float) -> None:
        if self._watches.pop(event.token, None) is not None:
            self._send(fr.Unwatch(event.token), Lane.URGENT)

    def _down_arrived(self, frame: fr.Down, _now: float) -> None:
        if self._watches.pop(frame.watch_id, None) is not None:
            self._commands.append(Notify(frame.watch_id, frame.reason))

    def _watch_arrived(self, frame: fr.Watch, _now: float) -> None:
        if frame.watch_id in self._watched:
            raise RemoteProtocolError("two watches with one id")
        if len(self._watched) >= self._mine.watches_max:
            raise RemoteProtocolError(f"over {self._mine.watches_max} watches")
        self._watched[frame.watch_id] = None
        self._commands.append(Observe(frame.watch_id, frame.target))

    def _unwatch_arrived(self, frame: fr.Unwatch, _now: float) -> None:
        if frame.watch_id in self._watched:
            del self._watched[frame.watch_id]
            self._commands.append(Unobserve(frame.watch_id))

    def _ended(self, event: Ended, _now: float) -> None:
        if event.watch_id in self._watched:
            del self._watched[event.watch_id]
            self._send(fr.Down(event.watch_id, fr.clipped(event.reason)), Lane.URGENT)

    # ---- the writer and the clock

    def _written(self, event: Written, now: float) -> None:
        self._said = self._said or event.pieces
        self._count_written(event.urgent, event.answers, event.messages, now)
        if self._departed:
            self._finish_departed(now)
        if event.messages and self._lines:
            self._pump(_Obstacle.OUTBOX, now)
        while self._held and not self._holding():
            target = self._held.popleft()
            target.busy = False
            self._offer(target)

    def _count_written(self, urgent: int, answers: int, messages: int, now: float) -> None:
        unsent = self._unsent
        unsent[0] -= urgent
        unsent[1] -= answers
        unsent[2] -= messages
        if urgent:
            self._ponged = False
        if messages:
            self._said = True
        if self._heartbeat.rests and self._depends():
            self._heartbeat.wake(now)

    def _tick(self, _event: Tick, now: float) -> None:
        for token in self._deadlines.passed(now):
            self._expire(token, now)
        if self._phase is not _Phase.UP:
            return
        if self._arrivals.stalled(now):
            raise RemoteProtocolError(f"no piece of a frame on its way came for {STALL_S:g} s")
        awaited = self._awaits()
        pulse = self._heartbeat.tick(now, needed=awaited or bool(self._watches), awaited=awaited)
        if pulse is Pulse.SILENT:
            self._send(fr.Ping(), Lane.URGENT)
        elif pulse is Pulse.DOUBTFUL:
            self._commands.append(Doubt())
        elif pulse is Pulse.DEAD:
            silence = f"nothing was heard for {self._limits.heartbeat_timeout_s:g} s"
            self._end(fr.Reason.SILENT, silence, drain=False)

    def _depends(self) -> bool:
        """Tell whether anything here depends on the peer; else the heartbeat rests.

        What depends there on this side is the peer's to look after: its pings come then.
        """
        return bool(self._watches) or self._awaits()

    def _awaits(self) -> bool:
        """Tell whether something was sent, or is to be, after which the peer is to be heard."""
        return bool(self._asks or self._said or self._waiting or self._unacknowledged)

    def _expire(self, token: int, now: float) -> None:
        expired = self._give_up(token, now)
        if expired is not None:
            path = expired.target if isinstance(expired, _Asked) else expired.frame.target
            waited = "no reply" if isinstance(expired, _Asked) else "no room in the mailbox"
            error = DeadlineError(
                f"{waited} from {path} on {self._peer} within {expired.timeout_s:g} s",
                hint="Give the ask a longer timeout, or look at that actor with `prime status`.",
            )
            self._commands.append(Rejected(token, error))

    # ---- the end

    def _lost(self, event: Lost, _now: float) -> None:
        self._lose(event.cause, None)

    def _close(self, event: Close, _now: float) -> None:
        self._end(event.reason, event.text, drain=event.reason is fr.Reason.SHUTDOWN)

    def _end(self, reason: fr.Reason, text: str, *, drain: bool) -> None:
        """Say BYE and end the link from this side."""
        if self._phase is not _Phase.CLOSED:
            self._send(fr.Bye(reason, fr.clipped(text)), Lane.ANSWER if drain else Lane.URGENT)
            self._lose(text, reason, drain=drain)

    def _lose(self, cause: str, reason: fr.Reason | None, *, drain: bool = False) -> None:
        """Fail what is pending, end every watch once, forget everything."""
        if self._phase is _Phase.CLOSED:
            return
        self._phase = _Phase.CLOSED
        self._cause = cause
        late = (token for token, departure in self._departing.items() if departure.awaited)
        for token in (*self._waiting, *self._asks, *late):
            self._commands.append(Rejected(token, self._loss()))
        for token in self._watches:
            self._commands.append(Notify(token, f"link lost: {cause}"))
        for watch_id in self._watched:
            self._commands.append(Unobserve(watch_id))
        self._forget_everything()
        if not drain:
            self._departures.clear()
        self._commands.append(Disconnect(cause, drain, reason))

    def _forget_everything(self) -> None:
        self._deadlines = _Deadlines()
        self._lines.clear()
        self._held.clear()
        for table in (self._waiting, self._asks, self._watches, self._outgoing, self._incoming, self._idle):
            table.clear()
        self._unacknowledged.clear()
        self._departing.clear()
        self._replying.clear()
        self._departed.clear()
        self._arrivals.clear()
        self._serving.clear()
        self._watched.clear()

    def _loss(self) -> LinkLostError:
        return LinkLostError(
            f"the link to {self._peer} was lost: {self._cause}",
            hint="Whether the message was handled is unknown; ask again if that does no harm.",
        )

    def _too_late(self, event: Event) -> None:
        if isinstance(event, Submit):
            self._commands.append(Rejected(event.token, self._loss()))
        elif isinstance(event, StartWatch):
            self._commands.append(Notify(event.token, f"link lost: {self._cause}"))
        elif isinstance(event, Answer | Refuse):
            self._commands.append(Dropped("an answer whose link is gone"))

    # ---- frames out

    def _send(self, frame: fr.Frame, lane: Lane, tag: int = 0) -> None:
        header = dumps_closed(frame.plain())  # all but messages, which hold what others made
        self._emit(header, (), fr.PREFIX_BYTES + len(header), lane, tag)

    def _emit(self, header: bytes, payloads: Buffers, size_bytes: int, lane: Lane, tag: int) -> None:
        self._unsent[lane] += size_bytes
        if lane is Lane.MESSAGE:
            self._queued_bytes += size_bytes
        self._commands.append(Send(header, payloads, size_bytes, lane, tag))


# What each event and each frame is for a link: one table for all links, of which a node may have a thousand.
_STEPS: Final[Mapping[type, Callable[[Link, Any, float], None]]] = MappingProxyType(
    {
        Start: Link._start,  # noqa: SLF001 - tables of the class above, here and below
        Arrived: Link._arrived,  # noqa: SLF001
        Malformed: Link._malformed,  # noqa: SLF001
        Admit: Link._admit,  # noqa: SLF001
        Submit: Link._submit,  # noqa: SLF001
        Acknowledge: Link._acknowledge,  # noqa: SLF001
        Withdraw: Link._withdraw,  # noqa: SLF001
        Answer: Link._answer,  # noqa: SLF001
        Refuse: Link._refuse,  # noqa: SLF001
        Taken: Link._taken,  # noqa: SLF001
        StartWatch: Link._start_watch,  # noqa: SLF001
        StopWatch: Link._stop_watch,  # noqa: SLF001
        Ended: Link._ended,  # noqa: SLF001
        Written: Link._written,  # noqa: SLF001
        PieceCame: Link._piece_came,  # noqa: SLF001
        Tick: Link._tick,  # noqa: SLF001
        Lost: Link._lost,  # noqa: SLF001
        Close: Link._close,  # noqa: SLF001
    }
)
_FRAMES: Final[Mapping[type, Callable[[Link, Any, float], None]]] = MappingProxyType(
    {
        fr.Hello: Link._hello_arrived,  # noqa: SLF001
        fr.Fail: Link._fail_arrived,  # noqa: SLF001
        fr.Credit: Link._credit_arrived,  # noqa: SLF001
        fr.Watch: Link._watch_arrived,  # noqa: SLF001
        fr.Unwatch: Link._unwatch_arrived,  # noqa: SLF001
        fr.Down: Link._down_arrived,  # noqa: SLF001
        fr.Ping: Link._ping_arrived,  # noqa: SLF001
        fr.Pong: Link._pong_arrived,  # noqa: SLF001
        fr.Bye: Link._bye_arrived,  # noqa: SLF001
        fr.Blocked: Link._blocked_arrived,  # noqa: SLF001
        fr.Cancel: Link._cancel_arrived,  # noqa: SLF001
        fr.Ack: Link._ack_arrived,  # noqa: SLF001
        fr.Bulk: Link._bulk_arrived,  # noqa: SLF001
        fr.Abandon: Link._abandon_arrived,  # noqa: SLF001
    }
)


def _heartbeat(limits: LinkLimits, now: float, *, dialled: bool) -> Heartbeat:
    interval_s, timeout_s, rest_s = limits.heartbeat_interval_s, limits.heartbeat_timeout_s, limits.heartbeat_rest_s
    if not dialled:  # the other side's PING comes first, and is the sign of life for both
        rest_s = rest_s and rest_s + interval_s
        interval_s = min(1.5 * interval_s, (interval_s + timeout_s) / 2)
    return Heartbeat(interval_s, timeout_s, now, rest_s)


def _head(target: _Outgoing) -> bytes:
    """Return the bytes of a target's path in headers, made once."""
    target.head = fr.path_bytes(target.path)
    return target.head


def _milliseconds(seconds: float) -> int | None:
    """Round a time left to whole milliseconds, at least 1; `None` for no deadline."""
    return None if seconds == math.inf else max(1, math.ceil(seconds * 1000))
