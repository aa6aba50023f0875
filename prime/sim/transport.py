"""The simulated transport: streams between nodes over a network that delays, cuts and kills them.

It keeps the contract of `prime.transport.contract` as TCP would: a stream delivers in order or dies. What is written
while a way is cut waits, and goes on after the cut, or the stream dies of it after `GIVE_UP_S`. Everything is moved by one
courier, in the order of arrival times.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import AddressInUseError, UnreachableError, WrongPeerError
from prime.sim.history import LOSES, History
from prime.sim.network import Network
from prime.transport.contract import BACKLOG_MAX, DIAL_TIMEOUT_S, Buffer, Channel
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, MemoryPlace, parse_address

WINDOW_BYTES = 256 << 10
"""What may be under way or unread on one direction of a stream; a writer waits then."""
SEGMENT_BYTES = 64 << 10
GIVE_UP_S = 15.0
"""How long a stream waits for a way that is cut before it dies."""
RESEND_S = 0.2
"""After a cut, how long until the bytes that waited are sent again."""
SLOW_STEP_S = 0.1
"""How often a slow reader looks whether it is slow still."""
TICKS_PER_S = 1000
"""Bytes arrive at whole milliseconds: what happens at one moment is in an order that the seed draws, and far cheaper."""
_HEAD_BYTES = 60


def has_come(when: float) -> bool:
    """Tell whether a time has come, for what the courier does at its tick: the tick may be a rounding error before it."""
    return trio.current_time() >= when - 0.01 / TICKS_PER_S


class Courier:
    """Does things at their time, one after the other, in one task: `act` must not wait."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._due = math.inf
        self._scope = trio.CancelScope()
        self._is_over = False

    def at(self, when: float, act: Callable[[], object]) -> None:
        """Call `act` at the tick after `when`; what is due at one tick is done in the order in which it was given.

        An infinite time is never due.
        """
        if self._is_over or when == math.inf:
            return
        when = math.ceil(when * TICKS_PER_S - 1e-6) / TICKS_PER_S
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, act))
        if when < self._due:
            self._due = when
            self._scope.deadline = when

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        task_status.started()
        heap = self._heap
        try:
            while True:
                self._due = heap[0][0] if heap else math.inf
                with trio.CancelScope(deadline=self._due) as self._scope:
                    await trio.sleep_forever()
                now = trio.current_time()
                while heap and heap[0][0] <= now:
                    heapq.heappop(heap)[2]()
        finally:
            self._is_over = True
            heap.clear()  # what would have come holds the whole world


