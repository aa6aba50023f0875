"""The pure core of a link: credit, order, answers, watches, the end; two cores and a wire of bytes between them."""

from __future__ import annotations

import functools
import math
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pycddl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prime.errors import (
    ActorCrashedError,
    DeadlineError,
    DecodeError,
    LinkLostError,
    LocalProtocolError,
    MailboxFullError,
    NoSuchActorError,
    PrimeError,
    RefusedError,
    WorldError,
)
from prime.transport import frames as fr
from prime.transport import link as core
from prime.transport.failures import from_frame, to_frame
from prime.transport.heartbeat import STEPS, Heartbeat, Pulse
from prime.transport.link import LinkLimits, Standing, Verdict, judge
from prime.transport.pieces import FEATURE
from prime.wire import dumps, loads

TAG = 0x1001
SMALL = fr.Allowance(
    frame_bytes_max=2_000, window_messages=4, window_bytes=600, link_bytes=4_000, targets_max=4, asks_max=3
)
LIMITS = LinkLimits(allowance=SMALL, outbox_bytes=500, answers_bytes=500)


def hello(**changes: Any) -> fr.Hello:
    plain = fr.Hello(fr.PROTOCOL_VERSION, "1", ("f",), SMALL, ("/memory/x",), 7, 99, 0)
    return attrs.evolve(plain, **changes)


@attrs.define(eq=False)
class Side:
    """One core with a writer of two queues, and everything its commands said; `quick` takes the short ways."""

    link: core.Link
    quick: bool = False
    now: float = 0.0
    urgent: deque[core.Send] = attrs.field(factory=deque)
    ordinary: deque[core.Send] = attrs.field(factory=deque)
    offers: dict[str, core.Deliver] = attrs.field(factory=dict)
    said: list[Any] = attrs.field(factory=list)
    delivered: list[core.Deliver] = attrs.field(factory=list)

    def feed(self, event: core.Event) -> list[core.Command]:
        commands = self.link.step(event, self.now)
        for command in commands:
            self._note(command)
        return commands

    def _note(self, command: core.Command) -> None:
        if isinstance(command, core.Send):
            (self.urgent if command.lane is core.Lane.URGENT else self.ordinary).append(command)
        elif isinstance(command, core.Deliver):
            assert command.target not in self.offers, "one delivery at a time"
            self.offers[command.target] = command
            self.delivered.append(command)
        else:
            self.said.append(command)

    def all(self, kind: type) -> list[Any]:
        return [command for command in self.said if isinstance(command, kind)]

    def take(self, target: str) -> None:
        del self.offers[target]
        if not self.quick:
            self.feed(core.Taken(target))
            return
        for command in self.link.taken_now(target) or ():
            self._note(command)

    def write(self) -> core.Send | None:
        if not self.urgent and not self.ordinary:
            return None
        frame = self.urgent.popleft() if self.urgent else self.ordinary.popleft()
        sizes = [0, 0, 0]
        sizes[frame.lane] = frame.size_bytes
        self.feed(core.Written(*sizes))
        return frame

    def submit(self, token: int, target: str, size: int = 0, timeout_s: float | None = None) -> None:
        payloads = [memoryview(bytes(size))] if size else []
        if not self.quick or payloads or not self._submit_now(token, target, timeout_s):
            chain = () if timeout_s is None else chain_for(token)
            self.feed(core.Submit(token, target, [TAG, token], payloads or (), TAG, timeout_s, chain=chain))

    def _submit_now(self, token: int, target: str, timeout_s: float | None) -> bool:
        body = dumps([TAG, token])
        if timeout_s is None:
            header = self.link.tell_now(target, body)
        else:
            header = self.link.ask_now(target, body, token, TAG, timeout_s, self.now, chain_for(token))
        if header is not None:
            self._note(core.Send(header, (), fr.size_of_frame(header, ()), core.Lane.MESSAGE, TAG))
            self._note(core.Released(token))
        return header is not None

    def answer(self, correlation: int, payloads: list[memoryview]) -> None:
        header = self.link.answer_now(correlation, dumps(correlation)) if self.quick and not payloads else None
        if header is None:
            self.feed(core.Answer(correlation, correlation, payloads or (), TAG))
        else:
            self._note(core.Send(header, (), fr.size_of_frame(header, ()), core.Lane.ANSWER, TAG))

    def hear(self, sent: core.Send) -> None:
        """Let a frame arrive."""
        frame = fr.read_frame(loads(sent.header))
        if not self.quick or sent.payloads or not self._hear_now(frame, sent.size_bytes):
            self.feed(core.Arrived(frame, sent.payloads, sent.size_bytes))

    def _hear_now(self, frame: fr.Frame, size_bytes: int) -> bool:
        if isinstance(frame, fr.Tell) and self.link.tell_in(frame.target, frame.seq, size_bytes):
            self._note(core.Deliver(frame.target, frame.body, (), None, None, None, None))
        elif isinstance(frame, fr.Ask) and self.link.ask_in(frame.target, frame.seq, size_bytes, frame.correlation):
            self._note(
                core.Deliver(frame.target, frame.body, (), frame.correlation, None, None, None, None, frame.chain)
            )
        elif isinstance(frame, fr.Reply) and self.link.reply_in(frame.correlation):
            self._note(core.Resolved(frame.correlation, frame.value, ()))
        else:
            return False
        return True

    def arrive(self, frame: fr.Frame, size_bytes: int = 50) -> list[core.Command]:
        return self.feed(core.Arrived(frame, (), size_bytes))


def carry(source: Side, target: Side) -> bool:
    """Write one frame at `source` and let it arrive, through its bytes, at `target`."""
    sent = source.write()
    if sent is None:
        return False
    target.link.heard_now(target.now)
    target.hear(sent)
    return True


def settle(a: Side, b: Side) -> None:
    while carry(a, b) or carry(b, a):
        pass


