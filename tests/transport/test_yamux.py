"""Yamux without sockets: what the protocol says, hostile peers, and two sessions that talk through any cuts."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prime.errors import PrimeInternalError, RefusedError, RemoteProtocolError
from prime.transport.yamux import (
    HEADER_BYTES,
    WINDOW_BYTES,
    Arrived,
    Breach,
    Broken,
    Ended,
    Farewell,
    Granted,
    Opened,
    Session,
    Silent,
    WentAway,
    YamuxLimits,
)

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int = 0, stream: int = 0, length: int = 0, body: bytes = b"", version: int = 0) -> bytes:
    return struct.pack(">BBHII", version, kind, flags, stream, length or len(body)) + body


def frames(data: bytes) -> list[tuple[int, ...]]:
    """What a session says that sends no data: kind, flags, stream, value."""
    assert len(data) % HEADER_BYTES == 0
    return [struct.unpack_from(">BHII", data, at + 1) for at in range(0, len(data), HEADER_BYTES)]


def listener(**limits: Any) -> Session:
    """The side that was dialled, after its first ping."""
    session = Session(dialled=False, now=0.0, limits=YamuxLimits(**limits))
    assert frames(session.output()) == [(PING, SYN, 0, 1)]
    return session


def opened(session: Session, stream: int = 1) -> Session:
    assert session.receive(frame(WINDOW, SYN, stream), 0.0) == [Opened(stream)]
    assert frames(session.output()) == [(WINDOW, ACK, stream, 0)]
    return session


# ----------------------------------------------------------------------------------------------------- spec.md, in order


def test_the_side_that_dialled_opens_odd_streams_and_the_other_even_ones() -> None:
    for dialled, numbers in ((True, [1, 3, 5]), (False, [2, 4, 6])):
        session = Session(dialled=dialled, now=0.0)
        session.output()
        assert [session.open() for _ in range(3)] == numbers
        assert frames(session.output()) == [(WINDOW, SYN, number, 0) for number in numbers]


def test_a_stream_opens_by_a_window_or_by_data_and_is_acknowledged() -> None:
    session = listener()
    events = session.receive(frame(WINDOW, SYN, 1, 1000) + frame(DATA, SYN, 3, body=b"first"), 0.0)
    assert events == [Opened(1), Opened(3), Arrived(3, b"first")]
    assert frames(session.output()) == [(WINDOW, ACK, 1, 0), (WINDOW, ACK, 3, 0)]
    assert session.room(1) == WINDOW_BYTES + 1000
    assert session.room(3) == WINDOW_BYTES


def test_data_is_sent_within_the_window_and_waits_for_more() -> None:
    session = opened(listener())
    assert session.send(1, WINDOW_BYTES) == frame(DATA, 0, 1, WINDOW_BYTES)
    assert session.room(1) == 0
    with pytest.raises(PrimeInternalError):
        session.send(1, 1)
    assert session.receive(frame(WINDOW, 0, 1, 10) + frame(WINDOW, 0, 1, 10), 0.0) == [Granted(1), Granted(1)]
    assert session.room(1) == 20


def test_a_window_is_granted_again_when_half_of_it_was_read() -> None:
    session = opened(listener())
    session.receive(frame(DATA, 0, 1, body=bytes(WINDOW_BYTES)), 1.0)
    session.take(1, WINDOW_BYTES // 2 - 1, 1.0)
    assert session.output() == b""
    session.take(1, 1, 1.0)
    assert frames(session.output()) == [(WINDOW, 0, 1, WINDOW_BYTES // 2)]


def test_a_window_grows_while_the_reader_keeps_up_and_no_further_than_the_limits() -> None:
    session = opened(listener(window_bytes_max=4 * WINDOW_BYTES, memory_bytes_max=16 * WINDOW_BYTES))
    granted = [read_window(session, 0.001 * turn) for turn in range(8)]
    assert max(granted) == 3 * WINDOW_BYTES  # what was read, and as much again
    assert session.memory_bytes == 4 * WINDOW_BYTES
    slow = opened(listener())
    assert [read_window(slow, 10.0 * turn) for turn in range(4)] == [WINDOW_BYTES // 2] * 4
    assert slow.memory_bytes == WINDOW_BYTES


def read_window(session: Session, now: float) -> int:
    """Receive and read half of the smallest window, and as much more as it takes to be granted something."""
    granted = 0
    while not granted:
        session.receive(frame(DATA, 0, 1, body=bytes(WINDOW_BYTES // 2)), now)
        session.take(1, WINDOW_BYTES // 2, now)
        granted = sum(value for kind, _, _, value in frames(session.output()) if kind == WINDOW)
    return granted


def test_windows_of_one_stream_leave_memory_for_others() -> None:
    session = opened(listener(window_bytes_max=1 << 30, memory_bytes_max=32 * WINDOW_BYTES))
    for turn in range(40):
        read_window(session, 0.001 * turn)
    assert session.memory_bytes <= 16 * WINDOW_BYTES
    for number in range(3, 33, 2):
        assert Opened(number) in session.receive(frame(WINDOW, SYN, number), 1.0)


def test_each_direction_ends_by_itself() -> None:
    session = opened(listener())
    session.end(1)
    session.end(1)
    assert frames(session.output()) == [(WINDOW, FIN, 1, 0)]
    assert session.room(1) == 0
    assert session.receive(frame(DATA, FIN, 1, body=b"last"), 0.0) == [Arrived(1, b"last"), Ended(1)]
    assert session.streams == 1  # its last bytes are unread
    session.take(1, 4, 0.0)
    assert session.streams == session.memory_bytes == 0


def test_a_reset_ends_both_directions() -> None:
    session = opened(listener())
    assert session.receive(frame(DATA, 0, 1, body=b"x") + frame(WINDOW, RST, 1), 0.0) == [
        Arrived(1, b"x"),
        Broken(1, whole=False),
    ]
    assert session.streams == session.memory_bytes == 0
    opened(session, 3)
    session.reset(3)
    session.reset(3)
    assert frames(session.output()) == [(WINDOW, RST, 3, 0)]


def test_of_a_stream_that_is_reset_in_the_middle_of_a_frame_the_rest_is_dropped() -> None:
    session = opened(listener())
    whole = frame(DATA, FIN, 1, body=b"first half, second half") + frame(DATA, SYN, 3, body=b"next")
    assert session.receive(whole[:22], 0.0) == [Arrived(1, b"first half")]
    session.reset(1)
    assert session.receive(whole[22:], 0.0) == [Opened(3), Arrived(3, b"next")]


def test_a_big_frame_is_read_by_itself() -> None:
    session = opened(listener())
    assert session.wants_bytes == 0
    session.receive(frame(DATA, 0, 1, 100_000), 0.0)
    assert session.wants_bytes == 100_000
    session.receive(bytes(90_000), 0.0)
    assert session.wants_bytes == 0  # the little that is left comes with what follows
    session.receive(bytes(10_000), 0.0)
    assert session.wants_bytes == HEADER_BYTES


def test_bytes_of_a_frame_in_progress_may_be_put_where_they_belong() -> None:
    session = opened(listener())
    assert session.in_progress == (0, 0)
    assert session.receive(frame(DATA, FIN, 1, body=b"0123456789")[:14], 0.0) == [Arrived(1, b"01")]
    assert session.in_progress == (1, 8)
    assert session.placed(5, 1.0) == []
    assert session.in_progress == (1, 3)
    assert session.due == 1.0 + YamuxLimits().silence_s
    for wrong in (0, 4):
        with pytest.raises(PrimeInternalError):
            session.placed(wrong, 1.0)
    assert session.placed(3, 1.0) == [Ended(1)]
    assert session.in_progress == (0, 0)
    with pytest.raises(PrimeInternalError):
        session.placed(1, 1.0)


def test_bytes_that_were_put_where_they_belong_are_granted_again_once_they_are_taken() -> None:
    session = opened(listener())
    session.receive(frame(DATA, 0, 1, WINDOW_BYTES), 0.0)
    session.placed(WINDOW_BYTES, 0.0)
    assert session.output() == b""
    session.take(1, WINDOW_BYTES, 9.0)
    assert frames(session.output()) == [(WINDOW, 0, 1, WINDOW_BYTES)]


def test_nothing_is_put_in_the_place_of_a_stream_that_nobody_reads() -> None:
    session = opened(listener())
    session.receive(frame(DATA, 0, 1, 100), 0.0)
    session.close(1, 0.0)
    assert session.in_progress == (0, 0)
    session.receive(bytes(100), 0.0)
    session.receive(frame(PING, ACK, 0, 9), 0.0)  # in step


def test_a_reset_after_the_end_leaves_what_was_sent_before_it() -> None:
    session = opened(listener())
    events = session.receive(frame(DATA, FIN, 1, body=b"whole") + frame(WINDOW, RST, 1), 0.0)
    assert events == [Arrived(1, b"whole"), Ended(1), Broken(1, whole=True)]
    assert session.memory_bytes == WINDOW_BYTES  # until it is read
    session.take(1, 5, 0.0)
    assert session.streams == session.memory_bytes == 0


def test_a_ping_is_answered_and_measures_the_round_trip() -> None:
    session = listener()
    assert session.receive(frame(PING, SYN, 0, 7), 0.25) == []
    assert frames(session.output()) == [(PING, ACK, 0, 7)]
    session.receive(frame(PING, ACK, 0, 1), 0.5)
    assert session.round_trip_s == 0.5
    session.receive(frame(PING, ACK, 0, 99), 9.0)  # an answer to no question of ours
    assert session.round_trip_s == 0.5


def test_who_goes_away_takes_no_new_streams_and_keeps_the_old_ones() -> None:
    session = opened(listener())
    assert session.receive(frame(GO_AWAY, 0, 0, Farewell.NORMAL), 0.0) == [WentAway(0)]
    with pytest.raises(RefusedError, match="no new streams"):
        session.open()
    assert session.receive(frame(DATA, 0, 1, body=b"still"), 0.0) == [Arrived(1, b"still")]
    session.go_away()
    session.go_away()
    session.receive(frame(WINDOW, SYN, 3), 0.0)
    assert frames(session.output()) == [(GO_AWAY, 0, 0, 0), (WINDOW, RST, 3, 0)]


# --------------------------------------------------------------------------------------------------------------- limits


def test_streams_over_the_limit_are_reset_and_what_they_carry_is_dropped() -> None:
    session = listener(streams_max=2)
    flood = b"".join(frame(DATA, SYN, 2 * number + 1, body=b"x") for number in range(5))
    assert session.receive(flood, 0.0) == [Opened(1), Arrived(1, b"x"), Opened(3), Arrived(3, b"x")]
    said = frames(session.output())
    assert [each for each in said if each[1] == RST] == [(WINDOW, RST, number, 0) for number in (5, 7, 9)]
    assert session.streams == 2
    assert session.receive(frame(DATA, FIN, 7, body=b"late"), 0.0) == []


def test_streams_that_end_at_once_count_until_more_bytes_come() -> None:
    session = listener(streams_max=5)
    flood = b"".join(frame(WINDOW, SYN, number) + frame(WINDOW, RST, number) for number in range(1, 2001, 2))
    opened_now = [event for event in session.receive(flood, 0.0) if isinstance(event, Opened)]
    assert len(opened_now) == 5
    assert session.receive(frame(WINDOW, SYN, 2001), 0.0) == [Opened(2001)]


def test_frames_without_data_are_handled_so_many_at_a_time() -> None:
    session = opened(listener())
    flood = frame(WINDOW, 0, 1, 1) * 250 + frame(DATA, 0, 1, body=b"after it")
    taken: list[list[Any]] = [session.receive(flood, 0.0, 100)]
    while session.left:
        taken.append(session.receive(session.left, 0.0, 100))
    assert [len(events) for events in taken] == [100, 100, 51]
    assert taken[2][-1] == Arrived(1, b"after it")


def test_streams_that_are_opened_and_reset_faster_than_allowed_are_refused_and_others_are_not() -> None:
    session = listener(streams_per_s=10.0)
    for n in range(50):
        session.receive(frame(WINDOW, SYN, 2 * n + 1) + frame(WINDOW, RST, 2 * n + 1), 0.0)
    assert [f[1] for f in frames(session.output())] == [ACK] * 20 + [RST] * 30
    assert session.receive(frame(WINDOW, SYN, 101), 1.0) == [Opened(101)]


def test_our_own_streams_over_the_limit_are_an_error() -> None:
    session = listener(streams_max=2)
    session.open()
    session.open()
    with pytest.raises(RefusedError, match="2 streams") as caught:
        session.open()
    assert caught.value.hint
    session.reset(2)
    assert session.open() == 6


def test_streams_that_would_pass_the_memory_limit_are_refused() -> None:
    session = listener(memory_bytes_max=2 * WINDOW_BYTES)
    events = session.receive(b"".join(frame(WINDOW, SYN, number) for number in (1, 3, 5)), 0.0)
    assert events == [Opened(1), Opened(3)]
    with pytest.raises(RefusedError):
        session.open()
    session.receive(frame(WINDOW, RST, 1), 0.0)
    session.open()


def test_a_stream_that_was_ended_but_not_read_still_counts() -> None:
    session = listener(streams_max=1)
    session.receive(frame(DATA, SYN | FIN, 1, body=bytes(WINDOW_BYTES)) + frame(WINDOW, RST, 1), 0.0)
    assert session.receive(frame(WINDOW, SYN, 3), 0.0) == []
    session.take(1, WINDOW_BYTES, 0.0)
    assert session.receive(frame(WINDOW, SYN, 5), 0.0) == [Opened(5)]


HOSTILE = {
    "another version": frame(DATA, 0, 1, version=1),
    "an unknown type": frame(4),
    "unknown flags": frame(DATA, 16, 1),
    "data for a stream that never was": frame(DATA, 0, 3, body=b"x"),
    "a window for a stream that never was": frame(WINDOW, 0, 3),
    "data for a stream that we never opened": frame(DATA, 0, 2, body=b"x"),
    "stream number 0": frame(DATA, 0, 0, body=b"x"),
    "a stream opened twice": frame(WINDOW, SYN, 1),
    "a stream with our kind of number": frame(WINDOW, SYN, 2),
    "a stream number that goes back": frame(WINDOW, SYN, 9) + frame(WINDOW, SYN, 7),
    "more than the window": frame(DATA, 0, 1, WINDOW_BYTES + 1),
    "more than the window in two frames": frame(DATA, 0, 1, body=bytes(WINDOW_BYTES)) + frame(DATA, 0, 1, 1),
    "a length of 4 GiB": frame(DATA, 0, 1, 2**32 - 1),
    "a window beyond 2^32": frame(WINDOW, 0, 1, 2**32 - 1) * 2,
    "data after its end": frame(DATA, FIN, 1) + frame(DATA, 0, 1, body=b"x"),
    "a ping on a stream": frame(PING, SYN, 1),
    "a ping with other flags": frame(PING, FIN),
    "a go-away on a stream": frame(GO_AWAY, 0, 1),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_peer_that_breaks_the_protocol_is_told_so_and_nothing_more(data: bytes) -> None:
    session = opened(listener())
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive(data, 0.0)
    assert str(caught.value)
    assert frames(session.output())[-1] == (GO_AWAY, 0, 0, Farewell.PROTOCOL_ERROR)
    with pytest.raises(RemoteProtocolError):
        session.receive(frame(PING, SYN), 0.0)
    assert session.output() == b""


@given(st.binary(max_size=200), st.integers(1, 13))
def test_no_bytes_do_more_than_end_the_session(data: bytes, step: int) -> None:
    session = listener(streams_max=4)
    try:
        for at in range(0, len(data), step):
            session.receive(data[at : at + step], 0.0)
            assert session.memory_bytes <= 8 * WINDOW_BYTES
    except RemoteProtocolError:
        assert frames(session.output())[-1][0] == GO_AWAY


@given(st.data())
def test_a_valid_talk_with_one_bit_flipped_does_no_more_than_end_the_session(data: st.DataObject) -> None:
    talk = bytearray(
        frame(WINDOW, SYN, 1) + frame(DATA, 0, 1, body=b"hello") + frame(PING, SYN) + frame(DATA, FIN, 1, body=b"bye")
    )
    bit = data.draw(st.integers(0, 8 * len(talk) - 1))
    talk[bit // 8] ^= 1 << bit % 8
    session = listener()
    try:
        session.receive(bytes(talk), 0.0)
    except RemoteProtocolError:
        assert frames(session.output())[-1][0] == GO_AWAY


# ----------------------------------------------------------------------------------------------------------- goodbyes


def test_a_closed_stream_drops_what_still_comes_and_waits_for_its_end() -> None:
    session = opened(listener())
    session.receive(frame(DATA, 0, 1, body=b"unread"), 0.0)
    session.close(1, 0.0)
    assert frames(session.output()) == [(WINDOW, FIN, 1, 0)]
    assert session.receive(frame(DATA, 0, 1, body=b"more"), 1.0) == []
    session.receive(frame(WINDOW, FIN, 1), 1.0)
    assert session.streams == session.memory_bytes == 0
    assert session.tick(100.0) == [] or session.output()  # nothing is left to be broken


def test_a_closed_stream_that_the_peer_does_not_end_is_reset_after_a_while() -> None:
    session = opened(listener(linger_s=10.0))
    session.close(1, 5.0)
    session.output()
    assert session.due == 15.0
    assert session.tick(14.9) == []
    assert session.tick(15.0) == [Broken(1, whole=False, breach=Breach.LINGER)]
    assert frames(session.output()) == [(WINDOW, RST, 1, 0)]
    assert session.streams == 0


def test_a_peer_that_fills_the_window_of_a_closed_stream_is_reset_at_once() -> None:
    session = opened(listener())
    session.close(1, 0.0)
    session.output()
    session.receive(frame(DATA, 0, 1, body=bytes(WINDOW_BYTES)), 0.0)
    assert frames(session.output()) == [(WINDOW, RST, 1, 0)]
    assert session.receive(frame(DATA, 0, 1, body=b"crossed ours"), 0.0) == []


def test_a_stream_that_only_finished_sending_can_still_be_read() -> None:
    session = opened(listener())
    session.close(1, 0.0, drop=False)
    assert session.receive(frame(DATA, FIN, 1, body=b"answer"), 1.0) == [Arrived(1, b"answer"), Ended(1)]
    session.take(1, 6, 1.0)
    assert session.streams == 0


def test_a_stream_that_only_finished_sending_waits_longer_for_its_end() -> None:
    session = opened(opened(listener(linger_s=10.0, half_closed_s=300.0, silence_s=1000.0)), 3)
    session.close(1, 0.0, drop=False)
    session.close(3, 5.0)
    assert session.due == 15.0
    assert session.tick(15.0) == [Broken(3, whole=False, breach=Breach.LINGER)]
    assert session.due == 300.0
    session.close(1, 20.0)  # now nobody reads any more either
    assert session.due == 30.0


# ------------------------------------------------------------------------------------------------------- signs of life


def test_a_silent_peer_is_asked_for_a_sign_of_life_and_then_given_up() -> None:
    session = listener(silence_s=30.0)
    assert session.due == 30.0
    assert session.tick(29.0) == []
    assert session.tick(30.0) == []
    assert frames(session.output()) == [(PING, SYN, 0, 2)]
    assert session.due == 60.0
    assert session.tick(60.0) == [Silent()]
    assert session.tick(61.0) == []


def test_any_byte_is_a_sign_of_life() -> None:
    session = listener(silence_s=30.0)
    session.tick(30.0)
    session.receive(b"\0", 59.0)
    assert session.due == 89.0
    assert session.tick(60.0) == []


# ---------------------------------------------------------------------------------------------- two that talk


class Talk(RuleBasedStateMachine):
    """Two sessions, a wire between them that cuts bytes anywhere, and what each stream must have carried."""

    def __init__(self) -> None:
        super().__init__()
        limits = YamuxLimits(streams_max=3, window_bytes_max=4 * WINDOW_BYTES, memory_bytes_max=16 * WINDOW_BYTES)
        self.now = 0.0
        self.sides = [Session(dialled=dialled, now=0.0, limits=limits) for dialled in (True, False)]
        self.wires = [bytearray(), bytearray()]  # from the side of that number
        self.said: dict[tuple[int, int], bytearray] = {}  # (from side, stream): what was sent
        self.heard: dict[tuple[int, int], bytearray] = {}
        self.unread: dict[tuple[int, int], int] = {}
        self.known: list[list[int]] = [[], []]
        self.ended: set[tuple[int, int]] = set()
        self.end_heard: set[tuple[int, int]] = set()
        self.broken: set[int] = set()

    def flush(self, side: int) -> None:
        self.wires[side] += self.sides[side].output()

    @rule(side=st.integers(0, 1))
    def open(self, side: int) -> None:
        try:
            stream = self.sides[side].open()
        except RefusedError:
            return
        self.known[side].append(stream)
        self.flush(side)

    @precondition(lambda self: any(self.known))
    @rule(data=st.data(), size=st.sampled_from([1, 2, 100, 70_000, WINDOW_BYTES]))
    def send(self, data: st.DataObject, size: int) -> None:
        side, stream = self.draw_stream(data)
        size = min(size, self.sides[side].room(stream))
        if size and (side, stream) not in self.ended:
            body = bytes([size & 255, stream & 255]) * (size // 2) + b"!" * (size % 2)
            self.flush(side)
            self.wires[side] += self.sides[side].send(stream, size) + body
            self.said.setdefault((side, stream), bytearray()).extend(body)

    @precondition(lambda self: any(self.known))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        side, stream = self.draw_stream(data)
        self.sides[side].end(stream)
        self.ended.add((side, stream))
        self.flush(side)

    @precondition(lambda self: any(self.known))
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        side, stream = self.draw_stream(data)
        self.sides[side].reset(stream)
        self.broken.add(stream)
        self.flush(side)

    @rule(side=st.integers(0, 1), size=st.sampled_from([1, 5, 12, 13, 1000, 1 << 20]))
    def carry(self, side: int, size: int) -> None:
        part, self.wires[side] = bytes(self.wires[side][:size]), self.wires[side][size:]
        self.now += 0.001
        other = 1 - side
        for event in self.sides[other].receive(part, self.now):
            if isinstance(event, Opened):
                self.known[other].append(event.stream)
            elif isinstance(event, Arrived):
                self.heard.setdefault((side, event.stream), bytearray()).extend(event.data)
                self.unread[other, event.stream] = self.unread.get((other, event.stream), 0) + len(event.data)
            elif isinstance(event, Ended):
                self.end_heard.add((side, event.stream))
            elif isinstance(event, Broken):
                self.broken.add(event.stream)
        self.flush(other)

    @precondition(lambda self: any(self.unread.values()))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        side, stream = data.draw(st.sampled_from(sorted(key for key, size in self.unread.items() if size)))
        self.sides[side].take(stream, self.unread.pop((side, stream)), self.now)
        self.flush(side)

    def draw_stream(self, data: st.DataObject) -> tuple[int, int]:
        return data.draw(
            st.sampled_from([(side, stream) for side in (0, 1) for stream in self.known[side]]), label="side, stream"
        )

    @invariant()
    def what_is_heard_was_said(self) -> None:
        for key, heard in self.heard.items():
            assert self.said[key].startswith(heard)

    @invariant()
    def an_end_comes_after_everything(self) -> None:
        for side, stream in self.end_heard:
            assert (side, stream) in self.ended
            assert self.heard.get((side, stream), b"") == self.said.get((side, stream), b"")

    @invariant()
    def memory_is_bounded(self) -> None:
        for session in self.sides:
            assert session.memory_bytes <= 16 * WINDOW_BYTES
            assert session.streams <= 6

    def teardown(self) -> None:
        """When all has come and is read, every stream that ended on both sides, or broke, is forgotten."""
        for _ in range(4):
            for side in (0, 1):
                while self.wires[side]:
                    self.carry(side, 1 << 20)
        for (side, stream), size in self.unread.items():
            self.sides[side].take(stream, size, self.now)
        for key, said in self.said.items():
            assert key[1] in self.broken or self.heard.get(key, b"") == said
        for side in (0, 1):
            left = [s for s in self.known[side] if s not in self.broken and not {(0, s), (1, s)} <= self.ended]
            assert self.sides[side].streams == len(left)


TestTalk = Talk.TestCase
TestTalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
