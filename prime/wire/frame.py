"""Frames: a fixed prefix, the CBOR header, then raw payloads. Pure: no I/O.

Layout, integers big-endian: u32 header size, u16 payload count, u32 size of each payload; header; payloads in order.
Payload bytes are never copied on the way out, and at most once on the way in: a payload that arrives in pieces is
gathered into one growing buffer, one that arrives inside a single `bytes` chunk is a view of that chunk.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from prime.errors import DecodeError, LocalProtocolError, PrimeInternalError
from prime.wire.limits import DEFAULT_LIMITS, Limits

Buffer = bytes | bytearray | memoryview

_PREFIX = struct.Struct(">IH")
_JOIN_SIZE_BYTES_MAX = 64 * 1024  # below this, copying the header behind its prefix is cheaper than one more write
_SMALL_SIZE_BYTES_MAX = 16 * 1024  # headers up to this size without payloads take a shorter way through
_HINT_PEER = "the sender is broken, hostile, or has larger limits than this node"
_HINT_SPLIT = "send less in one message, or raise the limits on both ends"


@attrs.define
class Frame:
    """One whole frame: the CBOR header, its payloads, and the bytes it took on the wire, prefix included.

    `placed` holds the sizes of payloads that went into rooms of the reader's own, and are not in `payloads` therefore.
    """

    header: bytes
    payloads: tuple[memoryview, ...]
    size_bytes: int
    placed: tuple[int, ...] = ()


Rooms = Callable[[bytes, tuple[int, ...]], Sequence[memoryview] | None]
"""Says, by a frame's header and the sizes of its payloads, into which buffers of these sizes they go; `None`: into new ones."""


def pack(
    header: bytes, payloads: Sequence[memoryview] = (), limits: Limits = DEFAULT_LIMITS
) -> list[bytes | memoryview]:
    """Return the pieces of one frame in order, ready for a gathered write; payloads are passed on as they are.

    Raises `LocalProtocolError` when the frame is over `limits`.
    """
    if not payloads and len(header) <= _SMALL_SIZE_BYTES_MAX <= limits.header_size_bytes_max:
        return [_PREFIX.pack(len(header), 0) + header]
    sizes = [payload.nbytes for payload in payloads]
    problem = _over_limits(len(header), sizes, limits)
    if problem:
        raise LocalProtocolError(problem, hint=_HINT_SPLIT)
    prefix = struct.pack(f">IH{len(sizes)}I", len(header), len(sizes), *sizes)
    pieces: list[bytes | memoryview] = [prefix + header] if len(header) <= _JOIN_SIZE_BYTES_MAX else [prefix, header]
    pieces.extend(payload for payload in payloads if payload.nbytes)
    return pieces


def _over_limits(header_size_bytes: int, sizes: Sequence[int], limits: Limits) -> str:
    """Return what is over its limit, in words, or an empty text."""
    if not header_size_bytes:
        return "a frame without a header"
    if header_size_bytes > limits.header_size_bytes_max:
        return f"a header of {header_size_bytes} bytes, the limit is {limits.header_size_bytes_max}"
    if len(sizes) > min(limits.payload_count_max, 0xFFFF):
        return f"{len(sizes)} payloads in one frame, the limit is {min(limits.payload_count_max, 0xFFFF)}"
    if sizes and max(sizes) > min(limits.payload_size_bytes_max, 0xFFFFFFFF):
        return f"a payload of {max(sizes)} bytes, the limit is {limits.payload_size_bytes_max}"
    total = _PREFIX.size + 4 * len(sizes) + header_size_bytes + sum(sizes)
    if total > limits.frame_size_bytes_max:
        return f"a frame of {total} bytes, the limit is {limits.frame_size_bytes_max}"
    return ""


