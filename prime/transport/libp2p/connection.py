"""The shell of a muxed connection: one task reads, one writes, and every stream is a `Channel`.

The protocol is `yamux.Session`; this file owns the tasks and who waits for what. Nobody but the writer waits for the
socket: a sender hands on a frame when the peer's window and this side's buffer have room for it, and that is done in one
step, so a cancelled send leaves whole frames and never harms another stream. A write that gets nowhere for
`WRITE_TIMEOUT_S` ends the connection. The reader always drains: how much may come is the windows' business.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import anyio
import trio

from prime.actor.contract import PeerId
from prime.actor.deadlines import Deadlines, Timer
from prime.errors import RemoteProtocolError
from prime.transport import yamux
from prime.transport.contract import CLOSE_TIMEOUT_S, Buffer, Channel
from prime.transport.libp2p.conduit import Conduit
from prime.transport.sockets import READ_BYTES_MAX
from prime.transport.turns import SHARED_READ_BYTES, Turns, give_way

ROOM_BYTES: Final = 1 << 19
"""How much may wait for the socket before senders wait too."""
ANSWER_BYTES_MAX: Final = 1 << 20
"""How much more may wait that is no data: answers to a peer that makes us write and does not read."""
WRITE_TIMEOUT_S: Final = 30.0
"""How long the socket may take nothing before the connection is over."""
JOIN_BYTES: Final = 1 << 16
LEAST_BYTES: Final = 1 << 14
"""A window that takes less than this and less than what is to be sent is waited for: its rest makes no frame."""
TURN_FRAMES: Final = 100
"""Frames that are handled in one turn: of those without data a single read holds tens of thousands."""
TAKE_BYTES_MAX: Final = 1 << 18
"""How much is joined for one `receive`: memory for more comes fresh from the kernel each time, page by page."""
_SMALL_BYTES: Final = 2048
"""Parts below this size are joined in a stream's buffer: a byte in an object of its own takes forty."""