def chain_for(token: int) -> tuple[str, ...]:
    """Let every third ask have a chain."""
    return ("A/s/a#1f", "B/s/b#2", "A/s/c#3")[: token // 3 % 4] if token % 3 == 0 else ()


def pair(limits: LinkLimits = LIMITS, *, quick: bool = False, features: tuple[str, ...] = ("f",)) -> tuple[Side, Side]:
    """Return a dialler and an acceptor whose link is up."""
    mine = hello(allowance=limits.allowance, features=features)
    a = Side(core.Link("B", mine, limits, 0.0, dialled=True), quick)
    b = Side(core.Link("A", mine, limits, 0.0, dialled=False), quick)
    a.feed(core.Start())
    settle(a, b)
    b.feed(core.Admit())
    settle(a, b)
    assert a.link.up
    assert b.link.up
    return a, b


def bye(side: Side) -> fr.Bye:
    frames = [fr.read_frame(loads(send.header)) for send in (*side.urgent, *side.ordinary)]
    return next(frame for frame in frames if isinstance(frame, fr.Bye))


# ---------------------------------------------------------------------------------------------- headers by their bytes


@given(st.integers(0, 2**64 - 1))
@example(23)
@example(24)
@example(0xFF)
@example(0x100)
@example(0xFFFF)
@example(0x1_0000)
@example(0xFFFF_FFFF)
@example(0x1_0000_0000)
def test_an_unsigned_integer_is_written_and_read_as_cbor_has_it(value: int) -> None:
    assert fr.uint(value) == dumps(value)
    assert fr.read_uint(b"\x00" + fr.uint(value) + b"\x07", 1) == (value, 1 + len(fr.uint(value)))


@given(st.binary(max_size=12))
@example(b"\x18\x17")
@example(b"\x19\x00\xff")
@example(b"\x1a\x00")
def test_an_integer_read_from_any_bytes_is_their_one_encoding(data: bytes) -> None:
    value, end = fr.read_uint(data, 0)
    assert value < 0 or data[:end] == dumps(value)


@given(st.text(max_size=600))
def test_the_end_of_a_path_is_found_or_left_to_the_long_way(path: str) -> None:
    header = fr.TELL_START + fr.path_bytes(path) + b"\x01\x80"
    end = fr.path_end(header)
    assert end in {0, len(header) - 2}
    assert end or not 0 < len(path.encode()) < 256


# ------------------------------------------------------------------------------------------------- nothing lost


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("tell"), st.integers(0, 1), st.integers(0, 5), st.sampled_from([0, 10, 250, 400, 1500])),
        st.tuples(st.just("ask"), st.integers(0, 1), st.integers(0, 5), st.sampled_from([0, 10, 250, 400])),
        st.tuples(st.just("write"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("arrive"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 1), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("answer"), st.integers(0, 1), st.integers(0, 5), st.sampled_from([0, 300])),
        st.tuples(st.just("withdraw"), st.integers(0, 1), st.integers(0, 50), st.just(0)),
    ),
    max_size=120,
)


class World:
    """Two sides, two wires, and a model of what must arrive."""

    def __init__(self, *, quick: bool = False) -> None:
        self.sides = pair(quick=quick)
        self.wires: tuple[deque[core.Send], deque[core.Send]] = (deque(), deque())
        self.token = 0
        self.sent: list[list[tuple[int, str]]] = [[], []]
        self.asked: list[set[int]] = [set(), set()]
        self.withdrawn: list[set[int]] = [set(), set()]
        self.unanswered: list[list[int]] = [[], []]

    def run(self, op: str, who: int, which: int, size: int) -> None:
        side = self.sides[who]
        if op in {"tell", "ask"}:
            self.token += 1
            target = f"/t{which}"
            self.sent[who].append((self.token, target))
            if op == "ask":
                self.asked[who].add(self.token)
            side.submit(self.token, target, size, math.inf if op == "ask" else None)
        elif op == "write":
            self.write(who)
        elif op == "arrive":
            self.arrive(who)
        elif op == "take" and side.offers:
            self.take(who, sorted(side.offers)[which % len(side.offers)])
        elif op == "answer" and self.unanswered[who]:
            self.answer(who, self.unanswered[who].pop(which % len(self.unanswered[who])), size)
        elif op == "withdraw" and self.sent[who]:
            token = self.sent[who][which % len(self.sent[who])][0]
            self.withdrawn[who].add(token)
            side.feed(core.Withdraw(token))

    def write(self, who: int) -> bool:
        sent = self.sides[who].write()
        if sent is not None:
            self.wires[who].append(sent)
        return sent is not None

    def arrive(self, who: int) -> bool:
        """Let the oldest frame on the wire to `who` arrive."""
        if not self.wires[1 - who]:
            return False
        sent = self.wires[1 - who].popleft()
        side = self.sides[who]
        side.hear(sent)
        incoming = side.link._incoming.values()
        assert all(t.messages <= SMALL.window_messages for t in incoming)
        assert all(t.messages == 1 or t.size_bytes <= SMALL.window_bytes for t in incoming)
        assert sum(t.size_bytes for t in incoming) <= SMALL.link_bytes
        assert len(incoming) <= SMALL.targets_max
        return True

    def take(self, who: int, target: str) -> None:
        offer = self.sides[who].offers[target]
        if offer.correlation is not None:
            self.unanswered[who].append(offer.correlation)
        self.sides[who].take(target)

    def answer(self, who: int, correlation: int, size: int) -> None:
        payloads = [memoryview(bytes(size))] if size else []
        self.sides[who].answer(correlation, payloads)

    def finish(self) -> None:
        """Let everything run to its end."""
        moved = True
        while moved:
            moved = False
            for who in (0, 1):
                side = self.sides[who]
                while self.write(who) or self.arrive(who):
                    moved = True
                for target in tuple(side.offers):
                    self.take(who, target)
                    moved = True
                while self.unanswered[who]:
                    self.answer(who, self.unanswered[who].pop(), 0)
                    moved = True

    def check(self, who: int) -> None:
        sender, receiver = self.sides[who], self.sides[1 - who]
        assert sender.link.up, sender.link._cause
        got = [(deliver.body[1], deliver.target) for deliver in receiver.delivered]
        for target in {target for _, target in self.sent[who]}:
            tokens = [token for token, to in got if to == target]
            expected = [token for token, to in self.sent[who] if to == target]
            assert tokens == sorted(tokens), "order for each target"
            assert len(tokens) == len(set(tokens)), "nothing doubled"
            assert set(expected) - set(tokens) <= self.withdrawn[who], "nothing lost"
        resolved = [command.token for command in sender.all(core.Resolved)]
        assert len(resolved) == len(set(resolved))
        assert self.asked[who] - self.withdrawn[who] == set(resolved) - self.withdrawn[who]
        assert not sender.all(core.Rejected)
        sizes = sender.link.sizes()
        assert sizes["waiting"] == sizes["asks"] == sizes["serving"] == 0


