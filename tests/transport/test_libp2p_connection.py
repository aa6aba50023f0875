"""A muxed connection's shell over pipes in memory: who waits for what, who is harmed by whom, and how it ends."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import attrs
import pytest
import trio
import trio.testing

from prime.actor.contract import PeerId
from prime.actor.deadlines import Deadlines
from prime.errors import RefusedError
from prime.testing.transport import pattern, receive_all, receive_exactly
from prime.transport.libp2p import connection as shell
from prime.transport.libp2p.connection import Connection, MuxedChannel
from prime.transport.turns import SHARED_READ_BYTES, Turns
from prime.transport.yamux import HEADER_BYTES, WINDOW_BYTES, YamuxLimits

HERE, THERE = PeerId("here"), PeerId("there")


class Line:
    """One direction of a wire: holds so much that nobody has taken, and can be stopped or cut."""

    def __init__(self, bytes_max: int = 1 << 20) -> None:
        self.bytes_max = bytes_max
        self.data = bytearray()
        self.passed_bytes = 0
        self.cut = False
        self.stopped = False
        self.changed = trio.Condition()
        self.cut_after_bytes = 1 << 62

    def put(self, data: bytes) -> int:
        room = 0 if self.stopped else max(0, self.bytes_max - len(self.data))
        part = data[: min(room, self.cut_after_bytes - self.passed_bytes)]
        self.data += part
        self.passed_bytes += len(part)
        self.cut = self.cut or self.passed_bytes >= self.cut_after_bytes
        return len(part)

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class Plain:
    """A conduit without encryption."""

    frame_bytes_max = 1 << 16

    def __init__(self, into: Line, out_of: Line, nursery: trio.Nursery) -> None:
        self._into, self._out_of, self._nursery = into, out_of, nursery
        self.placed_bytes = 0

    def _changed(self) -> None:
        with suppress(RuntimeError):  # the test is over
            self._nursery.start_soon(self._into.tell)
            self._nursery.start_soon(self._out_of.tell)

    async def receive(self, max_bytes: int = 1 << 20) -> bytes:
        return bytes(await self.receive_placed(max_bytes, lambda: None))

    async def receive_placed(self, max_bytes: int, place: Callable[[], memoryview | None]) -> bytes | memoryview:
        line = self._out_of
        async with line.changed:
            while not line.data:
                if line.cut:
                    raise anyio.BrokenResourceError("cut")
                await line.changed.wait()
        room = place()
        part = bytes(line.data[: max_bytes if room is None else min(max_bytes, len(room))])
        del line.data[: len(part)]
        self._changed()
        if room is None:
            return part
        room[: len(part)] = part
        self.placed_bytes += len(part)
        return room[: len(part)]

    def seal(self, head: bytes, body: bytes = b"") -> bytes:
        return head + bytes(body)

    def send_nowait(self, data: bytes) -> int:
        count = 0 if self._into.cut else self._into.put(bytes(data))
        if count or self._into.cut:
            self._changed()
        return count

    async def send_some(self, data: bytes) -> int:
        while True:
            if self._into.cut:
                raise anyio.BrokenResourceError("cut")
            if count := self.send_nowait(data):
                await trio.lowlevel.checkpoint()
                return count
            async with self._into.changed:
                await self._into.changed.wait()

    def end(self) -> bytes:
        return b""

    def close(self) -> None:
        self._into.cut = self._out_of.cut = True
        self._changed()


@attrs.frozen
class Pair:
    """Two connected connections, and the lines between them."""

    near: Connection
    far: Connection
    there: Line
    back: Line
    greeted: trio.MemoryReceiveChannel[MuxedChannel]

    async def channels(self) -> tuple[MuxedChannel, MuxedChannel]:
        """Open a stream and say a byte, so that the other side hears of it."""
        near = self.near.open()
        await near.send(b"!")
        far = await self.greeted.receive()
        assert await far.receive() == b"!"
        return near, far


@asynccontextmanager
async def connected(limits: YamuxLimits | None = None, line_bytes: int = 1 << 20) -> AsyncIterator[Pair]:
    timers = Deadlines()
    greeted, arrivals = trio.open_memory_channel[MuxedChannel](100)
    there, back = Line(line_bytes), Line(line_bytes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        near = Connection(
            Plain(there, back, nursery), THERE, timers, dialled=True, greet=greeted.send_nowait, limits=limits
        )
        far = Connection(
            Plain(back, there, nursery), HERE, timers, dialled=False, greet=greeted.send_nowait, limits=limits
        )
        nursery.start_soon(near.run)
        nursery.start_soon(far.run)
        yield Pair(near, far, there, back, arrivals)
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], bool], within_s: float = 1000.0) -> None:
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 (what it waits for is told to nobody)
            await trio.sleep(0.01)


async def send_and_end(channel: MuxedChannel, data: bytes) -> None:
    await channel.send(data)
    await channel.send_eof()


# ---------------------------------------------------------------------------------------------- slow readers


async def test_a_reader_that_pauses_for_a_minute_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    data = pattern(3 << 20)
    async with connected() as pair:
        near, far = await pair.channels()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, near, data)
            await trio.sleep(60)
            assert await receive_all(far) == data
        assert not pair.near.ended.is_set()


async def test_a_reader_that_pauses_holds_up_no_sibling(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        slow, _ = await pair.channels()
        near, far = await pair.channels()
        nursery.start_soon(slow.send, bytes(3 << 20))
        await trio.sleep(1)
        began = trio.current_time()
        nursery.start_soon(send_and_end, near, pattern(3 << 20))
        assert await receive_all(far) == pattern(3 << 20)
        assert trio.current_time() - began < 1
        nursery.cancel_scope.cancel()


async def test_a_paused_reader_lets_a_window_pass_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        near, _ = await pair.channels()
        with trio.move_on_after(10):
            await near.send(bytes(3 << 20))
        assert WINDOW_BYTES - (1 << 14) <= pair.there.passed_bytes < WINDOW_BYTES + 1000


async def test_streams_share_a_narrow_line_evenly(autojump_clock: trio.testing.MockClock) -> None:
    got = dict.fromkeys(range(3), 0)

    async def read(number: int, channel: MuxedChannel) -> None:
        while sum(got.values()) < 9 << 20:
            got[number] += len(await channel.receive(1 << 16))

    async with connected(line_bytes=1 << 12) as pair, trio.open_nursery() as nursery:
        for number in got:
            near, far = await pair.channels()
            nursery.start_soon(near.send, bytes(9 << 20))
            nursery.start_soon(read, number, far)
        await until(lambda: sum(got.values()) >= 9 << 20)
        nursery.cancel_scope.cancel()
    assert min(got.values()) > max(got.values()) / 2


# ---------------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("held_by", ["the window", "the socket"])
async def test_cancelling_a_waiting_send_leaves_every_sibling_alive(
    held_by: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected() as pair:
        siblings = [await pair.channels() for _ in range(3)]
        for _ in range(5):
            near, far = await pair.channels()
            pair.there.stopped = held_by == "the socket"
            with trio.move_on_after(1):
                await near.send(bytes(4 << 20))
            pair.there.stopped = False
            await pair.there.tell()
            with pytest.raises(anyio.BrokenResourceError):
                await near.send(b"more")
            with pytest.raises(anyio.BrokenResourceError):
                await receive_exactly(far, 4 << 20)
        for near, far in siblings:
            await near.send(b"alive")
            assert await receive_exactly(far, 5) == b"alive"
            await far.send(b"and back")
            assert await receive_exactly(near, 8) == b"and back"


async def test_a_send_that_is_cancelled_before_it_began_has_sent_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as pair:
        near, far = await pair.channels()
        pair.there.stopped = True
        await (await stuffed(pair)).aclose()
        with trio.move_on_after(1):
            await near.send(b"never")
        pair.there.stopped = False
        await pair.there.tell()
        await near.send(b"after")
        assert await receive_exactly(far, 5) == b"after"


async def stuffed(pair: Pair) -> MuxedChannel:
    """Fill what may wait for the socket, through channels of their own, and return the last one."""
    while not pair.near.is_full:
        channel = pair.near.open()
        with trio.move_on_after(1):
            await channel.send(bytes(WINDOW_BYTES))
    return channel


async def test_a_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        near, far = await pair.channels()
        with trio.move_on_after(1):
            await far.receive()
        await near.send(b"kept")
        assert await far.receive() == b"kept"


async def test_what_a_reader_waits_for_goes_straight_into_its_room(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        near, far = await pair.channels()
        data, room = pattern(3 << 20), bytearray(3 << 20)
        nursery.start_soon(near.send, data)
        filled = 0
        while filled < len(room):
            filled += await far.receive_into(memoryview(room)[filled : filled + (1 << 20)])
        assert room == data
        assert placed_bytes(pair.far) > len(data) // 2


async def test_a_room_whose_reader_gave_up_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        near, far = await pair.channels()
        room, data = bytearray(100_000), pattern(100_000)
        with trio.move_on_after(1):
            await far.receive_into(memoryview(room))
        await near.send(data)
        await trio.sleep(1)
        assert room == bytes(100_000)
        assert await receive_exactly(far, 100_000) == data


@pytest.mark.parametrize("who", ["the reader", "the peer", "the line"])
async def test_a_reader_that_waits_with_a_room_hears_how_it_ends(
    autojump_clock: trio.testing.MockClock, who: str
) -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        near, far = await pair.channels()
        error = {"the reader": anyio.ClosedResourceError, "the peer": anyio.EndOfStream}.get(
            who, anyio.BrokenResourceError
        )
        act = {"the reader": far.aclose, "the peer": near.send_eof}.get(who, pair.near._conduit.close)

        async def later() -> None:
            await trio.sleep(1)
            done = act()
            if done is not None:
                await done

        nursery.start_soon(later)
        with pytest.raises(error):
            await far.receive_into(memoryview(bytearray(100_000)))


def placed_bytes(connection: Connection) -> int:
    assert isinstance(connection._conduit, Plain)
    return connection._conduit.placed_bytes


# ------------------------------------------------------------------------------------------------------ how it ends


async def test_a_peer_that_reads_nothing_ends_the_connection_at_the_write_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as pair:
        near, _ = await pair.channels()
        sibling, _ = await pair.channels()
        pair.there.stopped = True
        began = trio.current_time()
        with pytest.raises(anyio.BrokenResourceError, match="took no bytes"):
            while True:
                await near.send(bytes(WINDOW_BYTES))
        assert shell.WRITE_TIMEOUT_S <= trio.current_time() - began < shell.WRITE_TIMEOUT_S + 5
        with pytest.raises(anyio.BrokenResourceError, match="took no bytes"):
            await sibling.receive()


async def test_a_connection_that_is_open_on_one_side_only_is_found_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(YamuxLimits(silence_s=30.0)) as pair:
        near, _ = await pair.channels()
        pair.there.stopped = pair.back.stopped = True  # as if the other machine had lost its power
        began = trio.current_time()
        # The question for a sign of life is neither answered nor taken by the socket: both are noticed at one time.
        with pytest.raises(anyio.BrokenResourceError, match="no sign of life|took no bytes"):
            await near.receive()
        assert 30 <= trio.current_time() - began < 65


async def test_an_idle_connection_lives_on(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(YamuxLimits(silence_s=30.0)) as pair:
        near, far = await pair.channels()
        await trio.sleep(3600)
        await near.send(b"still here")
        assert await far.receive() == b"still here"


@pytest.mark.parametrize("cut_after", [0, 1, 11, 12, 13, 500, 70_000])
async def test_a_cut_in_the_middle_of_a_frame_breaks_every_channel_and_hangs_none(
    cut_after: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected() as pair:
        near, far = await pair.channels()
        other, _ = await pair.channels()
        pair.there.cut_after_bytes = pair.there.passed_bytes + cut_after
        with trio.fail_after(100), pytest.raises(anyio.BrokenResourceError):
            while True:
                await near.send(bytes(10_000))
        with trio.fail_after(100):
            for channel in (far, other):
                with pytest.raises(anyio.BrokenResourceError):
                    await receive_exactly(channel, 1 << 30)
            await pair.near.ended.wait()
            await pair.far.ended.wait()


async def test_what_came_before_the_end_of_the_connection_can_still_be_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as pair:
        near, far = await pair.channels()
        await near.send(b"last words")
        await until(lambda: not pair.there.data)
        pair.near.break_off("gone")
        await pair.far.ended.wait()
        assert await far.receive() == b"last words"
        with pytest.raises(anyio.BrokenResourceError):
            await far.receive()


async def test_closing_says_everything_first(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        near, far = await pair.channels()
        await near.send(pattern(200_000))
        await pair.near.aclose()
        assert await receive_all(far) == pattern(200_000)
        with pytest.raises(anyio.ClosedResourceError):
            await near.send(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            pair.near.open()


# ---------------------------------------------------------------------------------------------------- hostile peers


def frame(kind: int, flags: int, stream: int, length: int) -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length)


async def test_a_peer_that_breaks_the_protocol_loses_the_connection_and_hears_why(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as pair:
        near, _ = await pair.channels()
        pair.back.put(frame(0, 0, 99, 5))
        await pair.back.tell()
        with pytest.raises(anyio.BrokenResourceError, match="never opened"):
            await near.receive()
        await pair.far.ended.wait()
        assert pair.far.cause == "the peer ended the connection with code 1"


async def test_a_flood_of_pings_from_a_peer_that_reads_nothing_is_bounded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as pair:
        pair.there.stopped = True
        pair.back.bytes_max = 1 << 30
        with trio.fail_after(10):
            while not pair.near.ended.is_set():
                pair.back.put(frame(2, 1, 0, 7) * 10_000)
                await pair.back.tell()
                await trio.sleep(0.001)
        assert "does not read" in pair.near.cause


async def test_bytes_that_come_one_by_one_are_kept_together(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        _, far = await pair.channels()
        pair.there.bytes_max = 1 << 30
        pair.there.put(b"".join(frame(0, 0, 1, 1) + bytes([n % 256]) for n in range(100_000)))
        await pair.there.tell()
        await until(lambda: not pair.there.data)
        await trio.testing.wait_all_tasks_blocked()
        assert len(far._parts) < 100
        assert await receive_exactly(far, 100_000) == bytes(n % 256 for n in range(100_000))


async def test_streams_over_our_own_limit_are_an_error_and_no_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(YamuxLimits(streams_max=5)) as pair:
        channels = [pair.near.open() for _ in range(5)]
        with pytest.raises(RefusedError, match="5 streams"):
            pair.near.open()
        channels[0].reset()
        pair.near.open()


async def test_a_flood_of_streams_is_refused_beyond_the_limit(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(YamuxLimits(streams_max=5)) as pair:
        _, far = await pair.channels()
        pair.back.stopped = True  # the other end of this wire knows nothing of the flood
        pair.there.put(b"".join(frame(1, 1, 2 * n + 101, 0) for n in range(1000)))
        await pair.there.tell()
        await trio.sleep(1)
        assert pair.far.streams == 5
        assert pair.far._waiting_bytes >= 996 * HEADER_BYTES  # each was told
        pair.there.put(frame(0, 0, 1, 5) + b"alive")
        await pair.there.tell()
        assert await far.receive() == b"alive"


class Ready(Plain):
    """A conduit in which everything has come already, and which waits for nothing until all of it was read."""

    def __init__(self, reads: int, nursery: trio.Nursery) -> None:
        super().__init__(Line(), Line(), nursery)
        self.left = reads
        self.wanted: list[int] = []

    async def receive_placed(self, max_bytes: int, place: Callable[[], memoryview | None]) -> bytes:
        if not self.left:
            await trio.sleep_forever()
        self.left -= 1
        self.wanted.append(max_bytes)
        return struct.pack(">BBHII", 0, 2, 2, 0, 0)  # an answer to a PING


async def test_who_sends_a_lot_gives_others_their_turn_between_what_is_decrypted() -> None:
    reads, turns, others = 40, Turns(), 0
    async with trio.open_nursery() as nursery:
        conduit = Ready(reads, nursery)
        turns.shared("another reader", trio.current_time())
        nursery.start_soon(
            Connection(conduit, THERE, Deadlines(), dialled=False, greet=lambda _: None, turns=turns).run
        )
        while conduit.left and others < 100 * reads:
            others += 1
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert not conduit.left
    assert others >= reads - 1
    assert max(conduit.wanted[1:]) <= SHARED_READ_BYTES


async def test_a_flood_of_frames_without_data_lets_others_have_their_turns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as pair:
        _, far = await pair.channels()
        pair.there.bytes_max = 1 << 30
        pair.there.put(frame(1, 0, 1, 1) * 20_000)  # as much as one read takes
        await pair.there.tell()
        while pair.there.data:
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert pair.far.room(1) <= WINDOW_BYTES
        assert pair.far._session.room(1) < WINDOW_BYTES + 1000  # not all in one turn
        await trio.testing.wait_all_tasks_blocked()
        assert pair.far._session.room(1) == WINDOW_BYTES + 20_000
        await far.send(b"alive")