class _Waiter:
    """Where one task waits to be woken."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise: Callable[[], BaseException]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)


class _Way:
    """One direction of a stream: from the buffer of `source` to that of `target`."""

    def __init__(self, fabric: Fabric, source: str, target: str) -> None:
        self.fabric = fabric
        self.source = source
        self.target = target
        self.reverse: _Way | None = None
        self.under_way_bytes = 0
        self.pieces: deque[memoryview] = deque()
        self.waiting: deque[tuple[memoryview | None, float]] = deque()
        """What was written while the way was cut, `None` for the end, and when."""
        self.arrives_at = 0.0
        self.finished = False  # the writer has said that no more comes
        self.ended = False  # the reader has got the end
        self.broken_here = False  # the writer knows that the stream is dead
        self.broken_there = False  # the reader knows
        self.closed_here = False  # the writer has closed its channel
        self.closed_there = False  # the reader has
        self.reader = _Waiter()
        self.writer = _Waiter()

    # ---- the writer's end

    @property
    def room_bytes(self) -> int:
        return WINDOW_BYTES - self.under_way_bytes

    def check_writable(self) -> None:
        if self.closed_here:
            raise anyio.ClosedResourceError
        if self.broken_here:
            raise anyio.BrokenResourceError
        if self.finished:
            raise anyio.ClosedResourceError

    def write(self, piece: memoryview) -> None:
        self.under_way_bytes += len(piece)
        self._send(piece)

    def finish(self) -> None:
        if not self.finished:
            self.finished = True
            self._send(None)

    def _send(self, piece: memoryview | None) -> None:
        fabric, now = self.fabric, trio.current_time()
        if self.waiting or not fabric.reaches(self.source, self.target):
            self.waiting.append((piece, now))
            if len(self.waiting) == 1:
                fabric.wait(self, now + GIVE_UP_S)
            return
        size_bytes = _HEAD_BYTES + (len(piece) if piece is not None else 0)
        at = fabric.network.segment(self.source, self.target, size_bytes, now)
        if at is None:
            fabric.kill(self, "lost")
            return
        if piece is not None and not fabric.network.faults.sealed:
            piece = self._as_it_arrives(piece)
        self.arrives_at = max(self.arrives_at, at)
        fabric.courier.at(self.arrives_at, lambda: self._arrive(piece))

    def _as_it_arrives(self, piece: memoryview) -> memoryview:
        bit = self.fabric.network.flipped_bit(self.source, self.target, len(piece))
        if bit is None:
            return piece
        changed = bytearray(piece)
        changed[bit // 8] ^= 1 << bit % 8
        return memoryview(bytes(changed))

    def go_on(self, now: float) -> None:
        """Send what waited for a cut to end."""
        waiting, self.waiting = self.waiting, deque()
        self.arrives_at = max(self.arrives_at, now + RESEND_S)
        for piece, _ in waiting:
            self._send(piece)

    # ---- the reader's end

    def _arrive(self, piece: memoryview | None) -> None:
        if self.broken_there:
            return
        if self.closed_there:
            if piece is not None:
                self.fabric.reset(self)
            return
        if piece is None:
            self.ended = True
        else:
            self.fabric.arrived(self.source, self.target, piece)
            self.pieces.append(piece)
        self.reader.wake()

    @property
    def is_over_there(self) -> bool:
        return self.closed_there or self.broken_there or self.ended

    def check_readable(self) -> None:
        if self.closed_there:
            raise anyio.ClosedResourceError
        if self.broken_there:
            raise anyio.BrokenResourceError
        if self.ended:
            raise anyio.EndOfStream

    def take(self, max_bytes: int) -> bytes:
        piece = self.pieces.popleft()
        if len(piece) > max_bytes:
            self.pieces.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        self.under_way_bytes -= len(piece)
        self.writer.wake()
        whole = piece.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(piece) else bytes(piece)

    # ---- the end

    def break_here(self) -> None:
        self.broken_here = True
        self.waiting.clear()
        self.writer.wake()

    def break_there(self) -> None:
        self.broken_there = True
        self.pieces.clear()
        self.reader.wake()

    def close_there(self) -> None:
        self.closed_there = True
        self.pieces.clear()
        self.reader.wake()


@attrs.frozen(eq=False)
class _News:
    """That a stream is dead, on its way from `source` to `target`."""

    source: str
    target: str
    not_before: float
    act: Callable[[], None]


class SimChannel(Channel):
    """One end of a simulated stream."""

    def __init__(self, peer: PeerId, endpoint: SimEndpoint, inward: _Way, outward: _Way) -> None:
        self._peer = peer
        self._endpoint = endpoint
        self.inward = inward
        self.outward = outward
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")

    @property
    def peer(self) -> PeerId:
        """The id of the other end; the simulated network vouches for it."""
        return self._peer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`."""
        way = self.inward
        with self._receiving:
            if way.pieces or way.is_over_there:
                await trio.lowlevel.checkpoint()
            while not way.pieces:
                way.check_readable()
                await way.reader.wait()
            if way.fabric.slow:
                await self._read_slowly(min(len(way.pieces[0]), max_bytes))
            return way.take(max_bytes)

    async def _read_slowly(self, size_bytes: float) -> None:
        """Take as long as so many bytes take at the node's rate, which may change or end meanwhile."""
        way = self.inward
        while size_bytes > 1e-6 and (rate := way.fabric.slow.get(way.target)) is not None:
            for_s = min(size_bytes / rate, SLOW_STEP_S)
            await trio.sleep(for_s)
            if not way.pieces:
                way.check_readable()
            size_bytes -= for_s * rate

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`."""
        await trio.lowlevel.checkpoint()
        way = self.outward
        with self._sending:
            rest = _unchanging(item)
            begun = False
            try:
                while rest:
                    await self._room()
                    size = min(len(rest), way.room_bytes, SEGMENT_BYTES)
                    way.write(rest[:size])
                    rest, begun = rest[size:], True
            except trio.Cancelled:
                if begun and rest:
                    way.fabric.kill(way, "torn")
                raise
            way.check_writable()

    async def _room(self) -> None:
        way = self.outward
        way.check_writable()
        while way.room_bytes <= 0:
            await way.writer.wait()
            way.check_writable()

    def send_nowait(self, item: Buffer) -> int:
        """See `Channel.send_nowait`."""
        way = self.outward
        if way.closed_here or way.broken_here or way.finished:
            return 0
        size = min(len(item), way.room_bytes, SEGMENT_BYTES)
        if size <= 0:
            return 0
        way.write(_unchanging(item)[:size])
        return size

    async def send_eof(self) -> None:
        """End our direction."""
        await trio.lowlevel.checkpoint()
        if self.outward.closed_here:
            raise anyio.ClosedResourceError
        self.outward.finish()

    async def aclose(self) -> None:
        """End both directions; what was written is still delivered."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """As `aclose`, for an endpoint that ends."""
        self.outward.finish()
        self.outward.closed_here = True
        self.outward.writer.wake()
        self.inward.close_there()
        self._endpoint.channels.pop(self, None)
        if self.outward.closed_there:  # the other end has closed too: they need not know each other any more
            self.outward.reverse = self.inward.reverse = None


def _unchanging(item: Buffer) -> memoryview:
    view = memoryview(item).cast("B")
    return view if view.readonly and isinstance(view.obj, bytes) else memoryview(bytes(view))


class SimEndpoint:
    """A node's place on the simulated network, for one life of the node."""

    def __init__(self, fabric: Fabric, node: str, peer: PeerId, *, backlog_max: int, dial_timeout_s: float) -> None:
        self.node = node
        self._addresses = (str(Address(MemoryPlace(node), peer)),)
        self.is_dead = False
        self._fabric = fabric
        self._peer = peer
        self._dial_timeout_s = dial_timeout_s
        self._arrived, self._waiting = trio.open_memory_channel[SimChannel](backlog_max)
        self.channels: dict[SimChannel, None] = {}

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        """The one address, `/memory/NODE/p2p/ID`."""
        return self._addresses

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`."""
        if self.is_dead:
            raise anyio.ClosedResourceError
        wanted = parse_address(address).expecting(peer)
        with trio.move_on_after(self._dial_timeout_s):
            return await self._connect(wanted)
        raise UnreachableError(
            f"{address} did not answer within {self._dial_timeout_s:g} s.",
            hint="The way to it is cut, its machine is off, or it has stopped accepting.",
        )

    async def _connect(self, wanted: Address) -> SimChannel:
        if not isinstance(wanted.place, MemoryPlace):
            raise UnreachableError(f"{wanted} is no address of this network.", hint="Dial /memory/NODE.")
        name = wanted.place.name
        await self._fabric.round_trip(self.node, name)
        far = self._fabric.listener(name)
        if far is None:
            raise UnreachableError(f"Nobody listens at {wanted}.", hint="Start that node, or wait until it is up.")
        if wanted.peer not in {None, far.peer}:
            raise WrongPeerError(
                f"At {wanted.place} answers {far.peer}, not {wanted.peer}.", hint="Correct the address."
            )
        here, there = self._fabric.pair(self, far)
        await far.admit(there)
        return here

    async def admit(self, channel: SimChannel) -> None:
        """Queue an inbound channel; waits while the backlog is full."""
        try:
            await self._arrived.send(channel)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise UnreachableError(
                f"{self.addresses[0]} closed before it accepted.", hint="Dial again later."
            ) from None

    async def accept(self) -> Channel:
        """See `Endpoint.accept`."""
        try:
            return await self._waiting.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise anyio.ClosedResourceError from None

    def close_nowait(self) -> None:
        """Stop accepting and close every channel."""
        self._stop_accepting()
        for channel in tuple(self.channels):
            channel.close_nowait()

    def die(self, *, silently: bool) -> None:
        """End with the node's process: its streams are reset, or with its machine, so that nobody hears of it."""
        self._stop_accepting()
        for channel in tuple(self.channels):
            channel.outward.broken_here = channel.inward.broken_there = True
            channel.outward.waiting.clear()
            channel.outward.writer.wake()
            channel.inward.pieces.clear()
            channel.inward.reader.wake()
            self._fabric.died(channel, silently=silently)
        self.channels.clear()

    def _stop_accepting(self) -> None:
        self.is_dead = True
        self._arrived.close()
        self._waiting.close()


