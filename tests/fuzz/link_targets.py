"""A hostile peer on a link: frames of any kind and order between what this side does, against the pure core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from prime.errors import DecodeError, RefusedError, RemoteProtocolError
from prime.transport import frames as fr
from prime.transport import link as core
from prime.transport.pieces import FEATURE
from prime.wire import dumps, loads
from prime.wire.frame import FrameParser, pack
from tests.fuzz.target import Script, Target, chunks, golden

MINE = fr.Allowance(
    frame_bytes_max=40_000,
    header_bytes_max=2_000,
    payloads_max=4,
    window_messages=3,
    window_bytes=50_000,
    link_bytes=80_000,
    targets_max=3,
    asks_max=3,
    watches_max=3,
)
THEIRS = attrs.evolve(MINE, window_messages=2, asks_max=2, watches_max=2)
LIMITS = core.LinkLimits(
    allowance=MINE, outbox_bytes=3_000, answers_bytes=3_000, urgent_bytes_max=20_000, waiting_max=6, dial_s=2
)
URGENT_MOST = LIMITS.urgent_bytes_max + 5_000  # one step may say a few things more before the core sees that it is over
PATHS = ("/a", "/b", "/c", "/d", "/e")
TAG = 0x7E40


def hello(allowance: fr.Allowance, **changes: Any) -> fr.Hello:
    plain = fr.Hello(fr.PROTOCOL_VERSION, "1", (FEATURE,), allowance, (), 2**40, 2**41, 0)
    return attrs.evolve(plain, **changes)


class Side:
    """A link's core, a shell without sockets, and the promises that it keeps whatever the peer does."""

    def __init__(self, *, dialled: bool, up: bool) -> None:
        self.now = 0.0
        self.link = core.Link("peer", hello(MINE), LIMITS, 0.0, dialled=dialled)
        self.unsent = [0, 0, 0]
        self.offered: dict[str, core.Deliver] = {}
        self.serving: deque[int] = deque()
        self.observed: set[int] = set()
        self.open: set[int] = set()
        self.asked: set[int] = set()
        self.watching: set[int] = set()
        self.token = 0
        self.over = False
        if dialled:
            self.feed(core.Start())
        if up:
            self.arrive(hello(THEIRS))
            if not dialled:
                self.feed(core.Admit())
            assert self.link.up

    def feed(self, event: core.Event) -> None:
        """Step the core, and do as its shell does."""
        was_over = self.over
        for command in self.link.step(event, self.now):
            assert not was_over or isinstance(command, core.Rejected | core.Notify | core.Dropped), command
            self.note(command)
        self.check()

    def note(self, command: core.Command) -> None:
        match command:
            case core.Send():
                assert not self.over, "nothing follows the end"
                assert command.size_bytes == sum(map(len, pack(command.header, command.payloads)))
                fr.read_frame(loads(command.header))
                self.unsent[command.lane] += command.size_bytes
            case core.Deliver():
                assert command.target not in self.offered, "one delivery at a time"
                self.offered[command.target] = command
                if command.correlation is not None:
                    self.serving.append(command.correlation)
            case core.Disconnect():
                self.over = True
            case _:
                self.settle(command)

    def settle(self, command: core.Command) -> None:
        """Hold each token and watch to its one end."""
        match command:
            case core.Released(token):
                if token not in self.asked:
                    self.open.remove(token)
            case core.Resolved(token) | core.Rejected(token):
                self.open.remove(token)
            case core.Notify(token):
                self.watching.remove(token)
            case core.Observe(watch_id):
                assert watch_id not in self.observed
                self.observed.add(watch_id)
            case core.Unobserve(watch_id):
                self.observed.remove(watch_id)

    def check(self) -> None:
        """Whatever the peer sent, what it makes this side hold is within what was announced to it."""
        sizes = self.link.sizes()
        assert sizes["incoming"] <= MINE.targets_max
        assert sizes["serving"] <= MINE.asks_max
        assert sizes["watched"] == len(self.observed) <= MINE.watches_max
        assert sizes["asks"] <= THEIRS.asks_max
        assert sizes["arriving"] <= 16
        assert sizes["waiting"] <= LIMITS.waiting_max
        assert self.unsent[core.Lane.URGENT] <= URGENT_MOST
        held = sum(incoming.size_bytes for incoming in self.link._incoming.values())
        coming = sum(len(buffer) for arrival in self.link._arrivals for buffer in arrival.buffers)
        assert held <= MINE.link_bytes + MINE.frame_bytes_max
        assert coming <= 2 * MINE.link_bytes
        if self.over:
            assert not any(sizes.values())
            assert not self.watching
            assert not self.open

    def arrive(self, frame: fr.Frame, *payloads: bytes) -> None:
        """Take a frame of the peer's."""
        views = [memoryview(payload) for payload in payloads]
        header = dumps(frame.plain())
        self.feed(core.Arrived(frame, views, fr.size_of_frame(header, views)))

    # ---- what this side does

    def act(self, script: Script) -> None:
        """Do one of the things that a shell may do at any time."""
        what, target = script.byte() % len(_ACTS), PATHS[script.byte() % len(PATHS)]
        _ACTS[what](self, target, script)

    def withdraw(self, token: int) -> None:
        self.feed(core.Withdraw(token))
        self.open &= self.link._asks.keys() | self.link._waiting.keys() | self.link._departing.keys()

    def take(self, target: str) -> None:
        if self.offered.pop(target, None):
            self.feed(core.Taken(target))

    def refuse(self) -> None:
        if self.serving:
            self.feed(core.Refuse(self.serving.popleft(), RefusedError("no", hint="ask another")))

    def watch(self, target: str) -> None:
        self.token += 1
        self.watching.add(self.token)
        self.feed(core.StartWatch(self.token, target))

    def unwatch(self, token: int) -> None:
        self.watching.discard(token)
        self.feed(core.StopWatch(token))

    def end(self, watch_id: int) -> None:
        self.observed.discard(watch_id)
        self.feed(core.Ended(watch_id, "stopped"))

    def write(self) -> None:
        written, self.unsent = self.unsent, [0, 0, 0]
        self.feed(core.Written(*written))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.feed(core.Tick())

    def submit(self, target: str, payload: bytes, *, asks: bool) -> None:
        self.token += 1
        token = self.token
        self.open.add(token)
        if asks:
            self.asked.add(token)
        views = [memoryview(payload)] if payload else []
        self.feed(core.Submit(token, target, [TAG, token], views, TAG, 5.0 if asks else None))

    def answer(self, payload: bytes) -> None:
        if not self.serving:
            return
        correlation = self.serving.popleft()
        views = [memoryview(payload)] if payload else []
        in_pieces = self.link._unsent[core.Lane.ANSWER]
        sent = self.unsent[core.Lane.ANSWER]
        self.feed(core.Answer(correlation, 0, views, TAG))
        self.unsent[core.Lane.ANSWER] = sent + self.link._unsent[core.Lane.ANSWER] - in_pieces

    def write_piece(self) -> None:
        cut = self.link.next_piece(4096)
        if cut is None:
            return
        answers = cut.counted_bytes if cut.departure.target is None else 0
        self.unsent[core.Lane.ANSWER] -= answers
        self.feed(core.Written(0, answers, 0, pieces=cut.departure.target is not None))


