"""Big frames in pieces: cutting and joining, what goes between them, giving up half-way, and hostile announcements."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import AsyncIterator
from typing import Any

import anyio
import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import prime
from prime import Actor, Ask, Mailbox, Memory, Ref, System, on
from prime.errors import DeadlineError, LinkLostError, RemoteProtocolError
from prime.transport import frames as fr
from prime.transport import pieces
from prime.transport.contract import Buffer, Channel
from prime.transport.identity import KeyPair
from prime.transport.links import LinkLimits, Links
from prime.transport.memory import MemoryChannel
from prime.transport.pieces import Arrivals, Departures, Gauge
from prime.wire import Limits, Payload, dumps, loads
from prime.wire.frame import FrameParser, pack

MIB = 2**20
RATE = 1_000_000
"""Bytes a second of the slow line."""
LOOSE = Limits(frame_size_bytes_max=2**40)


@prime.message(tag=0x7C61)
class Load:
    data: Payload


@prime.message(tag=0x7C62)
class Mark:
    number: int


@prime.message(tag=0x7C63)
class Fetch(Ask[Payload]):
    size_bytes: int


@prime.message(tag=0x7C64)
class Double(Ask[int]):
    number: int


@prime.message(tag=0x7C65)
class Digest(Ask[bytes]):
    data: Payload


class Far(Actor[Load | Mark | Fetch | Double | Digest]):
    """Notes what comes, and when."""

    def __init__(self) -> None:
        self.came: list[tuple[float, Any]] = []

    @on(Load)
    def load(self, m: Load) -> None:
        assert m.data.readonly
        self.came.append((trio.current_time(), len(m.data)))

    @on(Mark)
    def mark(self, m: Mark) -> None:
        self.came.append((trio.current_time(), m.number))

    @on(Fetch)
    def fetch(self, m: Fetch) -> bytes:
        return bytes(m.size_bytes)

    @on(Double)
    def double(self, m: Double) -> int:
        return 2 * m.number

    @on(Digest)
    def digest(self, m: Digest) -> bytes:
        return hashlib.sha256(m.data).digest()


FarRef = Ref[Load | Mark | Fetch | Double | Digest]


@attrs.define
class Line:
    """Two systems; `a`, `b` and `c` are actors of the far one."""

    near: System
    far: System
    actors: dict[str, Far]

    def ref(self, name: str) -> FarRef:
        return self.near.ref(self.far.peer, f"/far/{name}", Far)

    @property
    def links(self) -> tuple[Links, Links]:
        assert isinstance(self.near.network, Links)
        assert isinstance(self.far.network, Links)
        return self.near.network, self.far.network

    def sent_bytes(self) -> int:
        return sum(self.links[0].sent_bytes.values())

    async def rest(self) -> None:
        """Wait until nothing is on its way, and find nothing left of what was."""
        await trio.sleep(5)
        for links in self.links:
            sizes = links.sizes()
            for name in ("departing", "arriving", "waiting", "asks", "serving", "slots"):
                assert sizes[name] == 0, sizes


@contextlib.asynccontextmanager
async def line(limits: LinkLimits | None = None) -> AsyncIterator[Line]:
    transport = Memory(buffer_bytes_max=16 * 1024)
    async with (
        prime.open_system(transport=transport, key=KeyPair.from_seed(bytes(32)), limits=limits) as far,
        prime.open_system(transport=transport, key=KeyPair.from_seed(bytes([1]) * 32), limits=limits) as near,
        far.supervisor("far") as supervisor,
    ):
        actors = {name: Far() for name in "abc"}
        for name, actor in actors.items():
            await supervisor.spawn(lambda actor=actor: actor, name, mailbox=Mailbox(64))
        assert near.network is not None
        await near.network.dial(far.addresses[0])
        yield Line(near, far, actors)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every line a slow one, with next to no buffer."""

    async def send(self: MemoryChannel, item: Buffer) -> None:
        view = memoryview(item).cast("B")
        for start in range(0, len(view), 16_384):
            part = view[start : start + 16_384]
            await self._outward.put(part)
            await trio.sleep(len(part) / RATE)

    monkeypatch.setattr(MemoryChannel, "send", send)


