"""Yamux: many streams over one connection of bytes, protocol `/yamux/1.0.0`. Pure: bytes and a clock reading in.

After hashicorp's yamux `spec.md` and libp2p's `specs/yamux`. Every frame is a header of 12 bytes (version, type, flags,
stream, length), followed by as many bytes if it carries data. The side that dialled opens odd streams, the other even
ones. A sender keeps within the window that the receiver grants; so what a peer can make this side hold is bounded, and
a slow reader of one stream slows nobody else.

Here the bounds are strict: a peer that sends beyond its window, opens a stream twice, or writes anything the protocol
does not know is told so (GO AWAY, protocol error) and the session is over. It may have `streams_max` streams open; those
over it are reset. A stream's window starts at the 256 KiB that the protocol fixes and doubles while its reader keeps
up, to `window_bytes_max` and as far as half of `memory_bytes_max` has room; the other half is for streams to come.

How it is used: `receive` takes what arrived and returns what happened; `output` returns what must be sent, and after it
may come the data whose header `send` returned. `tick` is called when `due` has come.
"""

from __future__ import annotations

import math
import struct
from enum import Enum, IntEnum
from typing import Final, TypeAlias

import attrs

from prime.errors import PrimeInternalError, RefusedError, RemoteProtocolError
from prime.transport.rates import Bucket

PROTOCOL: Final = "/yamux/1.0.0"
HEADER_BYTES: Final = 12
WINDOW_BYTES: Final = 256 * 1024
"""Of every new stream, in both directions, without a word (spec.md, "Flow Control")."""

BIG_BYTES: Final = 64 * 1024
"""Data of a frame that is worth a read of its own."""

_HEADER: Final = struct.Struct(">BBHII")
_VERSION: Final = 0
_ID_MAX: Final = 2**32 - 1
_OPENINGS_S: Final = 2.0
_GROWS_WITHIN_S: Final = 0.02
"""A reader that takes half a window in so little time keeps up, however short the round trip."""


class _Type(IntEnum):
    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


class Farewell(IntEnum):
    """Why a side goes away (spec.md, "Go Away")."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


@attrs.frozen
class YamuxLimits:
    """What one peer may use.

    `streams_max` counts each direction by itself; over time the peer opens at most `streams_per_s`, and what two seconds
    allow at once, as each is work also if it ends at once. `memory_bytes_max` bounds the sum of all receive windows, which is
    the most that a peer can make this side hold unread. After `silence_s` without a byte the peer is asked for a sign
    of life, and after as long again without one it is given up. `linger_s` is how long a stream that is closed here
    waits for the other side's end, and `half_closed_s` the same for one that only ended its own direction for good.
    """

    streams_max: int = 200
    streams_per_s: float = 500.0
    window_bytes_max: int = 8 << 20
    memory_bytes_max: int = 64 << 20
    silence_s: float = 30.0
    linger_s: float = 10.0
    half_closed_s: float = 300.0


@attrs.frozen
class Opened:
    """The peer opened a stream."""

    stream: int


@attrs.frozen
class Arrived:
    """Bytes of a stream, never none."""

    stream: int
    data: bytes


@attrs.frozen
class Granted:
    """The peer's window of a stream has more room."""

    stream: int


@attrs.frozen
class Ended:
    """The peer ended its direction of a stream; all its bytes have arrived."""

    stream: int


class Breach(Enum):
    """Who broke a stream."""

    PEER = "the peer reset it"
    LINGER = "the peer did not end it in time"


@attrs.frozen
class Broken:
    """A stream is over in both directions. `whole` tells whether the peer had ended its own before."""

    stream: int
    whole: bool
    breach: Breach = Breach.PEER


@attrs.frozen
class WentAway:
    """The peer takes no new streams; with a `code` other than 0 it ends the connection."""

    code: int


@attrs.frozen
class Silent:
    """The peer gave no sign of life when it was asked for one."""


Event: TypeAlias = Opened | Arrived | Granted | Ended | Broken | WentAway | Silent