class MuxedChannel(Channel):
    """One stream of a connection."""

    def __init__(self, connection: Connection, stream: int) -> None:
        self._connection = connection
        self._stream = stream
        self._parts: deque[bytes | bytearray] = deque()
        self._at = 0  # bytes of the first part that were taken
        self._room: memoryview | None = None  # of a reader that waits: what is not filled of it
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._reading = anyio.ResourceGuard("receiving from")
        self._writing = anyio.ResourceGuard("sending to")
        self._begun = False  # a send is under way, and part of it is gone
        self._ended = False  # by us
        self._finished = False  # by the peer
        self._broken = False
        self._closed = False
        self.over = trio.Event()
        """Set when the connection has forgotten the stream."""

    @property
    def peer(self) -> PeerId:
        """The peer that the connection's handshake proved."""
        return self._connection.peer

    @property
    def relayed(self) -> bool:
        """See `Channel.relayed`."""
        return self._connection.relayed

    @property
    def remote(self) -> str:
        """See `Channel.remote`."""
        return self._connection.remote

    @property
    def connection(self) -> Connection:
        """The connection that carries the stream."""
        return self._connection

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`."""
        with self._reading:
            if self._parts:
                await trio.lowlevel.checkpoint()
            while not self._parts:
                await self._await_input()
            return self._take(max_bytes)

    async def receive_into(self, room: memoryview) -> int:
        """See `Channel.receive_into`."""
        with self._reading:
            if self._parts:
                await trio.lowlevel.checkpoint()
            self._room, placed = room, 0
            try:
                while not self._parts and not placed:
                    await self._await_input()
                    placed = len(room) - len(self._room)
            finally:
                self._room = None
            if not placed:
                return self._take_into(room)
            if self._closed:
                raise anyio.ClosedResourceError
            self._connection.taken(self._stream, placed)
            return placed

    async def peek(self) -> bytes:
        """Wait for bytes and return those that are there, without taking them; empty if none will come."""
        with self._reading:
            while not self._parts:
                try:
                    await self._await_input()
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return b""
            return b"".join(self._parts)

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`."""
        with self._writing:
            await trio.lowlevel.checkpoint()
            self._check_writable()
            rest = memoryview(item).cast("B")
            try:
                while rest:
                    size = await self._room_to_send(len(rest))
                    self._connection.push(self._stream, rest[:size])
                    rest = rest[size:]
                    self._begun = True
            except trio.Cancelled:
                if self._begun and rest:
                    self.reset()
                raise
            finally:
                self._begun = False

    def send_nowait(self, item: Buffer) -> int:
        """See `Channel.send_nowait`."""
        if self._ended or self._broken or self._closed:
            return 0
        size = min(self._connection.room(self._stream), len(item))
        if size >= min(len(item), LEAST_BYTES) > 0:
            self._connection.push(self._stream, item if size == len(item) else item[:size])
            return size
        return 0

    async def send_eof(self) -> None:
        """See `Channel.send_eof`."""
        with self._writing:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise anyio.ClosedResourceError
            if not self._ended:
                self._check_writable()
                self._ended = True
                self._connection.end(self._stream)
                self._forget_if_over()

    async def aclose(self) -> None:
        """See `Channel.aclose`; what was sent before goes on its way."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """As `aclose`, without a turn of the scheduler. A send of another task that is half done becomes a reset."""
        if self._closed:
            return
        self._closed = True
        if self._connection.doubted:
            self._connection.break_off("nothing came back on it")
        elif self._begun:
            self._connection.reset(self._stream)
        else:
            self._connection.close_stream(self._stream, drop=True)
        self._drop()
        self._wake()

    def doubt(self) -> None:
        """See `Channel.doubt`."""
        self._connection.doubted = True

    def finish(self) -> None:
        """End our direction, and the stream as a whole if the peer does not end its own within minutes.

        What the peer still sends can be received.
        """
        if not self._closed and not self._broken:
            self._ended = True
            self._connection.close_stream(self._stream, drop=False)
            self._forget_if_over()

    def reset(self) -> None:
        """Break the stream for both sides; harmless if it is over."""
        self._connection.reset(self._stream)
        self.broke(whole=False)

    # ---- what the connection tells

    def arrived(self, data: bytes) -> None:
        """Hear bytes."""
        parts = self._parts
        if parts and len(data) < _SMALL_BYTES and len(parts[-1]) < _SMALL_BYTES:
            last = parts[-1]
            if isinstance(last, bytearray):
                last += data
            else:
                parts[-1] = bytearray(last) + data
        else:
            parts.append(data)
        self._readable.unpark_all()

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes may be put, if a reader waits with a room; who does so says `placed`."""
        return None if self._parts else self._room

    def placed(self, size: int) -> None:
        """Hear that bytes were put at the beginning of `room`."""
        if self._room is not None:
            self._room = self._room[size:]
        self._readable.unpark_all()

    def granted(self) -> None:
        """Hear that the peer's window has room."""
        self._writable.unpark_all()

    def peer_ended(self) -> None:
        """Hear that nothing more will come."""
        self._finished = True
        self._forget_if_over()
        self._readable.unpark_all()

    def broke(self, *, whole: bool) -> None:
        """Hear that the stream is over. What came of a stream that had no end yet is dropped unless it is `whole`."""
        self._broken = True
        if not whole:
            self._drop()
        self._wake()

    def lost(self, *, closed: bool) -> None:
        """Hear that the connection is over: lost, or `closed` by this side. What had come can still be received."""
        self._broken = True
        if closed:
            self._closed = True
            self._drop()
        self._wake()

    # ----

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()
        self._connection.forget(self._stream)

    def _drop(self) -> None:
        self._parts.clear()
        self._at = 0

    def _forget_if_over(self) -> None:
        if self._ended and self._finished:
            self._connection.forget(self._stream)

    async def _await_input(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._finished:
            await trio.lowlevel.checkpoint()
            raise anyio.EndOfStream
        if self._broken:
            raise anyio.BrokenResourceError(self._connection.cause)
        await self._readable.park()

    def _take(self, max_bytes: int) -> bytes:
        part, start = self._parts[0], self._at
        if not start and len(self._parts) > 1 and len(part) + len(self._parts[1]) <= min(max_bytes, TAKE_BYTES_MAX):
            return self._take_several(min(max_bytes, TAKE_BYTES_MAX))
        end = min(len(part), start + max_bytes)
        if end == len(part):
            self._parts.popleft()
            self._at = 0
        else:
            self._at = end
        self._connection.taken(self._stream, end - start)
        return part if type(part) is bytes and end - start == len(part) else bytes(memoryview(part)[start:end])

    def _take_several(self, max_bytes: int) -> bytes:
        """Take whole parts as far as they fit: to copy them costs less than to come again for each."""
        taken, size = [], 0
        while self._parts and size + len(self._parts[0]) <= max_bytes:
            part = self._parts.popleft()
            size += len(part)
            taken.append(part)
        self._connection.taken(self._stream, size)
        return b"".join(taken)

    def _take_into(self, room: memoryview) -> int:
        filled = 0
        while self._parts and filled < len(room):
            part = memoryview(self._parts[0])[self._at : self._at + len(room) - filled]
            room[filled : filled + len(part)] = part
            filled += len(part)
            self._at += len(part)
            if self._at == len(self._parts[0]):
                self._parts.popleft()
                self._at = 0
        self._connection.taken(self._stream, filled)
        return filled

    async def _room_to_send(self, wanted: int) -> int:
        """Wait until the peer's window and this side's buffer have room, and return how much of `wanted` has."""
        if self._begun:
            await trio.lowlevel.checkpoint()  # so that others have their turn between the frames of a big send
        while True:
            self._check_writable()
            room = self._connection.room(self._stream)
            if room >= min(wanted, LEAST_BYTES):
                return min(room, wanted)
            if self._connection.is_full:
                await self._connection.drained.park()
            else:
                await self._writable.park()

    def _check_writable(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._broken:
            raise anyio.BrokenResourceError(self._connection.cause)
        if self._ended:
            raise anyio.ClosedResourceError


class Connection:
    """A muxed connection with a proved peer. `run` it in a task; everything else may be called at any time before."""

    def __init__(
        self,
        conduit: Conduit,
        peer: PeerId,
        timers: Deadlines,
        *,
        dialled: bool,
        greet: Callable[[MuxedChannel], None],
        limits: yamux.YamuxLimits | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.peer = peer
        self.dialled = dialled
        self.cause = ""
        self.ended = trio.Event()
        """Set when the connection is over."""
        self.doubted = False
        """Whether nothing came back on a channel of it, and has not since: no new stream is opened on it."""
        self.drained = trio.lowlevel.ParkingLot()
        """Where senders wait until the socket has taken what is there."""
        self._turns = turns or Turns()
        self._conduit = conduit
        self._timers = timers
        self._greet = greet
        self._session = yamux.Session(dialled=dialled, now=trio.current_time(), limits=limits)
        self._channels: dict[int, MuxedChannel] = {}
        self.remote = ""
        """Where the peer's bytes come from, as an address without `/p2p/`; empty if unknown."""
        self.relayed = False
        """Whether the connection goes through a standard relay."""
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._wake = trio.Event()
        self._leaving = False
        self._timer: Timer | None = None
        self._alarm_at = math.inf
        self._mute = False  # nothing more can be said
        self._scope = trio.CancelScope()

    # ---- streams

    def open(self) -> MuxedChannel:
        """Open a stream; the peer hears of it with the first bytes that are sent. Raises `RefusedError`."""
        if self.ended.is_set() or self._leaving:
            raise anyio.BrokenResourceError(self.cause)
        return self._add(self._session.open())

    @property
    def takes_streams(self) -> bool:
        """Whether a new stream may be opened on it: it is not in doubt, and the peer has not said that it goes away."""
        return not self.doubted and not self._session.peer_gone

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return len(self._channels)

    @property
    def streams_of_ours(self) -> int:
        """How many this side opened that are not over."""
        return self._session.streams_of_ours

    @property
    def round_trip_s(self) -> float:
        """See `yamux.Session.round_trip_s`."""
        return self._session.round_trip_s

    @property
    def is_full(self) -> bool:
        """Tell whether senders wait for the socket."""
        return self._waiting_bytes >= ROOM_BYTES

    def room(self, stream: int) -> int:
        """Return how large a frame of a stream may be handed on now."""
        if self.is_full:
            return 0
        return min(self._session.room(stream), self._conduit.frame_bytes_max)

    def push(self, stream: int, data: Buffer) -> None:
        """Hand a frame on; it is copied or sent before this returns."""
        header = self._session.send(stream, len(data))
        if not self._mute:
            self._emit(self._conduit.seal(self._session.output() + header, data))

    def taken(self, stream: int, size: int) -> None:
        """Hear that bytes were received by whom they were for."""
        self._session.take(stream, size, trio.current_time())
        self._flush()

    def end(self, stream: int) -> None:
        """End our direction of a stream."""
        self._session.end(stream)
        self._flush()

    def close_stream(self, stream: int, *, drop: bool) -> None:
        """See `yamux.Session.close`."""
        self._session.close(stream, trio.current_time(), drop=drop)
        self._flush()
        self._set_alarm()

    def reset(self, stream: int) -> None:
        """Break a stream."""
        self._session.reset(stream)
        self._flush()

    def forget(self, stream: int) -> None:
        """Let go of a channel that will hear nothing more."""
        channel = self._channels.pop(stream, None)
        if channel is not None:
            channel.over.set()

    def _add(self, stream: int) -> MuxedChannel:
        channel = self._channels[stream] = MuxedChannel(self, stream)
        return channel

    # ---- the end

    def close_nowait(self) -> None:
        """End the connection: its channels are closed, what waits for the socket is sent if the peer takes it soon."""
        if self._leaving or self.ended.is_set():
            return
        self._leaving = True
        self.cause = "this side closed the connection"
        for channel in tuple(self._channels.values()):
            channel.close_nowait()
        self._session.go_away()
        self._flush()
        self._wake.set()

    def break_off(self, cause: str) -> None:
        """End the connection now, without a word."""
        self.cause = self.cause or cause
        self._mute = True
        self._conduit.close()
        self._scope.cancel()

    async def aclose(self) -> None:
        """As `close_nowait`; returns when the connection is over."""
        self.close_nowait()
        await self.ended.wait()

    # ---- the tasks

    async def run(self) -> None:
        """Carry the streams until the connection ends; never raises for what the peer or the socket does."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    self._flush()
                    self._set_alarm()
                    await self._write()
                    nursery.cancel_scope.cancel()
        finally:
            self._end()

    def _end(self) -> None:
        self._mute = True
        self._conduit.close()
        if self._timer is not None:
            self._timer.cancel()
        self.cause = self.cause or "the connection's owner ended it"
        self.ended.set()
        for channel in tuple(self._channels.values()):
            channel.lost(closed=self._leaving)
        self.drained.unpark_all()
        self._waiting.clear()

    async def _read(self) -> None:
        """Read until the end: little at once while other connections have bytes too, as all wait for each other.

        What has come is decrypted without a wait, so others have their turn only where it is given to them.
        """
        shared = False
        try:
            while True:
                wanted = self._session.wants_bytes or READ_BYTES_MAX
                size = min(wanted, SHARED_READ_BYTES) if shared else wanted
                data = await self._conduit.receive_placed(size, self._place)
                if not data:
                    break
                began = trio.current_time()
                shared = self._turns.shared(self, began)
                if isinstance(data, memoryview):
                    self._placed(len(data))
                else:
                    while data := self._received(data):
                        await trio.lowlevel.checkpoint()
                if shared:
                    await give_way(trio.current_time() - began)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self.break_off(f"the connection broke: {error}".rstrip(": "))
        except RemoteProtocolError as error:
            self._refuse(error)
        else:
            self.break_off("the peer closed the connection")

    def _received(self, data: bytes) -> bytes:
        """Handle so many frames as take a short while, and return the bytes behind them."""
        self.doubted = False
        for event in self._session.receive(data, trio.current_time(), TURN_FRAMES):
            _ACTIONS[type(event)](self, event)
        self._flush()
        return self._session.left

    def _place(self) -> memoryview | None:
        """Offer the room of whoever waits for the bytes of the frame in progress, if it is worth a read of its own."""
        stream, left = self._session.in_progress
        channel = self._channels.get(stream)
        room = None if channel is None or left < LEAST_BYTES else channel.room
        return None if room is None or len(room) < LEAST_BYTES else room[:left]

    def _placed(self, size: int) -> None:
        self.doubted = False
        self._channels[self._session.in_progress[0]].placed(size)
        for event in self._session.placed(size, trio.current_time()):
            _ACTIONS[type(event)](self, event)
        self._flush()

    def _refuse(self, error: RemoteProtocolError) -> None:
        """Say what the peer did wrong, if it listens, and leave."""
        self._flush()
        self.break_off(f"the peer broke the protocol: {error}")

    async def _write(self) -> None:
        while not self._mute:
            while not self._waiting:
                if self._leaving:
                    await self._say_goodbye()
                    return
                await self._wake.wait()
                self._wake = trio.Event()
            await self._write_next()

    async def _write_next(self) -> None:
        deadline_s = CLOSE_TIMEOUT_S if self._leaving else WRITE_TIMEOUT_S
        rest, whole = self._next_block()
        try:
            while rest := rest[self._conduit.send_nowait(rest) :]:
                with trio.move_on_after(deadline_s) as scope:
                    rest = rest[await self._conduit.send_some(rest) :]
                if scope.cancelled_caught:
                    self.break_off(f"the peer took no bytes for {deadline_s:g} s")
                    return
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self.break_off(f"the connection broke: {error}".rstrip(": "))
            return
        self._written(whole)

    def _next_block(self) -> tuple[memoryview, int]:
        """Return what to write next, small pieces joined, and how many pieces that is. They wait until written."""
        size = count = 0
        for piece in self._waiting:
            if count and size + len(piece) > JOIN_BYTES:
                break
            size, count = size + len(piece), count + 1
        if count == 1:
            return self._waiting[0], 1
        return memoryview(b"".join([self._waiting[number] for number in range(count)])), count

    def _written(self, count: int) -> None:
        for _ in range(count):
            self._waiting_bytes -= len(self._waiting.popleft())
        if self._waiting_bytes < ROOM_BYTES:
            self.drained.unpark_all()

    async def _say_goodbye(self) -> None:
        """End the secured connection as its protocol wants it, and wait a moment for the peer to do the same.

        A socket that is closed while it has bytes to read takes back what it sent last.
        """
        self._mute = True
        self._conduit.send_nowait(self._conduit.end())
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await trio.sleep_forever()

    def _flush(self) -> None:
        """Send what the session has to say."""
        data = self._session.output()
        if data and not self._mute:
            self._emit(self._conduit.seal(data))

    def _emit(self, data: bytes) -> None:
        """Give bytes to the socket, or to the writer if it takes none now. Order is kept."""
        rest = memoryview(data)
        if not self._waiting:
            rest = rest[self._conduit.send_nowait(data) :]
            if not rest:
                return
        self._waiting.append(rest)
        self._waiting_bytes += len(rest)
        self._wake.set()
        if self._waiting_bytes > ROOM_BYTES + ANSWER_BYTES_MAX:
            self.break_off(f"the peer makes this side write and does not read: {self._waiting_bytes} bytes wait")

    def _set_alarm(self) -> None:
        """Have the session's time told when it is due, if that is before the time already planned."""
        due = self._session.due
        if self.ended.is_set() or due == math.inf or (self._timer is not None and due >= self._alarm_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._alarm_at = due
        self._timer = self._timers.at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for event in self._session.tick(trio.current_time()):
            _ACTIONS[type(event)](self, event)
        self._flush()
        self._set_alarm()

    # ---- what the session says

    def _opened(self, event: yamux.Opened) -> None:
        self._greet(self._add(event.stream))

    def _arrived(self, event: yamux.Arrived) -> None:
        channel = self._channels.get(event.stream)
        if channel is not None:
            channel.arrived(event.data)

    def _granted(self, event: yamux.Granted) -> None:
        channel = self._channels.get(event.stream)
        if channel is not None:
            channel.granted()

    def _peer_ended(self, event: yamux.Ended) -> None:
        channel = self._channels.get(event.stream)
        if channel is not None:
            channel.peer_ended()

    def _broken(self, event: yamux.Broken) -> None:
        channel = self._channels.get(event.stream)
        if channel is not None:
            channel.broke(whole=event.whole)

    def _went_away(self, event: yamux.WentAway) -> None:
        if event.code != yamux.Farewell.NORMAL:
            self.break_off(f"the peer ended the connection with code {event.code}")

    def _silent(self, _event: yamux.Silent) -> None:
        self.break_off("the peer gave no sign of life")


_ACTIONS: Final[Mapping[type, Callable[[Connection, Any], None]]] = MappingProxyType(
    {
        yamux.Opened: Connection._opened,  # noqa: SLF001 - the table of the class above
        yamux.Arrived: Connection._arrived,  # noqa: SLF001
        yamux.Granted: Connection._granted,  # noqa: SLF001
        yamux.Ended: Connection._peer_ended,  # noqa: SLF001
        yamux.Broken: Connection._broken,  # noqa: SLF001
        yamux.WentAway: Connection._went_away,  # noqa: SLF001
        yamux.Silent: Connection._silent,  # noqa: SLF001
    }
)
