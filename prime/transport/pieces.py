"""Pieces: how a big frame travels between small ones, so that none of them waits for all of it. Pure.

A frame whose payloads are bigger than what the link moves in a moment is announced (BULK, which holds its header and the
sizes of its payloads) and then follows in pieces, each a frame of its own. Frames on their way take turns; between two
pieces everything else goes. `Departures` cuts, `Arrivals` joins, and `Gauge` says how big a piece is. The rules:
`spec/protocols/bulk.md`. What may be sent at all, and when, `link.py` decides.

Payload bytes are copied at most once, on the way in: they go into the buffer that will be the payload.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from prime.errors import RemoteProtocolError
from prime.transport import frames as fr
from prime.wire.cbor import dumps_closed

FEATURE: Final = "pieces"
"""What a node says in HELLO that takes pieces."""
PIECE_S: Final = 0.05
"""How long the stream may be busy with one piece."""
PIECE_BYTES_LEAST: Final = 16 * 1024
PIECE_BYTES_FIRST: Final = 64 * 1024
PIECE_BYTES_MOST: Final = 2**20
PIECE_BYTES_MIN: Final = 4096
"""A smaller one, unless it is its frame's last, is a violation: else a frame could crawl for ever."""
MESSAGES_MAX: Final = 8
ANSWERS_MAX: Final = 8
"""How many messages, and how many answers, are on their way in one direction at a time."""
STALL_S: Final = 60.0
"""A frame of which no piece comes for so long is a violation."""

Buffers = Sequence[memoryview]


class Gauge:
    """How big a piece may be, by how long the last ones took."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        self.size_bytes = PIECE_BYTES_FIRST

    def note(self, size_bytes: int, took_s: float) -> None:
        """Hear how long the stream took a piece of this size: shrink at once, grow by doubling."""
        if took_s > PIECE_S:
            self.size_bytes = max(PIECE_BYTES_LEAST, min(self.size_bytes, int(size_bytes * PIECE_S / took_s)))
        elif took_s < PIECE_S / 4 and 2 * size_bytes >= self.size_bytes:
            self.size_bytes = min(PIECE_BYTES_MOST, 2 * self.size_bytes)


# ---------------------------------------------------------------------------------------------------------- going out


@attrs.define(eq=False)
class Departure:
    """A frame that leaves in pieces. `key` is its token or correlation; `target` is set for a message."""

    key: int
    header: bytes
    payloads: Buffers
    size_bytes: int
    tag: int
    target: Any = None
    number: int = 0
    begun: bool = False
    awaited: bool = False
    """Whether its caller waits until it has left."""
    rest_bytes: int = 0
    """What of `size_bytes` was not handed to the writer."""
    _index: int = 0
    _offset: int = 0

    def __attrs_post_init__(self) -> None:
        """Begin with all of it before us."""
        self.rest_bytes = self.size_bytes

    def cut(self, size_bytes: int) -> list[memoryview]:
        """Return the next bytes, up to so many: a part of a payload, or parts of several."""
        parts: list[memoryview] = []
        while size_bytes and self._index < len(self.payloads):
            part = self.payloads[self._index][self._offset : self._offset + size_bytes]
            if part.nbytes:
                parts.append(part)
            size_bytes -= part.nbytes
            self._offset += part.nbytes
            if self._offset == self.payloads[self._index].nbytes:
                self._index, self._offset = self._index + 1, 0
        return parts

    @property
    def over(self) -> bool:
        """Tell whether all was cut."""
        return all(not payload.nbytes for payload in self.payloads[self._index :])


@attrs.define
class Cut:
    """What to write: headers of frames with their payloads. `counted_bytes` of the whole frame's size go with it."""

    frames: list[tuple[bytes, Buffers]]
    departure: Departure
    counted_bytes: int
    last: bool

    @property
    def size_bytes(self) -> int:
        """The bytes on the wire."""
        return sum(fr.size_of_frame(header, payloads) for header, payloads in self.frames)


