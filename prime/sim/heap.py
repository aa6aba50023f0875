"""The fast engine: pure cores on a plain heap of events, without Trio, for thousands of nodes.

A `Program` runs on each node: a pure core in a shell as thin as its core allows. It hears datagrams and channels, sets
alarms and writes records; nothing in it awaits. The network is the same model as for actors (`network.py`), the plan of
what goes wrong is the same (`plan.py`), and the same seed gives the same `trace`. Times are seconds of virtual time.

What differs from the world of actors: one call of a program is one step, so a `Crash` with `steps` comes that many calls
later and never within one; the disk is a list of records, and costs no time.
"""

# ruff: noqa: SLF001 - a world, its nodes and its channels are one engine in three classes, private to others

from __future__ import annotations

import errno
import gc
import hashlib
import heapq
import math
import struct
import zlib
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, Literal, Protocol

from prime.errors import UsageError, ViolationError
from prime.sim import plan as pl
from prime.sim.history import History
from prime.sim.invariants import Check, Spell, problem, words
from prime.sim.network import Network, Way
from prime.sim.streams import Streams

_MARK: Final = struct.Struct("<dIBI")
_HEARD, _WOKEN, _CALLED, _DIALLED, _RECEIVED, _ENDED = range(6)
_NEVER: Final = math.inf
_AT_ONCE_MAX: Final = 2**20
"""So many events at one moment of virtual time are a program that spins."""

_Act = Callable[[Any, Any, Any], None]
_Event = tuple[float, int, _Act, Any, Any, Any]


class Program:
    """What runs on a node, from one start to the next crash: a new one is made for each life. Override what is needed."""

    def started(self, node: HeapNode) -> None:
        """Begin; keep `node`."""

    def heard(self, source: str, message: Any) -> None:
        """Take a datagram from the node `source`."""

    def woken(self, now: float) -> None:
        """Do what was put off: the alarm of `HeapNode.wake_at` has come."""

    def dialled(self, channel: HeapChannel) -> None:
        """Take a channel that the node `channel.peer` opened; set its `reader`."""


class Reader(Protocol):
    """Who reads a channel."""

    def received(self, data: bytes) -> None:
        """Take the bytes of one write of the other end's; writes are neither joined nor split."""

    def ended(self, cause: str) -> None:
        """Hear, once, that nothing more comes and nothing more goes."""


class _Deaf:
    """Who reads a channel that nobody reads."""

    def received(self, data: bytes) -> None:
        """Drop them."""

    def ended(self, cause: str) -> None:
        """Drop it."""


_DEAF: Final = _Deaf()


class RecordDisk:
    """The disk of a node: a list of records, of which the synced ones outlive a crash of the machine."""

    def __init__(self, faults: pl.DiskFaults, random: Random) -> None:
        self.records: list[Any] = []
        self.faults = faults
        self.full = 0
        self.gone = 0
        self._synced = 0
        self._random = random

    def write(self, record: Any) -> None:
        """Append a record, which a crash of the machine may take until `sync`. Raises `OSError` on a disk that is full or gone."""
        if self.gone:
            raise OSError(errno.EIO, "the simulated disk is gone")
        if self.full:
            raise OSError(errno.ENOSPC, "the simulated disk is full")
        self.records.append(record)

    def sync(self) -> None:
        """Let all that was written outlive any crash. Raises `OSError` on a disk that is gone."""
        if self.gone:
            raise OSError(errno.EIO, "the simulated disk is gone")
        self._synced = len(self.records)

    def replace(self, records: Iterable[Any]) -> None:
        """Put other records in the place of all, at once and synced, as a rename does."""
        kept = list(records)
        if self.gone or self.full:
            raise OSError(errno.EIO if self.gone else errno.ENOSPC, "the simulated disk takes nothing")
        self.records = kept
        self._synced = len(kept)

    def crash(self, *, power: bool = True) -> None:
        """Lose what the faults say is lost: all that was not synced, or the end of it, torn within a record of bytes.

        Without `power` lost only the process has ended: the system keeps what it wrote.
        """
        if not power or not self.faults.unsynced or self._synced >= len(self.records):
            self._synced = len(self.records)
            return
        keep = self._synced
        if self.faults.torn:
            keep += self._random.randrange(len(self.records) - keep + 1)
            if keep < len(self.records) and type(torn := self.records[keep]) is bytes and torn:
                self.records[keep] = torn[: self._random.randrange(len(torn))]
                keep += 1
        del self.records[keep:]
        self._synced = len(self.records)

    def lose(self) -> None:
        """Forget everything: the node comes back with another disk."""
        self.records = []
        self._synced = 0

    def flip(self) -> None:
        """Change one bit of one record of bytes; other records have none."""
        places = [index for index, record in enumerate(self.records) if type(record) is bytes and record]
        if places:
            place = self._random.choice(places)
            self.records[place] = _flipped(self.records[place], self._random)


