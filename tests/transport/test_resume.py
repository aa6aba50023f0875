"""A link that was cut goes on within two seconds of healing, and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing

import prime
from prime import Actor, Ask, KeyPair, Memory, System, on
from prime.errors import LinkLostError
from prime.transport.links import LinkLimits, Links
from tests.transport.outage import OverPath, Path

KEYS = tuple(KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2))
LIMITS = LinkLimits(reliable_give_up_s=3600.0)
EVERY_S = 0.05
RESUME_S = 2.0


@prime.message(tag=0x7A6A)
class Step:
    number: int


@prime.message(tag=0x7A6B)
class Reached(Ask[int]):
    pass


class Sink(Actor[Step | Reached]):
    """Writes down what it gets, and when."""

    def __init__(self, got: list[tuple[float, int]]) -> None:
        self.got = got

    @on(Step)
    def step(self, m: Step) -> None:
        self.got.append((trio.current_time(), m.number))

    @on(Reached)
    def reached(self, _: Reached) -> int:
        return len(self.got)


@attrs.define(eq=False)
class Side:
    system: System
    got: list[tuple[float, int]]
    other: System | None = None

    @property
    def links(self) -> Links:
        assert isinstance(self.system.network, Links)
        return self.system.network

    async def send(self, until: trio.Event) -> int:
        """Tell numbers reliably, many a second, until told to stop; returns how many."""
        assert self.other is not None
        ref = self.system.ref(self.other.peer, "/s/sink", Sink, reliable=True)
        number = 0
        while not until.is_set():
            with trio.move_on_after(EVERY_S) as waits:
                await ref.tell(Step(number))
                number += 1
            if not waits.cancelled_caught:
                await trio.sleep(EVERY_S)
        await ref.flushed(timeout=100)
        return number


@contextlib.asynccontextmanager
async def two(path: Path, *, known: bool = True) -> AsyncIterator[tuple[Side, Side]]:
    transport = OverPath(Memory(), path)
    sides = []
    async with contextlib.AsyncExitStack() as stack:
        for key in KEYS:
            system = await stack.enter_async_context(prime.open_system(transport=transport, key=key, limits=LIMITS))
            got: list[tuple[float, int]] = []
            supervisor = await stack.enter_async_context(system.supervisor("s"))
            await supervisor.spawn(lambda got=got: Sink(got), "sink")
            sides.append(Side(system, got))
        one, other = sides
        one.other, other.other = other.system, one.system
        one.system.learn(other.system.peer, other.system.addresses)
        if known:
            other.system.learn(one.system.peer, one.system.addresses)
        yield one, other


CUTS = (0.3, 0.7, 1.5, 1.7, 2.4, 3.2, 3.6, 4.5, 6.1, 7.3, 9.5, 15.0, 40.0, 300.0)


@pytest.mark.parametrize("cut_s", CUTS)
@pytest.mark.parametrize("senders", [(0,), (1,), (0, 1)], ids=["one way", "the other way", "both ways"])
async def test_a_cut_link_goes_on_within_two_seconds_of_healing_and_nothing_is_doubled(
    cut_s: float, senders: tuple[int, ...], autojump_clock: trio.testing.MockClock
) -> None:
    path, stop, told = Path(), trio.Event(), dict[int, int]()
    async with two(path) as sides, trio.open_nursery() as nursery:

        async def send(side: int) -> None:
            told[side] = await sides[side].send(stop)

        for side in senders:
            nursery.start_soon(send, side)
        await trio.sleep(5.3)
        await path.cut(cut_s)
        healed = trio.current_time()
        await trio.sleep(10)
        stop.set()
    for side in senders:
        got = sides[1 - side].got
        assert [number for _, number in got] == list(range(told[side]))
        assert min(at for at, _ in got if at > healed) - healed <= RESUME_S


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(3, 8))])
async def test_after_each_of_many_cuts_of_any_length_the_link_goes_on(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    chance, path, stop, told, heals = random.Random(seed), Path(), trio.Event(), dict[int, int](), list[float]()
    async with two(path) as sides, trio.open_nursery() as nursery:

        async def send(side: int) -> None:
            told[side] = await sides[side].send(stop)

        for side in (0, 1):
            nursery.start_soon(send, side)
        for _ in range(40):
            await trio.sleep(chance.choice([0.01, 0.3, 1.0, 2.5, 8.0]) * chance.random())
            await path.cut(chance.choice([0.02, 0.5, 3.0, 12.0]) * chance.random())
            heals.append(trio.current_time())
        await trio.sleep(10)
        stop.set()
    for side in (0, 1):
        got = sides[1 - side].got
        assert [number for _, number in got] == list(range(told[side]))
        assert min(at for at, _ in got if at > heals[-1]) - heals[-1] <= RESUME_S
        links = sides[side].links
        assert len(links.peers) <= 1
        assert not links._held
        assert not links._dials
        assert not links._post.sizes()["letters"]


async def test_a_link_that_is_heard_again_is_kept_and_its_asks_with_it(autojump_clock: trio.testing.MockClock) -> None:
    path = Path()
    async with two(path) as (one, other):
        assert one.other is not None
        ref = one.system.ref(one.other.peer, "/s/sink", Sink)
        carrier = one.links.carrier(one.other.peer)
        await ref.ask(Reached(), timeout=1)
        carrier = one.links.carrier(one.other.peer)
        path.down = True
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: ref.ask(Reached(), timeout=10))
                await trio.sleep(1.2)
                path.down = False  # heard of within a retransmission, before the link is in doubt
        assert one.links.carrier(one.other.peer) is carrier
        assert not other.links._dials


async def test_a_plain_ask_in_flight_on_a_link_that_is_replaced_fails_with_the_cause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    path = Path()
    async with two(path) as (one, _):
        assert one.other is not None
        ref = one.system.ref(one.other.peer, "/s/sink", Sink)
        await ref.ask(Reached(), timeout=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(path.cut, 3.1)
            with pytest.raises(LinkLostError, match="newer link"):
                await ref.ask(Reached(), timeout=30)
            assert trio.current_time() <= 3.1 + RESUME_S
            assert await ref.ask(Reached(), timeout=1) == 0


async def test_nobody_dials_a_lost_peer_on_which_nothing_depends(autojump_clock: trio.testing.MockClock) -> None:
    path = Path()
    async with two(path) as sides:
        ref = sides[0].system.ref(sides[1].system.peer, "/s/sink", Sink)
        await ref.ask(Reached(), timeout=1)
        path.down = True
        await trio.sleep(120)
        assert not sides[0].links.peers
        for side in sides:
            assert not side.links._dials
