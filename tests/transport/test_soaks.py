"""Long and unkind lives of links: comings and goings, readers that pause, sends that are cancelled, streams that break.

Each is the same code at two lengths: short in the default run, long in the nightly one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import prime
from prime import Actor, Admission, AdmissionLimits, Ask, KeyPair, Mailbox, Memory, Payload, System, on
from prime.errors import LinkLostError
from prime.transport import frames as fr
from prime.transport.links import Links
from prime.transport.tcp import Tcp
from prime.transport.unix import Unix

KEYS = tuple(KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
UNHURRIED = Admission(limits=AdmissionLimits(peer_connects_per_s=1e6, source_connects_per_s=1e6))
CYCLES = 200
CYCLES_NIGHTLY = 10_000
MIB = 2**20


@prime.message(tag=0x7A81)
class Step:
    number: int


@prime.message(tag=0x7A82)
class Bulk:
    number: int
    data: Payload


@prime.message(tag=0x7A83)
class Count(Ask[int]):
    pass


class Sink(Actor[Step | Bulk | Count]):
    """Writes down the numbers it gets."""

    def __init__(self, got: list[int], pause_s: float = 0.0) -> None:
        self.got, self.pause_s = got, pause_s

    @on(Step)
    def step(self, m: Step) -> None:
        self.got.append(m.number)

    @on(Bulk)
    async def bulk(self, m: Bulk) -> None:
        if self.pause_s and not self.got:
            await trio.sleep(self.pause_s)
        assert len(bytes(m.data)) == MIB
        self.got.append(m.number)

    @on(Count)
    def count(self, _: Count) -> int:
        return len(self.got)


def links(system: System) -> Links:
    assert isinstance(system.network, Links)
    return system.network


@pytest.fixture(params=["memory", "unix", "tcp", "libp2p"])
def transports(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """Two of one kind that reach each other."""
    tmp_path.chmod(0o700)
    if request.param == "memory":
        memory = Memory()
        return memory, memory
    if request.param == "unix":
        return Unix(tmp_path / "a"), Unix(tmp_path / "b")
    if request.param == "tcp":
        return Tcp(), Tcp()
    pytest.importorskip("libp2p")
    return prime.Libp2p(), prime.Libp2p()


@contextlib.asynccontextmanager
async def two(
    transports: tuple[Any, Any], got: list[int], *, pause_s: float = 0.0, capacity: int = 1024
) -> AsyncIterator[tuple[System, System]]:
    async with (
        prime.open_system(transport=transports[0], key=KEYS[0]) as near,
        prime.open_system(transport=transports[1], key=KEYS[1], admission=UNHURRIED) as far,
        far.supervisor("s") as supervisor,
    ):
        await supervisor.spawn(lambda: Sink(got, pause_s), "sink", mailbox=Mailbox(capacity))
        await supervisor.spawn(lambda: Sink([]), "other")
        near.learn(far.peer, far.addresses)
        yield near, far


async def until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until it is true."""
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110 - what changes it is in another place each time
            await trio.sleep(0.002)


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def memory_bytes() -> int:
    """What of this process is in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def come_and_go(near: System, far: System, cycles: int) -> None:
    """Link, ask, and end the link, again and again."""
    ref = near.ref(far.peer, "/s/sink", Sink)
    for _ in range(cycles):
        await ref.ask(Count(), timeout=20)
        carrier = links(near).carrier(far.peer)
        assert carrier is not None
        carrier.close(fr.Reason.SHUTDOWN, "enough")
        await carrier.ended.wait()
        await until(lambda: not links(far).peers)


async def cycles_leave_nothing(transports: tuple[Any, Any], cycles: int, rest_s: float, objects_max: int) -> None:
    """Timers that were cancelled go when their time comes: after a rest nothing is left, before it a few of each cycle."""
    async with two(transports, []) as (near, far):
        await come_and_go(near, far, 50)
        open_before, objects_before, memory_before = descriptors(), len(gc.get_objects()), memory_bytes()
        await come_and_go(near, far, cycles)
        await trio.sleep(rest_s)
        assert descriptors() <= open_before + 4
        assert len(gc.get_objects()) - objects_before <= objects_max
        assert memory_bytes() - memory_before <= 8 * MIB
        for system in (near, far):
            assert links(system).sizes()["streams"] <= 1


async def test_comings_and_goings_leave_memory_and_descriptors_flat(transports: tuple[Any, Any]) -> None:
    await cycles_leave_nothing(transports, CYCLES, 0.1, 20 * CYCLES)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
async def test_ten_thousand_comings_and_goings_leave_memory_and_descriptors_flat(transports: tuple[Any, Any]) -> None:
    await cycles_leave_nothing(transports, CYCLES_NIGHTLY, 12.0, 1000)


# -------------------------------------------------------------------------------------------- a reader that pauses


async def a_pausing_reader_loses_nothing(transports: tuple[Any, Any], pause_s: float) -> None:
    """An actor that takes nothing for a while, with more on its way than any buffer holds; a sibling goes on."""
    got = list[int]()
    async with two(transports, got, pause_s=pause_s, capacity=2) as (near, far), trio.open_nursery() as nursery:
        ref, data = near.ref(far.peer, "/s/sink", Sink), Payload(bytes(MIB))

        async def send() -> None:
            for number in range(60):
                await ref.tell(Bulk(number, data))

        nursery.start_soon(send)
        goes_on_at = trio.current_time() + pause_s
        while trio.current_time() < goes_on_at - 0.5:
            await near.ref(far.peer, "/s/other", Sink).ask(Count(), timeout=10)
            assert not got
            await trio.sleep(0.1)
        await until(lambda: len(got) == 60, 60)
    assert got == list(range(60))


async def test_a_reader_that_pauses_loses_nothing(transports: tuple[Any, Any]) -> None:
    await a_pausing_reader_loses_nothing(transports, 2.0)


@pytest.mark.nightly
async def test_a_reader_that_pauses_for_a_minute_loses_nothing(transports: tuple[Any, Any]) -> None:
    await a_pausing_reader_loses_nothing(transports, 60.0)


# ------------------------------------------------------------------------------------------------- cancelled sends


async def test_cancelling_any_waiting_send_leaves_every_sibling_alive(transports: tuple[Any, Any]) -> None:
    """Tells that wait for credit, for the socket, or in the middle of being written are cancelled; others are whole."""
    got, whole = list[int](), 0
    async with two(transports, got, pause_s=1.0, capacity=2) as (near, far):
        ref, other = near.ref(far.peer, "/s/sink", Sink), near.ref(far.peer, "/s/other", Sink)
        data, link = Payload(bytes(MIB)), None
        await other.ask(Count(), timeout=10)
        link = links(near).carrier(far.peer)
        for number in range(40):
            with trio.move_on_after(0.003 * (number % 12)):
                await ref.tell(Bulk(number, data))
                whole += 1
            await other.tell(Step(number))
        assert await other.ask(Count(), timeout=20) == 40
        await until(lambda: len(got) >= whole, 30)
        assert links(near).carrier(far.peer) is link
    assert got == sorted(set(got))


# ---------------------------------------------------------------------------------------- what breaks in the middle


@pytest.mark.parametrize("left", [0, 1, 5, 6, 7, 100, 5000])
async def test_a_stream_that_is_reset_in_the_middle_of_a_frame_costs_its_own_link_alone(left: int) -> None:
    got = list[int]()
    async with two((Tcp(), Tcp()), got) as (near, far):
        ref = near.ref(far.peer, "/s/sink", Sink)
        await ref.ask(Count(), timeout=10)
        async with Tcp().open(KEYS[2]) as endpoint:
            channel = await endpoint.dial(far.addresses[0])
            frame = struct.pack(">IH", 10_000, 0) + b"\x9f" * 10_000
            await channel.send(frame[:left])
            channel._wire.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
            channel.close_nowait()
        await until(lambda: len(links(far)._carriers) == 1)
        assert await ref.ask(Count(), timeout=10) == 0


async def test_a_link_that_is_reset_fails_its_asks_and_the_next_message_dials_anew() -> None:
    async with two((Tcp(), Tcp()), []) as (near, far):
        ref = near.ref(far.peer, "/s/sink", Sink)
        assert await ref.ask(Count(), timeout=10) == 0
        carrier = links(near).carrier(far.peer)
        assert carrier is not None
        channel: Any = carrier._channel
        channel._wire.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        channel.close_nowait()
        with contextlib.suppress(LinkLostError):
            await ref.ask(Count(), timeout=10)
        assert await ref.ask(Count(), timeout=10) == 0


async def test_peers_that_are_half_open_are_let_go_and_keep_nobody_out() -> None:
    """Proved peers that never say HELLO: each is let go in time, and others link meanwhile."""
    async with two((Tcp(), Tcp()), []) as (near, far), contextlib.AsyncExitStack() as stack:
        channels = []
        for number in range(4, 24):
            endpoint = await stack.enter_async_context(Tcp().open(KeyPair.from_seed(bytes([number]) * 32)))
            channels.append(await endpoint.dial(far.addresses[0]))
        assert await near.ref(far.peer, "/s/sink", Sink).ask(Count(), timeout=10) == 0
        await until(lambda: len(links(far)._carriers) == 1)
        assert links(far).sizes()["greetings"] == 0