@given(OPS, st.booleans())
def test_any_schedule_loses_nothing_doubles_nothing_and_keeps_windows_and_order(ops: list[Any], quick: bool) -> None:
    world = World(quick=quick)
    for op in ops:
        world.run(*op)
    world.finish()
    world.check(0)
    world.check(1)


@given(OPS)
def test_the_short_ways_do_what_step_does_byte_for_byte(ops: list[Any]) -> None:
    step, quick = World(), World(quick=True)
    for op in ops:
        step.run(*op)
        quick.run(*op)
        assert step.wires == quick.wires
    for one, other in zip(step.sides, quick.sides, strict=True):
        assert list(one.urgent) == list(other.urgent)
        assert list(one.ordinary) == list(other.ordinary)
        assert one.offers.keys() == other.offers.keys()
        assert one.said == other.said
        assert one.link.sizes() == other.link.sizes()
        assert one.link._unsent == other.link._unsent
        assert one.link._ungranted_bytes == other.link._ungranted_bytes
        assert list(one.link._idle) == list(other.link._idle)


@given(OPS, st.sampled_from(["lost", "close", "violation"]))
def test_the_end_settles_everything_once_and_forgets_it(ops: list[Any], how: str) -> None:
    world = World()
    for op in ops:
        world.run(*op)
    side = world.sides[0]
    side.feed(core.StartWatch(9999, "/w"))
    if how == "lost":
        side.feed(core.Lost("cut"))
    elif how == "close":
        side.feed(core.Close(fr.Reason.SHUTDOWN, "bye"))
    else:
        side.feed(core.Malformed("garbage"))
    side.feed(core.Lost("again"))
    settled = [command.token for command in side.said if isinstance(command, core.Resolved | core.Rejected)]
    assert len(settled) == len(set(settled))
    assert world.asked[0] - world.withdrawn[0] <= set(settled)
    assert all(isinstance(command.error, LinkLostError) for command in side.all(core.Rejected))
    assert len(side.all(core.Notify)) == 1
    assert len(side.all(core.Disconnect)) == 1
    assert isinstance(side.said[-1], core.Disconnect)
    assert not any(side.link.sizes().values())
    later = side.link.step(core.Submit(10_000, "/t", [TAG], (), TAG), 0.0)
    assert isinstance(later[0], core.Rejected)


# -------------------------------------------------------------------------------------------------------- credit


def test_a_target_that_takes_nothing_stops_its_own_sender_only() -> None:
    a, b = pair()
    for token in range(1, 11):
        a.submit(token, "/slow")
    settle(a, b)
    a.submit(11, "/quick")
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1, 2, 3, 4, 11]
    assert set(b.offers) == {"/slow", "/quick"}


def test_credit_comes_in_lots_of_half_a_window() -> None:
    a, b = pair()
    for token in range(1, 7):
        a.submit(token, "/t")
    settle(a, b)
    b.take("/t")
    assert not b.urgent
    b.take("/t")
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1, 2, 3, 4, 5, 6]


def test_one_message_larger_than_the_window_goes_when_nothing_is_outstanding() -> None:
    a, b = pair()
    a.submit(1, "/t", 10)
    a.submit(2, "/t", 1500)
    a.submit(3, "/t", 10)
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1]
    b.take("/t")  # BLOCKED has asked for what a lot would hold back
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1, 2]
    b.take("/t")
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1, 2, 3]


def test_more_targets_than_allowed_wait_and_then_go() -> None:
    a, b = pair()
    for token in range(1, 9):
        a.submit(token, f"/t{token}")
    settle(a, b)
    while b.offers:
        b.take(next(iter(b.offers)))
        settle(a, b)
    assert sorted(command.token for command in a.all(core.Released)) == list(range(1, 9))
    assert b.link.up


def test_bytes_over_all_targets_have_a_window_too() -> None:
    a, b = pair()
    for token in (1, 2, 3):
        a.submit(token, f"/t{token}", 1500)
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1, 2]
    b.take("/t2")
    settle(a, b)
    assert [command.token for command in a.all(core.Released)] == [1, 2, 3]


def test_targets_take_turns_at_the_outbox() -> None:
    a, _ = pair(attrs.evolve(LIMITS, outbox_bytes=100))
    for token in (1, 2, 3, 4):
        a.submit(token, "/a", 100)
    for token in (11, 12, 13):
        a.submit(token, "/b", 100)
    while a.write():
        pass
    assert [command.token for command in a.all(core.Released)] == [1, 2, 11, 3, 12, 4, 13]


ROOMY = LinkLimits(allowance=fr.Allowance(frame_bytes_max=100_000, link_bytes=4_000_000), outbox_bytes=1_000_000)


@pytest.mark.parametrize("size", [0, 20_000])
@pytest.mark.parametrize("quick", [False, True])
def test_pieces_leave_behind_what_is_queued_whole_for_their_target(*, size: int, quick: bool) -> None:
    a, _ = pair(ROOMY, quick=quick, features=(FEATURE,))
    a.link.whole_bytes_max = 50_000
    a.submit(1, "/b", size)
    a.submit(2, "/a", size)
    a.submit(3, "/b", size)
    a.link.whole_bytes_max = 10_000  # the line became slow
    a.submit(4, "/a", 20_000)
    while not a.link.has_pieces:
        last = a.write()
    assert last is not None
    assert fr.read_frame(loads(last.header)).target == "/a"
    assert len(a.ordinary) == 1
    assert [command.token for command in a.all(core.Released)] == [1, 2, 3, 4]