_ACTS: tuple[Callable[[Side, str, Script], None], ...] = (
    lambda side, target, script: side.submit(target, bytes(script.byte() * 64), asks=False),
    lambda side, target, script: side.submit(target, bytes(script.byte() * 64), asks=True),
    lambda side, _, script: side.withdraw(script.byte()),
    lambda side, target, _: side.take(target),
    lambda side, target, _: side.take(target),
    lambda side, _, script: side.answer(bytes(script.byte() * 64)),
    lambda side, _, __: side.refuse(),
    lambda side, target, _: side.watch(target),
    lambda side, _, script: side.unwatch(script.byte()),
    lambda side, _, script: side.end(script.number()),
    lambda side, _, __: side.write(),
    lambda side, _, __: side.write_piece(),
    lambda side, _, script: side.tick(script.byte() / 4),
    lambda side, _, script: side.feed(core.Acknowledge(script.byte(), script.byte(), "again")),
)


def talk(data: bytes) -> None:
    """Frames of every kind, made of small numbers so that they meet, between whatever this side does."""
    script = Script(data)
    first = script.byte()
    side = Side(dialled=bool(first & 1), up=not first & 2)
    while script:
        if script.byte() & 1:
            side.act(script)
        elif not side.over:
            say(side, script)
    side.feed(core.Lost("the end"))