class Departures:
    """The frames of one direction that leave in pieces, in turns; its answers hold at most `answers_bytes_max`."""

    __slots__ = ("_answers", "_answers_bytes", "_answers_bytes_max", "_number", "_turns", "_waiting", "messages")

    def __init__(self, answers_bytes_max: int) -> None:
        self._answers_bytes_max = answers_bytes_max
        self._number = 0
        self._turns: deque[Departure] = deque()
        self._waiting: deque[Departure] = deque()
        self._answers = 0
        self._answers_bytes = 0
        self.messages = 0

    def __bool__(self) -> bool:
        return bool(self._turns)

    def message(self, key: int, target: Any, header: bytes, payloads: Buffers, size_bytes: int, tag: int) -> Departure:
        """Let a message leave. The caller sees to it that there are at most `MESSAGES_MAX`."""
        self.messages += 1
        departure = Departure(key, header, payloads, size_bytes, tag, target)
        self._turns.append(departure)
        return departure

    def answer(self, key: int, header: bytes, payloads: Buffers, size_bytes: int, tag: int) -> Departure:
        """Let an answer leave, once the others leave room for it."""
        departure = Departure(key, header, payloads, size_bytes, tag)
        self._waiting.append(departure)
        self._admit()
        return departure

    def _admit(self) -> None:
        """Give answers that wait their turns, in order."""
        while self._waiting and self._answers < ANSWERS_MAX:
            departure = self._waiting[0]
            if self._answers and self._answers_bytes + departure.size_bytes > self._answers_bytes_max:
                return
            self._answers += 1
            self._answers_bytes += departure.size_bytes
            self._turns.append(self._waiting.popleft())

    def next(self, size_bytes: int) -> Cut | None:
        """Cut the next piece, of the frame whose turn it is."""
        if not self._turns:
            return None
        departure = self._turns.popleft()
        frames: list[tuple[bytes, Buffers]] = []
        if not departure.begun:
            departure.begun = True
            self._number += 1  # numbers rise in the order of the announcements
            departure.number = self._number
            sizes = tuple(payload.nbytes for payload in departure.payloads)
            frames.append((dumps_closed(fr.Bulk(departure.number, sizes, departure.header).plain()), ()))
        parts = departure.cut(size_bytes)
        frames.append((fr.piece_header(departure.number), parts))
        last = departure.over
        counted = departure.rest_bytes if last else sum(part.nbytes for part in parts)
        departure.rest_bytes -= counted
        if last:
            self._uncount(departure)
        else:
            self._turns.append(departure)
        return Cut(frames, departure, counted, last)

    def drop(self, departure: Departure) -> bool:
        """Forget a frame that shall not leave, or not go on; `False` if all of it was cut already."""
        if departure in self._waiting:
            self._waiting.remove(departure)
            return True
        if departure not in self._turns:
            return False
        self._turns.remove(departure)
        self._uncount(departure)
        return True

    def clear(self) -> None:
        """Forget all."""
        self._turns.clear()
        self._waiting.clear()
        self._answers = self._answers_bytes = self.messages = 0

    def _uncount(self, departure: Departure) -> None:
        if departure.target is not None:
            self.messages -= 1
        else:
            self._answers -= 1
            self._answers_bytes -= departure.size_bytes
            self._admit()


# ---------------------------------------------------------------------------------------------------------- coming in