def test_few_big_frames_wait_for_a_line_on_which_small_ones_are_whole() -> None:
    a, _ = pair(ROOMY, features=(FEATURE,))
    a.link.whole_bytes_max = 10_000
    for token in range(1, 10):
        a.submit(token, "/a", 9_000)
    assert [command.token for command in a.all(core.Released)] == [1, 2, 3, 4, 5]
    a.submit(10, "/b", 100)
    assert a.all(core.Released)[-1].token == 10, "what is small goes behind these five"
    while a.write():
        pass
    assert [command.token for command in a.all(core.Released)][6:] == [6, 7, 8, 9]


def test_asks_above_the_limit_wait_for_an_answer_while_tells_go_on() -> None:
    a, b = pair()
    for token in range(1, 6):
        a.submit(token, f"/t{token % 2}", timeout_s=10)
    settle(a, b)
    for _ in range(4):
        for target in tuple(b.offers):
            b.take(target)
    assert len(a.all(core.Released)) == 3
    a.submit(100, "/other")
    assert a.all(core.Released)[-1].token == 100
    b.feed(core.Answer(1, "x", (), TAG))
    settle(a, b)
    assert len(a.all(core.Released)) == 5


@pytest.mark.parametrize("size", [1990, 5000])
def test_an_oversize_message_is_refused_before_it_is_sent(size: int) -> None:
    a, _ = pair()
    a.submit(1, "/t", size)
    (rejected,) = a.all(core.Rejected)
    assert isinstance(rejected.error, LocalProtocolError)
    assert "at most 2000" in str(rejected.error)
    assert a.link.up
    assert a.link.sizes()["waiting"] == 0


def test_an_oversize_reply_fails_the_ask_and_the_link_lives() -> None:
    a, b = pair()
    a.submit(1, "/t", timeout_s=1)
    settle(a, b)
    b.feed(core.Answer(1, bytes(3000), (), TAG))
    settle(a, b)
    (rejected,) = a.all(core.Rejected)
    assert isinstance(rejected.error, LocalProtocolError)
    assert a.link.up
    assert b.link.up


def test_callers_that_wait_are_bounded() -> None:
    a, _ = pair(attrs.evolve(LIMITS, waiting_max=2))
    for token in range(1, 8):
        a.submit(token, "/t")
    assert [command.token for command in a.all(core.Rejected)] == [7]
    assert isinstance(a.all(core.Rejected)[0].error, RefusedError)


def test_who_does_not_read_answers_is_not_served() -> None:
    a, b = pair()
    for token in (1, 2, 3):
        a.submit(token, f"/t{token}", timeout_s=9)
    settle(a, b)
    b.feed(core.Answer(1, "x", [memoryview(bytes(900))], TAG))  # above answers_bytes, and not written
    for target in ("/t1", "/t2", "/t3"):
        b.take(target)
    a.submit(4, "/t4")
    carry(a, b)
    assert "/t4" not in b.offers
    settle(a, b)
    assert "/t4" in b.offers


def test_limits_under_which_a_message_could_wait_for_ever_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="link_bytes"):
        LinkLimits(allowance=fr.Allowance(frame_bytes_max=3, link_bytes=5))


# --------------------------------------------------------------------------------- what a peer may not do


def tell(seq: int, target: str = "/t") -> fr.Tell:
    return fr.Tell(target, seq, [TAG])


@pytest.mark.parametrize(
    "frames",
    [
        [tell(n) for n in range(1, 6)],  # over the window
        [tell(n, f"/{n}") for n in range(1, 6)],  # over the targets
        [tell(1), tell(1)],  # doubled
        [tell(2), tell(1)],  # out of order
        [fr.Ask(f"/{n}", n, [TAG], n) for n in range(1, 5)],  # over the open asks
        [fr.Ask("/a", 1, [TAG], 1), fr.Ask("/b", 2, [TAG], 1)],  # one correlation twice
        [fr.Credit("/t", 1, 1)],  # credit for nothing
        [hello()],  # a second HELLO
        [fr.Watch(1, "/w"), fr.Watch(1, "/w")],
    ],
)
def test_a_peer_that_exceeds_what_it_was_allowed_loses_the_link(frames: list[fr.Frame]) -> None:
    _, b = pair()
    for frame in frames:
        assert b.link.up
        b.arrive(frame)
    assert not b.link.up
    assert bye(b).reason is fr.Reason.PROTOCOL
    assert "broke the protocol" in b.all(core.Disconnect)[0].cause


def test_watches_of_a_peer_are_bounded() -> None:
    _, b = pair(attrs.evolve(LIMITS, allowance=attrs.evolve(SMALL, watches_max=2)))
    for watch_id in (1, 2, 3):
        b.arrive(fr.Watch(watch_id, "/w"))
    assert not b.link.up
    assert len(b.all(core.Unobserve)) == 2


def test_a_flood_of_pings_queues_one_pong() -> None:
    _, b = pair()
    for _ in range(1000):
        b.arrive(fr.Ping())
    assert len(b.urgent) == 1
    b.write()
    b.arrive(fr.Ping())
    assert len(b.urgent) == 1


def test_unread_notices_end_the_link() -> None:
    _, b = pair(attrs.evolve(LIMITS, urgent_bytes_max=1000))
    for watch_id in range(200):
        b.arrive(fr.Watch(watch_id, "/w"))
        b.feed(core.Ended(watch_id, "gone"))
    assert not b.link.up
    assert b.all(core.Disconnect)[0].reason is fr.Reason.OVERLOAD


@pytest.mark.parametrize("frame", [tell(1), fr.Ping(), fr.Credit("/t", 1, 1), fr.Reply(1, None)])
def test_nothing_but_hello_comes_first(frame: fr.Frame) -> None:
    b = Side(core.Link("A", hello(), LIMITS, 0.0, dialled=False))
    b.arrive(frame)
    assert bye(b).reason is fr.Reason.PROTOCOL


