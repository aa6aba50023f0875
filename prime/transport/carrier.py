"""One link's shell: it owns the byte stream, feeds the core (`link.py`) and carries the core's commands out.

Three tasks: a reader that always drains, one writer that joins small frames and lets urgent ones overtake, and a clock.
A send in progress is never cancelled (that would tear the stream); a send past its deadline ends the link instead.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import anyio
import attrs
import trio

from prime.actor.contract import Clock, Inbound, PeerId, ReplySlot
from prime.actor.deadlines import Deadlines, Timer
from prime.actor.facts import DeadLetter
from prime.errors import (
    DecodeError,
    MailboxFullError,
    NoSuchActorError,
    PrimeError,
    ReplayError,
    SignatureError,
)
from prime.transport import frames as fr
from prime.transport import link as core
from prime.transport.admission import Source, Toll
from prime.transport.contract import Channel
from prime.transport.delivery import Receiver, Verdict
from prime.transport.pieces import PIECE_S, Gauge
from prime.transport.turns import SHARED_READ_BYTES, TURN_S, Turns, give_way
from prime.wire import Ask, Limits, decode_value, encode_value, from_plain, loads, message_for, reply_type, tag_of
from prime.wire.cbor import dumps, dumps_closed, encodes_to, peek
from prime.wire.codec import Codec, MismatchError, compile_codec
from prime.wire.frame import Frame, FrameParser, pack
from prime.wire.message import decode_body, encode_body, is_signed, read_body, sign, signed_or_none
from prime.wire.signed import Signatory

JOIN_BYTES: Final = 64 * 1024
"""Small frames are joined into sends of about this size."""
ALONE_BYTES: Final = 16 * 1024
"""A buffer of at least this size is sent as it is, never copied."""
WAITED_S: Final = 0.005
"""A send that takes this long has waited for the other side; one that is over sooner was taken by buffers."""
READ_BYTES: Final = 256 * 1024
ALARM_AHEAD_S: Final = 1e-6
"""The least a clock task sleeps: a rounding error between two clocks must not make it spin."""
CRAWL_BYTES: Final = 16 * 1024
"""A frame of which fewer bytes come in two write deadlines is no frame, but a wrong length before signs of life."""
FRAMES_PER_TURN: Final = 64
"""Frames handled between two checkpoints of the reader, so that the actors get their turn."""

EARLY_FRAMES: Final = 32
"""Asks or answers that are written before the task that sends them has its turn behind it."""
PATHS_MAX: Final = 256
"""Target paths known by their bytes."""
_NOTHING: Final[deque[str]] = deque(maxlen=0)
_UNREAD: Final = (None, -1, 0)
_PREFIX: Final = struct.Struct(">IH")
_PULSES: Final = {dumps(frame.plain()): frame for frame in (fr.Ping(), fr.Pong())}


class Inbox(Protocol):
    """What one peer's numbered messages pass through; see `series.Inbox`."""

    @property
    def receiver(self) -> Receiver:
        """The pure core."""

    def settled(self) -> None:
        """Wake who waits for a message on offer to be settled."""

    @property
    def change(self) -> trio.Event:
        """Be set when the next message on offer is settled."""


class Owner(Protocol):
    """What a carrier tells the network that owns it."""

    def greeted(self, carrier: Carrier, hello: fr.Hello) -> None:
        """Hear that the peer said HELLO."""

    def came_up(self, carrier: Carrier) -> None:
        """Hear that messages may go."""

    def went_down(self, carrier: Carrier, cause: str) -> None:
        """Hear, exactly once, that the link ended or never came up."""

    def doubted(self, carrier: Carrier) -> None:
        """Hear that the peer does not answer on this link: a new one may be heard."""

    def settled(self, carrier: Carrier) -> None:
        """Hear, exactly once, that the greeting is over: the link came up, or never will."""

    def count(self, *, sent: bool, tag: int, size_bytes: int) -> None:
        """Count a whole frame handed to the stream, or taken from it; tag 0 is the link's own traffic."""

    def drop(self, fact: DeadLetter) -> None:
        """Hear that a message or an answer was dropped."""

    def inbox(self, peer: PeerId) -> Inbox:
        """Return what the peer's numbered messages pass through, on whatever link."""

    def acknowledge(self, peer: PeerId) -> None:
        """Tell the peer what of its numbered messages was taken."""

    def acknowledged(self, peer: PeerId, series: int, number: int, again: str) -> None:
        """Hear what the peer has taken of ours."""

    @property
    def turns(self) -> Turns:
        """What the readers of a node's links have to do with each other."""

    @property
    def timers(self) -> Deadlines:
        """What wakes the links of a node: one task for all of them."""

    @property
    def replies(self) -> dict[type, tuple[Any, Codec]]:
        """The reply type of each message class and its codec, looked up once for all links."""

    @property
    def vouched(self) -> bool:
        """Tell whether the peer is believed when it says for whom it hands a message on."""

    @property
    def signatory(self) -> Signatory:
        """Who signs for this node."""

    def take(self, message: Any, peer: PeerId) -> Any:
        """Return what is to be delivered of a message whose signature, if any, holds; raises `ReplayError`."""

    def put_back(self, message: Any) -> None:
        """Hear that a message which was taken found no place, so that it may come again."""

    def answer_from(self, value: Any, peer: PeerId) -> Any:
        """Return what is to be made of an answer whose signature, if any, holds."""

    def refused(self, peer: PeerId, error: PrimeError) -> None:
        """Hear that a signed message, or an answer, was refused."""