@attrs.frozen
class SimTransport:
    """The transport of one node on the simulated network."""

    fabric: Fabric = attrs.field(repr=False)
    node: str = ""
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S

    @property
    def name(self) -> str:
        """`sim`."""
        return "sim"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[SimEndpoint]:
        """See `Transport.open`."""
        endpoint = SimEndpoint(
            self.fabric, self.node, key.peer, backlog_max=self.backlog_max, dial_timeout_s=self.dial_timeout_s
        )
        self.fabric.join(endpoint)
        try:
            yield endpoint
        finally:
            self.fabric.leave(endpoint)
            endpoint.close_nowait()


class Fabric:
    """All streams and listeners of a world."""

    def __init__(self, network: Network, courier: Courier, history: History) -> None:
        self.network = network
        self.courier = courier
        self.slow: dict[str, float] = {}
        """Bytes a second that a node's sockets are read with, where that is limited."""
        self._history = history
        self._listeners: dict[str, SimEndpoint] = {}
        self._off: dict[str, None] = {}
        self._waiting: dict[_Way, None] = {}
        self._news: dict[_News, None] = {}
        """Ends of streams that are not heard of yet, as their way is cut."""
        self._silent: dict[str, list[SimChannel]] = {}
        """Streams whose far end went off with its machine: they are reset when it is on again."""

    # ---- listening and dialling

    def join(self, endpoint: SimEndpoint) -> None:
        """Listen for a node. Raises `AddressInUseError`."""
        if endpoint.node in self._listeners:
            raise AddressInUseError(f"{endpoint.node} already listens.", hint="A node opens one system at a time.")
        self._listeners[endpoint.node] = endpoint

    def leave(self, endpoint: SimEndpoint) -> None:
        """Listen no more."""
        if self._listeners.get(endpoint.node) is endpoint:
            del self._listeners[endpoint.node]

    def listener(self, node: str) -> SimEndpoint | None:
        """Return who listens for a node now."""
        return self._listeners.get(node)

    async def round_trip(self, source: str, target: str) -> None:
        """Wait for a packet's way there and back; sent again each second until it gets through."""
        while True:
            now = trio.current_time()
            if self.reaches(source, target) and self.reaches(target, source):
                there = self.network.segment(source, target, _HEAD_BYTES, now)
                back = self.network.segment(target, source, _HEAD_BYTES, there) if there is not None else None
                if back is not None:
                    come = _Waiter()
                    self.courier.at(back, come.wake)
                    await come.wait()
                    return
            await trio.sleep(1.0)

    def pair(self, near: SimEndpoint, far: SimEndpoint) -> tuple[SimChannel, SimChannel]:
        """Return both ends of a new stream."""
        outward, inward = _Way(self, near.node, far.node), _Way(self, far.node, near.node)
        outward.reverse, inward.reverse = inward, outward
        here = SimChannel(far.peer, near, inward, outward)
        there = SimChannel(near.peer, far, outward, inward)
        near.channels[here] = far.channels[there] = None
        return here, there

    # ---- ways

    def reaches(self, source: str, target: str) -> bool:
        """Tell whether packets go from one node to another now: no cut, and both machines are on."""
        return source not in self._off and target not in self._off and self.network.is_open(source, target)

    def arrived(self, source: str, target: str, piece: memoryview) -> None:
        """Put bytes that came into the trace."""
        self._history.add_bytes(trio.current_time(), source, target, len(piece), zlib.crc32(piece))

    def wait(self, way: _Way, until: float) -> None:
        """Remember a direction whose bytes wait for a cut to end, and let its stream die if that takes too long."""
        self._waiting[way] = None

        def give_up() -> None:
            if way.waiting and has_come(way.waiting[0][1] + GIVE_UP_S):
                self.kill(way, "timed out")

        self.courier.at(until, give_up)

    def ways_changed(self) -> None:
        """Let the bytes go on that waited for a way which is open now."""
        now = trio.current_time()
        for way in tuple(self._waiting):
            if not way.waiting:
                del self._waiting[way]
            elif self.reaches(way.source, way.target):
                del self._waiting[way]
                way.go_on(now)
        for news in tuple(self._news):
            if self.reaches(news.source, news.target):
                del self._news[news]
                self.courier.at(max(now + RESEND_S, news.not_before), news.act)

    # ---- streams that die

    def kill(self, way: _Way, why: str) -> None:
        """Let the stream of a direction die: what is under way arrives, then both ends notice."""
        now = trio.current_time()
        self._history.add(now, way.source, LOSES, f"stream to {way.target}", why)
        latency_s = self.network.faults.latency_s
        reverse, waited = way.reverse, why == "timed out"  # who waited so long gives up at both ends
        self.courier.at(now + latency_s, way.break_here)
        self._tell(way, way.break_there, at_once=waited)
        if reverse is not None:
            self.courier.at(max(now + latency_s, reverse.arrives_at), reverse.break_there)
            self._tell(way, reverse.break_here, at_once=waited)

    def reset(self, way: _Way) -> None:
        """Bytes came for a channel that was closed: their writer hears that nobody reads."""
        self._tell(way, way.break_here, back=True)

    def died(self, channel: SimChannel, *, silently: bool) -> None:
        """One end of a stream is gone with its process (the other end hears it) or its machine (it does not)."""
        if silently:
            self._silent.setdefault(channel.outward.source, []).append(channel)
        else:
            self._reset_far(channel)

    def switch_off(self, node: str) -> None:
        """Take a machine off the network."""
        self._off[node] = None

    def switch_on(self, node: str) -> None:
        """Put a machine on the network again: it resets the streams of its earlier life."""
        self._off.pop(node, None)
        for channel in self._silent.pop(node, []):
            self._reset_far(channel)
        self.ways_changed()

    def _reset_far(self, channel: SimChannel) -> None:
        self._tell(channel.outward, channel.outward.break_there)
        self._tell(channel.outward, channel.inward.break_here)

    def _tell(self, way: _Way, act: Callable[[], None], *, back: bool = False, at_once: bool = False) -> None:
        """Let the end of a way, or with `back` its beginning, hear that the stream is dead.

        While the way of packets is cut it hears nothing, until that is open again or `GIVE_UP_S` are over.
        """
        now, latency_s = trio.current_time(), self.network.faults.latency_s
        source, target = (way.target, way.source) if back else (way.source, way.target)
        if at_once or self.reaches(source, target):
            self.courier.at(max(now + latency_s, 0.0 if back else way.arrives_at), act)
            return
        news = _News(source, target, 0.0 if back else way.arrives_at, act)
        self._news[news] = None
        self.courier.at(now + GIVE_UP_S, partial(self._hear, news))

    def _hear(self, news: _News) -> None:
        if news in self._news:
            del self._news[news]
            news.act()