@attrs.define(eq=False)
class Arrival:
    """A frame of which pieces come. One that is `unwanted` is counted and not kept."""

    number: int
    frame: fr.Tell | fr.Ask | fr.Reply
    sizes: tuple[int, ...]
    size_bytes: int
    tag: int
    unwanted: bool = False
    heard_at: float = 0.0
    buffers: list[bytearray] = attrs.field(factory=list)
    index: int = 0
    offset: int = 0

    def fits(self, sizes: Sequence[int]) -> bool:
        """Tell whether parts of these sizes may come next: none empty, and none across the end of a payload."""
        index, offset, size_bytes = self.index, self.offset, 0
        for size in sizes:
            if not size or index >= len(self.sizes) or offset + size > self.sizes[index]:
                return False
            size_bytes += size
            index, offset = self._after(index, offset + size)
        return bool(sizes) and (size_bytes >= PIECE_BYTES_MIN or index >= len(self.sizes))

    def _after(self, index: int, offset: int) -> tuple[int, int]:
        """Return where the next part begins."""
        while index < len(self.sizes) and offset == self.sizes[index]:
            index, offset = index + 1, 0
        return index, offset

    def skip_empty(self) -> None:
        """Pass by the empty payloads at the beginning."""
        self.index, self.offset = self._after(self.index, self.offset)

    def rooms(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return where each part goes."""
        if self.unwanted:
            return [memoryview(bytearray(size)) for size in sizes]
        index, offset, rooms = self.index, self.offset, []
        for size in sizes:
            self._make_room(index, offset + size)
            rooms.append(memoryview(self.buffers[index])[offset : offset + size])
            index, offset = self._after(index, offset + size)
        return rooms

    def _make_room(self, index: int, size_bytes: int) -> None:
        """Have a payload's buffer hold so much: it grows by doubling as pieces come, whatever was announced."""
        buffer = self.buffers[index]
        if len(buffer) < size_bytes:
            grown = self.buffers[index] = bytearray(min(self.sizes[index], max(size_bytes, 2 * len(buffer))))
            grown[: len(buffer)] = buffer

    def advance(self, sizes: Sequence[int]) -> None:
        """Note that parts of these sizes were added."""
        for size in sizes:
            self.index, self.offset = self._after(self.index, self.offset + size)

    def forsake(self) -> None:
        """Keep nothing of it: nobody waits for it any more."""
        self.unwanted = True
        self.buffers = []

    @property
    def whole(self) -> bool:
        """Tell whether all has come."""
        return self.index >= len(self.sizes)

    @property
    def payloads(self) -> tuple[memoryview, ...]:
        """The payloads of a whole frame."""
        return tuple(memoryview(buffer).toreadonly() for buffer in self.buffers)


class Arrivals:
    """The frames of the peer's that are on their way in pieces; raises `RemoteProtocolError` for what must not be."""

    __slots__ = ("_last", "_open", "answers_bytes", "messages_bytes")

    def __init__(self) -> None:
        self._last = 0
        self._open: OrderedDict[int, Arrival] = OrderedDict()
        self.messages_bytes = 0
        self.answers_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._open.values())

    @property
    def due(self) -> float:
        """When a frame will have stalled."""
        if not self._open:
            return math.inf
        return next(iter(self._open.values())).heard_at + STALL_S

    def stalled(self, now: float) -> bool:
        """Tell whether no piece of a frame came for too long."""
        return now >= self.due

    def begin(self, bulk: fr.Bulk, frame: fr.Tell | fr.Ask | fr.Reply, now: float, *, unwanted: bool) -> None:
        """Let a frame be announced; the caller has checked its size."""
        if bulk.number <= self._last:
            raise RemoteProtocolError("BULK whose number does not rise")
        answers = isinstance(frame, fr.Reply)
        if sum(isinstance(each.frame, fr.Reply) is answers for each in self) >= (
            ANSWERS_MAX if answers else MESSAGES_MAX
        ):
            raise RemoteProtocolError("more frames in pieces at once than may be")
        if not any(bulk.sizes):
            raise RemoteProtocolError("BULK without bytes to come")
        self._last = bulk.number
        arrival = Arrival(bulk.number, frame, bulk.sizes, bulk.size_bytes, bulk.tag, unwanted=unwanted, heard_at=now)
        if not unwanted:
            arrival.buffers = [bytearray() for _ in bulk.sizes]
        arrival.skip_empty()
        self._open[bulk.number] = arrival
        self._count(arrival, arrival.size_bytes)

    def tag(self, number: int) -> int:
        """Return the tag of a frame's message, 0 if there is none."""
        arrival = self._open.get(number)
        return 0 if arrival is None else arrival.tag

    def rooms(self, number: int, sizes: Sequence[int]) -> list[memoryview] | None:
        """Return where a parser may put the parts of a piece; `None` for a piece that `came` will refuse."""
        arrival = self._open.get(number)
        return arrival.rooms(sizes) if arrival is not None and arrival.fits(sizes) else None

    def came(self, number: int, sizes: Sequence[int], now: float) -> Arrival | None:
        """Note that a piece is in its rooms; return the frame if it is whole now."""
        arrival = self._open.get(number)
        if arrival is None or not arrival.fits(sizes):
            raise RemoteProtocolError("a piece of no frame on its way, or of a wrong size")
        arrival.advance(sizes)
        arrival.heard_at = now
        if not arrival.whole:
            self._open.move_to_end(number)
            return None
        self._forget(arrival)
        return arrival

    def add(self, number: int, payloads: Buffers, now: float) -> Arrival | None:
        """As `came`, for a piece that no parser has put into its rooms."""
        sizes = [payload.nbytes for payload in payloads]
        for room, payload in zip(self.rooms(number, sizes) or (), payloads, strict=False):
            room[:] = payload
        return self.came(number, sizes, now)

    def abandon(self, number: int) -> None:
        """Forget a frame whose sender will not go on."""
        arrival = self._open.get(number)
        if arrival is None:
            raise RemoteProtocolError("ABANDON of no frame on its way")
        self._forget(arrival)

    def forsake(self, correlation: int) -> None:
        """Keep nothing of the answer to an ask that was given up."""
        for arrival in self:
            if isinstance(arrival.frame, fr.Reply) and arrival.frame.correlation == correlation:
                arrival.forsake()

    def clear(self) -> None:
        """Forget all."""
        self._open.clear()
        self.messages_bytes = self.answers_bytes = 0

    def _forget(self, arrival: Arrival) -> None:
        del self._open[arrival.number]
        self._count(arrival, -arrival.size_bytes)

    def _count(self, arrival: Arrival, size_bytes: int) -> None:
        if isinstance(arrival.frame, fr.Reply):
            self.answers_bytes += size_bytes
        else:
            self.messages_bytes += size_bytes