def say(side: Side, script: Script) -> None:
    """Let the peer say something."""
    kind = script.byte() % 20
    number, path = script.number(), PATHS[script.byte() % len(PATHS)]
    if kind == 18:
        sizes = tuple(script.byte() * 64 for _ in range(script.byte() % 3))
        rooms = side.link.rooms(number, sizes)
        if rooms is not None:
            for room, size in zip(rooms, sizes, strict=True):
                room[:] = bytes(size)
            side.feed(core.PieceCame(number, sizes))
        return
    if kind == 19:
        side.feed(core.Malformed("no frame"))
        return
    frame = _frame(kind, number, path, script)
    payloads = [bytes(script.byte() * 64) for _ in range(script.byte() % 3)] if kind in (1, 2, 3, 16) else []
    try:
        read = fr.read_frame(loads(dumps(frame.plain())))  # as the shell does
        if isinstance(read, fr.Bulk):
            read.frame = fr.read_frame(loads(read.header))
    except DecodeError as error:
        side.feed(core.Malformed(str(error)))
        return
    side.arrive(read, *payloads)


def _frame(kind: int, number: int, path: str, script: Script) -> fr.Frame:
    return _FRAMES[min(kind, len(_FRAMES) - 1)](number, path, script)


def _bulk(number: int, path: str, script: Script) -> fr.Bulk:
    sizes = tuple(script.byte() * 64 for _ in range(script.byte() % 4))
    inner = _frame(script.byte() % 4, script.number(), path, script)
    return fr.Bulk(number, sizes, dumps(inner.plain()))


_FRAMES: tuple[Callable[[int, str, Script], fr.Frame], ...] = (
    lambda _, __, script: hello(THEIRS, version=1 + script.byte() % 2),
    lambda n, path, script: fr.Tell(path, n, [TAG, n], numbered=(1, 2, 1) if script.byte() & 1 else None),
    lambda n, path, script: fr.Ask(path, n, [TAG, n], script.number(), script.number() if script.byte() & 1 else None),
    lambda n, _, __: fr.Reply(n, 0),
    lambda n, _, __: fr.Fail(n, "DeadlineError", "late"),
    lambda n, path, script: fr.Credit(path, n, script.number()),
    lambda n, path, _: fr.Watch(n, path),
    lambda n, _, __: fr.Unwatch(n),
    lambda n, _, __: fr.Down(n, "stopped"),
    lambda _, __, ___: fr.Ping(),
    lambda _, __, ___: fr.Pong(),
    lambda _, __, ___: fr.Bye(fr.Reason.SHUTDOWN, "why"),
    lambda _, path, __: fr.Blocked(path),
    lambda n, _, __: fr.Cancel(n),
    lambda n, _, script: fr.Ack(script.byte(), n),
    _bulk,
    lambda n, _, __: fr.Piece(n),
    lambda n, _, __: fr.Abandon(n),
)


def stream(data: bytes) -> None:
    """Bytes as they come from a socket, through parser and decoder, to a link that is up or waits for HELLO."""
    script = Script(data)
    first = script.byte()
    side = Side(dialled=bool(first & 1), up=not first & 2)
    parser = FrameParser()
    for piece in chunks(script.rest(), [first >> 2]):
        parser.feed(piece)
        while not side.over and (frame := parser.next()) is not None:
            read = fr.read_frame(loads(frame.header))
            if isinstance(read, fr.Bulk):
                read.frame = fr.read_frame(loads(read.header))
            side.feed(core.Arrived(read, frame.payloads, frame.size_bytes))
            for target in tuple(side.offered):
                side.offered.pop(target, None)
                side.feed(core.Taken(target))
    side.feed(core.Lost("the end"))


def _talks() -> tuple[bytes, ...]:
    """A row of every frame, of every act, and of both."""
    frames = b"".join(bytes([0, kind, 1 + kind % 3, kind, 1, 2, 3, 1]) for kind in range(20))
    acts = b"".join(bytes([1, act, act, 70]) for act in range(14))
    pieces = bytes([0, 15, 1, 0, 90, 90, 2, 1, 1, 0, 0, 0, 16, 1, 0, 90, 1])
    departs = bytes([1, 0, 0, 255, 1, 1, 1, 255, *[1, 11, 0] * 8, 1, 10, 0, 1, 2, 1])
    bodies = (frames, acts, acts + frames, frames + acts * 3, pieces, departs, departs[:20] + acts + pieces)
    return tuple(bytes([head]) + body for body in bodies for head in (0, 1, 2, 3))


TARGETS = (
    Target("link", talk, (), _talks()),
    Target(
        "link_stream",
        stream,
        (DecodeError, RemoteProtocolError),
        tuple(head + data for data in golden("link") for head in (b"\x00", b"\x1d", b"\x02")),
    ),
)
