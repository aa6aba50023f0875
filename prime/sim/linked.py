"""Nodes of the fast engine that are linked as nodes of actors are: the link's own core, its frames and its bytes.

What `Links` and `Carrier` are for actors on Trio, in calls instead of tasks: one link with each peer, dialled on first
use and anew when it was lost, two dials that cross, asks with deadlines. Everything that is sent is really encoded, and
what comes is really decoded and checked.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs

from prime.errors import DeadlineError, DecodeError, NoSuchActorError, PrimeError, UnreachableError
from prime.sim.heap import HeapChannel, HeapNode, Program
from prime.transport import frames as fr
from prime.transport import link as core
from prime.wire import Ask, Limits, decode_value, encode_value, from_plain, loads, reply_type, tag_of, to_plain
from prime.wire.cbor import dumps_closed, encodes_to, peek
from prime.wire.codec import Codec, MismatchError, compile_codec
from prime.wire.frame import FrameParser, pack
from prime.wire.message import decode_body, encode_body

_PREFIX: Final = struct.Struct(">IH")
_CROSSING_S: Final = 2.0
"""How long a dial refused as a duplicate waits for the link that won."""
_SOON_S: Final = 5.0
"""Times up to so far ahead mostly come in order, and are mostly over by then: greetings and asks."""


@attrs.define(eq=False)
class _Waiting:
    """An ask or a tell for a peer that no link is up with."""

    token: int
    path: str
    message: Any
    deadline: float
    timeout_s: float


class LinkedProgram(Program):
    """A program that asks and tells actors on other nodes, and answers for its own; one subclass for one behaviour.

    Override `begun`, `asked`, `told`, `answered`, `failed`. Messages are those of `prime.message`, without payloads or signatures.
    """

    limits: core.LinkLimits = core.LinkLimits()
    _token: int = 0

    # ---- what a subclass does

    def begun(self) -> None:
        """Begin: `self.node` is set."""

    def asked(self, source: str, path: str, message: Any) -> Any:  # noqa: ARG002 - for who overrides it
        """Return the answer to an ask of the node `source`, or raise a `PrimeError`, which fails it."""
        raise NoSuchActorError(f"there is no actor at {path}", hint="override `asked`")

    def told(self, source: str, path: str, message: Any) -> None:
        """Take a tell."""

    def answered(self, token: int, value: Any) -> None:
        """Hear the answer to an ask."""

    def failed(self, token: int, error: PrimeError) -> None:
        """Hear that an ask failed, or that a tell was not sent."""

    def alarmed(self, now: float) -> None:
        """Hear the alarm of `alarm_at`."""

    # ---- what it may call

    def ask(self, peer: str, path: str, message: Ask[Any], timeout_s: float) -> int:
        """Ask an actor on another node; `answered` or `failed` comes once with the token that this returns."""
        token = self._token = self._token + 1
        self._asks[token] = type(message)
        line = self._lines.get(peer)
        if line is None:
            self._wait(peer, _Waiting(token, path, message, self.node.now + timeout_s, timeout_s))
        else:
            line.ask(token, path, message, timeout_s)
        return token

    def tell(self, peer: str, path: str, message: Any) -> int:
        """Tell an actor on another node, at most once; `failed` may come with the token that this returns."""
        token = self._token = self._token + 1
        line = self._lines.get(peer)
        if line is None:
            self._wait(peer, _Waiting(token, path, message, math.inf, math.inf))
        else:
            line.tell(token, path, message)
        return token

    def alarm_at(self, at: float) -> None:
        """Have `alarmed` called at a time; each call is one alarm."""
        self._due(at, None)

    def is_linked(self, peer: str) -> bool:
        """Tell whether the link with a peer is up."""
        return peer in self._lines

    @property
    def links(self) -> Mapping[str, core.Link]:
        """The links that are up, by peer."""
        return MappingProxyType({peer: line.link for peer, line in self._lines.items()})

    # ---- the program

    def started(self, node: HeapNode) -> None:
        """See `Program.started`."""
        self.node = node
        self.links_made = 0
        self.links_lost = 0
        self._asks: dict[int, type] = {}
        self._lines: dict[str, _Line] = {}
        self._dials: dict[str, _Line] = {}
        self._held: dict[str, _Line] = {}
        self._previous: dict[str, int] = {}
        self._instance = node.random("instance").getrandbits(62) + 1
        self._dues: list[tuple[float, int, _Line | None]] = []
        self._due_count = 0
        self._soon: deque[tuple[float, _Line]] = deque()
        self._late: tuple[deque[tuple[float, _Line]], ...] = (deque(), deque())
        limits = self.limits
        self._hello = fr.Hello(fr.PROTOCOL_VERSION, "", (), limits.allowance, (), self._instance, 0, 0)
        self._replies: dict[type, tuple[Any, Codec]] = {}
        self.begun()

    def dialled(self, channel: HeapChannel) -> None:
        """See `Program.dialled`."""
        channel.reader = _Line(self, channel.peer, self._link(channel.peer, dialled=False), channel)

    def woken(self, now: float) -> None:
        """See `Program.woken`."""
        dues, soon = self._dues, self._soon
        while dues and dues[0][0] <= now:
            at, _, line = heapq.heappop(dues)
            if line is None:
                self.alarmed(now)
            elif at == line.alarm_at:
                line.tick(now)
        while soon and (soon[0][0] <= now or soon[0][1].due > soon[0][0]):
            at, line = soon.popleft()
            if at == line.alarm_at:
                line.tick(now)
        for late in self._late:
            if late and late[0][0] <= now:
                _tick_due(late, now)
        self._sleep()

    def _sleep(self) -> None:
        """Set the alarm for what comes first."""
        dues, soon = self._dues, self._soon
        at = dues[0][0] if dues else math.inf
        for queue in (soon, *self._late):
            if queue and queue[0][0] < at:
                at = queue[0][0]
        if at != math.inf:
            self.node.wake_at(at)

    def _due(self, at: float, line: _Line | None) -> None:
        """Have a line's `tick` called, or an alarm of the program's made."""
        if line is not None:  # times of one kind mostly come in order: a queue of each is cheaper than the heap
            queue = self._soon if at <= self.node.world.now + _SOON_S else self._late[line.dialled]
            if not queue or queue[-1][0] <= at:
                queue.append((at, line))
                if len(queue) == 1:
                    self.node.wake_at(at)
                return
        self._due_count += 1
        dues = self._dues
        heapq.heappush(dues, (at, self._due_count, line))
        if dues[0][2] is line:
            self.node.wake_at(at)

    def _link(self, peer: str, *, dialled: bool) -> core.Link:
        self.links_made += 1
        link_id = (self._instance + self.links_made) % fr.ID_MAX + 1
        hello = self._hello.numbered(self._instance, link_id, self._previous.get(peer, 0))
        return core.Link(peer, hello, self.limits, self.node.world.now, dialled=dialled)

    # ---- who is linked with whom; see `Links`

    def _wait(self, peer: str, waiting: _Waiting) -> None:
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = _Line(self, peer, self._link(peer, dialled=True), None)
            dial.channel = self.node.dial(peer, dial)
            dial.start()
        dial.wait(waiting)

    def greeted(self, line: _Line, hello: fr.Hello) -> None:
        """Judge a link that the peer dialled."""
        peer, standing = line.peer, self._lines.get(line.peer)
        settled = None if standing is None else standing.standing
        verdict = core.judge(self.node.name, peer, hello, settled, dialling=peer in self._dials)
        if verdict is core.Verdict.DUPLICATE:
            line.feed(core.Close(fr.Reason.DUPLICATE, "there is a link already"))
        elif verdict is core.Verdict.HOLD:
            earlier = self._held.pop(peer, None)
            self._held[peer] = line
            if earlier is not None:
                earlier.feed(core.Close(fr.Reason.DUPLICATE, "the peer dialled again"))
        else:
            if standing is not None:
                standing.feed(core.Close(fr.Reason.REPLACED, "the peer opened a newer link"))
            line.admit()

    def came_up(self, line: _Line) -> None:
        """Use a link from now on, and send what waited for one."""
        peer = line.peer
        if peer in self._lines:
            line.feed(core.Close(fr.Reason.DUPLICATE, "there is a link already"))
            return
        self._lines[peer] = line
        self._previous[peer] = line.link.link_id
        dial = self._dials.pop(peer, None)
        if self._held and (held := self._held.pop(peer, None)) is not None and held is not line:
            held.feed(core.Close(fr.Reason.DUPLICATE, "there is a link already"))
        if dial is None:
            return
        if dial is not line:
            dial.abandon()
        line.ready, dial.waiting = dial.waiting, ()

    def went_down(self, line: _Line, cause: str, reason: fr.Reason | None) -> None:
        """Hear, once, that a link ended or never came up."""
        peer = line.peer
        if self._held.get(peer) is line:
            del self._held[peer]
        if self._lines.get(peer) is line:
            del self._lines[peer]
            self.links_lost += 1
        elif self._dials.get(peer) is line:
            self._dial_failed(line, cause, reason)

    def _dial_failed(self, dial: _Line, cause: str, reason: fr.Reason | None) -> None:
        held = self._held.pop(dial.peer, None)
        if held is not None:
            held.admit()
        elif reason is fr.Reason.DUPLICATE and not dial.crossed:
            dial.crossed = True  # the link that won is on its way
            dial.alarm_at = dial.expires_at = self.node.now + _CROSSING_S
            self._due(dial.expires_at, dial)
        else:
            self._forget_dial(dial, cause)

    def _forget_dial(self, dial: _Line, cause: str) -> None:
        del self._dials[dial.peer]
        waiting, dial.waiting = dial.waiting, ()
        for one in waiting:
            self.resolve_failed(
                one.token, UnreachableError(f"{dial.peer} cannot be reached: {cause}", hint="Ask again later.")
            )

    # ---- answers

    def resolve_failed(self, token: int, error: PrimeError) -> None:
        """Fail an ask, or a tell that was not sent."""
        self._asks.pop(token, None)
        self.failed(token, error)

    def reply(self, kind: type) -> tuple[Any, Codec]:
        """Return the reply type of a message class and its codec, looked up once."""
        known = self._replies.get(kind)
        if known is None:
            annotation = reply_type(kind)
            known = self._replies[kind] = (annotation, compile_codec(annotation))
        return known


def _tick_due(queue: deque[tuple[float, _Line]], now: float) -> None:
    while queue and queue[0][0] <= now:
        at, line = queue.popleft()
        if at == line.alarm_at:
            line.tick(now)


class _Line:
    """One link of a program's: what `Carrier` is for actors."""

    __slots__ = (
        "alarm_at",
        "channel",
        "closed",
        "crossed",
        "dialled",
        "expires_at",
        "hello",
        "link",
        "out",
        "owner",
        "peer",
        "ready",
        "todo",
        "turn",
        "unsent",
        "waiting",
    )

    def __init__(self, owner: LinkedProgram, peer: str, link: core.Link, channel: HeapChannel | None) -> None:
        self.owner = owner
        self.peer = peer
        self.link = link
        self.channel = channel
        self.hello: fr.Hello | None = None
        self.waiting: Sequence[_Waiting] = ()
        self.dialled = channel is None
        self.closed = False
        self.crossed = False
        self.ready: Sequence[_Waiting] = ()
        self.todo: list[core.Command] | None = None
        self.out: list[bytes] = []
        self.unsent = [0, 0, 0]
        self.turn = False
        limits, now = owner.limits, owner.node.world.now
        self.alarm_at = math.inf
        if channel is not None:
            self.expires_at = self.alarm_at = now + limits.greeting_s
            owner._due(self.alarm_at, self)  # noqa: SLF001 - one shell in two classes
        else:
            self.expires_at = now + limits.dial_s

    @property
    def standing(self) -> core.Standing:
        """What `judge` wants to know of it."""
        instance = 0 if self.hello is None else self.hello.instance
        return core.Standing(dialled_here=self.dialled, link_id=self.link.link_id, instance=instance)

    # ---- messages out

    @property
    def due(self) -> float:
        """When the next `tick` is wanted."""
        if self.link.up:
            return self.link.due
        if self.closed and not self.crossed:
            return math.inf
        at = self.expires_at
        for one in self.waiting:
            at = min(at, one.deadline)
        return at

    def wait(self, waiting: _Waiting) -> None:
        """Keep a message until the dial is settled."""
        self.waiting = (*self.waiting, waiting)
        due = min(waiting.deadline, self.expires_at)
        if due < self.alarm_at:
            self.alarm_at = due
            self.owner._due(due, self)  # noqa: SLF001

    def submit(self, one: _Waiting) -> None:
        """Send what waited."""
        if one.timeout_s == math.inf:
            self.tell(one.token, one.path, one.message)
        elif (left_s := one.deadline - self.owner.node.now) > 0:
            self.ask(one.token, one.path, one.message, left_s)

    def ask(self, token: int, path: str, message: Any, timeout_s: float) -> None:
        """Send an ask."""
        kind, now = type(message), self.owner.node.world.now
        body = to_plain(message, [])
        header = None
        if self.todo is None:
            header = self.link.ask_now(path, encode_body(kind, body), token, body[0], timeout_s, now)
        if header is None:
            self.feed(core.Submit(token, path, body, (), body[0], timeout_s))
        else:
            self._append(header, 2)
            if not self.turn:
                self._flush(now)
        if self.link.due < self.alarm_at:
            self._set_alarm()

    def tell(self, token: int, path: str, message: Any) -> None:
        """Send a tell."""
        body = to_plain(message, [])
        header = None if self.todo is not None else self.link.tell_now(path, encode_body(type(message), body))
        if header is None:
            self.feed(core.Submit(token, path, body, (), body[0]))
        else:
            self._append(header, 2)
            if not self.turn:
                self._flush(self.owner.node.world.now)

    def _append(self, header: bytes, lane: int) -> None:
        self.out.append(_PREFIX.pack(len(header), 0) + header)
        self.unsent[lane] += fr.PREFIX_BYTES + len(header)

    def _flush(self, now: float) -> None:
        """Write what is queued as one write, and tell the core."""
        out, unsent, channel = self.out, self.unsent, self.channel
        while out and channel is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            urgent, answers, messages = unsent
            out.clear()
            unsent[0] = unsent[1] = unsent[2] = 0
            channel.write(data)
            commands = self.link.written(urgent, answers, messages, now)
            if commands:
                self._carry_out(commands)

    # ---- the core

    def start(self) -> None:
        """Say HELLO."""
        self._append(self.link.start_now(), 0)
        self._flush(self.owner.node.world.now)

    def admit(self) -> None:
        """Use the link, which the peer dialled."""
        now = self.owner.node.world.now
        header = self.link.admit_now(now) if self.todo is None else None
        if header is None:
            self.feed(core.Admit())
            return
        self._append(header, 0)
        self._come_up()
        if not self.turn:
            self._flush(now)

    def _come_up(self) -> None:
        self.owner.came_up(self)
        if self.ready:
            self._submit_ready()

    def _submit_ready(self) -> None:
        ready, self.ready = self.ready, ()
        for one in ready:
            self.submit(one)

    def feed(self, event: core.Event) -> None:
        """Step the core and carry its commands out; write, unless that is done at the end of this turn anyhow."""
        now = self.owner.node.world.now
        self._carry_out(self.link.step(event, now))
        if not self.turn:
            self._flush(now)
            if self.link.due < self.alarm_at:
                self._set_alarm()

    def _carry_out(self, commands: list[core.Command]) -> None:
        """Do what the core says, in order also when one command feeds the next event."""
        if not commands:
            return
        if self.todo is not None:
            self.todo += commands
            return
        self.todo = commands
        done = 0
        while done < len(commands):
            command = commands[done]
            done += 1
            _ACTIONS[type(command)](self, command)
        self.todo = None
        if self.ready:
            self._submit_ready()

    def _set_alarm(self) -> None:
        self.alarm_at = self.link.due
        self.owner._due(self.alarm_at, self)  # noqa: SLF001

    def tick(self, now: float) -> None:
        """Hear that an alarm has come, perhaps an old one."""
        self.alarm_at = math.inf
        due = self.due
        if due <= now:
            if self.link.up:
                self.feed(core.Tick())
            else:
                self._tick_early(now)
            due = self.due
        if due < self.alarm_at:
            self.alarm_at = due
            self.owner._due(due, self)  # noqa: SLF001

    def _tick_early(self, now: float) -> None:
        late = [one for one in self.waiting if one.deadline <= now]
        if late:
            self.waiting = [one for one in self.waiting if one.deadline > now]
        for one in late:
            self.owner.resolve_failed(
                one.token, DeadlineError(f"no link with {self.peer} within {one.timeout_s:g} s", hint="Ask again.")
            )
        if now < self.expires_at:
            return
        if self.crossed:
            self.crossed = False
            if self.owner._dials.get(self.peer) is self:  # noqa: SLF001
                self.owner._forget_dial(self, "the link that crossed ours did not come")  # noqa: SLF001
        else:
            self.feed(core.Close(fr.Reason.PROTOCOL, "no HELLO in time"))

    def abandon(self) -> None:
        """Give up a dial: the peer's own link came first."""
        if self.channel is not None:
            self.channel.close()
        self.closed, self.crossed = True, False
        self.link.step(core.Lost("the peer's own link came first"), self.owner.node.now)

    # ---- what comes

    def received(self, data: bytes) -> None:
        """See `Reader.received`: whole frames, as they were written."""
        now = self.owner.node.world.now
        self.turn = True
        self.link.heard_now(now)
        try:
            header_size, payloads = _PREFIX.unpack_from(data) if len(data) > _PREFIX.size else (0, 0)
            if header_size + 6 == len(data) and not payloads:  # one frame: nearly always
                self._take_frame(data[6:], now)
            else:
                self._take_frames(data, now)
        except DecodeError as error:
            self.feed(core.Malformed(str(error)))
        self.turn = False
        if self.out:
            self._flush(now)
        if self.link.due < self.alarm_at:
            self._set_alarm()

    def _take_frames(self, data: bytes, now: float) -> None:
        position, size_bytes = 0, len(data)
        while position < size_bytes:
            if size_bytes < position + 6:
                raise DecodeError("a write that ends within a frame")
            header_size, payloads = _PREFIX.unpack_from(data, position)
            end = position + 6 + header_size
            if payloads or end > size_bytes:
                self._take_slowly(data[position:])
                return
            header = data[position + 6 : end]
            position = end
            self._take_frame(header, now)

    def _take_frame(self, header: bytes, now: float) -> None:
        start = header[:2]
        if start == fr.REPLY_START:
            quickly = self._reply_came(header)
        elif start == fr.ASK_START:
            quickly = self._ask_came(header)
        else:
            quickly = start == fr.HELLO_START and self._hello_came(header, now)
        if not quickly:
            frame = fr.read_frame(loads(header, _LIMITS))
            self._carry_out(self.link.step(core.Arrived(frame, (), 6 + len(header)), now))

    def _take_slowly(self, data: bytes) -> None:
        parser = FrameParser(_LIMITS)
        parser.feed(data)
        while (taken := parser.next()) is not None:
            frame = fr.read_frame(loads(taken.header, _LIMITS))
            self.feed(core.Arrived(frame, taken.payloads, taken.size_bytes))

    def _hello_came(self, header: bytes, now: float) -> bool:
        hello = fr.read_hello(header, self.owner._hello)  # noqa: SLF001
        if hello is None or self.todo is not None or (self.dialled and hello.link_id != self.link.link_id):
            return False
        if not self.link.hello_in(hello, now):
            return False
        self.hello = hello
        if self.dialled:
            self._come_up()
        else:
            self.owner.greeted(self, hello)
        return True

    def _ask_came(self, header: bytes) -> bool:
        plain = peek(header, _LIMITS)
        if type(plain) is not list or len(plain) != 6:
            return False
        _, path, seq, body, correlation, left_ms = plain
        if type(path) is not str or type(seq) is not int or type(correlation) is not int:
            return False
        if left_ms is not None and type(left_ms) is not int:
            return False
        message = decode_body(body, plain, header)
        if not isinstance(message, Ask) or not self.link.ask_in(path, seq, 6 + len(header), correlation):
            return False
        self._answer(path, correlation, message)
        commands = self.link.taken_now(path)
        if commands:
            self._carry_out(commands)
        return True

    def _answer(self, path: str, correlation: int, message: Any) -> None:
        kind = type(message)
        try:
            value = self.owner.asked(self.peer, path, message)
            annotation, codec = self.owner.reply(kind)
            plain = encode_value(annotation, value, [])
        except PrimeError as error:
            self.feed(core.Refuse(correlation, error, tag_of(kind)))
            return
        quick = codec.closed and self.todo is None
        header = self.link.answer_now(correlation, dumps_closed(plain)) if quick else None
        if header is None:
            self.feed(core.Answer(correlation, plain, (), tag_of(kind)))
        else:
            self._append(header, 1)

    def _reply_came(self, header: bytes) -> bool:
        correlation, end = fr.read_uint(header, 2)
        owner = self.owner
        kind = owner._asks.get(correlation)  # noqa: SLF001
        if kind is None:
            return False
        codec = owner.reply(kind)[1]
        value = header[end:]
        plain = peek(value, _LIMITS)
        try:
            decoded = codec.decode(plain, ())
        except MismatchError:
            return False
        if not encodes_to(plain, value, closed=codec.closed) or not self.link.reply_in(correlation):
            return False
        del owner._asks[correlation]  # noqa: SLF001
        owner.answered(correlation, decoded)
        return True

    def ended(self, cause: str) -> None:
        """See `Reader.ended`."""
        self.feed(core.Lost(cause))

    # ---- commands

    def _send(self, command: core.Send) -> None:
        header = command.header
        if command.payloads:
            self.out.append(b"".join(pack(header, command.payloads, _ANY_SIZE)))
        else:
            self.out.append(_PREFIX.pack(len(header), 0) + header)
        self.unsent[command.lane] += command.size_bytes

    def _greeted(self, command: core.Greeted) -> None:
        self.hello = command.hello
        if not self.dialled:
            self.owner.greeted(self, command.hello)
        elif command.hello.link_id != self.link.link_id:
            self.feed(core.Close(fr.Reason.PROTOCOL, "HELLO names another link"))

    def _up(self, _command: core.Up) -> None:
        self.owner.came_up(self)

    def _resolved(self, command: core.Resolved) -> None:
        kind = self.owner._asks.pop(command.token, None)  # noqa: SLF001
        if kind is None:
            return
        try:
            value = decode_value(self.owner.reply(kind)[0], command.value, command.payloads, _LIMITS)
        except DecodeError as error:
            self.owner.failed(command.token, error)
        else:
            self.owner.answered(command.token, value)

    def _rejected(self, command: core.Rejected) -> None:
        self.owner.resolve_failed(command.token, command.error)

    def _deliver(self, command: core.Deliver) -> None:
        try:
            message = from_plain(command.body, command.payloads, _LIMITS)
            if command.correlation is not None and not isinstance(message, Ask):
                raise DecodeError(f"{type(message).__name__} is no ask")
        except DecodeError as error:
            if command.correlation is not None:
                self.feed(core.Refuse(command.correlation, error))
        else:
            if command.correlation is None:
                self.owner.told(self.peer, command.target, message)
            elif command.deadline is None or command.deadline > self.owner.node.now:
                self._answer(command.target, command.correlation, message)
        commands = self.link.taken_now(command.target)
        if commands:
            self._carry_out(commands)

    def _disconnect(self, command: core.Disconnect) -> None:
        self.closed = True
        if self.channel is not None:
            if self.out:
                self.channel.write(b"".join(self.out))
                self.out.clear()
            self.channel.close()
        self.owner.went_down(self, command.cause, command.reason)

    def _ignore(self, _command: object) -> None:
        """Nothing follows from it here."""


