"""Frames: any split of the bytes gives the same frames, limits hold before anything is allocated, copies are few."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DecodeError, LocalProtocolError, PrimeInternalError
from prime.wire import Limits
from prime.wire.frame import Frame, FrameParser, pack

SMALL = Limits(header_size_bytes_max=100, payload_size_bytes_max=50, payload_count_max=3, frame_size_bytes_max=200)
FRAMES = st.lists(
    st.tuples(st.binary(min_size=1, max_size=80), st.lists(st.binary(max_size=50), max_size=3)).map(
        lambda pair: (pair[0], [memoryview(p) for p in pair[1]])
    ),
    min_size=1,
    max_size=5,
)


def joined(header: bytes, payloads: list[memoryview]) -> bytes:
    return b"".join(pack(header, payloads))


def drain(parser: FrameParser) -> list[Frame]:
    return list(iter(parser.next, None))


@given(FRAMES, st.data())
def test_any_split_gives_the_same_frames(frames: list[tuple[bytes, list[memoryview]]], data: st.DataObject) -> None:
    stream = b"".join(joined(*frame) for frame in frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    as_bytes = data.draw(st.booleans())
    parser = FrameParser()
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece = bytearray(stream[start:end])
        parser.feed(bytes(piece) if as_bytes else memoryview(piece))
        piece[:] = b"\xee" * len(piece)  # whoever lent a buffer may use it again at once
        got += drain(parser)
    assert [(f.header, list(f.payloads)) for f in got] == frames
    assert [f.size_bytes for f in got] == [len(joined(*frame)) for frame in frames]
    assert parser.is_between_frames


@given(FRAMES)
def test_asking_for_what_is_needed_reads_frame_by_frame(frames: list[tuple[bytes, list[memoryview]]]) -> None:
    stream = b"".join(joined(*frame) for frame in frames)
    parser, position, got = FrameParser(), 0, 0
    while position < len(stream):
        needed = parser.needed_bytes
        assert needed >= 1
        parser.feed(stream[position : position + needed])
        position += needed
        got += len(drain(parser))
        assert got < len(frames) or position == len(stream)
    assert got == len(frames)
    assert position == len(stream)  # never asked beyond the end of a frame


def test_layout() -> None:
    assert joined(b"head", [memoryview(b"ab"), memoryview(b"")]) == bytes.fromhex(
        "0000000400020000000200000000" + b"head".hex() + b"ab".hex()
    )


def test_payloads_leave_without_a_copy() -> None:
    payload = memoryview(bytearray(1000))
    pieces = pack(b"h", [payload])
    assert pieces[1] is payload
    assert len(pack(b"h" * 100_000, [])) == 2  # a big header is not copied behind its prefix either


def test_payloads_arrive_without_a_copy_where_one_chunk_holds_them() -> None:
    stream = joined(b"h", [memoryview(b"x" * 1000)])
    parser = FrameParser()
    parser.feed(stream)
    frame = parser.next()
    assert frame is not None
    assert frame.payloads[0].obj is stream
    assert frame.payloads[0].readonly


def test_a_small_payload_does_not_keep_a_big_chunk_alive() -> None:
    parser = FrameParser()
    parser.feed(joined(b"h", [memoryview(b"x" * 10)]) * 100)
    assert all(len(memoryview(frame.payloads[0].obj)) == 10 for frame in drain(parser))


def test_memory_follows_what_arrived() -> None:
    """A prefix that announces 64 MiB costs nothing until they come, and then little more than 64 MiB."""
    size = 64 * 1024 * 1024
    parser, chunk = FrameParser(), bytes(65_536)
    tracemalloc.start()
    parser.feed(struct.pack(">IHI", 1, 1, size) + b"h")
    announced = tracemalloc.get_traced_memory()[1]
    for _ in range(size // len(chunk)):
        parser.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    frame = parser.next()
    assert frame is not None
    assert frame.payloads[0].nbytes == size
    assert announced < 100_000
    assert peak < 1.3 * size


@pytest.mark.parametrize(
    ("prefix", "what"),
    [
        (struct.pack(">IH", 0, 0), "without a header"),
        (struct.pack(">IH", 101, 0), "a header of 101 bytes, the limit is 100"),
        (struct.pack(">IH", 2**32 - 1, 65_535), "a header of"),
        (struct.pack(">IH", 1, 4), "4 payloads in one frame, the limit is 3"),
        (struct.pack(">IHI", 1, 1, 51), "a payload of 51 bytes, the limit is 50"),
        (struct.pack(">IHIII", 100, 3, 50, 50, 50), "a frame of 268 bytes, the limit is 200"),
    ],
)
def test_limits_hold_as_soon_as_they_can_be_known(prefix: bytes, what: str) -> None:
    parser = FrameParser(SMALL)
    parser.feed(joined(b"good", []) + prefix)
    assert parser.next() == Frame(b"good", (), 10)
    for _ in range(2):  # and for good
        with pytest.raises(DecodeError, match=what):
            parser.next()
        parser.feed(joined(b"late", []))
    assert not parser.is_between_frames


@pytest.mark.parametrize(
    ("header", "payloads", "what"),
    [
        (b"", [], "without a header"),
        (b"h" * 101, [], "a header of 101 bytes"),
        (b"h", [memoryview(b"")] * 4, "4 payloads"),
        (b"h", [memoryview(b"x" * 51)], "a payload of 51 bytes"),
        (b"h" * 100, [memoryview(b"x" * 50)] * 3, "a frame of 268 bytes"),
    ],
)
def test_the_same_limits_hold_for_the_sender(header: bytes, payloads: list[memoryview], what: str) -> None:
    with pytest.raises(LocalProtocolError, match=what) as caught:
        pack(header, payloads, SMALL)
    assert caught.value.hint


def test_a_cut_stream_is_no_frame_and_no_place_to_end() -> None:
    stream = joined(b"head", [memoryview(b"abc")])
    for end in range(1, len(stream)):
        parser = FrameParser()
        parser.feed(stream[:end])
        assert parser.next() is None
        assert not parser.is_between_frames


@pytest.mark.parametrize("name", ["header_size_bytes_max", "payload_count_max", "depth_max", "items_max"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})


def test_payloads_may_be_put_into_the_readers_own_rooms_past_the_parser() -> None:
    payload = bytes(range(250)) * 4
    buffer = bytearray(1000)
    parser = FrameParser(rooms=lambda _header, _sizes: [memoryview(buffer)])
    data = b"".join(pack(b"h", [memoryview(payload)]))
    assert parser.room is None
    parser.feed(data[:100])
    assert parser.next() is None
    room = parser.room
    assert room is not None
    assert len(room) == parser.needed_bytes == len(data) - 100
    room[:300] = data[100:400]
    parser.placed(300)
    parser.feed(data[400:500])  # by turns with those that are fed
    room = parser.room
    assert room is not None
    for wrong in (0, len(room) + 1):
        with pytest.raises(PrimeInternalError):
            parser.placed(wrong)
    room[:] = data[500:]
    parser.placed(len(room))
    assert parser.next() == Frame(b"h", (), len(data), (1000,))
    assert buffer == payload
    assert parser.room is None
    assert parser.is_between_frames
    with pytest.raises(PrimeInternalError):
        parser.placed(1)