def test_another_protocol_version_is_refused_by_name() -> None:
    b = Side(core.Link("A", hello(), LIMITS, 0.0, dialled=False))
    b.feed(core.Arrived(fr.read_frame([1, 2, "future", {"new": "shape"}]), (), 20))
    assert bye(b).reason is fr.Reason.VERSION
    assert "protocol 2 is not spoken here, 1 is" in bye(b).text


# ------------------------------------------------------------------------------------------ asks and deadlines


def test_an_ask_expires_frees_its_slot_and_its_late_reply_is_dropped() -> None:
    a, b = pair()
    a.submit(1, "/t", timeout_s=1.0)
    settle(a, b)
    b.take("/t")
    late = fr.Reply(1, "late")
    assert a.link.due == 1.0
    a.now = 1.0
    a.feed(core.Tick())
    (rejected,) = a.all(core.Rejected)
    assert isinstance(rejected.error, DeadlineError)
    assert "/t on B within 1 s" in str(rejected.error)
    assert a.link.sizes()["asks"] == 0
    a.arrive(late)
    assert len(a.all(core.Dropped)) == 1
    settle(a, b)
    assert b.link.sizes()["serving"] == 0
    b.feed(core.Answer(1, "x", (), TAG))
    assert len(b.all(core.Dropped)) == 1


def test_an_ask_that_waited_for_credit_carries_what_is_left_of_its_deadline() -> None:
    a, b = pair()
    for token in range(1, 5):
        a.submit(token, "/t")
    a.submit(5, "/t", timeout_s=10.0)
    settle(a, b)
    a.now = b.now = 4.0
    for _ in range(4):
        b.take("/t")
        settle(a, b)
    assert b.offers["/t"].correlation == 5
    assert b.offers["/t"].deadline == 10.0


def test_an_ask_that_gets_no_room_expires_unsent() -> None:
    a, b = pair()
    for token in range(1, 5):
        a.submit(token, "/t")
    a.submit(5, "/t", timeout_s=1.0)
    settle(a, b)
    a.now = 1.0
    a.feed(core.Tick())
    assert "no room in the mailbox" in str(a.all(core.Rejected)[0].error)
    assert a.link.sizes()["waiting"] == 0


def test_a_cancelled_ask_that_still_waits_in_the_far_queue_is_never_delivered() -> None:
    a, b = pair()
    a.submit(1, "/t")
    a.submit(2, "/t", timeout_s=9)
    a.submit(3, "/t")
    settle(a, b)
    a.feed(core.Withdraw(2))
    settle(a, b)
    b.take("/t")
    assert [deliver.body[1] for deliver in b.delivered] == [1, 3]


# ----------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoSuchActorError("no actor at /x", hint="look"), NoSuchActorError),
        (MailboxFullError("full"), MailboxFullError),
        (ValueError("boom"), ActorCrashedError),
        (ActorCrashedError("boom", remote_traceback="Traceback: here"), ActorCrashedError),
        (type("NewWorldError", (WorldError,), {})("later"), WorldError),
    ],
)
def test_errors_cross_by_code(error: BaseException, kind: type[BaseException]) -> None:
    frame = fr.read_frame(loads(dumps(to_frame(3, error).plain())))
    assert isinstance(frame, fr.Fail)
    rebuilt = from_frame(frame)
    assert type(rebuilt) is kind
    assert str(error) in str(rebuilt)
    assert rebuilt.hint == getattr(error, "hint", "")
    if kind is ActorCrashedError:
        assert isinstance(rebuilt, ActorCrashedError)
        assert rebuilt.remote_traceback


def test_a_code_outside_the_table_is_a_text_and_no_class() -> None:
    error = from_frame(fr.Fail(1, "SystemExit", "boo"))
    assert type(error) is ActorCrashedError
    assert str(error) == "SystemExit: boo"


def test_long_texts_are_cut_to_what_a_frame_may_carry() -> None:
    frame = to_frame(1, ActorCrashedError("x" * 10_000, remote_traceback="y" * 100_000 + "the end"))
    fr.read_frame(frame.plain())
    assert frame.traceback.endswith("the end")


def raised(error: Callable[[], BaseException], cause: BaseException | None = None) -> BaseException:
    """Return an error as it looks when it was raised from another."""
    try:
        if cause is None:
            raise error()
        raise error() from cause
    except Exception as raised_error:  # noqa: BLE001 (any)
        return raised_error


def crossed(error: BaseException) -> PrimeError:
    frame = fr.read_frame(loads(dumps(to_frame(3, error).plain())))
    assert isinstance(frame, fr.Fail)
    return from_frame(frame)


@pytest.mark.parametrize("size", [10, 30_000])
def test_a_crash_keeps_its_traceback_and_its_causes_however_long(size: int) -> None:
    root = raised(lambda: KeyError("the root" + "r" * size + " root ends"))
    middle = raised(lambda: OSError("m" * size + " middle ends"), root)
    error = crossed(raised(lambda: ValueError("o" * size + " outer ends"), middle))
    assert isinstance(error, ActorCrashedError)
    text = error.remote_traceback
    assert len(text) <= fr.TRACEBACK_CHARS_MAX
    assert text.index("root ends") < text.index("middle ends") < text.index("outer ends")
    assert text.count("direct cause") == 2


@pytest.mark.parametrize("size", [10, 30_000])
def test_a_known_error_names_its_causes_in_a_note(size: int) -> None:
    root = raised(lambda: KeyError("r" * size + " root ends"))
    middle = raised(lambda: OSError("m" * size + " middle ends"), root)
    error = crossed(raised(lambda: RefusedError("no", hint="ask later"), middle))
    assert (type(error), str(error), error.hint) == (RefusedError, "no", "ask later")
    (note,) = error.__notes__
    assert note.startswith("On the other node it was raised from:")
    assert note.index("root ends") < note.index("middle ends")
    assert "".join(traceback.format_exception(error)).endswith(note + "\n")


def test_causes_go_on_over_a_second_link() -> None:
    far = crossed(raised(lambda: NoSuchActorError("gone"), raised(lambda: KeyError("k"))))
    assert crossed(far).__notes__ == far.__notes__
    wrapped = crossed(raised(lambda: RefusedError("no"), far))
    assert "NoSuchActorError: gone" in wrapped.__notes__[0]
    assert "KeyError: 'k'" in wrapped.__notes__[0]