_ACTIONS: Final[Mapping[type, Callable[[_Line, Any], None]]] = MappingProxyType(
    {
        core.Send: _Line._send,  # noqa: SLF001 - the table of this module's own class
        core.Greeted: _Line._greeted,  # noqa: SLF001
        core.Up: _Line._up,  # noqa: SLF001
        core.Released: _Line._ignore,  # noqa: SLF001
        core.Resolved: _Line._resolved,  # noqa: SLF001
        core.Rejected: _Line._rejected,  # noqa: SLF001
        core.Acknowledged: _Line._ignore,  # noqa: SLF001
        core.Deliver: _Line._deliver,  # noqa: SLF001
        core.Observe: _Line._ignore,  # noqa: SLF001
        core.Unobserve: _Line._ignore,  # noqa: SLF001
        core.Notify: _Line._ignore,  # noqa: SLF001
        core.Dropped: _Line._ignore,  # noqa: SLF001
        core.Doubt: _Line._ignore,  # noqa: SLF001
        core.Disconnect: _Line._disconnect,  # noqa: SLF001
    }
)
_LIMITS: Final = Limits()
_ANY_SIZE: Final = Limits(
    header_size_bytes_max=2**32 - 1,
    payload_size_bytes_max=2**32 - 1,
    payload_count_max=2**16 - 1,
    frame_size_bytes_max=2**63,
)