class HeapChannel:
    """One end of an authenticated byte stream between two nodes: bytes come whole, in order, or it ends."""

    __slots__ = (
        "_arrives_at",
        "_calling",
        "_far",
        "_held",
        "_life",
        "_opens_at",
        "_way",
        "is_open",
        "node",
        "peer",
        "reader",
    )

    def __init__(self, node: HeapNode, peer: str, way: Way, opens_at: float) -> None:
        self.node = node
        self.peer = peer
        self._way = way
        self.reader: Reader = _DEAF
        self.is_open = True
        self._far: HeapChannel
        self._opens_at = opens_at
        self._arrives_at = 0.0
        self._held: list[bytes | None] | None = None
        self._calling = False  # the call itself waits for a cut to be mended
        self._life = node.lives

    def write(self, data: bytes) -> None:
        """Send bytes; on a channel that has ended they go nowhere."""
        if not self.is_open or not data:
            return
        way, world = self._way, self.node.world
        network, far, now = world.network, self._far, world.now
        if self._held is not None or way.cuts or not network.faults.sealed or far.node._read_bytes_per_s is not _NEVER:
            world._write(self, data)
            return
        at = network.segment_on(way, len(data), now)  # as `HeapWorld._write`, where nothing is in the way
        if at is None:
            world._break(self)
            return
        if self._opens_at > now:
            at += self._opens_at - now
        self._arrives_at = at = max(at, self._arrives_at)
        world._count = count = world._count + 1
        heapq.heappush(world._heap, (at, count, world._bytes_came, far, data, None))

    def close(self) -> None:
        """End it in order: the other end hears so behind what was written. This one hears nothing more."""
        if self.is_open:
            self.is_open = False
            self.reader = _DEAF
            self.node._channels.pop(self, None)
            self.node.world._write(self, None)