def test_a_known_error_without_a_cause_has_no_note() -> None:
    assert not hasattr(crossed(raised(lambda: RefusedError("no"))), "__notes__")
    hidden = raised(lambda: RefusedError("no"))
    hidden.__context__, hidden.__suppress_context__ = KeyError("k"), True
    assert not hasattr(crossed(hidden), "__notes__")


def test_a_chain_of_a_hundred_keeps_its_ends() -> None:
    error: BaseException = raised(lambda: KeyError("the root"))
    for number in range(100):
        error = raised(functools.partial(ValueError, f"number {number} " + "x" * 1000), error)
    rebuilt = crossed(error)
    assert isinstance(rebuilt, ActorCrashedError)
    assert len(rebuilt.remote_traceback) <= fr.TRACEBACK_CHARS_MAX
    assert "the root" in rebuilt.remote_traceback
    assert rebuilt.remote_traceback.rstrip().endswith("x" * 100)


def test_an_error_that_cannot_speak_or_be_encoded_still_crosses() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert "MuteError" in str(crossed(raised(MuteError)))
    assert "\\ud800" in str(crossed(raised(lambda: ValueError("\ud800"))))


# ----------------------------------------------------------------------------------------------------- watches


def test_a_watch_tells_once_whatever_comes_after() -> None:
    a, b = pair()
    a.feed(core.StartWatch(1, "/w"))
    settle(a, b)
    (observe,) = b.all(core.Observe)
    b.feed(core.Ended(observe.watch_id, "stopped"))
    b.feed(core.Ended(observe.watch_id, "again"))
    settle(a, b)
    a.feed(core.Lost("cut"))
    assert [(n.token, n.reason) for n in a.all(core.Notify)] == [(1, "stopped")]


def test_a_stopped_watch_is_silent_on_both_sides() -> None:
    a, b = pair()
    a.feed(core.StartWatch(1, "/w"))
    settle(a, b)
    a.feed(core.StopWatch(1))
    settle(a, b)
    assert len(b.all(core.Unobserve)) == 1
    a.feed(core.Lost("cut"))
    assert not a.all(core.Notify)


# -------------------------------------------------------------------------------------------------- heartbeats


def silence(a: Side) -> int:
    """Let nothing come to `a` any more until it ends the link; returns how often it pinged."""
    pings = 0
    while a.link.up:
        a.now = a.link.due
        a.feed(core.Tick())
        pings += sum(isinstance(fr.read_frame(loads(send.header)), fr.Ping) for send in a.urgent)
        a.urgent.clear()
        assert a.now <= 100.0
    assert "nothing was heard for 6 s" in a.all(core.Disconnect)[0].cause
    return pings


def numbered(a: Side) -> None:
    a.feed(core.Submit(1, "/t", [TAG, 1], (), TAG, numbered=(1, 1, 1)))


@pytest.mark.parametrize(
    "depend",
    [
        lambda a: a.feed(core.StartWatch(1, "/t")),
        lambda a: a.submit(1, "/t", timeout_s=1000.0),
        lambda a: (a.submit(1, "/t"), a.write()),
        numbered,
    ],
    ids=["watch", "ask", "tell", "numbered"],
)
@pytest.mark.parametrize("quick", [False, True])
def test_silence_is_pinged_and_then_ends_the_link(depend: Callable[[Side], object], quick: bool) -> None:
    a, b = pair(quick=quick)
    depend(a)
    assert silence(a) == 2
    assert a.now == 6.0
    assert b.link.up


def test_a_peer_on_which_nothing_depends_is_pinged_after_a_longer_silence() -> None:
    a, _ = pair()
    assert silence(a) == 2
    assert a.now == LinkLimits().heartbeat_rest_s + 4.0


@pytest.mark.parametrize("quick", [False, True])
def test_what_comes_to_depend_on_the_peer_wakes_the_heartbeat(quick: bool) -> None:
    for depend in (
        lambda a: a.submit(1, "/t", timeout_s=1000.0),
        lambda a: (a.submit(1, "/t"), a.write()),
        lambda a: (a.feed(core.StartWatch(1, "/t")), a.write()),
    ):
        a, _ = pair(quick=quick)
        assert a.link.due == 30.0
        a.now = 20.0
        depend(a)
        assert a.link.due == 21.0
        silence(a)
        assert a.now == 26.0


def test_an_acknowledged_message_lets_the_heartbeat_rest() -> None:
    a, b = pair()
    numbered(a)
    settle(a, b)
    b.take("/t")
    b.feed(core.Acknowledge(1, 1, ""))
    settle(a, b)
    silence(a)
    assert a.now == LinkLimits().heartbeat_rest_s + 4.0


def test_an_answered_ping_keeps_the_link() -> None:
    a, b = pair()
    for _ in range(50):
        a.now = b.now = a.link.due
        a.feed(core.Tick())
        settle(a, b)
    assert a.link.up


@given(st.floats(0, 1e9), st.floats(0.1, 10), st.integers(1, 5))
def test_the_detector_ends_in_bounded_ticks_at_any_clock_reading(start: float, interval: float, factor: int) -> None:
    timeout = interval * factor
    heartbeat = Heartbeat(interval, timeout, start)
    now = start
    for _ in range(3 * factor + 6):
        now = heartbeat.due
        if heartbeat.tick(now) is Pulse.DEAD:
            break
    else:
        pytest.fail("never found dead")
    assert now >= start + timeout
    assert now <= start + timeout + 2 * interval + 1e-3


def test_a_ping_that_is_not_answered_makes_a_link_doubtful_once_for_each_silence() -> None:
    a, b = pair()
    a.submit(1, "/t", timeout_s=1000.0)
    times = list[float]()
    while a.link.up:
        a.now = a.link.due
        a.feed(core.Tick())
        if a.all(core.Doubt):
            times.append(a.now)
            assert a.link.doubtful
            a.said.clear()
    assert times == [2.0]
    assert b.link.up
    assert not a.link.doubtful


