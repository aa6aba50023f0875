"""The simulated transport: it keeps the one contract of transports, and its faults do what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from prime.errors import AddressInUseError, UnreachableError
from prime.sim.history import History
from prime.sim.network import Network
from prime.sim.plan import NetworkFaults
from prime.sim.streams import Streams
from prime.sim.transport import GIVE_UP_S, RESEND_S, WINDOW_BYTES, Courier, Fabric, SimTransport
from prime.testing.transport import CASES, Case, TransportKit, pattern, receive_all, receive_exactly
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import MemoryPlace, parse_address

HERE, THERE = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2))
CALM = NetworkFaults()


@asynccontextmanager
async def weather(faults: NetworkFaults = CALM, seed: int = 0) -> AsyncIterator[Fabric]:
    courier = Courier()
    async with trio.open_nursery() as nursery:
        await nursery.start(courier.run)
        yield Fabric(Network(Streams(seed), faults), courier, History())
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def joined(fabric: Fabric) -> AsyncIterator[tuple[Channel, Channel]]:
    """Open nodes `a` and `b`, and a stream that `a` dialled."""
    async with SimTransport(fabric, "a").open(HERE) as a, SimTransport(fabric, "b").open(THERE) as b:
        near = await a.dial("/memory/b")
        yield near, await b.accept()


def named(address: str) -> str:
    place = parse_address(address).place
    assert isinstance(place, MemoryPlace)
    return place.name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_conformance(case: Case, autojump_clock: Any) -> None:
    async with weather(NetworkFaults(latency_s=0.001, jitter_s=0.002)) as fabric:
        names = map("n{}".format, itertools.count())
        await case(
            TransportKit(
                make=lambda: SimTransport(fabric, next(names)),
                make_at=lambda address: SimTransport(fabric, named(address)),
                make_hurried=lambda: SimTransport(fabric, next(names), backlog_max=2, dial_timeout_s=0.5),
                nobody="/memory/nobody",
                foreign="/ip4/127.0.0.1/tcp/1",
            )
        )


# ------------------------------------------------------------------------------------------------------ time and order


async def test_bytes_take_the_latency_and_a_dial_two(autojump_clock: Any) -> None:
    async with weather(NetworkFaults(latency_s=0.25)) as fabric, joined(fabric) as (near, far):
        assert trio.current_time() == 0.5
        await near.send(b"x")
        assert trio.current_time() == 0.5
        await far.receive()
        assert trio.current_time() == 0.75


async def test_bandwidth_says_how_long_bytes_take(autojump_clock: Any) -> None:
    async with weather(NetworkFaults(bandwidth_bytes_per_s=10_000)) as fabric, joined(fabric) as (near, far):
        begun = trio.current_time()
        await near.send(pattern(50_000))
        assert await receive_exactly(far, 50_000) == pattern(50_000)
        assert trio.current_time() - begun == pytest.approx(5.0, abs=0.1)


async def test_jitter_never_changes_the_order_of_a_stream(autojump_clock: Any) -> None:
    async with weather(NetworkFaults(jitter_s=1.0)) as fabric, joined(fabric) as (near, far):
        for number in range(100):
            await near.send(bytes([number]))
        assert await receive_exactly(far, 100) == bytes(range(100))


async def test_a_slow_reader_slows_its_writer(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far), trio.open_nursery() as nursery:
        fabric.slow["b"] = 1000.0
        nursery.start_soon(receive_all, far)
        begun = trio.current_time()
        await near.send(bytes(WINDOW_BYTES + 64_000))
        took = trio.current_time() - begun
        assert 60 <= took <= 130
        nursery.cancel_scope.cancel()


async def test_a_slow_reader_is_as_fast_as_ever_once_that_is_over(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far), trio.open_nursery() as nursery:
        fabric.slow["b"] = 1.0
        await near.send(bytes(60_000))
        begun = trio.current_time()
        nursery.start_soon(receive_exactly, far, 60_000)
        await trio.sleep(5)
        assert nursery.child_tasks
        fabric.slow["b"] = 1e6
        await trio.sleep(0.5)
        assert not nursery.child_tasks
        assert trio.current_time() - begun < 6


async def test_what_is_never_due_is_never_done(autojump_clock: Any) -> None:
    done: list[float] = []
    async with weather() as fabric:
        for when in (math.inf, 1.0):
            fabric.courier.at(when, lambda when=when: done.append(when))  # type: ignore[misc]
        await trio.sleep(1000)
    assert done == [1.0]


async def test_a_writer_waits_at_the_window(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, _):
        with trio.move_on_after(60) as scope:
            await near.send(bytes(WINDOW_BYTES))
            assert near.send_nowait(b"x") == 0
            await near.send(b"x")
        assert scope.cancelled_caught


# --------------------------------------------------------------------------------------------------- streams that die


@pytest.mark.parametrize("kind", ["loss", "corruption"])
async def test_a_lost_write_ends_the_stream_at_both_ends(kind: str, autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        await near.send(b"before")
        assert await far.receive() == b"before"
        fabric.network.faults = NetworkFaults(**{kind: 1.0})
        await near.send(b"lost")
        fabric.network.faults = NetworkFaults()
        await trio.sleep(1)
        for call in (far.receive(), near.receive(), near.send(b"x"), far.send(b"x")):
            with pytest.raises(anyio.BrokenResourceError):
                await call


async def test_a_reader_that_waits_hears_of_a_lost_write(autojump_clock: Any) -> None:
    async with weather(NetworkFaults(latency_s=0.1)) as fabric, joined(fabric) as (near, far):
        fabric.network.faults = NetworkFaults(latency_s=0.1, loss=1.0)
        async with trio.open_nursery() as nursery:
            for channel in (near, far):
                nursery.start_soon(expect_broken, channel.receive)
            await near.send(b"lost")
        assert trio.current_time() == pytest.approx(0.3)


async def expect_broken(call: Callable[[], Any]) -> None:
    with pytest.raises(anyio.BrokenResourceError):
        await call()


@pytest.mark.parametrize("loss", [0.01, 0.3])
async def test_under_loss_what_comes_is_a_prefix_of_what_was_sent(loss: float, autojump_clock: Any) -> None:
    for seed in range(20):
        got = bytearray()
        async with weather(NetworkFaults(jitter_s=0.1), seed) as fabric, joined(fabric) as (near, far):
            fabric.network.faults = NetworkFaults(jitter_s=0.1, loss=loss)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_until_broken, far, got)
                try:
                    for number in range(200):
                        await near.send(bytes([number]))
                        await trio.sleep(0.01)
                except anyio.BrokenResourceError:
                    pass
                await near.aclose()
        assert bytes(range(200)).startswith(bytes(got))


async def receive_until_broken(channel: Channel, got: bytearray) -> None:
    try:
        while True:
            got += await channel.receive()
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        pass


async def test_without_a_seal_a_bit_changes_and_the_stream_goes_on(autojump_clock: Any) -> None:
    async with weather(NetworkFaults(sealed=False)) as fabric, joined(fabric) as (near, far):
        fabric.network.faults = NetworkFaults(corruption=1.0, sealed=False)
        sent = pattern(1000)
        await near.send(sent)
        fabric.network.faults = NetworkFaults(sealed=False)
        await near.send(b"whole")
        got = await receive_exactly(far, 1000)
        assert sum((one ^ other).bit_count() for one, other in zip(sent, got, strict=True)) == 1
        assert sent == pattern(1000)
        assert await far.receive() == b"whole"


# ----------------------------------------------------------------------------------------------------------------- cuts


async def test_what_is_written_into_a_cut_comes_after_it_in_order(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        fabric.network.cut("a", "b")
        begun = trio.current_time()
        await near.send(b"one")
        await near.send(b"two")
        await trio.sleep(5)
        fabric.network.mend("a", "b")
        fabric.ways_changed()
        await near.send(b"six")
        assert await receive_exactly(far, 9) == b"onetwosix"
        assert trio.current_time() - begun == pytest.approx(5 + RESEND_S, abs=0.01)


async def test_a_cut_one_way_leaves_the_other_open(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        fabric.network.cut("a", "b")
        await far.send(b"back")
        assert await near.receive() == b"back"


async def test_a_stream_dies_of_a_cut_that_is_too_long(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        await trio.sleep(3)
        fabric.network.cut("a", "b")
        await trio.sleep(2 * GIVE_UP_S)  # nothing is written: nobody notices
        begun = trio.current_time()
        await near.send(b"lost")
        for channel in (near, far):
            with pytest.raises(anyio.BrokenResourceError):
                await channel.receive()
        assert trio.current_time() - begun == pytest.approx(GIVE_UP_S, abs=0.01)


async def test_a_second_cut_has_its_own_time(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        for _ in range(3):
            fabric.network.cut("a", "b")
            await near.send(b"x")
            await trio.sleep(GIVE_UP_S - 1)
            fabric.network.mend("a", "b")
            fabric.ways_changed()
            assert await far.receive() == b"x"


async def test_a_cut_keeps_a_dial_out_until_its_deadline(autojump_clock: Any) -> None:
    async with (
        weather() as fabric,
        SimTransport(fabric, "b").open(THERE),
        SimTransport(fabric, "a", dial_timeout_s=3.0).open(HERE) as a,
    ):
        fabric.network.cut("b", "a")
        with pytest.raises(UnreachableError):
            await a.dial("/memory/b")
        assert trio.current_time() == 3.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, "/memory/b")
            await trio.sleep(1.5)
            fabric.network.mend("b", "a")
        assert trio.current_time() < 6.0


# --------------------------------------------------------------------------------------------------- nodes that crash


async def test_the_crash_of_a_process_resets_its_streams(autojump_clock: Any) -> None:
    async with (
        weather() as fabric,
        SimTransport(fabric, "a").open(HERE) as a,
        SimTransport(fabric, "b").open(THERE) as b,
    ):
        near = await a.dial("/memory/b")
        far = await b.accept()
        fabric.leave(b)
        b.die(silently=False)
        begun = trio.current_time()
        with pytest.raises(anyio.BrokenResourceError):
            await near.receive()
        assert trio.current_time() - begun < 0.01
        with pytest.raises(anyio.BrokenResourceError):
            await far.send(b"a ghost writes")
        with pytest.raises(UnreachableError):
            await a.dial("/memory/b")


@pytest.mark.parametrize("mended_after_s", [3.0, 2 * GIVE_UP_S])
async def test_the_end_of_a_process_is_not_heard_across_a_cut(mended_after_s: float, autojump_clock: Any) -> None:
    async with (
        weather() as fabric,
        SimTransport(fabric, "a").open(HERE) as a,
        SimTransport(fabric, "b").open(THERE) as b,
        trio.open_nursery() as nursery,
    ):
        near = await a.dial("/memory/b")
        await b.accept()
        fabric.network.cut("b", "a")
        fabric.leave(b)
        b.die(silently=False)

        async def mend() -> None:
            await trio.sleep(mended_after_s)
            fabric.network.mend("b", "a")
            fabric.ways_changed()

        nursery.start_soon(mend)
        begun = trio.current_time()
        await expect_broken(near.receive)
        heard_after_s = min(mended_after_s + RESEND_S, GIVE_UP_S)
        assert trio.current_time() - begun == pytest.approx(heard_after_s, abs=0.01)


async def test_of_a_machine_that_is_off_nobody_hears_until_it_is_on(autojump_clock: Any) -> None:
    async with weather() as fabric, SimTransport(fabric, "a").open(HERE) as a:
        async with SimTransport(fabric, "b").open(THERE) as b:
            near = await a.dial("/memory/b")
            fabric.switch_off("b")
            fabric.leave(b)
            b.die(silently=True)
        with trio.move_on_after(5) as scope:
            await near.receive()
        assert scope.cancelled_caught
        await near.send(b"into the dark")
        fabric.switch_on("b")
        with pytest.raises(anyio.BrokenResourceError):
            await near.receive()
        with pytest.raises(UnreachableError):
            await a.dial("/memory/b")


async def test_an_address_is_free_once_its_process_is_dead(autojump_clock: Any) -> None:
    async with weather() as fabric, SimTransport(fabric, "b").open(THERE) as first:
        with pytest.raises(AddressInUseError):
            async with SimTransport(fabric, "b").open(THERE):
                pass
        fabric.leave(first)
        first.die(silently=False)
        async with SimTransport(fabric, "b").open(THERE) as second:
            assert fabric.listener("b") is second
        assert fabric.listener("b") is None


# --------------------------------------------------------------------------------------------------------- cancellation


async def test_a_send_cancelled_halfway_kills_the_stream(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        with trio.move_on_after(1):
            await near.send(pattern(WINDOW_BYTES + 1))
        with pytest.raises(anyio.BrokenResourceError):
            await near.send(b"x")
        got = bytearray()
        await receive_until_broken(far, got)
        assert pattern(WINDOW_BYTES).startswith(bytes(got))


async def test_a_send_cancelled_before_it_began_sent_nothing(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        await near.send(bytes(WINDOW_BYTES))
        with trio.move_on_after(1):
            await near.send(b"nothing of this")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, b"all of this")
            assert await receive_exactly(far, WINDOW_BYTES + 11) == bytes(WINDOW_BYTES) + b"all of this"


async def test_a_cancelled_receive_under_a_slow_reader_loses_nothing(autojump_clock: Any) -> None:
    async with weather() as fabric, joined(fabric) as (near, far):
        fabric.slow["b"] = 100.0
        await near.send(pattern(1000))
        for _ in range(5):
            with trio.move_on_after(0.5):
                await far.receive()
        assert await receive_exactly(far, 1000) == pattern(1000)


async def test_a_stream_that_is_closed_at_both_ends_is_forgotten(autojump_clock: Any) -> None:
    async with (
        weather() as fabric,
        SimTransport(fabric, "a").open(HERE) as a,
        SimTransport(fabric, "b").open(THERE) as b,
    ):
        for _ in range(3):
            near, far = await a.dial("/memory/b"), await b.accept()
            await near.aclose()
            assert await receive_all(far) == b""
            await far.aclose()
        with trio.move_on_after(0.0005):
            await a.dial("/memory/b")
        assert not a.channels
        assert not b.channels