class HeapNode:
    """One machine of a `HeapWorld`, over all its lives."""

    def __init__(self, world: HeapWorld, index: int, name: str, make: Callable[[], Program]) -> None:
        self.world = world
        self.name = name
        self.lives = 0
        self.is_up = False
        self.disk = RecordDisk(world.plan.disk, world.streams.stream("disk", name))
        self.program: Program = Program()
        self._make = make
        self._index = index
        self._careful = True  # it is down, paused, or its steps are counted: look twice before calling its program
        self._held_until = 0.0
        self._steps_left = -1
        self._crash: pl.Crash | None = None
        self._starts_at = _NEVER
        self._deferred: list[tuple[_Act, Any, Any, Any]] = []
        self._wakes_at = _NEVER
        self._channels: dict[HeapChannel, None] = {}
        self._base_s, self._since_s, self._rate = 0.0, 0.0, 1.0
        self._read_at = 0.0
        self._read_bytes_per_s = _NEVER
        self._reads_slowly_until = 0.0

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.world.now

    @property
    def clock(self) -> float:
        """What this node's wall clock shows; alarms go by the virtual time, as by a monotonic clock."""
        return self._base_s + (self.world.now - self._since_s) * self._rate

    @property
    def is_paused(self) -> bool:
        """Tell whether it stands still."""
        return self._held_until > 0

    def random(self, *purpose: str) -> Random:
        """Return this node's random stream for a purpose; it goes on over crashes."""
        return self.world.streams.stream("node", self.name, *purpose)

    def note(self, kind: str, subject: str = "", **detail: object) -> None:
        """Put an event of this node into the history; a node that has crashed notes nothing."""
        if self.is_up:
            self.world.record(self.name, kind, subject, words(detail))

    # ---- what its program asks for

    def send(self, target: str, message: Any, size_bytes: int = 0) -> None:
        """Send a datagram: it may be lost, doubled, late or changed.

        Bytes that the network corrupts come with a bit flipped; any other object is then lost, as what does not decode.
        `size_bytes` is what an object counts on a link with a bandwidth; bytes count themselves.
        """
        world = self.world
        there = world.nodes.get(target)
        if there is None or not self.is_up:
            return
        if there is self:
            world._push(world.now, world._datagram_came, self, target, message)
            return
        is_bytes = type(message) is bytes
        size = len(message) if is_bytes else size_bytes
        for arrival in world.network.datagram(self.name, target, size, world.now):
            copy = message
            if arrival.corrupted:
                if not is_bytes or not message:
                    continue
                copy = _flipped(message, world.streams.stream("corruption", self.name))
            at = there._read_from(arrival.at, size)
            world._push(at, world._datagram_came, there, self.name, copy)

    def dial(self, target: str, reader: Reader) -> HeapChannel:
        """Open a channel to another node; what is written at once goes once it stands, a round trip from now."""
        return self.world._dial(self, target, reader)

    def wake_at(self, at: float) -> None:
        """Have `Program.woken` called at a time, once; of two alarms that were not yet due, the sooner holds."""
        if at < self._wakes_at:
            self._wakes_at = at
            world = self.world
            world._push(max(at, world.now), world._alarm, self, self.lives, at)

    def later(self, delay_s: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call something in a while, unless this life of the node has ended by then."""
        world = self.world
        world._push(world.now + delay_s, world._timer, self, self.lives, (act, arguments))

    def persist(self, record: Any) -> None:
        """Write a record and sync; a node that has just crashed writes nothing. Raises `OSError` as its disk does."""
        if not self.is_up:
            return
        self.disk.write(record)
        self.disk.sync()

    # ---- what is done to it

    def restart(self) -> None:
        """Start it, with a new program, if it does not run."""
        if self.is_up:
            return
        self.is_up = True
        self.lives += 1
        self._crash = None
        self._steps_left = -1
        self._careful = False
        self._wakes_at = self._starts_at = _NEVER
        self.program = self._make()
        self.world.record(self.name, "starts", "", f"life {self.lives}")
        self.program.started(self)

    def crash(self, down_s: float = 1.0, *, machine: bool = False, disk: Literal["kept", "lost"] = "kept") -> None:
        """End its process now, and start it again after `down_s` (never, if infinite). See `plan.Crash`."""
        if not self.is_up:
            return
        world = self.world
        world.record(self.name, "crashes", "machine" if machine else "process", f"disk {disk}")
        self.is_up, self._careful, self._steps_left, self._crash = False, True, -1, None
        self._held_until = 0.0
        self.program = Program()
        self._deferred.clear()
        channels, self._channels = self._channels, {}
        for channel in channels:
            channel.is_open = False
            if not machine:
                world._reset(channel)
        self.disk.crash(power=machine)
        if disk == "lost":
            self.disk.lose()
        self._starts_at = world.now + down_s
        if down_s < _NEVER:
            world.at(down_s, self._start_if_due)

    def pause(self, for_s: float) -> None:
        """Let nothing in it run for so long; its channels stay open, and what comes waits in front of it."""
        if self.is_up:
            self.world.record(self.name, "pauses", "", f"for {for_s:g} s")
            self._held_until = max(self._held_until, self.world.now + for_s)
            self._careful = True
            self.world.at(for_s, self._release_if_due)

    def release(self) -> None:
        """End a pause; what waited is handled now, in order."""
        self._held_until = 0.0
        self._careful = not self.is_up or self._steps_left >= 0
        deferred, self._deferred = self._deferred, []
        for act, a, b, c in deferred:
            self.world._push(self.world.now, act, a, b, c)

    def _start_if_due(self) -> None:
        if self.world.now >= self._starts_at:
            self.restart()

    def _release_if_due(self) -> None:
        if self._held_until and self.world.now >= self._held_until:
            self.release()

    def _skew(self, offset_s: float, rate: float) -> None:
        self._base_s, self._since_s, self._rate = self.clock + offset_s, self.world.now, rate

    def _ready(self, act: _Act, a: Any, b: Any, c: Any) -> bool:
        """Tell whether its program may be called now; what comes while it is paused is put off."""
        if not self.is_up:
            return False
        if self._held_until:
            self._deferred.append((act, a, b, c))
            return False
        if self._steps_left == 0:
            if self._crash is not None:
                self.crash(self._crash.down_s, machine=self._crash.machine, disk=self._crash.disk)
            return False
        self._steps_left -= self._steps_left > 0
        return True

    def _read_from(self, at: float, size_bytes: int) -> float:
        if self._read_bytes_per_s is _NEVER:
            return at
        self._read_at = max(self._read_at, at) + size_bytes / self._read_bytes_per_s
        return self._read_at


class HeapWorld:
    """Nodes, the network between them, what goes wrong, and the heap of what happens next."""

    def __init__(self, seed: int, plan: pl.Plan | None = None) -> None:
        self.seed = seed
        self.plan = plan or pl.Plan()
        self.streams = Streams(seed)
        self.network = Network(self.streams, self.plan.network, by_source=True)
        self.now = 0.0
        self.events = 0
        self.nodes: dict[str, HeapNode] = {}
        self.history = History()
        self.is_stormy = True
        self._heap: list[_Event] = []
        self._count = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._checks: list[tuple[str, Callable[[], bool | None]]] = []
        self._stuck: dict[HeapChannel, None] = {}
        self.at(self.plan.storm_s, self.calm)
        for action in self.plan.actions:
            self.at(action.at_s, self._begin, action)

    # ---- what a scenario does

    def add(self, name: str, make: Callable[[], Program]) -> HeapNode:
        """Make a node and start it; `make` returns the program of each of its lives."""
        if name in self.nodes:
            raise UsageError(f"there is a node {name} already", hint="Give each node a name of its own.")
        node = self.nodes[name] = HeapNode(self, len(self.nodes), name, make)
        node.restart()
        return node

    def at(self, delay_s: float, act: Callable[..., Any], *arguments: Any) -> None:
        """Call something in a while, whatever becomes of any node; at once for a time that is over."""
        self._push(self.now + max(delay_s, 0.0), self._call, act, arguments, None)

    def random(self, *name: str) -> Random:
        """Return the random stream of a name that is the scenario's own."""
        return self.streams.stream("scenario", *name)

    def note(self, kind: str, subject: str = "", **detail: object) -> None:
        """Put an event of the world into the history."""
        self.record("", kind, subject, words(detail))

    def record(self, node: str, kind: str, subject: str = "", detail: str = "") -> None:
        """Put an event into the history, and so into the trace."""
        self.history.add(self.now, node, kind, subject, detail)

    def always(self, name: str, check: Check) -> None:
        """Have a check made after each event; see `World.always`."""
        self._checks.append((name, check))

    def never_again(self, name: str, condition: Callable[[], bool]) -> None:
        """Once `condition()` has been true and then false, it must not become true again."""
        self.always(name, Spell(condition).check)

    def run(self, seconds: float) -> None:
        """Let time go on."""
        self.run_until(self.now + seconds)

    def run_until(self, time: float) -> None:
        """Do all that happens until a time."""
        self._go(time, None)
        self.now = max(self.now, time)

    def _go(self, time: float, done: Callable[[], bool] | None) -> bool:
        collects = gc.isenabled()
        gc.disable()  # what is made here is freed by count; to look through a thousand nodes again and again is the price
        try:
            return self._run_until(time, done)
        finally:
            if collects:
                gc.enable()

    def _run_until(self, time: float, done: Callable[[], bool] | None) -> bool:
        """Do what happens until a time, or until `done` holds; tell whether it does."""
        heap, pop, checks = self._heap, heapq.heappop, self._checks
        count, turn_at = 0, -_NEVER
        try:
            while heap and heap[0][0] <= time:
                if done is not None and done():
                    return True
                self.now, _, act, a, b, c = pop(heap)
                act(a, b, c)
                count += 1
                if checks:
                    self._check()
                if not count % _AT_ONCE_MAX:
                    self._must_go_on(turn_at)
                    turn_at = self.now
        finally:
            self.events += count
        return done is not None and done()

    def until(self, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        """Go on until a condition holds; see `eventually`, which takes a name."""
        self.eventually("it", condition, within_s)

    def eventually(self, name: str, condition: Callable[[], bool], within_s: float) -> None:
        """Go on until a condition holds. Raises `ViolationError` if it does not in time."""
        if not self._go(self.now + within_s, condition):
            raise ViolationError(f"{name}: not within {within_s:g} s", name=name, hint=self._where())

    def calm(self) -> None:
        """End the storm: no faults any more, everything is mended, every node that the plan took runs again."""
        self.record("", "calms down")
        self.is_stormy = False
        self.network.faults = pl.NetworkFaults()
        self.network.mend_all()
        self._flow()
        for node in self.nodes.values():
            node.disk.faults, node.disk.full, node.disk.gone = pl.DiskFaults(), 0, 0
            node._steps_left, node._read_bytes_per_s = -1, _NEVER
            node._skew(0.0, 1.0)
            node.release()
            if node._starts_at < _NEVER:
                node.restart()

    def cut(self, source: str, target: str) -> None:
        """Let nothing more go one way; bytes on a channel wait, datagrams are lost."""
        self.network.cut(source, target)

    def mend(self, source: str, target: str) -> None:
        """Undo one cut; what waited goes on."""
        self.network.mend(source, target)
        self._flow()

    @property
    def trace(self) -> str:
        """The hash of all that happened so far: who was called when, with what."""
        whole = self._hash.copy()
        whole.update(self.history.trace.encode())
        return whole.hexdigest()

    # ---- the plan

    def _begin(self, action: pl.Action) -> None:
        if not self.is_stormy:
            return
        missing = [name for name in pl.nodes_of(action) if name not in self.nodes]
        if missing:
            raise UsageError(f"the plan names {missing[0]}, which is no node", hint="Add the node, or draw for others.")
        if not isinstance(action, pl.Crash | pl.Pause):  # these are noted when they come
            self.record("", "meets", type(action).__name__, repr(action))
        match action:
            case pl.Crash(node):
                self._crash_soon(self.nodes[node], action)
            case pl.Pause(node, _, for_s):
                self.nodes[node].pause(for_s)
            case pl.Skew(node, _, offset_s, rate):
                self.nodes[node]._skew(offset_s, rate)
            case pl.Cut(source, target, _, for_s):
                self._part([(source, target)], for_s)
            case pl.Partition(side, _, for_s):
                self._part(self.network.across(side, self.nodes), for_s)
            case _:
                self._begin_slow(action)

    def _crash_soon(self, node: HeapNode, crash: pl.Crash) -> None:
        if not crash.steps:
            node.crash(crash.down_s, machine=crash.machine, disk=crash.disk)
        elif node.is_up:
            if node._steps_left < 0 or crash.steps < node._steps_left:
                node._crash, node._steps_left, node._careful = crash, crash.steps, True
            self.at(pl.STEPS_WITHIN_S, self._crash_late, node, node.lives, crash)

    def _crash_late(self, node: HeapNode, life: int, crash: pl.Crash) -> None:
        if self.is_stormy and node.lives == life:
            node.crash(crash.down_s, machine=crash.machine, disk=crash.disk)

    def _begin_slow(self, action: pl.Action) -> None:
        match action:
            case pl.SlowReader(node, _, for_s, bytes_per_s):
                self.nodes[node]._read_bytes_per_s = bytes_per_s
                self.nodes[node]._reads_slowly_until = max(self.nodes[node]._reads_slowly_until, self.now + for_s)
                self.at(for_s, self._read_fast, self.nodes[node])
            case pl.DiskFull(node, _, for_s):
                self.nodes[node].disk.full += 1
                self.at(for_s, self._free, self.nodes[node].disk)
            case pl.DiskGone(node, _, for_s):
                self.nodes[node].disk.gone += 1
                self.at(for_s, self._find, self.nodes[node].disk)
            case pl.BitFlip(node):
                self.nodes[node].disk.flip()

    def _part(self, ways: list[tuple[str, str]], for_s: float) -> None:
        for source, target in ways:
            self.network.cut(source, target)
        self.at(for_s, self._join, ways)

    def _join(self, ways: list[tuple[str, str]]) -> None:
        for source, target in ways:
            self.network.mend(source, target)
        self._flow()

    def _read_fast(self, node: HeapNode) -> None:
        if self.now >= node._reads_slowly_until:
            node._read_bytes_per_s = _NEVER

    def _free(self, disk: RecordDisk) -> None:
        disk.full = max(disk.full - 1, 0)

    def _find(self, disk: RecordDisk) -> None:
        disk.gone = max(disk.gone - 1, 0)

    # ---- events

    def _push(self, at: float, act: _Act, a: Any, b: Any, c: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, act, a, b, c))

    def _check(self) -> None:
        for name, check in self._checks:
            if (wrong := problem(check)) is not None:
                raise ViolationError(f"{name}{wrong}", name=name, hint=self._where())

    def _must_go_on(self, since: float) -> None:
        if self.now == since:
            raise ViolationError("a program spins: it runs on and on at one moment", name="it ends", hint=self._where())

    def _where(self) -> str:
        return f"seed {self.seed}, at {self.now:.6f} s"

    def _call(self, act: Any, arguments: Any, _c: Any) -> None:
        act(*arguments)

    def _timer(self, node: Any, life: Any, call: Any) -> None:
        if node.lives != life or (node._careful and not node._ready(self._timer, node, life, call)):
            return
        self._hash.update(_MARK.pack(self.now, node._index, _CALLED, 0))
        call[0](*call[1])

    def _alarm(self, node: Any, life: Any, at: Any) -> None:
        if node.lives != life or node._wakes_at != at:
            return
        if node._careful and not node._ready(self._alarm, node, life, at):
            return
        node._wakes_at = _NEVER
        self._hash.update(_MARK.pack(self.now, node._index, _WOKEN, 0))
        node.program.woken(self.now)

    def _datagram_came(self, node: Any, source: Any, message: Any) -> None:
        if node._careful and not node._ready(self._datagram_came, node, source, message):
            return
        value = zlib.crc32(message) if type(message) is bytes else self.nodes[source]._index
        self._hash.update(_MARK.pack(self.now, node._index, _HEARD, value))
        node.program.heard(source, message)

    # ---- channels

    def _dial(self, node: HeapNode, target: str, reader: Reader) -> HeapChannel:
        there = self.nodes.get(target)
        if there is None:
            raise UsageError(f"{target} is no node of this world", hint="Dial the name of a node that was added.")
        network, name = self.network, node.name
        way = network.way(name, target)
        arrives_at = network.segment_on(way, 0, self.now)
        near = HeapChannel(node, target, way, self.now if arrives_at is None else 2 * arrives_at - self.now)
        far = HeapChannel(there, name, network.way(target, name), 0.0)
        near.reader = reader
        near._far, far._far = far, near
        far.is_open = False  # until the call has reached it
        node._channels[near] = None
        if arrives_at is None:
            self._push(self.now + network.faults.latency_s, self._ended, near, "the network lost the call", None)
        elif not way.cuts:
            self._push(arrives_at, self._call_came, far, None, None)
        else:
            near._calling = True
            self._hold(near)
        return near

    def _call_came(self, far: Any, _b: Any, _c: Any) -> None:
        node, near = far.node, far._far
        if not node.is_up:
            if near.is_open:
                self._reset(far)
            return
        if node._careful and not node._ready(self._call_came, far, None, None):
            return
        far._life, far.is_open, far._opens_at = node.lives, True, self.now
        node._channels[far] = None
        self._hash.update(_MARK.pack(self.now, node._index, _DIALLED, near.node._index))
        node.program.dialled(far)

    def _write(self, near: HeapChannel, data: bytes | None) -> None:
        """Move the bytes of one write, or the end of a channel (`None`), to the far end; or end both."""
        way, far, network, now = near._way, near._far, self.network, self.now
        if near._held is not None or way.cuts:
            self._hold(near, data)
            return
        size_bytes = 0 if data is None else len(data)
        at = network.segment_on(way, size_bytes, now)
        if at is None:
            self._break(near)
            return
        if data and not network.faults.sealed:
            bit = network.flipped_bit(near.node.name, near.peer, size_bytes)
            data = data if bit is None else _with_bit(data, bit)
        if near._opens_at > now:  # it waits at its sender until the channel stands
            at += near._opens_at - now
        if far.node._read_bytes_per_s is not _NEVER:
            at = far.node._read_from(at, size_bytes)
        at = max(at, near._arrives_at)
        near._arrives_at = at
        self._count += 1
        if data is None:
            heapq.heappush(self._heap, (at, self._count, self._ended, far, "the peer closed the connection", None))
        else:
            heapq.heappush(self._heap, (at, self._count, self._bytes_came, far, data, None))

    def _bytes_came(self, end: Any, data: Any, _c: Any) -> None:
        node = end.node
        if not end.is_open:
            if node.is_up and node.is_paused:  # its call may wait in front of it too
                node._deferred.append((self._bytes_came, end, data, None))
            elif node.is_up and end._far.is_open:  # nobody here knows of it any more
                self._reset(end)
            return
        if node._careful and not node._ready(self._bytes_came, end, data, None):
            return
        self._hash.update(_MARK.pack(self.now, node._index, _RECEIVED, zlib.crc32(data)))
        end.reader.received(data)

    def _ended(self, end: Any, cause: Any, _c: Any) -> None:
        node = end.node
        if not end.is_open:
            return
        if node._careful and not node._ready(self._ended, end, cause, None):
            return
        end.is_open = False
        node._channels.pop(end, None)
        self._hash.update(_MARK.pack(self.now, node._index, _ENDED, 0))
        reader, end.reader = end.reader, _DEAF
        reader.ended(cause)

    def _reset(self, end: HeapChannel) -> None:
        """Let the other end know that there is nobody at this one; across a cut it hears nothing."""
        if self.network.is_open(end.node.name, end.peer):
            at = self.now + self.network.faults.latency_s
            self._push(at, self._ended, end._far, "the peer reset the connection", None)

    def _break(self, near: HeapChannel) -> None:
        """End both ends of a channel: what was under way on it is lost."""
        at = self.now + self.network.faults.latency_s
        for end in (near, near._far):
            self._push(at, self._ended, end, "the network broke the connection", None)

    def _hold(self, near: HeapChannel, *data: bytes | None) -> None:
        if near._held is None:
            near._held = []
            self._stuck[near] = None
        near._held += data

    def _flow(self) -> None:
        """Send on what waited for a cut to be mended."""
        for near in [end for end in self._stuck if self.network.is_open(end.node.name, end.peer)]:
            del self._stuck[near]
            held, near._held = near._held or [], None
            if near.node.lives != near._life or not near.node.is_up:  # a process that has gone sends nothing
                continue
            if near._calling:
                self._call_again(near)
            for data in held:
                self._write(near, data)

    def _call_again(self, near: HeapChannel) -> None:
        latency_s = self.network.faults.latency_s
        near._calling, near._opens_at = False, self.now + 2 * latency_s
        self._push(self.now + latency_s, self._call_came, near._far, None, None)


def _flipped(data: bytes, random: Random) -> bytes:
    return _with_bit(data, random.randrange(len(data) * 8))


def _with_bit(data: bytes, place: int) -> bytes:
    """Return bytes of which one bit is another."""
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)
