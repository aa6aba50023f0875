"""A flood starves nobody, and a full mailbox slows its own senders alone, near and far; churn leaves memory flat."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import prime
from prime.actor import Actor, Down, Mailbox, Ref, Restart, Supervisor, on
from prime.actor.cell import BURST
from prime.errors import PrimeError
from prime.node.system import open_system
from prime.testing import virtual_clock
from prime.wire import Ask

FLOOD = 3_000
TURNS = 4
"""How many bursts may pass before somebody else has a turn: the sender's, the actor's, and the order of a batch."""


@prime.message(tag=0x7121)
class Drop:
    sender: int


@prime.message(tag=0x7122)
class Total(Ask[int]):
    sender: int


@prime.message(tag=0x7123)
class Block:
    seconds: float


@prime.message(tag=0x7124)
class Fault:
    pass


@prime.message(tag=0x7125)
class Mourn:
    path: str


class Bucket(Actor[Drop | Total | Block | Fault | Mourn]):
    """Counts, and remembers whose message came when."""

    def __init__(self, log: list[int] | None = None) -> None:
        self.log: list[int] = [] if log is None else log
        self.count = 0

    @on(Drop)
    def drop(self, m: Drop) -> None:
        self.count += 1
        self.log.append(m.sender)

    @on(Total)
    def total(self, m: Total) -> int:
        self.count += 1
        self.log.append(m.sender)
        return self.count

    @on(Block)
    async def block(self, m: Block) -> None:
        await trio.sleep(m.seconds)

    @on(Fault)
    def fault(self, _: Fault) -> None:
        raise ValueError("as told")

    @on(Mourn)
    def mourn(self, m: Mourn) -> None:
        ref = self.ctx.system.whereis(m.path)
        if ref is not None:
            self.ctx.watch(ref)
        self.ctx.after(1, Drop(0))

    @on(Down)
    def down(self, _: Down) -> None:
        self.count += 1


async def flood_by_tell(ref: Ref[Any]) -> None:
    for _ in range(FLOOD):
        await ref.tell(Drop(0))


async def flood_by_ask(ref: Ref[Any]) -> None:
    for _ in range(FLOOD):
        await ref.ask(Total(0), timeout=5)


@given(
    capacity=st.sampled_from([1, 10, 1024, 10_000]),
    floods=st.lists(st.sampled_from([flood_by_tell, flood_by_ask]), min_size=1, max_size=3),
    asks=st.booleans(),
)
def test_a_flood_starves_nobody(capacity: int, floods: list[Callable[[Any], Any]], asks: bool) -> None:
    log: list[int] = []
    passed: list[int] = []

    async def bystander() -> None:
        while len(log) < FLOOD * len(floods):
            passed.append(len(log))
            await trio.lowlevel.checkpoint()

    async def other(ref: Ref[Any]) -> None:
        while len(log) < FLOOD:
            await (ref.ask(Total(1), timeout=5) if asks else ref.tell(Drop(1)))

    async def main() -> None:
        async with open_system() as system, system.supervisor("s") as sup, trio.open_nursery() as nursery:
            ref = await sup.spawn(lambda: Bucket(log), "bucket", mailbox=Mailbox(capacity))
            nursery.start_soon(bystander)
            nursery.start_soon(other, ref)
            for flood in floods:
                nursery.start_soon(flood, ref)

    trio.run(main, clock=virtual_clock())
    everyone = len(floods) + 2
    # The factor of two: first in one batch of the scheduler, last in the next.
    assert max(b - a for a, b in itertools.pairwise(passed)) <= 2 * BURST * everyone
    turns = [place for place, sender in enumerate(log[:FLOOD]) if sender == 1]
    waits = [b - a for a, b in itertools.pairwise([0, *turns])]
    assert max(waits) <= min(capacity, FLOOD) + BURST * everyone * TURNS


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
def test_a_full_mailbox_slows_its_own_senders_alone(far: bool) -> None:
    async def main() -> None:
        memory = prime.Memory()
        async with (
            open_system(transport=memory) as here,
            open_system(transport=memory) as there,
            there.supervisor("s") as sup,
        ):
            stuck_log, free_log = list[int](), list[int]()
            await sup.spawn(lambda: Bucket(stuck_log), "stuck", mailbox=Mailbox(5))
            await sup.spawn(lambda: Bucket(free_log), "free", mailbox=Mailbox(5))
            system = here if far else there
            here.learn(there.peer, there.addresses)
            stuck, free = (system.ref(there.peer, f"/s/{name}", Bucket) for name in ("stuck", "free"))
            sent: list[int] = []

            async def keep_sending() -> None:
                for number in range(4_000):
                    await stuck.tell(Drop(number))
                    sent.append(number)

            async with trio.open_nursery() as nursery:
                await stuck.tell(Block(100))
                nursery.start_soon(keep_sending)
                await trio.sleep(1)
                waiting = len(sent)
                begun = trio.current_time()
                for number in range(2_000):
                    await free.tell(Drop(number))
                    if number % 100 == 0:
                        assert await free.ask(Total(number), timeout=1) > 0
                assert trio.current_time() - begun < 5
                assert len(sent) == waiting < 4_000
                assert not stuck_log
                await trio.sleep(200)
            assert stuck_log == list(range(4_000))

    trio.run(main, clock=virtual_clock())


# --------------------------------------------------------------------- churn


async def churn(sup: Supervisor, group: Supervisor, hour_s: float) -> None:
    """One round of everything that comes and goes."""
    system = sup.system
    refs = [await sup.spawn(Bucket, f"b{n}", passivate=5 if n % 2 else None) for n in range(4)]
    await refs[0].tell(Mourn(refs[1].path))
    await refs[1].tell(Mourn(refs[2].path))
    await refs[2].tell(Fault())
    end = system.watch(refs[3], lambda _: None)
    for ref in refs:
        assert await ref.ask(Total(1), timeout=30) > 0
    await refs[3].tell(Block(2))
    with trio.move_on_after(0.5):
        await refs[3].ask(Total(1), timeout=10)
    try:
        await refs[3].ask(Total(1), timeout=0.5)
    except PrimeError:
        pass
    else:
        raise AssertionError("answered while it was blocked")
    await trio.sleep(hour_s / 4)
    end()
    for ref in refs:
        await sup.stop(ref)

    async def start(nested: Supervisor) -> None:
        await nested.spawn(Bucket, "inner")

    await group.spawn_supervisor("nested", start)
    await trio.sleep(hour_s / 4)
    await group.stop_supervisor("nested")
    await trio.sleep(hour_s / 2)


async def live(hours: int, rounds: int) -> list[tuple[int, dict[str, int]]]:
    """Churn for so many hours, in so many rounds each; return objects and leftovers after every hour."""
    seen: list[tuple[int, dict[str, int]]] = []
    restart = Restart(max=100, within=60, backoff=(0.1, 1))
    async with (
        open_system(seed=0) as system,
        system.supervisor("a", restart=restart) as sup,
        system.supervisor("b") as group,
    ):
        for _ in range(hours):
            for _ in range(rounds):
                await churn(sup, group, 3600 / rounds)
            gc.collect()
            seen.append((len(gc.get_objects()), system.leftovers()))
    return seen


def check_flat(seen: list[tuple[int, dict[str, int]]]) -> None:
    early, late = seen[1], seen[-1]
    assert late[1] == early[1]
    assert late[0] - early[0] < 200, f"from {early[0]} objects to {late[0]}"


def test_a_day_of_churn_leaves_memory_flat() -> None:
    check_flat(trio.run(live, 24, 40, clock=virtual_clock()))


@pytest.mark.nightly
def test_a_day_of_much_churn_leaves_memory_flat() -> None:
    check_flat(trio.run(live, 24, 400, clock=virtual_clock()))