def test_bytes_end_the_doubt() -> None:
    a, _ = pair()
    a.submit(1, "/t", timeout_s=1000.0)
    while not a.link.doubtful:
        a.now = a.link.due
        a.feed(core.Tick())
    a.link.heard_now(a.now)
    assert not a.link.doubtful


def test_a_stream_that_goes_on_taking_bytes_is_a_sign_of_life_and_one_that_stops_is_doubted_as_soon_as_ever() -> None:
    a, _ = pair()
    a.submit(1, "/t", timeout_s=1000.0)
    while a.now < 60.0:  # ten times the time after which a silent peer is dead
        a.now += 0.4
        a.link.flowed_now(a.now)
        a.feed(core.Tick())
    assert not a.all(core.Doubt)
    stopped = a.now
    while not a.link.doubtful:
        a.now = a.link.due
        a.feed(core.Tick())
    assert a.now <= stopped + 2.0 + 2.0 / STEPS
    silence(a)
    assert a.now <= stopped + 6.0 + 2.0 / STEPS


def test_bytes_that_the_stream_takes_end_a_doubt_and_not_the_wait_for_an_answer() -> None:
    a, _ = pair()
    a.submit(1, "/t")
    a.write()
    while not a.link.doubtful:
        a.now = a.link.due
        a.feed(core.Tick())
    a.link.flowed_now(a.now)
    assert not a.link.doubtful
    again = a.now
    while not a.link.doubtful:
        a.now = a.link.due
        a.feed(core.Tick())
    assert a.now <= again + 3.0 + 2.0 / STEPS


def test_a_link_that_is_only_watched_over_is_in_no_doubt() -> None:
    a, _ = pair()
    a.feed(core.StartWatch(1, "/t"))
    a.write()
    silence(a)
    assert not a.all(core.Doubt)


def test_our_own_standstill_is_not_the_peers_death() -> None:
    heartbeat = Heartbeat(2, 6, 0.0)
    assert heartbeat.tick(2.0) is Pulse.SILENT
    assert heartbeat.tick(100.0) is Pulse.ALIVE
    assert heartbeat.due == 102.0


@given(stands_at=st.floats(2.0, 2.9), stands_s=st.floats(0.0, 200.0))
def test_a_standstill_of_any_length_before_an_answer_is_read_ends_nothing(stands_at: float, stands_s: float) -> None:
    heartbeat = Heartbeat(2, 6, 0.0)
    assert heartbeat.tick(2.0) is Pulse.SILENT  # the answer comes at `stands_at` and is read after the standstill
    now = max(stands_at + stands_s, heartbeat.due)
    assert heartbeat.tick(now) is not Pulse.DEAD
    heartbeat.heard(now)
    assert heartbeat.tick(heartbeat.due) is not Pulse.DEAD


@given(st.lists(st.floats(0.0, 5.0), min_size=20, max_size=20))
def test_late_ticks_put_a_silent_peers_end_off_by_no_more_than_they_are_late(late: list[float]) -> None:
    heartbeat = Heartbeat(2, 6, 0.0)
    for late_s in late:
        now = heartbeat.due + late_s
        if heartbeat.tick(now) is Pulse.DEAD:
            break
    assert now <= 6 + sum(late) + 1e-6


# ------------------------------------------------------------------------------------------- links that cross


def test_of_two_crossing_dials_the_smaller_ids_is_kept_by_both() -> None:
    # A dials and so does B; each sees the other's HELLO while its own dial is in progress.
    assert judge("A", "B", hello(), None, dialling=True) is Verdict.HOLD
    assert judge("B", "A", hello(), None, dialling=True) is Verdict.ADMIT
    # A's link is up on both sides now: what B had sent before it knew is a leftover.
    standing = Standing(dialled_here=True, link_id=5, instance=7)
    assert judge("A", "B", hello(link_id=6), standing, dialling=False) is Verdict.DUPLICATE


def test_of_two_dials_that_cross_in_the_place_of_a_link_in_doubt_the_smaller_ids_is_kept_by_both() -> None:
    for standing in (Standing(True, 5, 7), Standing(False, 5, 7)):
        newcomer = hello(link_id=6, previous_id=5)
        assert judge("A", "B", newcomer, standing, dialling=True) is Verdict.HOLD
        assert judge("B", "A", newcomer, standing, dialling=True) is Verdict.REPLACE


def test_a_dial_that_was_long_under_way_does_not_replace_a_later_one() -> None:
    standing = Standing(dialled_here=False, link_id=6, instance=7)
    assert judge("A", "B", hello(link_id=5), standing, dialling=False) is Verdict.DUPLICATE
    assert judge("A", "B", hello(link_id=6), standing, dialling=False) is Verdict.DUPLICATE


@pytest.mark.parametrize(
    ("newcomer", "standing"),
    [
        (hello(instance=8), Standing(True, 5, 7)),  # it restarted
        (hello(previous_id=5), Standing(True, 5, 7)),  # it lost the link that we dialled
        (hello(link_id=6), Standing(False, 5, 7)),  # it lost the link that it had dialled
    ],
)
def test_a_peer_that_lost_the_link_replaces_it(newcomer: fr.Hello, standing: Standing) -> None:
    assert judge("A", "B", newcomer, standing, dialling=False) is Verdict.REPLACE


# ------------------------------------------------------------------------------------------------------- frames


FRAMES: list[fr.Frame] = [
    hello(),
    fr.Tell("/t", 1, [TAG, "x"]),
    fr.Tell("/t", 1, [TAG, "x"], "/s", "trace"),
    fr.Tell("/t", 1, [TAG, "x"], None, None, (3, 9, 4)),
    fr.Ask("/t", 1, [TAG], 7, 100),
    fr.Ask("/t", 1, [TAG], 7, None, None, "trace"),
    fr.Ask("/t", 1, [TAG], 7, 100, None, None, ("peer/a#1f", "other/b#2")),
    fr.Reply(7, {"a": 1}),
    fr.Fail(7, "DeadlineError", "text", "hint", "tb"),
    fr.Credit("/t", 2, 3),
    fr.Watch(1, "/t"),
    fr.Unwatch(1),
    fr.Down(1, "gone"),
    fr.Ping(),
    fr.Pong(),
    fr.Bye(fr.Reason.SHUTDOWN, "bye"),
    fr.Blocked("/t"),
    fr.Cancel(7),
    fr.Ack(3, 9),
    fr.Ack(3, 0, "no actor there"),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind.name)