class FrameParser:
    """Turns a byte stream back into frames. Feed what arrives, take out frames with `next`.

    A limit that is broken poisons the parser: frames that were whole before it still come out, then every `next`
    raises the same `DecodeError` and `feed` drops what it is given.

    `rooms` is asked about each frame that has payloads, once all frames before it were taken.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, rooms: Rooms | None = None) -> None:
        self._limits = limits
        self._ask_for_rooms = rooms
        self._unread: deque[tuple[bytes, int]] = deque()  # only while a frame waits for its rooms
        self._waits = False
        self._frames: deque[bytes | Frame] = deque()
        self._problem = ""
        self._start_frame()

    def _start_frame(self) -> None:
        self._step = self._take_prefix
        self._section_size = _PREFIX.size
        self._gathered = bytearray()  # what has arrived of a section that came in pieces
        self._header_size = 0
        self._sizes: tuple[int, ...] = ()
        self._header = b""
        self._payloads: list[memoryview] = []
        self._rooms: Sequence[memoryview] | None = None
        self._room: memoryview | None = None  # of the payload in progress: what has not come yet

    @property
    def needed_bytes(self) -> int:
        """How many bytes the frame in progress still lacks, as far as is known; at least 1 between frames."""
        missing = self._missing
        if self._step == self._take_sizes:
            return missing + self._header_size
        if self._step == self._take_header:
            return missing + sum(self._sizes)
        return missing + sum(self._sizes[len(self._payloads) + 1 :])

    @property
    def _missing(self) -> int:
        return self._section_size - len(self._gathered) if self._room is None else len(self._room)

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes of the stream go, if that is a room of the reader's: who puts them there says `placed`."""
        return self._room

    def placed(self, size_bytes: int) -> None:
        """Hear that bytes of the stream were put at the beginning of `room`, instead of a `feed`."""
        if self._room is None or not 0 < size_bytes <= len(self._room):
            raise PrimeInternalError(f"{size_bytes} bytes were placed where no room was")
        self._room = self._room[size_bytes:]
        if not self._room:
            self._end_section(memoryview(b""))

    @property
    def is_between_frames(self) -> bool:
        """True when no frame has been begun: the only place where a stream may end."""
        return self._step == self._take_prefix and not self._gathered and not self._problem

    def feed(self, data: Buffer) -> None:
        """Take bytes from the stream. `bytes` may be kept by reference; other buffers are copied before return."""
        if self._waits:
            self._unread.append((bytes(data), 0))
        else:
            self._parse(data, 0)

    def _parse(self, data: Buffer, position: int) -> None:
        """Parse from a position on, up to a frame that waits for its rooms."""
        chunk, size_bytes = memoryview(data), len(data)
        keep = type(data) is bytes
        while position < size_bytes and not self._problem:
            if type(data) is bytes and not self._gathered and self._step == self._take_prefix:
                position = self._take_small_frames(data, position)
                if position == size_bytes:
                    return
            take = min(self._missing, size_bytes - position)
            self._fill(chunk[position : position + take], keep=keep and 2 * take >= size_bytes)
            position += take
            if self._waits:
                self._unread.append((data, position) if type(data) is bytes else (bytes(chunk[position:]), 0))
                return

    def _go_on(self) -> None:
        """Ask for the rooms of the frame that waits for them, and parse on."""
        self._waits = False
        self._open_rooms()
        while self._unread and not self._waits:
            self._parse(*self._unread.popleft())

    def next(self) -> Frame | None:
        """Return the next whole frame, or `None` when more bytes are needed; raises `DecodeError` over limits."""
        frame = self.take()
        return Frame(frame, (), _PREFIX.size + len(frame)) if isinstance(frame, bytes) else frame

    def take(self) -> bytes | Frame | None:
        """As `next`; a small frame without payloads comes as its bare header, as there is nothing more to it."""
        while self._waits and not self._frames:
            self._go_on()
        if self._frames:
            return self._frames.popleft()
        if self._problem:
            raise DecodeError(self._problem, hint=_HINT_PEER)
        return None

    def _take_small_frames(self, data: bytes, position: int) -> int:
        """Take the small frames without payloads that lie whole in `data`; return the position behind them."""
        size_max = min(_SMALL_SIZE_BYTES_MAX, self._limits.header_size_bytes_max, self._limits.frame_size_bytes_max - 6)
        start, size_bytes = position + _PREFIX.size, len(data)
        unpack, append = _PREFIX.unpack_from, self._frames.append
        while start <= size_bytes:
            header_size, count = unpack(data, position)
            end = start + header_size
            if count or not header_size or header_size > size_max or end > size_bytes:
                break
            append(data[start:end])
            position, start = end, end + _PREFIX.size
        return position

    def _fill(self, piece: memoryview, *, keep: bool) -> None:
        """Add a piece that does not reach beyond the section in progress; pass the section on when it is whole."""
        if self._room is not None:
            self._room[: len(piece)] = piece
            self.placed(len(piece))
            return
        if not self._gathered and len(piece) == self._section_size:
            self._end_section(piece if keep else memoryview(bytes(piece)))
            return
        self._gathered += piece  # grows by an eighth at a time, so memory follows what arrived, not what was announced
        if len(self._gathered) == self._section_size:
            self._end_section(memoryview(self._gathered).toreadonly())

    def _end_section(self, section: memoryview) -> None:
        self._gathered = bytearray()
        self._room = None
        self._step(section)

    def _take_prefix(self, section: memoryview) -> None:
        self._header_size, count = _PREFIX.unpack(section)
        if count > self._limits.payload_count_max or self._header_size > self._limits.header_size_bytes_max:
            self._problem = _over_limits(self._header_size, (0,) * count, self._limits)
        elif count:
            self._step, self._section_size = self._take_sizes, 4 * count
        else:
            self._expect_header()

    def _take_sizes(self, section: memoryview) -> None:
        self._sizes = struct.unpack(f">{len(section) // 4}I", section)
        self._expect_header()

    def _expect_header(self) -> None:
        self._problem = _over_limits(self._header_size, self._sizes, self._limits)
        self._step, self._section_size = self._take_header, self._header_size

    def _take_header(self, section: memoryview) -> None:
        self._header = bytes(section)
        self._step = self._take_payload
        if self._sizes and self._ask_for_rooms is not None:
            self._waits = True  # what decides about its rooms may stand in a frame that was not taken yet
        else:
            self._expect_payload()

    def _open_rooms(self) -> None:
        if self._ask_for_rooms is not None and all(self._sizes):
            self._rooms = self._ask_for_rooms(self._header, self._sizes)
        self._expect_payload()

    def _take_payload(self, section: memoryview) -> None:
        self._payloads.append(section)
        self._expect_payload()

    def _expect_payload(self) -> None:
        """Wait for the next payload that has bytes; finish the frame when there is none."""
        while len(self._payloads) < len(self._sizes):
            self._section_size = self._sizes[len(self._payloads)]
            if self._section_size:
                if self._rooms is not None:
                    self._room = self._rooms[len(self._payloads)]
                return
            self._payloads.append(memoryview(b""))
        size_bytes = _PREFIX.size + 4 * len(self._sizes) + len(self._header) + sum(self._sizes)
        placed = self._rooms is not None
        frame = Frame(self._header, () if placed else tuple(self._payloads), size_bytes, self._sizes if placed else ())
        self._frames.append(frame)
        self._start_frame()
