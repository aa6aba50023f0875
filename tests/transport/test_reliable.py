"""Reliable delivery end to end: systems over the memory transport whose links are torn, on the virtual clock."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import prime
from prime import Actor, Ask, KeyPair, Mailbox, Memory, ReliableRef, System, on
from prime.actor import DeadLetter
from prime.actor.contract import PeerId
from prime.errors import DeadlineError, LinkLostError, LocalProtocolError, PrimeError
from prime.transport import frames as fr
from prime.transport.links import LinkLimits, Links
from prime.transport.memory import MemoryChannel
from prime.transport.series import PEERS_MAX, POSTED_MAX
from prime.wire import Payload

KEYS = tuple(KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 4))
LIMITS = LinkLimits(reliable_messages=16, reliable_give_up_s=60.0, allowance=fr.Allowance(window_messages=8))


@prime.message(tag=0x7A21)
class Step:
    number: int


@prime.message(tag=0x7A22)
class Blob:
    data: Payload


@prime.message(tag=0x7A23)
class Sum(Ask[int]):
    pass


class Sink(Actor[Step | Blob | Sum]):
    """Writes down what it gets; handling takes a while, so that its mailbox fills."""

    def __init__(self, got: list[Any], pause_s: float = 0.0) -> None:
        self.got, self.pause_s = got, pause_s

    @on(Step)
    async def step(self, m: Step) -> None:
        self.got.append(m.number)
        if self.pause_s:
            await trio.sleep(self.pause_s)

    @on(Blob)
    def blob(self, m: Blob) -> None:
        self.got.append(bytes(m.data))

    @on(Sum)
    def sum(self, _: Sum) -> int:
        return sum(self.got)


@attrs.define(eq=False)
class Pair:
    """Two systems that know each other; the far one can be stopped and started anew."""

    near: System
    far: System
    got: list[Any]

    def ref(self, path: str = "/s/sink") -> ReliableRef[Step | Blob | Sum]:
        return self.near.ref(KEYS[1].peer, path, Sink, reliable=True)


def links(system: System) -> Links:
    assert isinstance(system.network, Links)
    return system.network


def tear(system: System) -> bool:
    """Break the link of a system as a cable does: what is on its way is gone."""
    carriers = tuple(links(system)._up.values())
    for carrier in carriers:
        channel = carrier._channel
        assert isinstance(channel, MemoryChannel)
        channel._outward.tear()
        channel._inward.tear()
    return bool(carriers)


@contextlib.asynccontextmanager
async def pair(
    *, capacity: int = 4, pause_s: float = 0.0, limits: LinkLimits = LIMITS, path: str = "sink"
) -> AsyncIterator[Pair]:
    transport, got = Memory(), list[Any]()
    async with (
        prime.open_system(transport=transport, key=KEYS[0], limits=limits) as near,
        prime.open_system(transport=transport, key=KEYS[1], limits=limits) as far,
        far.supervisor("s") as supervisor,
    ):
        near.learn(far.peer, far.addresses)
        far.learn(near.peer, near.addresses)
        await supervisor.spawn(lambda: Sink(got, pause_s), path, mailbox=Mailbox(capacity))
        yield Pair(near, far, got)


async def test_however_many_strangers_come_a_linked_peer_is_not_forgotten(autojump_clock: Any) -> None:
    """What came of it, where it is dialled and which link was the last: all that a link is resumed with."""
    async with pair(limits=attrs.evolve(LIMITS, peers_max=4)) as two:
        ref = two.ref()
        for number in range(5):
            await ref.tell(Step(number))
        await ref.flushed(timeout=5)
        for _ in range(2):
            for _ in range(6):
                async with prime.open_system(transport=links(two.far)._transport, key=KeyPair.generate()) as stranger:
                    await links(stranger).dial(two.far.addresses[0])
            await ref.tell(Step(len(two.got)))
            await ref.flushed(timeout=5)
            assert links(two.far).known_addresses(two.near.peer)
            tear(two.near)
            await ref.tell(Step(len(two.got)))
            await ref.flushed(timeout=5)
        await trio.sleep(1)
        assert two.got == list(range(9))
        assert len(links(two.far)._inboxes) <= 4


@pytest.mark.parametrize("seed", range(12))
async def test_over_torn_links_each_message_comes_once_and_in_order(seed: int, autojump_clock: Any) -> None:
    chance = random.Random(seed)
    count, torn = 400, 0
    async with pair(pause_s=0.01) as two:
        ref = two.ref()
        told = trio.Event()

        async def tell_all() -> None:
            for number in range(count):
                await ref.tell(Step(number))
                if chance.random() < 0.1:
                    await trio.sleep(chance.random() * 0.1)
                post = links(two.near)._post.sizes()
                assert post["series"] == 1
                assert post["letters"] <= LIMITS.reliable_messages + 1
            told.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_all)
            while not told.is_set():
                await trio.sleep(chance.random() * 0.5)
                torn += tear(chance.choice([two.near, two.far]))
            with trio.fail_after(600):
                await ref.flushed(timeout=500)
        await trio.sleep(60)  # the last ones are handled
        assert two.got == list(range(count))
        assert torn > 3
        assert links(two.near)._post.sizes()["letters"] == 0
        assert two.near.dead_letters == two.far.dead_letters == 0
        assert links(two.near).dead_letters == 0
        await trio.sleep(1)
        for system in (two.near, two.far):
            for carrier in links(system)._up.values():
                assert carrier.link.sizes()["waiting"] == 0
            assert all(len(inbox.receiver) <= 1 for inbox in links(system)._inboxes.values())


@pytest.mark.parametrize("seed", range(3))
async def test_several_tellers_and_targets_keep_their_own_order(seed: int, autojump_clock: Any) -> None:
    chance = random.Random(seed)
    async with pair() as two, two.far.supervisor("more") as supervisor:
        got: dict[str, list[int]] = {f"t{n}": [] for n in range(4)}
        for name, into in got.items():
            await supervisor.spawn(lambda into=into: Sink(into, 0.01), name, mailbox=Mailbox(2))

        async def tell_all(name: str) -> None:
            ref = two.ref(f"/more/{name}")
            for number in range(60):
                await ref.tell(Step(number))
            await ref.flushed(timeout=300)

        async with trio.open_nursery() as nursery:
            for name in got:
                nursery.start_soon(tell_all, name)
            for _ in range(5):
                await trio.sleep(chance.random())
                tear(two.near)
        await trio.sleep(5)
        assert all(numbers == list(range(60)) for numbers in got.values())


async def test_a_teller_waits_while_the_window_is_full_and_others_go_on(autojump_clock: Any) -> None:
    async with pair(capacity=1, pause_s=1.0) as two, two.far.supervisor("more") as supervisor:
        quick: list[Any] = []
        await supervisor.spawn(lambda: Sink(quick), "quick")
        slow_ref, quick_ref = two.ref(), two.ref("/more/quick")
        told = 0

        async def tell_slow() -> None:
            nonlocal told
            for number in range(40):
                await slow_ref.tell(Step(number))
                told += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_slow)
            await trio.sleep(5.5)
            assert LIMITS.reliable_messages <= told <= LIMITS.reliable_messages + 10
            with trio.fail_after(1):
                for number in range(100):
                    await quick_ref.tell(Step(number))
                await quick_ref.flushed(timeout=1)
            assert quick == list(range(100))
        await slow_ref.flushed(timeout=60)
        assert two.got[-1] >= 35


async def test_an_actor_that_is_not_there_yet_gets_all_once_it_is(autojump_clock: Any) -> None:
    async with pair() as two:
        ref = two.ref("/late/one")
        for number in range(10):
            await ref.tell(Step(number))
        with pytest.raises(DeadlineError, match="has not taken all"):
            await ref.flushed(timeout=10)
        got: list[Any] = []
        async with two.far.supervisor("late") as supervisor:
            await supervisor.spawn(lambda: Sink(got), "one")
            await ref.flushed(timeout=20)
            await trio.testing.wait_all_tasks_blocked()
            assert got == list(range(10))


async def test_what_is_never_taken_is_given_up_with_its_reason_and_reported_once(autojump_clock: Any) -> None:
    async with pair() as two:
        letters: list[Any] = []
        two.near.subscribe(lambda fact: letters.append(fact) if isinstance(fact, DeadLetter) else None)
        ref = two.ref("/nobody/here")
        started = trio.current_time()
        for number in range(3):
            await ref.tell(Step(number))
        with pytest.raises(DeadlineError, match="did not take 3 messages within 60 s: no actor at /nobody/here"):
            await ref.flushed(timeout=1000)
        assert 60 <= trio.current_time() - started <= 61
        assert [(letter.path, letter.kind) for letter in letters] == [("/nobody/here", "Step")] * 3
        await ref.tell(Step(9))  # a new series begins
        assert links(two.near)._post.sizes() == {"series": 1, "letters": 1}


async def test_a_failure_that_nobody_waited_for_meets_the_next_teller(autojump_clock: Any) -> None:
    async with pair() as two:
        ref = two.ref("/nobody/here")
        await ref.tell(Step(1))
        await trio.sleep(100)
        with pytest.raises(DeadlineError, match="no actor at"):
            await ref.tell(Step(2))
        await ref.tell(Step(3))


async def test_a_peer_that_cannot_be_reached_is_given_up_too(autojump_clock: Any) -> None:
    async with pair() as two:
        ref = two.near.ref(KEYS[2].peer, "/s/sink", Sink, reliable=True)
        await ref.tell(Step(1))
        with pytest.raises(DeadlineError, match="no address is known"):
            await ref.flushed(timeout=1000)


async def test_over_a_restart_of_the_far_node_only_what_was_in_its_mailbox_is_lost(autojump_clock: Any) -> None:
    transport = Memory("/memory/far-or-near")
    hub = transport.hub
    lives: list[list[int]] = [[], []]
    async with prime.open_system(transport=Memory("/memory/near", hub), key=KEYS[0], limits=LIMITS) as near:
        ref = near.ref(KEYS[1].peer, "/s/sink", Sink, reliable=True)
        async with trio.open_nursery() as nursery:

            async def tell_all() -> None:
                for number in range(100):
                    await ref.tell(Step(number))
                await ref.flushed(timeout=100)

            for life in (0, 1):
                async with (
                    prime.open_system(transport=Memory("/memory/far", hub), key=KEYS[1], limits=LIMITS) as far,
                    far.supervisor("s") as supervisor,
                ):
                    near.learn(far.peer, far.addresses)
                    if life == 0:
                        nursery.start_soon(tell_all)
                    await trio.sleep(0.5)  # the actor comes late in each life
                    await supervisor.spawn(lambda life=life: Sink(lives[life], 0.05), "sink", mailbox=Mailbox(4))
                    await trio.sleep(2 if life == 0 else 60)
        lost = sorted(set(range(100)) - set(lives[0]) - set(lives[1]))
        assert len(lost) <= 4 + 1, "a mailbox, and who waited for room in it, die with their actor"
        assert lost == list(range(lives[0][-1] + 1, lives[0][-1] + 1 + len(lost)))
        for got in lives:
            assert got == list(range(got[0], got[0] + len(got))), "in order, each once, in each life"
        assert 0 < len(lives[0]) < 100


async def test_a_restarted_sender_begins_a_stream_of_its_own(autojump_clock: Any) -> None:
    hub = Memory().hub
    got: list[int] = []
    async with (
        prime.open_system(transport=Memory("/memory/far", hub), key=KEYS[1], limits=LIMITS) as far,
        far.supervisor("s") as supervisor,
    ):
        await supervisor.spawn(lambda: Sink(got), "sink")
        for life in range(3):
            async with prime.open_system(transport=Memory("/memory/near", hub), key=KEYS[0], limits=LIMITS) as near:
                near.learn(far.peer, far.addresses)
                ref = near.ref(far.peer, "/s/sink", Sink, reliable=True)
                for number in range(5):
                    await ref.tell(Step(10 * life + number))
                await ref.flushed(timeout=10)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [10 * life + number for life in range(3) for number in range(5)]
        assert len(links(far)._inboxes[KEYS[0].peer].receiver) == 1


async def test_payloads_may_be_reused_once_told_and_asks_are_ordinary(autojump_clock: Any) -> None:
    async with pair() as two:
        ref = two.ref()
        buffer = bytearray(b"first")
        await ref.tell(Blob(memoryview(buffer)))
        buffer[:] = b"later"
        await ref.flushed(timeout=5)
        await trio.testing.wait_all_tasks_blocked()
        assert two.got == [b"first"]
        two.got.clear()
        await ref.tell(Step(5))
        await ref.flushed(timeout=5)
        assert await ref.ask(Sum(), timeout=5) == 5


async def test_a_message_that_the_peer_cannot_take_fails_its_series_at_once(autojump_clock: Any) -> None:
    small = attrs.evolve(LIMITS, allowance=fr.Allowance(frame_bytes_max=1000, window_messages=8))
    async with pair(limits=small) as two:
        ref = two.ref()
        await ref.tell(Blob(memoryview(bytes(5000))))
        with pytest.raises(LocalProtocolError, match="5"):
            await ref.flushed(timeout=5)
        await ref.tell(Step(1))
        await ref.flushed(timeout=5)
        await trio.testing.wait_all_tasks_blocked()
        assert two.got == [1]


async def test_a_cancelled_teller_and_a_cancelled_waiter_leave_nothing(autojump_clock: Any) -> None:
    async with pair(capacity=1, pause_s=10.0) as two:
        ref = two.ref()
        with trio.move_on_after(3):
            for number in range(1000):
                await ref.tell(Step(number))
        with trio.move_on_after(1):
            await ref.flushed(timeout=100)
        (series,) = links(two.near)._post._every()
        assert series._core.sizes() == {"kept": LIMITS.reliable_messages, "waiting": 0, "flushes": 0}
        assert not series._receipts
        assert not series._told


async def test_a_reliable_ref_to_an_actor_here_is_as_near_as_any(autojump_clock: Any) -> None:
    async with pair() as two:
        ref = two.far.ref("", "/s/sink", Sink, reliable=True)
        await ref.tell(Step(1))
        await ref.flushed(timeout=1)
        assert ref == two.far.ref("", "/s/sink", Sink)
        assert two.ref() == two.near.ref(KEYS[1].peer, "/s/sink", Sink)
        with pytest.raises((PrimeError, LinkLostError)):
            two.near.ref(KEYS[1].peer, "/s/sink", Sink, reliable=True).tell_nowait(Step(1))


async def test_a_message_that_waits_for_room_while_its_link_is_replaced_comes_once(autojump_clock: Any) -> None:
    async with pair(capacity=1, pause_s=5.0) as two:
        ref = two.ref()
        for number in range(6):
            await ref.tell(Step(number))
        for _ in range(8):
            await trio.sleep(1.3)  # the far mailbox is full at each of them: a message is on offer when its link goes
            tear(two.near)
        await ref.flushed(timeout=60)
        await trio.sleep(60)
        assert two.got == list(range(6))


async def test_series_with_many_peers_and_actors_are_forgotten_when_they_idle(autojump_clock: Any) -> None:
    async with pair() as two, two.far.supervisor("more") as supervisor:
        got: list[Any] = []
        for number in range(POSTED_MAX + 20):
            path = await supervisor.spawn(lambda: Sink(got), f"t{number}")
            ref = two.ref(path.path)
            await ref.tell(Step(number))
            await ref.flushed(timeout=10)
        assert got == list(range(POSTED_MAX + 20))
        assert links(two.near)._post.sizes() == {"series": POSTED_MAX, "letters": 0}
        for number in range(2 * PEERS_MAX):
            links(two.near)._post._series[PeerId(f"peer{number}")] = {}
        await two.ref().tell(Step(0))
        assert len(links(two.near)._post._series) == 1