class Carrier:
    """The shell of one link with the peer at the other end of `channel`. `run` it in a nursery."""

    def __init__(
        self,
        channel: Channel,
        link: core.Link,
        owner: Owner,
        inbound: Inbound,
        clock: Clock,
        limits: core.LinkLimits,
        *,
        dialled: bool,
        address: str,
        toll: Toll | None = None,
    ) -> None:
        self.peer: PeerId = channel.peer
        self.link = link
        self.dialled = dialled
        self.address = address
        self.source: Source = ""
        """What a peer that dialled counts as, where links are few."""
        self.hello: fr.Hello | None = None
        self.settled = trio.Event()
        self.ended = trio.Event()
        self.cause = ""
        self.reason: fr.Reason | None = None
        self._channel = channel
        self.heard = b""  # what was read of the stream before this link was made of it
        self._owner = owner
        self._inbound = inbound
        self._now = clock.current_time
        self._is_trios_clock = clock.current_time is trio.current_time
        self._limits = limits
        self._wire_limits, self._quick_limits = _both_limits(limits.allowance)
        self._token = 0
        self._replies = owner.replies
        self._paths: dict[bytes, str] = {}
        self._counted: dict[int, int] = {}
        self._todo: deque[core.Command] = deque()
        self._busy = False
        self._slots: dict[int, tuple[ReplySlot, Any]] = {}
        self._notices: dict[int, Callable[[str], None]] = {}
        self._unwatches: dict[int, Callable[[], None]] = {}
        self._urgent: deque[core.Send] = deque()
        self._ordinary: deque[core.Send | _Run] = deque()
        self._run: _Run | None = None
        self._rest = b""
        self._idle = True  # nothing waits, so what comes before the writer's first turn need not wait for it
        self._written = [0, 0, 0]
        self._gauge = Gauge()
        self._pieces_turn = False
        self._pieces_written = False
        self._wake = trio.Event()
        self._alarm: Timer | None = None
        self._alarm_due = math.inf
        self._alarm_at = math.inf  # the same on Trio's clock
        self._toll = toll
        self._unpaid: deque[str] = _NOTHING
        self._ending: core.Disconnect | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def relayed(self) -> bool:
        """Whether its bytes go through a relay just now."""
        return self._channel.relayed

    @property
    def remote(self) -> str:
        """Where the other side's bytes come from; see `Channel.remote`."""
        return self._channel.remote

    # ---- what the network asks for

    def tell_now(self, path: str, kind: type, body: list[Any]) -> bool:
        """Send a tell without payloads if nothing is in its way; `False` if nothing was done."""
        if self._busy:
            return False
        header = self.link.tell_now(path, encode_body(kind, body))
        if header is None:
            return False
        self._append(header, body[0], core.Lane.MESSAGE)
        return True

    def ask_now(
        self,
        path: str,
        kind: type,
        body: list[Any],
        slot: ReplySlot,
        timeout_s: float,
        chain: tuple[str, ...] = (),
    ) -> int:
        """Send an ask without payloads if nothing is in its way; returns the token to withdraw it by, 0 if not sent."""
        if self._busy:
            return 0
        token = self._token + 1
        now = self._now()
        header = self.link.ask_now(path, encode_body(kind, body), token, body[0], timeout_s, now, chain)
        if header is None:
            return 0
        self._token = token
        self._slots[token] = (slot, kind)
        if now + timeout_s < self._alarm_due or not self._is_trios_clock:
            self._hurry()
        self._append(header, body[0], core.Lane.MESSAGE, alone=self.link.asks_open == 1, early=True)
        return token

    def submit(
        self,
        path: str,
        body: list[Any],
        payloads: list[memoryview],
        slot: ReplySlot,
        *,
        sender: str | None = None,
        trace: str | None = None,
        numbered: tuple[int, int, int] | None = None,
    ) -> int:
        """Submit a tell; `slot` is answered with `None` once it is on its way. Returns the token to withdraw it by."""
        token = self._next_token()
        self._slots[token] = (slot, None)
        self.feed(core.Submit(token, path, body, payloads, body[0], None, sender, trace, numbered))
        return token

    def ask(
        self,
        path: str,
        body: list[Any],
        payloads: list[memoryview],
        slot: ReplySlot,
        kind: type,
        timeout_s: float,
        *,
        sender: str | None = None,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> int:
        """Submit an ask of the message class `kind`; `slot` gets its answer. Returns the token to withdraw it by."""
        token = self._next_token()
        self._slots[token] = (slot, kind)
        self.feed(core.Submit(token, path, body, payloads, body[0], timeout_s, sender, trace, None, chain))
        self._hurry()
        return token

    def withdraw(self, token: int) -> None:
        """Forget a submitted message: its caller gave up."""
        if self._slots.pop(token, None) is not None:
            self.feed(core.Withdraw(token))

    def watch(self, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """Watch a far actor; returns the unwatch."""
        token = self._next_token()
        self._notices[token] = notify
        self.feed(core.StartWatch(token, path))
        return lambda: self._stop_watch(token)

    def _stop_watch(self, token: int) -> None:
        if self._notices.pop(token, None) is not None:
            self.feed(core.StopWatch(token))

    def doubt(self) -> None:
        """Hear that nothing comes back: new links must not share what this one goes over."""
        self._channel.doubt()

    def close(self, reason: fr.Reason, text: str) -> None:
        """Say BYE and end the link."""
        self.feed(core.Close(reason, text))

    def sizes(self) -> dict[str, int]:
        """Count what is remembered, by table: what a leak test looks at."""
        slots = {"slots": len(self._slots), "notices": len(self._notices), "unwatches": len(self._unwatches)}
        return self.link.sizes() | slots

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    # ---- the core

    def feed(self, event: core.Event) -> None:
        """Step the core and carry its commands out, in order also when one of them feeds the next event."""
        self._carry_out(self.link.step(event, self._now()))

    def _carry_out(self, commands: list[core.Command]) -> None:
        self._todo.extend(commands)
        if self._busy:
            return
        self._busy = True
        try:
            while self._todo:
                command = self._todo.popleft()
                _ACTIONS[type(command)](self, command)
        finally:
            self._busy = False
        if self._urgent and not self._urgent_written():
            self._wake.set()

    def _send(self, command: core.Send) -> None:
        if command.lane is core.Lane.URGENT:
            self._urgent.append(command)
            return
        if command.payloads or len(command.header) > fr.QUICK_BYTES_MAX:
            self._run = None
            self._ordinary.append(command)
        else:
            self._append(command.header, command.tag, command.lane)
            return
        self._wake.set()

    def _pieced(self, _command: core.Pieced) -> None:
        self._wake.set()

    def _append(self, header: bytes, tag: int, lane: core.Lane, *, alone: bool = False, early: bool = False) -> None:
        """Queue a small frame without payloads, joined with those before it.

        One that is `alone` is written at once: waiting for others would gain nothing. One that somebody waits for
        (`early`) is, with others, as soon as they are a few, so that the other side works while this one goes on.
        """
        run = self._run
        if run is None or run.size_bytes > JOIN_BYTES:
            run = self._run = _Run()
            self._ordinary.append(run)
        size_bytes = fr.PREFIX_BYTES + len(header)
        run.frames.append(_PREFIX.pack(len(header), 0) + header)
        run.size_bytes += size_bytes
        run.lanes[lane] += size_bytes
        run.tags[tag] = run.tags.get(tag, 0) + size_bytes
        if (alone or (early and len(run.frames) == EARLY_FRAMES)) and self._written_past_writer(run):
            return
        if not self._wake.is_set():
            self._wake.set()

    def _written_past_writer(self, run: _Run) -> bool:
        """Write what is queued at once if that is one run and the writer idles; only where nothing waits."""
        if not self._idle or self._busy or self._urgent or self._rest or self._ordinary[0] is not run:
            return False
        data = b"".join(run.frames)
        sent_bytes = self._channel.send_nowait(data)
        if not sent_bytes:
            return False
        self._ordinary.popleft()
        self._taken_from_queue(run)
        if sent_bytes < len(data):
            self._rest = data[sent_bytes:]
            self._wake.set()
        self._say_written()
        return True

    def _urgent_written(self) -> bool:
        """Write urgent frames at once if the writer idles: a sign of life is not worth waking a task for."""
        if not self._idle or self._rest:
            return False
        frame = self._urgent[0]
        if len(self._urgent) > 1 or frame.payloads:
            return False
        data = _PREFIX.pack(len(frame.header), 0) + frame.header
        sent_bytes = self._channel.send_nowait(data)
        if not sent_bytes:
            return False
        self._urgent.popleft()
        self._written[frame.lane] += frame.size_bytes
        self._owner.count(sent=True, tag=frame.tag, size_bytes=frame.size_bytes)
        if sent_bytes < len(data):
            self._rest = data[sent_bytes:]
            self._wake.set()
        self._say_written()
        return True

    def _say_written(self) -> None:
        urgent, answers, messages = self._written
        self._written = [0, 0, 0]
        if self._pieces_written:
            self._pieces_written = False
            self.feed(core.Written(urgent, answers, messages, pieces=True))
        else:
            commands = self.link.written(urgent, answers, messages, self._now())
            if commands or self._urgent:
                self._carry_out(commands or [])
        self._hurry()  # what was written may have woken the heartbeat

    def _greeted(self, command: core.Greeted) -> None:
        self.hello = command.hello
        self._owner.greeted(self, command.hello)

    def _up(self, _command: core.Up) -> None:
        self._owner.came_up(self)
        self._settle()
        self._hurry()

    def _released(self, command: core.Released) -> None:
        slot, kind = self._slots.get(command.token, (None, None))
        if slot is not None and kind is None:
            del self._slots[command.token]
            slot.reply(None)

    def _resolved(self, command: core.Resolved) -> None:
        slot, kind = self._slots.pop(command.token, (None, None))
        if slot is None or kind is None:
            return
        try:
            value = self._inbound.decoded(
                decode_value, self._reply(kind)[0], command.value, command.payloads, self._wire_limits
            )
        except DecodeError as error:  # a malformed body; the frame was whole, so the link lives on
            self._count_refused(error)
            slot.fail(error)
        else:
            slot.reply(self._owner.answer_from(value, self.peer))

    def _acknowledged(self, command: core.Acknowledged) -> None:
        self._owner.acknowledged(self.peer, command.series, command.number, command.again)

    def _rejected(self, command: core.Rejected) -> None:
        slot, _ = self._slots.pop(command.token, (None, None))
        if slot is not None:
            slot.fail(command.error)

    def _notify(self, command: core.Notify) -> None:
        notify = self._notices.pop(command.token, None)
        if notify is not None:
            notify(command.reason)

    def _dropped(self, command: core.Dropped) -> None:
        self._owner.drop(DeadLetter(self.peer, "reply", command.reason))

    def _doubt(self, _command: core.Doubt) -> None:
        self._owner.doubted(self)

    def _disconnect(self, command: core.Disconnect) -> None:
        self._ending = command
        self.cause, self.reason = command.cause, command.reason
        if not command.drain:
            self._ordinary.clear()
            self._run = None
        self._wake.set()
        self._owner.went_down(self, command.cause)
        self._settle()

    def _settle(self) -> None:
        if not self.settled.is_set():
            self.settled.set()
            self._owner.settled(self)

    # ---- messages from the peer

    def _deliver(self, command: core.Deliver) -> None:
        try:
            message = self._inbound.decoded(from_plain, command.body, command.payloads, self._wire_limits)
            slot = self._reply_slot(command, message)
            if command.numbered is None:
                message = self._owner.take(message, self.peer)
        except (DecodeError, ReplayError) as error:
            self._count_refused(error)
            if command.numbered is not None:
                self._deliver_numbered(command, command.numbered, error)
            else:
                self._undecodable(command, error)
            return
        if command.numbered is not None:
            self._deliver_numbered(command, command.numbered, message)
            return
        deadline = None if command.deadline is None else self._on_trios_clock(command.deadline)
        rest = command.target, message, slot, deadline, self._sender(command), command.trace, command.chain
        if not self._offer(*rest) and self._nursery is not None:
            self._nursery.start_soon(self._deliver_when_room, *rest)
        else:
            self._give_back(command.target)

    def _reply_slot(self, command: core.Deliver, message: Any) -> _Slot | None:
        if command.correlation is None:
            return None
        if not isinstance(message, Ask):
            raise DecodeError(f"{type(message).__name__} is no ask", hint="Send it with `tell`.")
        return _Slot(self, command.correlation, type(message))

    def _offer(
        self,
        target: str,
        message: Any,
        slot: _Slot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> bool:
        try:
            return self._inbound.deliver_nowait(
                target, message, slot=slot, deadline=deadline, sender=sender, trace=trace, chain=chain
            )
        except PrimeError as error:
            self._owner.put_back(message)
            _fail(slot, error)
            return True

    async def _deliver_when_room(
        self,
        target: str,
        message: Any,
        slot: _Slot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> None:
        try:
            await self._inbound.deliver(
                target, message, slot=slot, deadline=deadline, sender=sender, trace=trace, chain=chain
            )
        except PrimeError as error:
            self._owner.put_back(message)
            _fail(slot, error)
        except BaseException:
            self._owner.put_back(message)
            raise
        self._give_back(target)

    def _give_back(self, target: str) -> None:
        """Let the core give the credit of a message back, or later where the peer sends faster than it may."""
        toll = self._toll
        if toll is None or toll.due <= self._now():
            self.feed(core.Taken(target))
            return
        if self._unpaid is _NOTHING:
            self._unpaid = deque()
        self._unpaid.append(target)
        if len(self._unpaid) == 1:
            self._owner.timers.at(self._on_trios_clock(toll.due), self._paid)

    def _paid(self) -> None:
        """Give back what credit was held while the peer was over its rate."""
        toll = self._toll
        if toll is None or self._ending is not None:
            return
        if toll.due > self._now():  # more has come meanwhile
            self._owner.timers.at(self._on_trios_clock(toll.due), self._paid)
            return
        unpaid, self._unpaid = self._unpaid, _NOTHING
        for target in unpaid:
            self.feed(core.Taken(target))

    def _count_refused(self, error: PrimeError) -> None:
        if isinstance(error, SignatureError | ReplayError):
            self._owner.refused(self.peer, error)

    # ---- numbered messages from the peer: each once, in order, over however many links they come

    def _deliver_numbered(self, command: core.Deliver, numbered: tuple[int, int, int], message: Any) -> None:
        """Let a message through the peer's inbox; `message` is an error where the body was none."""
        inbox, instance = self._owner.inbox(self.peer), self._instance
        verdict = inbox.receiver.came(instance, *numbered)
        if verdict is Verdict.OFFER:
            message = self._taken(message)
        if verdict is Verdict.OFFER and not isinstance(message, DecodeError | ReplayError):
            if self._offered(command, numbered, message):
                return
        elif verdict is Verdict.OFFER:
            inbox.receiver.took(instance, *numbered[:2])
            self._owner.drop(DeadLetter(command.target, f"tag {_tag(command.body)}", str(message)))
        elif verdict is Verdict.WAIT and self._nursery is not None:
            self._nursery.start_soon(self._deliver_numbered_later, command, numbered, message, inbox.change)
            return
        self._settled(command.target)

    def _taken(self, message: Any) -> Any:
        """Take a signed message on offer, or return why not: one that is sent again is no replay, it was put back."""
        try:
            return message if isinstance(message, DecodeError) else self._owner.take(message, self.peer)
        except ReplayError as error:
            self._count_refused(error)
            return error

    def _offered(self, command: core.Deliver, numbered: tuple[int, int, int], message: Any) -> bool:
        """Offer a message to its mailbox; tell whether it waits for room there."""
        receiver = self._owner.inbox(self.peer).receiver
        series, number, _ = numbered
        try:
            if not self._inbound.deliver_nowait(
                command.target, message, slot=None, deadline=None, sender=self._sender(command), trace=command.trace
            ):
                if self._nursery is not None:
                    self._nursery.start_soon(self._deliver_numbered_when_room, command, numbered, message)
                    return True
                self._owner.put_back(message)
                receiver.left(self._instance, series, number)
                return False
        except PrimeError as error:
            self._not_taken(numbered, message, error)
        else:
            receiver.took(self._instance, series, number)
        return False

    def _not_taken(self, numbered: tuple[int, int, int], message: Any, error: PrimeError) -> None:
        """Ask for it again where that may help; what is refused for good counts as taken."""
        self._owner.put_back(message)
        receiver = self._owner.inbox(self.peer).receiver
        if isinstance(error, NoSuchActorError | MailboxFullError):
            receiver.put_off(self._instance, *numbered[:2], str(error))
        else:
            receiver.took(self._instance, *numbered[:2])

    async def _deliver_numbered_when_room(
        self, command: core.Deliver, numbered: tuple[int, int, int], message: Any
    ) -> None:
        receiver = self._owner.inbox(self.peer).receiver
        try:
            await self._inbound.deliver(
                command.target, message, slot=None, deadline=None, sender=self._sender(command), trace=command.trace
            )
        except PrimeError as error:
            self._not_taken(numbered, message, error)
        except BaseException:
            self._owner.put_back(message)
            receiver.left(self._instance, *numbered[:2])
            self._owner.inbox(self.peer).settled()
            raise
        else:
            receiver.took(self._instance, *numbered[:2])
        self._settled(command.target)
        self._owner.acknowledge(self.peer)

    async def _deliver_numbered_later(
        self, command: core.Deliver, numbered: tuple[int, int, int], message: Any, change: trio.Event
    ) -> None:
        await change.wait()
        self._deliver_numbered(command, numbered, message)
        self._owner.acknowledge(self.peer)

    def _settled(self, target: str) -> None:
        self._owner.inbox(self.peer).settled()
        self._give_back(target)

    @property
    def _instance(self) -> int:
        return 0 if self.hello is None else self.hello.instance

    def _sender(self, command: core.Deliver) -> PeerId:
        """Return who sent a message: the proved peer, whatever it says, unless this network believes it."""
        if command.sender is None or not self._owner.vouched:
            return self.peer
        return PeerId(command.sender)

    def _undecodable(self, command: core.Deliver, error: PrimeError) -> None:
        """Fail an ask whose body is no message, drop such a tell as a dead letter; the link lives on."""
        if command.correlation is not None:
            self.feed(core.Refuse(command.correlation, error))
        else:
            self._owner.drop(DeadLetter(command.target, f"tag {_tag(command.body)}", str(error)))
        self._give_back(command.target)

    def _reply(self, kind: type) -> tuple[Any, Codec]:
        """Return the reply type of a message class and its codec, looked up once."""
        known = self._replies.get(kind)
        if known is None:
            annotation = reply_type(kind)
            known = self._replies[kind] = (annotation, compile_codec(annotation))
        return known

    def answered(self, correlation: int, kind: type, value: Any) -> None:
        """Send a reply; one that has no wire form fails the ask."""
        payloads: list[memoryview] = []
        try:
            annotation, codec = self._reply(kind)
            if codec.signed and is_signed(type(value)) and signed_or_none(value) is None:
                value = sign(value, self._owner.signatory, self.peer)
            plain = encode_value(annotation, value, payloads)
            data = b"" if payloads or not codec.closed else dumps_closed(plain)
        except PrimeError as error:
            self.feed(core.Refuse(correlation, error, tag_of(kind)))
            return
        if data and not self._busy:
            header = self.link.answer_now(correlation, data)
            if header is not None:
                self._append(header, tag_of(kind), core.Lane.ANSWER, alone=not self.link.serving_open, early=True)
                return
        self.feed(core.Answer(correlation, plain, payloads, tag_of(kind)))

    def failed(self, correlation: int, kind: type, error: BaseException) -> None:
        """Send a failure."""
        self.feed(core.Refuse(correlation, error, tag_of(kind)))

    def _observe(self, command: core.Observe) -> None:
        watch_id = command.watch_id
        ended = False

        def notify(reason: str) -> None:
            nonlocal ended
            ended = True
            self._unwatches.pop(watch_id, None)
            self.feed(core.Ended(watch_id, reason))

        unwatch = self._inbound.watch_path(command.target, notify)
        if not ended:
            self._unwatches[watch_id] = unwatch

    def _unobserve(self, command: core.Unobserve) -> None:
        unwatch = self._unwatches.pop(command.watch_id, None)
        if unwatch is not None:
            unwatch()

    # ---- the tasks

    async def run(self) -> None:
        """Carry the link until it ends; never raises for what the peer or the stream does."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._read)
                await self._write()
                nursery.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 (the stream handler's border: one link must not take the node down)
            self.feed(core.Lost(f"internal error in the link's handler: {error!r}"))
        finally:
            self._nursery = None
            self.feed(core.Lost("this node let the link go"))
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            with trio.move_on_after(self._limits.farewell_s, shield=True):
                await self._channel.aclose()
            self.ended.set()

    async def _read(self) -> None:
        try:
            await self._read_frames()
        except anyio.EndOfStream:
            self.feed(core.Lost("the peer closed the connection"))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self.feed(core.Lost(f"the connection broke ({type(error).__name__}) {error}".rstrip()))
        except DecodeError as error:
            self.feed(core.Malformed(str(error)))

    async def _read_frames(self) -> None:
        parser = FrameParser(self._wire_limits, self._rooms)
        pace = _Pace(2 * self._limits.write_s)
        greeting_bytes = len(self.heard)
        parser.feed(self.heard)
        pace.begin(trio.current_time())
        turns, shared = self._owner.turns, False
        while True:
            if shared:
                size = SHARED_READ_BYTES
            elif self.link.up:
                size = max(READ_BYTES // 4, min(parser.needed_bytes, READ_BYTES * 4))
            else:
                size = fr.HELLO_BYTES_MAX
            begins, data = parser.is_between_frames, b""
            if parser.room is not None and len(parser.room) >= ALONE_BYTES:
                came_bytes = await self._channel.receive_into(parser.room[:size])
                parser.placed(came_bytes)
            else:
                data = await self._channel.receive(size)
                came_bytes = len(data)
            self.link.heard_now(self._now())
            if not self.link.up:
                greeting_bytes += came_bytes
                if greeting_bytes > fr.HELLO_BYTES_MAX:
                    raise DecodeError(f"over {fr.HELLO_BYTES_MAX} bytes before HELLO was settled")
            shared = turns.shared(self, trio.current_time()) and self.link.up
            parser.feed(data)
            if await self._handle_frames(parser) or begins:
                pace.begin(trio.current_time())
            else:
                pace.go_on(came_bytes, trio.current_time())

    async def _handle_frames(self, parser: FrameParser) -> int:
        """Handle the whole frames that are there, and return how many."""
        handled = 0
        now = trio.current_time()
        turns = self._owner.turns
        until = now + TURN_S if turns.shared(self, now) else math.inf
        try:
            while (frame := parser.take()) is not None:
                if not isinstance(frame, bytes):
                    if frame.placed:
                        self._piece_came(frame)
                    else:
                        self._handle(frame.header, frame.payloads, frame.size_bytes)
                elif self._busy or not self._handle_quickly(frame, now):
                    self._handle(frame, (), fr.PREFIX_BYTES + len(frame))
                handled += 1
                if handled % FRAMES_PER_TURN == 0 or (until != math.inf and trio.current_time() >= until):
                    self._end_turn()
                    await give_way(trio.current_time() - now if until != math.inf else 0.0)
                    now = trio.current_time()
                    until = now + TURN_S if turns.shared(self, now) else math.inf
        finally:
            self._end_turn()
        return handled

    def _end_turn(self) -> None:
        """Say what came since the last turn of the reader."""
        if self._counted:
            for tag, size_bytes in self._counted.items():
                self._owner.count(sent=False, tag=tag, size_bytes=size_bytes)
            self._counted.clear()
        self._owner.acknowledge(self.peer)

    def _rooms(self, header: bytes, sizes: tuple[int, ...]) -> list[memoryview] | None:
        """Let the bytes of a piece go straight to where they belong."""
        number = fr.read_piece(header)
        return self.link.rooms(number, sizes) if number else None

    def _piece_came(self, frame: Frame) -> None:
        number = fr.read_piece(frame.header)
        self._owner.count(sent=False, tag=self.link.arriving_tag(number), size_bytes=frame.size_bytes)
        self.feed(core.PieceCame(number, frame.placed))

    def _handle(self, header: bytes, payloads: core.Buffers, size_bytes: int) -> None:
        """Handle a frame through its objects and the core's `step`."""
        parsed = fr.read_frame(loads(header, self._wire_limits))
        if type(parsed) is fr.Bulk:
            parsed.frame = fr.read_frame(loads(parsed.header, self._wire_limits))
            parsed.tag = self._tag_of_frame(parsed.frame)
        self._owner.count(sent=False, tag=self._tag_of_frame(parsed), size_bytes=size_bytes)
        if type(parsed) is fr.Tell and self.link.up:
            self._remember_path(header, parsed.target)
        if self._toll is not None and isinstance(parsed, fr.Tell | fr.Ask):
            self._toll.pay(self._now(), size_bytes)
        self.feed(core.Arrived(parsed, payloads, size_bytes))

    def _remember_path(self, header: bytes, path: str) -> None:
        """Know the path by its bytes the next time."""
        if len(self._paths) >= PATHS_MAX:
            self._paths.clear()
        end = fr.path_end(header)
        if end:
            self._paths[header[2:end]] = path

    def _handle_quickly(self, header: bytes, now: float) -> bool:
        """Handle one of the commonest frames by its bytes; `False`, with nothing done, for any that is not quite so."""
        start = header[:2]
        if start == fr.TELL_START:  # the commonest first
            return self._tell_arrived(header)
        if start == fr.REPLY_START:
            return self._reply_arrived(header)
        if start in (fr.ASK_START, fr.CHAINED_ASK_START):
            return self._ask_arrived(header, now)
        return self._pulse_arrived(header)

    def _pulse_arrived(self, header: bytes) -> bool:
        """Handle a sign of life, and the question for one: on a link that idles there is nothing else."""
        frame = _PULSES.get(header)
        if frame is None or not self.link.up:
            return False
        size_bytes = fr.PREFIX_BYTES + len(header)
        self._counted[0] = self._counted.get(0, 0) + size_bytes
        self.feed(core.Arrived(frame, (), size_bytes))
        return True

    def _tell_arrived(self, header: bytes) -> bool:
        end = fr.path_end(header)
        path = self._paths.get(header[2:end])
        if path is None:
            return False
        seq, end = fr.read_uint(header, end)
        message, end_of_body, tag = read_body(header, end) or _UNREAD
        if end_of_body != len(header):
            body = header[end:]
            plain = peek(body, self._quick_limits)
            message = decode_body(plain, plain, body, self._inbound.decoded)
            tag = 0 if message is None else plain[0]
        size_bytes = fr.PREFIX_BYTES + len(header)
        if message is None or seq > fr.ID_MAX or not self.link.tell_in(path, seq, size_bytes):
            return False
        self._arrived(path, message, None, None, tag, size_bytes)
        return True

    def _ask_arrived(self, header: bytes, now: float) -> bool:
        read = self._read_ask(header)
        if read is None:
            return self._odd_ask_arrived(header, now)
        path, seq, message, tag, correlation, left_ms = read
        size_bytes = fr.PREFIX_BYTES + len(header)
        if not self.link.ask_in(path, seq, size_bytes, correlation):
            return False
        deadline = None if left_ms is None else now + left_ms / 1000
        self._arrived(path, message, _Slot(self, correlation, type(message)), deadline, tag, size_bytes)
        return True

    def _read_ask(self, header: bytes) -> tuple[str, int, Any, int, int, int | None] | None:
        """Read an ask to a known path that has no chain, and a message that `read_body` reads, element by element."""
        end = fr.path_end(header)
        path = self._paths.get(header[2:end])
        if path is None or header[0] != fr.ASK_START[0]:
            return None
        seq, end = fr.read_uint(header, end)
        message, end, tag = read_body(header, end) or _UNREAD
        if not isinstance(message, Ask):
            return None
        correlation, end = fr.read_uint(header, end)
        left_ms, end = (None, end + 1) if header[end:] == b"\xf6" else fr.read_uint(header, end)
        if end != len(header) or not 0 <= correlation <= fr.ID_MAX or not 0 <= (left_ms or 0) <= fr.ID_MAX or seq < 0:
            return None
        return path, seq, message, tag, correlation, left_ms

    def _odd_ask_arrived(self, header: bytes, now: float) -> bool:
        plain = peek(header, self._wire_limits)
        if type(plain) is not list:
            return False
        path, seq, body, correlation, left_ms = plain[1:6]
        if type(path) is not str or type(seq) is not int or not _is_id(correlation) or not _is_left(left_ms):
            return False
        chain = fr.read_rest(plain[6:]) if len(plain) > 6 else ()
        if chain is None:
            return False
        message = decode_body(body, plain, header, self._inbound.decoded)
        size_bytes = fr.PREFIX_BYTES + len(header)
        if not isinstance(message, Ask) or not self.link.ask_in(path, seq, size_bytes, correlation):
            return False
        if header[2 : fr.path_end(header)] not in self._paths:
            self._remember_path(header, path)
        deadline = None if left_ms is None else now + left_ms / 1000
        self._arrived(path, message, _Slot(self, correlation, type(message)), deadline, body[0], size_bytes, chain)
        return True

    def _arrived(
        self,
        path: str,
        message: Any,
        slot: _Slot | None,
        deadline: float | None,
        tag: int,
        size_bytes: int,
        chain: tuple[str, ...] = (),
    ) -> None:
        """Deliver a message that the core has let in by a short way."""
        counted = self._counted
        counted[tag] = counted.get(tag, 0) + size_bytes
        try:  # as `_offer`, without the price of a call
            taken = self._inbound.deliver_nowait(
                path, message, slot=slot, deadline=deadline, sender=self.peer, trace=None, chain=chain
            )
        except PrimeError as error:
            _fail(slot, error)
            taken = True
        if not taken and self._nursery is not None:
            self._nursery.start_soon(self._deliver_when_room, path, message, slot, deadline, self.peer, None, chain)
            return
        if self._toll is not None:
            self._toll.pay(self._now(), size_bytes)
            self._give_back(path)
            return
        commands = self.link.taken_now(path)
        if commands:
            self._carry_out(commands)

    def _reply_arrived(self, header: bytes) -> bool:
        correlation, end = fr.read_uint(header, 2)
        slot, kind = self._slots.get(correlation, (None, None))
        if slot is None or kind is None:
            return False
        annotation, codec = self._reply(kind)
        if codec.signed:
            return False
        decoded, end_of_value, _ = read_body(header, end) or _UNREAD
        if end_of_value != len(header) or type(decoded) is not annotation:
            try:
                decoded = self._read_value(header[end:], codec)
            except MismatchError:
                return False
        tag = self.link.asked_tag(correlation)
        if not self.link.reply_in(correlation):
            return False
        self._counted[tag] = self._counted.get(tag, 0) + fr.PREFIX_BYTES + len(header)
        del self._slots[correlation]
        slot.reply(decoded)
        return True

    def _read_value(self, value: bytes, codec: Codec) -> Any:
        """Decode what stands alone and is no flat message; raises `MismatchError`, also where `loads` would refuse it."""
        plain = peek(value, self._quick_limits)
        decoded = codec.decode(plain, ()) if codec.closed else self._inbound.decoded(codec.decode, plain, ())
        if not encodes_to(plain, value, closed=codec.closed):
            raise MismatchError("the one deterministic encoding", got="another")
        return decoded

    def _tag_of_frame(self, frame: fr.Frame) -> int:
        # Identity of classes, not isinstance: half the price, for every frame.
        if type(frame) is fr.Tell or type(frame) is fr.Ask:
            return _tag(frame.body)
        if type(frame) is fr.Reply or type(frame) is fr.Fail:
            return self.link.asked_tag(frame.correlation)
        if type(frame) is fr.Bulk:
            return frame.tag
        return self.link.arriving_tag(frame.number) if type(frame) is fr.Piece else 0

    def _tick(self) -> None:
        """Tell the core that its time has come; an error of ours ends this link alone."""
        self._alarm, self._alarm_due, self._alarm_at = None, math.inf, math.inf
        try:
            self.feed(core.Tick())
        except Exception as error:  # noqa: BLE001 - as in `run`: the timer's task is that of all links
            self.feed(core.Lost(f"internal error in the link's handler: {error!r}"))
        self._hurry()

    def _on_trios_clock(self, when: float) -> float:
        """Return a time of this link's clock, which may differ, on the clock of everything else in the system."""
        return when + (trio.current_time() - self._now())

    def _hurry(self) -> None:
        """Have the core's next tick made when it is due, if that is earlier than planned."""
        due = self.link.due
        if due >= self._alarm_due and self._is_trios_clock:
            return
        when = max(self._on_trios_clock(due), trio.current_time() + ALARM_AHEAD_S)  # never now: time must go on
        if when >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_due, self._alarm_at = due, when
        self._alarm = self._owner.timers.at(when, self._tick)

    # ---- the writer

    async def _write(self) -> None:
        """Write until the link ends, and then what it wants to say last."""
        while self._ending is None:
            self._idle = True
            await self._wake.wait()
            self._idle = False
            self._wake = trio.Event()
            await self._write_queued(math.inf)
        if self._ending.cause and (self._rest or self._urgent or self._ordinary or self.link.has_pieces):
            await self._write_queued(trio.current_time() + self._limits.farewell_s)

    async def _write_queued(self, deadline: float) -> None:
        buffers: list[bytes | memoryview] = []
        size_bytes = 0
        try:
            if self._rest:
                rest, self._rest = self._rest, b""
                await self._push(rest, deadline)
            while self._urgent or self._ordinary or self.link.has_pieces:
                if self._turn_of_pieces():
                    await self._write_piece(buffers, deadline)
                    buffers, size_bytes = [], 0
                    continue
                frame = self._urgent.popleft() if self._urgent else self._ordinary.popleft()
                buffers += self._taken_from_queue(frame)
                size_bytes += frame.size_bytes
                if size_bytes >= JOIN_BYTES or not (self._urgent or self._ordinary):
                    await self._write_whole(buffers, size_bytes, deadline)
                    buffers, size_bytes = [], 0
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self.feed(core.Lost(f"the connection broke ({type(error).__name__}) {error}".rstrip()))
            self._forget_unwritten()

    async def _write_whole(self, buffers: list[bytes | memoryview], size_bytes: int, deadline: float) -> None:
        """Write whole frames; that it took long says that the line is slower than when such frames became whole."""
        started = trio.current_time()
        await self._write_buffers(buffers, deadline)
        took_s = trio.current_time() - started
        if took_s > PIECE_S:
            self._note(size_bytes, took_s)

    def _note(self, size_bytes: int, took_s: float) -> None:
        self._gauge.note(size_bytes, took_s)
        self.link.whole_bytes_max = self._gauge.size_bytes

    def _turn_of_pieces(self) -> bool:
        """Tell whether a piece goes next: by turns with what is ordinary, and before the BYE of a farewell."""
        if self._urgent or not self.link.has_pieces:
            return False
        self._pieces_turn = not self._pieces_turn
        return self._pieces_turn or not self._ordinary or (self._ending is not None and len(self._ordinary) == 1)

    async def _write_piece(self, before: list[bytes | memoryview], deadline: float) -> None:
        """Write the next piece behind what was taken already; the time it takes says how big the next one may be."""
        cut = self.link.next_piece(self._gauge.size_bytes)
        if cut is None:
            return
        buffers = before
        for header, payloads in cut.frames:
            buffers += pack(header, payloads, _ANY_SIZE)
        if cut.departure.target is None:
            self._written[core.Lane.ANSWER] += cut.counted_bytes
        else:
            self._pieces_written = True
        size_bytes = cut.size_bytes
        self._owner.count(sent=True, tag=cut.departure.tag, size_bytes=size_bytes)
        started = trio.current_time()
        await self._write_buffers(buffers, deadline)
        self._note(size_bytes, trio.current_time() - started)

    def _taken_from_queue(self, frame: core.Send | _Run) -> Sequence[bytes | memoryview]:
        """Account for what is about to be written, and return its bytes."""
        if isinstance(frame, _Run):
            if frame is self._run:
                self._run = None
            for lane, size_bytes in enumerate(frame.lanes):
                self._written[lane] += size_bytes
            for tag, size_bytes in frame.tags.items():
                self._owner.count(sent=True, tag=tag, size_bytes=size_bytes)
            return frame.frames
        self._written[frame.lane] += frame.size_bytes
        self._owner.count(sent=True, tag=frame.tag, size_bytes=frame.size_bytes)
        return pack(frame.header, frame.payloads, _ANY_SIZE)

    async def _write_buffers(self, buffers: list[bytes | memoryview], deadline: float) -> None:
        """Send buffers in order, small ones joined, big ones as they are; then tell the core."""
        small: list[bytes | memoryview] = []
        for buffer in buffers:
            if len(buffer) < ALONE_BYTES:
                small.append(buffer)
                continue
            if small:
                await self._push(b"".join(small), deadline)
                small = []
            await self._push(buffer, deadline)
        if small:
            await self._push(small[0] if len(small) == 1 else b"".join(small), deadline)
        self._say_written()

    async def _push(self, buffer: bytes | memoryview, deadline: float) -> None:
        """Send a buffer, a big one in slices, each with a write deadline of its own and each a sign of life."""
        if len(buffer) <= max(self._gauge.size_bytes, JOIN_BYTES):
            await self._push_slice(buffer, deadline)
            return
        rest = memoryview(buffer).cast("B")
        while rest:
            part = rest[: self._gauge.size_bytes]
            started = trio.current_time()
            await self._push_slice(part, deadline)
            self._gauge.note(len(part), trio.current_time() - started)
            rest = rest[len(part) :]

    async def _push_slice(self, buffer: bytes | memoryview, deadline: float) -> None:
        """Send, shielded: a caller's cancel never tears the stream, only the write deadline does."""
        if len(buffer) <= JOIN_BYTES:
            sent_bytes = self._channel.send_nowait(buffer)
            if sent_bytes == len(buffer):
                return
            buffer = buffer[sent_bytes:]
        started = trio.current_time()
        with trio.CancelScope(shield=True, deadline=min(deadline, started + self._limits.write_s)) as scope:
            await self._channel.send(buffer)
        if scope.cancelled_caught:
            raise anyio.BrokenResourceError(f"the peer took no bytes for {self._limits.write_s:g} s")
        if trio.current_time() - started >= WAITED_S:
            self.link.flowed_now(self._now())

    def _forget_unwritten(self) -> None:
        self._urgent.clear()
        self._ordinary.clear()
        self._run = None
        self._rest = b""


# One table for all carriers, of which a node may have a thousand.
_ACTIONS: Final[Mapping[type, Callable[[Carrier, Any], None]]] = MappingProxyType(
    {
        core.Pieced: Carrier._pieced,  # noqa: SLF001
        core.Send: Carrier._send,  # noqa: SLF001 - the table of the class above
        core.Greeted: Carrier._greeted,  # noqa: SLF001
        core.Up: Carrier._up,  # noqa: SLF001
        core.Released: Carrier._released,  # noqa: SLF001
        core.Resolved: Carrier._resolved,  # noqa: SLF001
        core.Rejected: Carrier._rejected,  # noqa: SLF001
        core.Acknowledged: Carrier._acknowledged,  # noqa: SLF001
        core.Deliver: Carrier._deliver,  # noqa: SLF001
        core.Observe: Carrier._observe,  # noqa: SLF001
        core.Unobserve: Carrier._unobserve,  # noqa: SLF001
        core.Notify: Carrier._notify,  # noqa: SLF001
        core.Dropped: Carrier._dropped,  # noqa: SLF001
        core.Doubt: Carrier._doubt,  # noqa: SLF001
        core.Disconnect: Carrier._disconnect,  # noqa: SLF001
    }
)


@attrs.define(eq=False)
class _Run:
    """Small frames in a row, joined when they are written; bytes by lane and by tag."""

    frames: list[bytes] = attrs.field(factory=list)
    size_bytes: int = 0
    lanes: list[int] = attrs.field(factory=lambda: [0, 0, 0])
    tags: dict[int, int] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Pace:
    """How fast a frame comes that came in no single read."""

    within_s: float
    _since: float = 0.0
    _bytes: int = 0

    def begin(self, now: float) -> None:
        """Note that a frame has begun."""
        self._since, self._bytes = now, 0

    def go_on(self, size_bytes: int, now: float) -> None:
        """Note that more of it came, and not the end. Raises `DecodeError` if that is far too slow."""
        self._bytes += size_bytes
        if self._bytes >= CRAWL_BYTES:
            self.begin(now)
        elif now - self._since > self.within_s:
            raise DecodeError(f"of a frame in progress {self._bytes} bytes came in {now - self._since:.0f} s")


class Receipt:
    """Where a teller waits until its message is on its way."""

    __slots__ = ("_error", "_task", "done")

    def __init__(self) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._task: trio.lowlevel.Task | None = None

    def reply(self, _value: Any) -> None:
        """Hear that the message is on its way."""
        self._finish()

    def fail(self, error: BaseException) -> None:
        """Hear that the message will not be sent."""
        self._error = error
        self._finish()

    def raise_if_failed(self) -> None:
        """Raise why the message will not be sent."""
        if self._error is not None:
            raise self._error

    async def wait(self) -> None:
        """Wait for either."""
        if not self.done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self.raise_if_failed()

    def _abort(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self) -> None:
        self.done = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)


class _Slot:
    """Where a local actor answers an ask of the peer's."""

    __slots__ = ("_carrier", "_correlation", "_done", "_kind")

    def __init__(self, carrier: Carrier, correlation: int, kind: type) -> None:
        self._carrier = carrier
        self._correlation = correlation
        self._kind = kind
        self._done = False

    @property
    def correlation(self) -> int:
        """Return the peer's own token of the ask."""
        return self._correlation

    @property
    def done(self) -> bool:
        """Tell whether the answer is on its way, or nobody waits for it any more."""
        return self._done or not self._carrier.link.serves(self._correlation)

    def reply(self, value: Any) -> None:
        """See `ReplySlot.reply`."""
        if not self._done:
            self._done = True
            self._carrier.answered(self._correlation, self._kind, value)

    def fail(self, error: BaseException) -> None:
        """See `ReplySlot.fail`."""
        if not self._done:
            self._done = True
            self._carrier.failed(self._correlation, self._kind, error)


_ANY_SIZE: Final = Limits(
    header_size_bytes_max=2**32 - 1,
    payload_size_bytes_max=2**32 - 1,
    payload_count_max=2**16 - 1,
    frame_size_bytes_max=2**63,
)
"""The core has checked every frame against what the peer announced."""


@functools.lru_cache(maxsize=16)
def _both_limits(allowance: fr.Allowance) -> tuple[Limits, Limits]:
    """Return the limits of a header, and of a value that stands alone though it belongs into one."""
    limits = wire_limits(allowance)
    return limits, attrs.evolve(limits, depth_max=limits.depth_max - 1)


def wire_limits(allowance: fr.Allowance) -> Limits:
    """Return what a peer's frames may be, for the parser and the decoder."""
    return Limits(
        header_size_bytes_max=allowance.header_bytes_max,
        payload_size_bytes_max=allowance.frame_bytes_max,
        payload_count_max=allowance.payloads_max,
        frame_size_bytes_max=allowance.frame_bytes_max,
    )


def _fail(slot: _Slot | None, error: PrimeError) -> None:
    if slot is not None:
        slot.fail(error)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= fr.ID_MAX


def _is_left(value: Any) -> bool:
    return value is None or _is_id(value)


def _tag(body: Any) -> int:
    """Return the tag of a body that names a known message class, else 0: strangers cannot fill the counters."""
    if type(body) is list and body and type(body[0]) is int and message_for(body[0]) is not None:
        return body[0]
    return 0