def test_frames_survive_their_bytes_and_ignore_what_follows(frame: fr.Frame) -> None:
    plain = loads(dumps(frame.plain()))
    assert fr.read_frame(plain) == frame
    assert plain[0] == frame.kind
    known = {fr.Tell: 9, fr.Ask: 9, fr.Ack: 4}.get(type(frame), 0)
    full = plain + [None] * (known - len(plain))
    assert fr.read_frame([*full, "a field of a later version"]) == frame


@pytest.mark.parametrize(
    "chain", [["x"] * (fr.CHAIN_MAX + 1), ["x" * 4000, "y" * 97], "text", [1], [["x"]], {"x": 1}], ids=repr
)
def test_a_chain_that_is_none_or_too_long_is_a_violation(chain: Any) -> None:
    header = dumps([3, "/t", 1, [TAG], 7, 100, None, None, chain])
    with pytest.raises(DecodeError, match="ask chain"):
        fr.read_frame(loads(header))
    assert fr.read_rest([None, None, chain]) is None


def test_a_chain_that_the_peer_takes_no_header_for_is_left_out() -> None:
    """Better an ask without its chain than no ask."""
    small = attrs.evolve(LIMITS, allowance=attrs.evolve(LIMITS.allowance, header_bytes_max=64))
    a, b = pair(small)
    for token, chain in ((1, ("x" * 20,)), (2, ("x" * 60,))):
        a.feed(core.Submit(token, "/t", [TAG, token], (), TAG, 5.0, chain=chain))
    asks = [fr.read_frame(loads(sent.header)) for sent in a.ordinary]
    assert [ask.chain for ask in asks if isinstance(ask, fr.Ask)] == [("x" * 20,), ()]
    assert b.link.up


SPECIFICATION = (Path(__file__).parents[2] / "spec" / "link.cddl").read_text(encoding="utf-8")


def fits(rule: str, plain: Any) -> bool:
    """Tell whether a header fits the rule of its own kind, so that no other kind lends its shape."""
    try:
        pycddl.Schema(f"start = {rule}\n{SPECIFICATION}").validate_cbor(dumps(plain))
    except pycddl.ValidationError:
        return False
    return True


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind.name)
def test_every_frame_fits_the_specification(frame: fr.Frame) -> None:
    rule = frame.kind.name.lower()
    assert fits(rule, frame.plain())
    assert not fits(rule, [99, *frame.plain()[1:]])
    for index in range(1, len(frame.plain())):
        if not (isinstance(frame, fr.Tell | fr.Ask | fr.Reply) and index == _body_index(frame)):
            assert not fits(rule, [*frame.plain()[:index], 0.5, *frame.plain()[index + 1 :]])


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5) | st.binary(max_size=5), st.lists, max_leaves=12))
def test_no_header_does_more_than_be_refused(plain: Any) -> None:
    for value in (plain, [plain], *([kind, plain, plain] for kind in range(16)), [1, 1, plain, plain, plain]):
        try:
            fr.read_frame(value)
        except DecodeError:
            continue


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind.name)
def test_a_frame_with_a_wrong_or_missing_field_is_refused(frame: fr.Frame) -> None:
    plain = frame.plain()
    for index in range(1, len(plain)):
        if isinstance(frame, fr.Tell | fr.Ask | fr.Reply) and index in {2, 3} and index == _body_index(frame):
            continue
        for wrong in (-1, 2**63, b"", [0.5], True):
            if plain[index] is not None:
                with pytest.raises(DecodeError, match="link frame"):
                    fr.read_frame([*plain[:index], wrong, *plain[index + 1 :]])
    if len(plain) > 1:
        with pytest.raises(DecodeError):
            fr.read_frame(plain[:1])


def _body_index(frame: fr.Frame) -> int:
    return 2 if isinstance(frame, fr.Reply) else 3


HELLO = fr.Hello(fr.PROTOCOL_VERSION, "1", ("a",), fr.Allowance(), ("/memory/a",), 2**40, 2**41, 0).numbered(1, 2, 3)


@given(
    st.integers(0, fr.ID_MAX),
    st.integers(0, fr.ID_MAX),
    st.integers(0, fr.ID_MAX),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    st.integers(0, 30),
)
def test_a_hello_read_by_its_template_is_the_one_that_is_read_field_by_field(
    instance: int, link_id: int, previous_id: int, wrong: list[tuple[int, int]], cut: int
) -> None:
    sent = bytearray(dumps(attrs.evolve(HELLO, instance=instance, link_id=link_id, previous_id=previous_id).plain()))
    for place, value in wrong:
        sent[place % len(sent)] = value
    header = bytes(sent[: len(sent) - cut if cut < 10 else None])
    read = fr.read_hello(header, HELLO)
    assert read is not None or wrong or cut < 10
    if read is not None:
        assert read == fr.read_frame(loads(header))


def test_any_number_of_asks_may_be_given_up_while_they_wait_for_one_target() -> None:
    many = 4000
    allowance = fr.Allowance(window_messages=many)
    greeting = hello(allowance=allowance)
    link = core.Link("peer", greeting, LinkLimits(allowance=allowance), 0.0, dialled=True)
    link.step(core.Start(), 0.0)
    link.step(core.Arrived(greeting, (), 50), 0.0)
    for number in range(1, many + 1):
        link.step(core.Arrived(fr.Ask("/a", number, [TAG], number), (), 50), 0.0)
    for number in range(2, many + 1):
        link.step(core.Arrived(fr.Cancel(number), (), 20), 0.0)
    commands = link.step(core.Taken("/a"), 0.0)
    said = [fr.read_frame(loads(each.header)) for each in commands if isinstance(each, core.Send)]
    assert sum(frame.messages for frame in said if isinstance(frame, fr.Credit)) == many
    assert not link.sizes()["incoming"]