@attrs.define(eq=False)
class _Stream:
    id: int
    theirs: int = WINDOW_BYTES  # what the peer lets us send
    ours: int = WINDOW_BYTES  # what we let the peer send
    window: int = WINDOW_BYTES  # what `ours` is filled up to
    taken: int = 0  # read here since the last grant
    unread: int = 0
    granted_at: float = -math.inf
    ended: bool = False  # by us
    finished: bool = False  # by the peer
    reset: bool = False  # by the peer, after its end: kept only until it is read
    dropping: bool = False  # nobody reads: what comes is dropped, and no more is granted

    @property
    def over(self) -> bool:
        return self.ended and self.finished and (not self.unread or self.dropping)


class Session:
    """One side of a connection. `dialled` tells whether it is the side that opened it."""

    def __init__(self, *, dialled: bool, now: float, limits: YamuxLimits | None = None) -> None:
        self._limits = limits or YamuxLimits()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1 if dialled else 2
        self._last_id = 0  # of the peer's
        self._open = [0, 0]  # streams of the peer's, streams of ours
        self._opened_now = 0  # by the peer, in the bytes at hand
        self._openings = Bucket(self._limits.streams_per_s, _OPENINGS_S)
        self._frames = 0  # that have begun
        self.left = b""
        """What of the bytes last received was not taken: there were too many frames in it."""
        self._committed = 0  # bytes: the sum of all windows
        self._header = b""
        self._flags = 0
        self._left = 0  # bytes of the data frame that has begun
        self._was_big = False  # the last data frame: the next may be, too
        self._into: _Stream | None = None
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._lingering: dict[int, float] = {}
        self._heard_at = now
        self._pinged_at = -math.inf
        self._ping_id = 0
        self._asked = False
        self._round_trip_s = 0.0
        self._gone: int | None = None
        self._said_gone = False
        self._failure: RemoteProtocolError | None = None
        self._ping(now)

    # ---- what arrived

    def receive(self, data: bytes, now: float, frames_max: int = 1 << 62) -> list[Event]:
        """Take bytes and return what happened, in order.

        After `frames_max` frames it stops; `left` is what to call it with next. Raises `RemoteProtocolError` when the peer broke the protocol: `output` says so to it, and nothing else may be
        asked of the session any more.
        """
        if self._failure:
            raise self._failure
        self._heard_at = now
        self._asked = False
        self._opened_now = 0
        try:
            self._parse(data, now, frames_max)
        except RemoteProtocolError as error:
            self._failure = error
            self._say(_Type.GO_AWAY, 0, 0, Farewell.PROTOCOL_ERROR)
            raise
        events, self._events = self._events, []
        return events

    @property
    def in_progress(self) -> tuple[int, int]:
        """The stream that the next bytes belong to and how many of them do; zeros unless somebody reads it."""
        stream = self._into
        return (0, 0) if stream is None or stream.dropping else (stream.id, self._left)

    def placed(self, size: int, now: float) -> list[Event]:
        """Hear that so many bytes of the frame `in_progress` have come and are where they belong; as `receive`."""
        stream = self._into
        if self._failure or stream is None or not 0 < size <= self._left:
            raise PrimeInternalError(f"{size} bytes were placed that belong to no yamux frame in progress")
        self._heard_at = now
        self._asked = False
        self._left -= size
        stream.unread += size
        if not self._left:
            self._body_ended()
        events, self._events = self._events, []
        return events

    def _parse(self, data: bytes, now: float, frames_max: int) -> None:
        at, size = 0, len(data)
        until = self._frames + frames_max
        while at < size and self._frames < until:
            if self._left:
                end = min(size, at + self._left)
                self._body(data, at, end)
                at = end
                continue
            if not self._header and size - at >= HEADER_BYTES:
                self._frame(_HEADER.unpack_from(data, at), now)
                at += HEADER_BYTES
                continue
            end = min(size, at + HEADER_BYTES - len(self._header))
            self._header += data[at:end]
            at = end
            if len(self._header) == HEADER_BYTES:
                header, self._header = self._header, b""
                self._frame(_HEADER.unpack(header), now)
        self.left = data[at:]

    def _body(self, data: bytes, start: int, end: int) -> None:
        self._left -= end - start
        stream = self._into
        if stream is not None and not stream.dropping:
            stream.unread += end - start
            self._events.append(Arrived(stream.id, _part(data, start, end)))
        if not self._left:
            self._body_ended()

    def _body_ended(self) -> None:
        stream, self._into = self._into, None
        if stream is not None and stream.id in self._streams:
            self._ending(stream, self._flags)

    def _frame(self, header: tuple[int, ...], now: float) -> None:
        self._frames += 1
        version, kind, flags, stream_id, length = header
        if version != _VERSION:
            raise RemoteProtocolError(f"yamux version {version}, not {_VERSION}")
        if flags > 15:
            raise RemoteProtocolError(f"yamux flags {flags:#x}, of which some have no meaning")
        if kind == _Type.DATA:
            self._data_begins(flags, stream_id, length)
        elif kind == _Type.WINDOW:
            self._window_arrived(flags, stream_id, length)
        elif kind == _Type.PING:
            self._ping_arrived(flags, stream_id, length, now)
        elif kind == _Type.GO_AWAY:
            self._go_away_arrived(stream_id, length)
        else:
            raise RemoteProtocolError(f"yamux frame of type {kind}, which has no meaning")

    def _data_begins(self, flags: int, stream_id: int, length: int) -> None:
        stream = self._stream_of(flags, stream_id)
        self._left, self._flags, self._into = length, flags, stream
        self._was_big = length >= BIG_BYTES
        if stream is not None and length:
            if stream.finished:
                raise RemoteProtocolError(f"data on the yamux stream {stream_id}, which the peer had ended")
            if length > stream.ours:
                raise RemoteProtocolError(f"{length} bytes on the yamux stream {stream_id}, over the window")
            stream.ours -= length
            if stream.dropping and not stream.ours:  # the peer waits for a reader that has gone
                self._break(stream, Breach.LINGER)
        if not length:
            self._body_ended()

    def _window_arrived(self, flags: int, stream_id: int, length: int) -> None:
        stream = self._stream_of(flags, stream_id)
        if stream is None:
            return
        if stream.theirs + length > _ID_MAX:
            raise RemoteProtocolError(f"the window of the yamux stream {stream_id} grows beyond 2^32")
        if length and not stream.ended and not flags & _SYN:
            self._events.append(Granted(stream_id))
        stream.theirs += length
        self._ending(stream, flags)

    def _ending(self, stream: _Stream, flags: int) -> None:
        if flags & _FIN and not stream.finished:
            stream.finished = True
            self._events.append(Ended(stream.id))
        if flags & _RST:
            self._reset_arrived(stream)
        elif stream.over:
            self._forget(stream)

    def _reset_arrived(self, stream: _Stream) -> None:
        whole = stream.finished
        if not stream.reset:
            self._events.append(Broken(stream.id, whole))
        stream.reset = stream.ended = stream.finished = True
        if not whole:
            stream.unread = 0
        if stream.over:
            self._forget(stream)

    def _stream_of(self, flags: int, stream_id: int) -> _Stream | None:
        """Return the stream of a frame; `None` for one that is over, and whose last frames crossed ours."""
        if flags & _SYN:
            return self._open_theirs(flags, stream_id)
        stream = self._streams.get(stream_id)
        if stream is None and not self._was_open(stream_id):
            raise RemoteProtocolError(f"the yamux stream {stream_id} was never opened")
        return stream

    def _was_open(self, stream_id: int) -> bool:
        ours = self._is_ours(stream_id)
        return 0 < stream_id < self._next_id if ours else 0 < stream_id <= self._last_id

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id % 2 == self._next_id % 2

    def _open_theirs(self, flags: int, stream_id: int) -> _Stream | None:
        if self._is_ours(stream_id) or stream_id <= self._last_id:
            raise RemoteProtocolError(f"the yamux stream {stream_id} cannot be opened by the peer, or not again")
        self._last_id = stream_id
        if flags & _RST:
            return None
        most = self._limits.streams_max  # also of those that end at once: each is work for whoever hears of it
        full = max(self._open[0], self._opened_now) >= most or not self._has_memory()
        if full or self._said_gone or not self._openings.take(self._heard_at):
            self._say(_Type.WINDOW, _RST, stream_id, 0)
            return None
        self._say(_Type.WINDOW, _ACK, stream_id, 0)
        self._events.append(Opened(stream_id))
        self._opened_now += 1
        return self._add(stream_id)

    def _has_memory(self) -> bool:
        return self._committed + WINDOW_BYTES <= self._limits.memory_bytes_max

    def _ping_arrived(self, flags: int, stream_id: int, value: int, now: float) -> None:
        if stream_id:
            raise RemoteProtocolError("a yamux ping on a stream")
        if flags == _SYN:
            self._say(_Type.PING, _ACK, 0, value)
        elif flags != _ACK:
            raise RemoteProtocolError(f"a yamux ping with flags {flags:#x}")
        elif value == self._ping_id:
            self._round_trip_s = now - self._pinged_at

    def _go_away_arrived(self, stream_id: int, code: int) -> None:
        if stream_id:
            raise RemoteProtocolError("a yamux go-away on a stream")
        self._gone = code
        self._events.append(WentAway(code))

    @property
    def wants_bytes(self) -> int:
        """How many bytes are best read next, so that a big frame's data is in no copy cut from its header; or 0."""
        if self._left >= BIG_BYTES:
            return self._left
        return HEADER_BYTES if self._was_big and not self._left and not self._header else 0

    # ---- what this side does

    def open(self) -> int:
        """Open a stream and return its number. Raises `RefusedError` when there are too many, or the peer goes away."""
        limits = self._limits
        if self._gone is not None:
            raise RefusedError("the peer takes no new streams", hint="It is about to close: dial it again.")
        if self._open[1] >= limits.streams_max or not self._has_memory():
            raise RefusedError(
                f"{self._open[1]} streams to the peer are open already, and may hold {self._committed >> 20} MiB",
                hint="Close some; keep streams long-lived.",
            )
        if self._next_id > _ID_MAX:
            raise RefusedError("every stream number of the connection was used", hint="Dial the peer again.")
        stream_id = self._next_id
        self._next_id += 2
        self._say(_Type.WINDOW, _SYN, stream_id, 0)
        self._add(stream_id)
        return stream_id

    def room(self, stream_id: int) -> int:
        """Return how many bytes the peer's window takes now; 0 also for a stream that is over."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.ended else stream.theirs

    def send(self, stream_id: int, size: int) -> bytes:
        """Return the header of a data frame of `size` bytes, at most `room`; the bytes must follow it at once."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended or not 0 < size <= stream.theirs:
            raise PrimeInternalError(f"{size} bytes for the yamux stream {stream_id}, which does not take them")
        stream.theirs -= size
        return _HEADER.pack(_VERSION, _Type.DATA, 0, stream_id, size)

    def take(self, stream_id: int, size: int, now: float) -> None:
        """Note that `size` bytes of a stream were read, so that the peer may send as many more."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.unread -= size
        stream.taken += size
        if stream.over:
            self._forget(stream)
        elif not stream.finished and stream.taken * 2 >= stream.window:
            self._grant(stream, now)

    def end(self, stream_id: int) -> None:
        """End our direction of a stream; harmless if it has ended."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.ended:
            stream.ended = True
            self._say(_Type.WINDOW, _FIN, stream_id, 0)
            if stream.over:
                self._forget(stream)

    def close(self, stream_id: int, now: float, *, drop: bool = True) -> None:
        """End our direction, and the stream as a whole if the peer does not end its own in time.

        With `drop` nobody reads any more: what is there and what still comes is forgotten.
        """
        self.end(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if drop:
            stream.dropping, stream.unread = True, 0
        if stream.over:
            self._forget(stream)
        else:
            until = now + (self._limits.linger_s if drop else self._limits.half_closed_s)
            self._lingering[stream_id] = min(until, self._lingering.get(stream_id, until))

    def reset(self, stream_id: int) -> None:
        """Break a stream in both directions; harmless if it is over."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            if not stream.reset:
                self._say(_Type.WINDOW, _RST, stream_id, 0)
            self._forget(stream)

    def go_away(self, code: Farewell = Farewell.NORMAL) -> None:
        """Tell the peer to open no more streams; those that it opens are reset."""
        if not self._said_gone and not self._failure:
            self._said_gone = True
            self._say(_Type.GO_AWAY, 0, 0, code)

    def output(self) -> bytes:
        """Return what must be sent now, before any data."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    # ---- time

    @property
    def due(self) -> float:
        """When `tick` has something to do."""
        silence = self._pinged_at if self._asked else self._heard_at
        return min((silence + self._limits.silence_s, *self._lingering.values()))

    def tick(self, now: float) -> list[Event]:
        """Do what is due."""
        for stream_id in [stream_id for stream_id, until in self._lingering.items() if until <= now]:
            self._break(self._streams[stream_id], Breach.LINGER)
        if self._asked and now - self._pinged_at >= self._limits.silence_s:
            self._events.append(Silent())
            self._pinged_at = math.inf  # once
        elif not self._asked and now - self._heard_at >= self._limits.silence_s:
            self._asked = True
            self._ping(now)
        events, self._events = self._events, []
        return events

    def _ping(self, now: float) -> None:
        self._ping_id = (self._ping_id + 1) & _ID_MAX
        self._pinged_at = now
        self._say(_Type.PING, _SYN, 0, self._ping_id)

    # ---- what a session is made of

    @property
    def peer_gone(self) -> bool:
        """Whether the peer takes no new streams."""
        return self._gone is not None

    @property
    def streams(self) -> int:
        """How many streams it holds."""
        return len(self._streams)

    @property
    def streams_of_ours(self) -> int:
        """How many of them this side opened."""
        return self._open[1]

    @property
    def memory_bytes(self) -> int:
        """The most that the peer can make this side hold unread, with the streams and windows of now."""
        return self._committed

    @property
    def round_trip_s(self) -> float:
        """The time between a ping and its answer, the last time that one was sent; 0 before the first."""
        return self._round_trip_s

    def _add(self, stream_id: int) -> _Stream:
        stream = self._streams[stream_id] = _Stream(stream_id)
        self._open[self._is_ours(stream_id)] += 1
        self._committed += WINDOW_BYTES
        return stream

    def _break(self, stream: _Stream, breach: Breach) -> None:
        whole = stream.finished
        self.reset(stream.id)
        self._events.append(Broken(stream.id, whole, breach))

    def _forget(self, stream: _Stream) -> None:
        stream.dropping = True  # of a frame that has begun, the rest goes nowhere
        del self._streams[stream.id]
        self._open[self._is_ours(stream.id)] -= 1
        self._committed -= stream.window
        self._lingering.pop(stream.id, None)

    def _grant(self, stream: _Stream, now: float) -> None:
        increment = stream.taken
        if now - stream.granted_at <= max(4 * self._round_trip_s, _GROWS_WITHIN_S) and self._may_grow(stream):
            increment += stream.window
            self._committed += stream.window
            stream.window *= 2
        stream.granted_at, stream.taken = now, 0
        stream.ours += increment
        self._say(_Type.WINDOW, 0, stream.id, increment)

    def _may_grow(self, stream: _Stream) -> bool:
        limits = self._limits
        return (
            2 * stream.window <= limits.window_bytes_max
            and 2 * (self._committed + stream.window) <= limits.memory_bytes_max
        )

    def _say(self, kind: _Type, flags: int, stream_id: int, value: int) -> None:
        self._out.append(_HEADER.pack(_VERSION, kind, flags, stream_id, value))


def _part(data: bytes, start: int, end: int) -> bytes:
    return data if end - start == len(data) else data[start:end]