# --------------------------------------------------------------------------------------------------- what goes between


async def slowest_ask(far: FarRef, done: trio.Event) -> tuple[float, int]:
    """Ask again and again until `done`; return how long the slowest took, and how many there were."""
    slowest, count = 0.0, 0
    while not done.is_set():
        started = trio.current_time()
        assert await far.ask(Double(count), timeout=5) == 2 * count
        slowest, count = max(slowest, trio.current_time() - started), count + 1
        await trio.sleep(0.7)
    return slowest, count


async def test_asks_are_answered_while_64_mib_travel_on_a_slow_line(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair, trio.open_nursery() as nursery:
        done, data = trio.Event(), bytes(range(256)) * (64 * 4096)
        started = trio.current_time()

        async def load() -> None:
            assert await pair.ref("a").ask(Digest(data), timeout=100) == hashlib.sha256(data).digest()
            done.set()

        nursery.start_soon(load)
        await trio.sleep(1)
        slowest, count = await slowest_ask(pair.ref("b"), done)
        assert trio.current_time() - started == pytest.approx(len(data) / RATE, rel=0.05)
        assert count > 80
        assert slowest < 2.5 * pieces.PIECE_S
        await pair.rest()


async def test_an_answer_of_16_mib_lets_others_by(slow: None, autojump_clock: trio.testing.MockClock) -> None:
    async with line() as pair, trio.open_nursery() as nursery:
        done = trio.Event()

        async def fetch() -> None:
            assert len(await pair.ref("a").ask(Fetch(16 * MIB), timeout=60)) == 16 * MIB
            done.set()

        nursery.start_soon(fetch)
        await trio.sleep(1)
        slowest, count = await slowest_ask(pair.ref("a"), done)
        assert count > 15
        assert slowest < 2.5 * pieces.PIECE_S
        await pair.rest()


async def test_big_messages_for_different_targets_take_turns(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.ref("a").tell, Load(bytes(8 * MIB)))
            await trio.sleep(0.1)
            nursery.start_soon(pair.ref("b").tell, Load(bytes(2 * MIB)))
        await trio.sleep(1)
        [(a_came, _)], [(b_came, _)] = pair.actors["a"].came, pair.actors["b"].came
        assert b_came - started == pytest.approx(4 * MIB / RATE, rel=0.1)
        assert a_came - started == pytest.approx(10 * MIB / RATE, rel=0.1)


async def test_the_order_to_one_target_holds_and_others_go_by(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair:
        async with trio.open_nursery() as nursery:
            for message in (Mark(1), Load(bytes(6 * MIB)), Mark(2), Load(bytes(3 * MIB)), Mark(3)):
                nursery.start_soon(pair.ref("a").tell, message)
                await trio.sleep(0.01)
            nursery.start_soon(pair.ref("b").tell, Mark(9))
        await trio.sleep(20)
        assert [what for _, what in pair.actors["a"].came] == [1, 6 * MIB, 2, 3 * MIB, 3]
        [(marked, _)] = pair.actors["b"].came
        assert marked < pair.actors["a"].came[1][0] - 3
        await pair.rest()


async def test_what_is_small_waits_little_also_where_a_quick_line_became_slow(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    rate = 100 * RATE

    async def send(self: MemoryChannel, item: Buffer) -> None:
        view = memoryview(item).cast("B")
        for start in range(0, len(view), 16_384):
            part = view[start : start + 16_384]
            await self._outward.put(part)
            await trio.sleep(len(part) / rate)

    monkeypatch.setattr(MemoryChannel, "send", send)
    async with line() as pair:
        sizes = [(256 - index) * 1024 for index in range(120)]

        async def load() -> None:
            for size in sizes:
                await pair.ref("a").tell(Load(bytes(size)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.sleep(0.05)
            rate = RATE
            await trio.sleep(10)
            said = trio.current_time()
            await pair.ref("a").tell(Mark(7))
            await trio.sleep(1)
            [(marked, _)] = [(at, what) for at, what in pair.actors["a"].came if what == 7]
            assert marked - said < 0.8, "it waits for a frame or two, not for an outbox full of them"
        await trio.sleep(1)
        assert [what for _, what in pair.actors["a"].came if what != 7] == sizes
        await pair.rest()


async def test_more_big_messages_than_may_go_at_a_time_all_arrive(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair:
        names = [f"n{n}" for n in range(3 * pieces.MESSAGES_MAX)]
        actors = {name: Far() for name in names}
        async with pair.far.supervisor("more") as supervisor:
            for name, actor in actors.items():
                await supervisor.spawn(lambda actor=actor: actor, name)
            async with trio.open_nursery() as nursery:
                for name in names:
                    ref = pair.near.ref(pair.far.peer, f"/more/{name}", Far)
                    nursery.start_soon(ref.tell, Load(bytes(MIB)))
                await trio.sleep(2)
                assert pair.links[0].sizes()["departing"] == pieces.MESSAGES_MAX
            await trio.sleep(MIB / RATE * len(names))
            assert [[what for _, what in actor.came] for actor in actors.values()] == [[MIB]] * len(names)
            await pair.rest()


async def test_more_big_answers_than_may_go_at_a_time_all_arrive(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair, trio.open_nursery() as nursery:
        got: list[int] = []

        async def fetch(size_bytes: int) -> None:
            got.append(len(await pair.ref("c").ask(Fetch(size_bytes), timeout=100)))

        sizes = [MIB + n for n in range(2 * pieces.ANSWERS_MAX)]
        for size_bytes in sizes:
            nursery.start_soon(fetch, size_bytes)
        await trio.sleep(60)
        assert sorted(got) == sizes
        await pair.rest()


# ------------------------------------------------------------------------------------------------------ half-way


async def test_a_cancelled_tell_leaves_no_further(slow: None, autojump_clock: trio.testing.MockClock) -> None:
    async with line() as pair:
        with trio.move_on_after(3):
            await pair.ref("a").tell(Load(bytes(32 * MIB)))
        await pair.ref("a").tell(Mark(1))
        await pair.rest()
        assert [what for _, what in pair.actors["a"].came] == [1]
        assert pair.sent_bytes() == pytest.approx(3 * RATE, rel=0.1)


async def test_an_ask_whose_time_is_over_leaves_no_further(slow: None, autojump_clock: trio.testing.MockClock) -> None:
    async with line() as pair:
        with pytest.raises(DeadlineError):
            await pair.ref("a").ask(Digest(bytes(32 * MIB)), timeout=3)
        assert await pair.ref("a").ask(Double(2), timeout=1) == 4
        await pair.rest()
        assert pair.sent_bytes() == pytest.approx(3 * RATE, rel=0.1)


async def test_an_answer_that_nobody_waits_for_comes_no_further(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair:
        with trio.move_on_after(3):
            await pair.ref("a").ask(Fetch(32 * MIB), timeout=100)
        assert await pair.ref("a").ask(Double(2), timeout=1) == 4
        await pair.rest()
        assert sum(pair.links[1].sent_bytes.values()) == pytest.approx(3 * RATE, rel=0.1)


async def test_credit_of_what_was_abandoned_comes_back(slow: None, autojump_clock: trio.testing.MockClock) -> None:
    allowance = fr.Allowance(window_bytes=3 * MIB, link_bytes=8 * MIB, frame_bytes_max=4 * MIB)
    async with line(LinkLimits(allowance=allowance, outbox_bytes=MIB)) as pair:
        for _ in range(5):
            with trio.move_on_after(1):
                await pair.ref("a").tell(Load(bytes(3 * MIB)))
        for _ in range(5):
            await pair.ref("a").tell(Load(bytes(2 * MIB)))
        await pair.rest()
        assert [what for _, what in pair.actors["a"].came] == [2 * MIB] * 5


async def test_a_lost_link_fails_who_waits(slow: None, autojump_clock: trio.testing.MockClock) -> None:
    async with line() as pair:

        async def cut() -> None:
            await trio.sleep(2)
            carrier = pair.links[0].carrier(pair.far.peer)
            assert carrier is not None
            await carrier._channel.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            with pytest.raises(LinkLostError):
                await pair.ref("a").tell(Load(bytes(16 * MIB)))
        assert await pair.ref("a").ask(Double(2), timeout=5) == 4  # over a new one
        await pair.rest()
        assert not pair.actors["a"].came


async def test_what_was_told_reliably_comes_whole_over_the_next_link(
    slow: None, autojump_clock: trio.testing.MockClock
) -> None:
    async with line() as pair:
        reliable = pair.near.ref(pair.far.peer, "/far/a", Far, reliable=True)
        await reliable.tell(Load(bytes(6 * MIB)))
        await trio.sleep(3)
        carrier = pair.links[0].carrier(pair.far.peer)
        assert carrier is not None
        await carrier._channel.aclose()
        await reliable.flushed(timeout=30)
        assert [what for _, what in pair.actors["a"].came] == [6 * MIB]


async def test_a_farewell_lets_what_is_on_its_way_arrive(autojump_clock: trio.testing.MockClock) -> None:
    transport = Memory()
    actor = Far()
    async with prime.open_system(transport=transport) as far, far.supervisor("far") as supervisor:
        await supervisor.spawn(lambda: actor, "a")
        async with prime.open_system(transport=transport) as near:
            assert near.network is not None
            await near.network.dial(far.addresses[0])
            for _ in range(3):
                await near.ref(far.peer, "/far/a", Far).tell(Load(bytes(2 * MIB)))
        await trio.sleep(1)
        assert [what for _, what in actor.came] == [2 * MIB] * 3


# ------------------------------------------------------------------------------------------------- cutting and joining

payload_sizes = st.lists(st.integers(0, 12_000), min_size=1, max_size=4).filter(any)
cut_sizes = st.lists(st.integers(4096, 30_000), min_size=1)
read_sizes = st.lists(st.integers(500, 50_000), min_size=1)
sizes_of_frames = st.lists(payload_sizes, min_size=1, max_size=4)


@given(sizes_of_frames, cut_sizes, read_sizes)
def test_whatever_is_cut_is_joined(frames: list[list[int]], cuts: list[int], reads: list[int]) -> None:
    departures, arrivals, said = Departures(2**40), Arrivals(), []
    sent: list[list[bytes]] = []
    whole = 0
    for n, sizes in enumerate(frames):
        sent.append([bytes([1 + (n + k) % 255]) * size for k, size in enumerate(sizes)])
        header = dumps(fr.Tell("/t", n + 1, [0x7C61, 0]).plain())
        payloads = [memoryview(payload) for payload in sent[-1]]
        departures.message(n, object(), header, payloads, fr.size_of_frame(header, payloads), 0)
        whole += fr.size_of_frame(header, payloads)
    counted = 0
    while (cut := departures.next(cuts[len(said) % len(cuts)])) is not None:
        data = b"".join(b"".join(pack(header, parts, LOOSE)) for header, parts in cut.frames)
        assert len(data) == cut.size_bytes
        said.append(data)
        counted += cut.counted_bytes
    stream = b"".join(said)
    got = _joined(stream, reads, arrivals)
    assert [got[n + 1] for n in range(len(frames))] == sent
    assert len(arrivals) == arrivals.messages_bytes == departures.messages == 0
    assert counted == whole


def _joined(stream: bytes, reads: list[int], arrivals: Arrivals) -> dict[int, list[bytes]]:
    """Read a stream in chunks of these sizes; return the payloads of each frame, by its `seq`."""
    got: dict[int, list[bytes]] = {}
    parser = FrameParser(LOOSE, lambda header, sizes: arrivals.rooms(fr.read_piece(header), sizes))
    position = turn = 0
    while position < len(stream):
        size = reads[turn % len(reads)]
        parser.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
        while (frame := parser.next()) is not None:
            parsed = fr.read_frame(loads(frame.header))
            if isinstance(parsed, fr.Bulk):
                tell = fr.read_frame(loads(parsed.header))
                assert isinstance(tell, fr.Tell)
                arrivals.begin(parsed, tell, 0, unwanted=False)
                continue
            assert isinstance(parsed, fr.Piece)
            assert frame.placed
            assert not frame.payloads
            arrival = arrivals.came(parsed.number, frame.placed, 0)
            if arrival is not None:
                assert isinstance(arrival.frame, fr.Tell)
                got[arrival.frame.seq] = [bytes(payload) for payload in arrival.payloads]
    assert parser.is_between_frames
    return got


def test_payload_bytes_go_straight_into_the_buffer_that_is_the_payload() -> None:
    arrivals = Arrivals()
    arrivals.begin(fr.Bulk(1, (50_000,), b"h"), fr.Tell("/t", 1, []), 0, unwanted=False)
    rooms: list[memoryview] = []

    def give(header: bytes, sizes: tuple[int, ...]) -> list[memoryview] | None:
        rooms.extend(arrivals.rooms(fr.read_piece(header), sizes) or ())
        return rooms[-1:]

    parser = FrameParser(LOOSE, give)
    for start in range(0, 50_000, 25_000):
        data = b"".join(pack(fr.piece_header(1), [memoryview(bytes(range(250)) * 100)], LOOSE))
        parser.feed(data[:20])
        assert parser.next() is None
        assert parser.needed_bytes == len(data) - 20
        parser.feed(data[20:])
        frame = parser.next()
        assert frame is not None
        arrival = arrivals.came(1, frame.placed, start)
    assert arrival is not None
    assert arrival.payloads[0].obj is rooms[1].obj
    assert bytes(arrival.payloads[0]) == bytes(range(250)) * 200


def test_a_piece_is_as_big_as_the_line_is_fast() -> None:
    gauge = Gauge()
    assert gauge.size_bytes == pieces.PIECE_BYTES_FIRST
    for _ in range(10):
        gauge.note(gauge.size_bytes, gauge.size_bytes / 1e9)
    assert gauge.size_bytes == pieces.PIECE_BYTES_MOST
    gauge.note(gauge.size_bytes, gauge.size_bytes / 1e6)
    assert gauge.size_bytes == pytest.approx(1e6 * pieces.PIECE_S, rel=0.01)
    for _ in range(10):
        gauge.note(gauge.size_bytes, gauge.size_bytes / 1e3)
    assert gauge.size_bytes == pieces.PIECE_BYTES_LEAST
    gauge.note(100, 0)  # a small one says nothing of a big one
    assert gauge.size_bytes == pieces.PIECE_BYTES_LEAST


def test_a_frame_of_which_no_piece_comes_has_stalled() -> None:
    arrivals = Arrivals()
    assert arrivals.due == math.inf
    for n in (1, 2):
        arrivals.begin(fr.Bulk(n, (50_000,), b"h"), fr.Tell("/t", n, []), 0, unwanted=False)
    arrivals.came(1, (10_000,), 30)
    assert arrivals.due == pieces.STALL_S
    arrivals.came(2, (10_000,), 40)
    assert arrivals.due == 30 + pieces.STALL_S
    assert not arrivals.stalled(arrivals.due - 1)
    assert arrivals.stalled(arrivals.due)


def test_an_unwanted_frame_is_not_kept() -> None:
    arrivals = Arrivals()
    arrivals.begin(fr.Bulk(1, (50_000, 5), b"h"), fr.Reply(7, 0), 0, unwanted=False)
    arrivals.add(1, [memoryview(bytes(10_000))], 0)
    arrivals.forsake(7)
    [arrival] = arrivals
    assert arrival.unwanted
    assert not arrival.buffers
    arrivals.add(1, [memoryview(bytes(40_000))], 0)
    assert arrivals.add(1, [memoryview(bytes(5))], 0) is arrival
    with pytest.raises(RemoteProtocolError):
        arrivals.add(1, [memoryview(bytes(5))], 0)


# ------------------------------------------------------------------------------------------------------ hostile peers


class Raw:
    """A peer that speaks frames by hand."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.parser = FrameParser()

    async def send(self, frame: fr.Frame, *payloads: bytes) -> None:
        await self.channel.send(b"".join(pack(dumps(frame.plain()), [memoryview(p) for p in payloads])))

    async def read(self) -> tuple[fr.Frame, tuple[memoryview, ...]]:
        with trio.fail_after(20):
            while (frame := self.parser.next()) is None:
                self.parser.feed(await self.channel.receive())
        return fr.read_frame(loads(frame.header)), frame.payloads

    async def read_until(self, kind: type) -> Any:
        while not isinstance((read := await self.read())[0], kind):
            pass
        return read[0]


@contextlib.asynccontextmanager
async def raw_peer(*features: str, limits: LinkLimits | None = None) -> AsyncIterator[tuple[System, Far, Raw]]:
    """A system with an actor at `/far/a`, and a peer by hand whose link is up; it serves others whatever that did."""
    transport, actor = Memory(), Far()
    async with (
        prime.open_system(transport=transport, limits=limits) as system,
        system.supervisor("far") as supervisor,
        transport.open(KeyPair.from_seed(bytes([8]) * 32)) as endpoint,
    ):
        await supervisor.spawn(lambda: actor, "a")
        raw = Raw(await endpoint.dial(system.addresses[0]))
        await raw.send(fr.Hello(1, "raw", features, fr.Allowance(), (), 77, 5, 0))
        await raw.read_until(fr.Hello)
        yield system, actor, raw
        async with prime.open_system(transport=transport) as other:
            assert other.network is not None
            await other.network.dial(system.addresses[0])
            assert await other.ref(system.peer, "/far/a", Far).ask(Double(4), timeout=5) == 8


def bulk(number: int = 1, *sizes: int, frame: fr.Frame | None = None) -> fr.Bulk:
    told = frame or fr.Tell("/far/a", number, [0x7C61, 0])
    return fr.Bulk(number, sizes or (20_000,), dumps(told.plain()))


SMALL = LinkLimits(allowance=fr.Allowance(frame_bytes_max=100_000, link_bytes=250_000, payloads_max=4))
BYTES = bytes(10_000)
VIOLATIONS: dict[str, list[tuple[fr.Frame, bytes]]] = {
    "a piece of nothing": [(fr.Piece(1), BYTES)],
    "abandoning nothing": [(fr.Abandon(1), b"")],
    "too big": [(bulk(1, 100_000), b"")],
    "too many payloads": [(bulk(1, 1, 1, 1, 1, 1), b"")],
    "no bytes": [(bulk(1, 0, 0), b"")],
    "the number again": [(bulk(1), b""), (fr.Abandon(1), b""), (bulk(1), b"")],
    "a number that falls": [(bulk(2), b""), (bulk(1), b"")],
    "too many at once": [(bulk(n), b"") for n in range(1, pieces.MESSAGES_MAX + 2)],
    "too many bytes at once": [(bulk(n, 90_000), b"") for n in range(1, 4)],
    "too many answers at once": [(bulk(n, frame=fr.Reply(n, 0)), b"") for n in range(1, pieces.ANSWERS_MAX + 2)],
    "an announced PING": [(bulk(frame=fr.Ping()), b"")],
    "an announced BULK": [(bulk(frame=bulk()), b"")],
    "more than announced": [(bulk(), b""), (fr.Piece(1), bytes(20_001))],
    "across a border": [(bulk(1, 5000, 15_000), b""), (fr.Piece(1), BYTES)],
    "a tiny piece": [(bulk(), b""), (fr.Piece(1), b"x")],
    "a piece behind the end": [(bulk(), b""), (fr.Piece(1), bytes(20_000)), (fr.Piece(1), BYTES)],
    "a piece behind ABANDON": [(bulk(), b""), (fr.Abandon(1), b""), (fr.Piece(1), BYTES)],
    "an old seq": [(bulk(2, frame=fr.Tell("/far/a", 1, [0x7C62, 1])), b""), (fr.Piece(2), bytes(20_000))] * 2,
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_the_link_and_nothing_else(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_peer(pieces.FEATURE, limits=SMALL) as (system, _, raw):
        for frame, data in VIOLATIONS[name]:
            await raw.send(frame, *([data] if data else []))
        bye = await raw.read_until(fr.Bye)
        assert bye.reason is fr.Reason.PROTOCOL, bye
        assert isinstance(system.network, Links)
        assert system.network.sizes()["arriving" if system.network.peers else "links"] == 0


@pytest.mark.parametrize(
    "plain",
    [
        [16],
        [16, 0, [1], b""],
        [16, 1, [], b""],
        [16, 1, [-1], b""],
        [16, 1, [2**32], b""],
        [16, 1, 5, b""],
        [16, 1, [5], "text"],
        [16, 1, [5000], b""],
        [16, 1, [5000], b"\x81"],
        [16, 1, [5000], b"\x81\x18\x63"],
        [17],
        [17, 0],
        [17, -1],
        [18],
        [18, "x"],
    ],
    ids=str,
)
async def test_a_malformed_frame_ends_the_link(plain: list[Any], autojump_clock: trio.testing.MockClock) -> None:
    async with raw_peer(pieces.FEATURE) as (_, _, raw):
        await raw.channel.send(b"".join(pack(dumps(plain), [])))
        assert (await raw.read_until(fr.Bye)).reason is fr.Reason.PROTOCOL


async def test_an_announcement_alone_takes_no_memory_and_ends_the_link_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with raw_peer(pieces.FEATURE) as (system, _, raw):
        for n in range(1, 4):
            await raw.send(bulk(n, 60 * MIB))
        await raw.send(fr.Piece(1), BYTES)
        started = trio.current_time()
        assert isinstance(system.network, Links)
        carrier = system.network.carrier(KeyPair.from_seed(bytes([8]) * 32).peer)
        assert carrier is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ponging, raw)
            await trio.sleep(1)
            assert sum(len(buffer) for each in carrier.link._arrivals for buffer in each.buffers) == len(BYTES)
            await carrier.ended.wait()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started == pytest.approx(pieces.STALL_S, abs=3)
        assert "no piece" in carrier.cause


async def _ponging(raw: Raw) -> None:
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await raw.send(fr.Pong())
            await trio.sleep(1)


async def test_pieces_by_the_longer_way_make_the_same_message(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_peer(pieces.FEATURE) as (_, actor, raw):
        await raw.send(bulk(1, 0, 20_000, 0, 8000, frame=fr.Tell("/far/a", 1, [0x7C61, 1])))
        header = dumps([17, 1, "a later version's element"])
        await raw.channel.send(b"".join(pack(header, [memoryview(BYTES)])))
        await raw.send(fr.Piece(1), BYTES, bytes(8000))
        await trio.sleep(1)
        assert [what for _, what in actor.came] == [20_000]


async def test_who_takes_no_pieces_gets_whole_frames(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_peer() as (system, _, raw), trio.open_nursery() as nursery:
        peer = KeyPair.from_seed(bytes([8]) * 32).peer
        nursery.start_soon(system.ref(peer, "/x", Far).tell, Load(bytes(5 * MIB)))
        while not isinstance((read := await raw.read())[0], fr.Tell):
            pass
        assert [len(payload) for payload in read[1]] == [5 * MIB]


async def test_a_peer_in_the_middle_of_a_whole_frame_that_takes_long_is_no_silent_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with raw_peer() as (system, _, raw), trio.open_nursery() as nursery:
        peer = KeyPair.from_seed(bytes([8]) * 32).peer
        answers = list[bytes]()

        async def ask() -> None:
            answers.append(await system.ref(peer, "/x", Far).ask(Digest(Payload(bytes(5 * MIB))), timeout=60))

        nursery.start_soon(ask)
        started = trio.current_time()
        data = b""
        while len(data) < 5 * MIB:  # not a word comes back, as none is possible: PING is behind the frame
            part = await raw.channel.receive(50_000)
            data += part
            await trio.sleep(len(part) / 250_000)
        assert trio.current_time() - started > 3 * LinkLimits().heartbeat_timeout_s
        raw.parser.feed(data)
        asked = await raw.read_until(fr.Ask)
        await raw.send(fr.Reply(asked.correlation, b"seen"))
        await trio.sleep(0.1)
        assert answers == [b"seen"]


async def test_who_takes_pieces_gets_them(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_peer(pieces.FEATURE) as (system, _, raw), trio.open_nursery() as nursery:
        peer = KeyPair.from_seed(bytes([8]) * 32).peer
        nursery.start_soon(system.ref(peer, "/x", Far).tell, Load(bytes(5 * MIB)))
        announced = await raw.read_until(fr.Bulk)
        assert announced.sizes == (5 * MIB,)
        came = 0
        while came < 5 * MIB:
            frame, payloads = await raw.read()
            assert isinstance(frame, fr.Piece)
            assert len(payloads[0]) <= pieces.PIECE_BYTES_MOST
            came += len(payloads[0])
        assert came == 5 * MIB
