"""Cancellation at every await of the runtime's calls leaves nothing behind, hangs nobody, and the system works on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

import prime
from prime.actor import Actor, Down, Mailbox, Ref, Restart, Supervisor, System, ask_all, on
from prime.errors import PrimeError
from prime.node.system import open_system
from prime.testing import cancelled_at, virtual_clock
from prime.wire import Ask

HANG_S = 500


@prime.message(tag=0x7A51)
class Work:
    seconds: float


@prime.message(tag=0x7A52)
class Fail:
    pass


@prime.message(tag=0x7A53)
class Echo(Ask[int]):
    number: int


@prime.message(tag=0x7A54)
class SlowEcho(Ask[int]):
    number: int


@prime.message(tag=0x7A55)
class LateEcho(Ask[int]):
    number: int


@prime.message(tag=0x7A56)
class Give(Ask[Ref[Echo]]):
    pass


@attrs.frozen
class Watch:
    ref: Any


class Worker(Actor[Work | Fail | Echo | SlowEcho | LateEcho | Watch | Give]):
    """Has a bit of everything; `busy` gives it a start, a goodbye, timers, a group and side tasks."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy

    async def started(self) -> None:
        if self.busy:
            await trio.sleep(0.1)
            self.ctx.every(1, Work(0.01))
            self.ctx.after(1000, Work(0))
            self.ctx.join("workers")
            self.ctx.start_soon(trio.sleep_forever)

    async def stopping(self) -> None:
        await trio.sleep(0.2)

    @on(Work)
    async def work(self, m: Work) -> None:
        await trio.sleep(m.seconds)

    @on(Fail)
    def fail(self, _: Fail) -> None:
        raise ValueError("as told")

    @on(Echo)
    def echo(self, m: Echo) -> int:
        return m.number

    @on(SlowEcho)
    async def slow_echo(self, m: SlowEcho) -> int:
        await trio.sleep(0.3)
        return m.number

    @on(LateEcho)
    def late_echo(self, m: LateEcho) -> Any:
        later = self.ctx.defer()

        async def answer() -> None:
            await trio.sleep(0.3)
            later.reply(m.number)

        self.ctx.start_soon(answer)
        return later

    @on(Watch)
    def watch(self, m: Watch) -> None:
        self.ctx.watch(m.ref)

    @on(Give)
    def give(self, _: Give) -> Ref[Echo]:
        return self.ctx.self_ref.narrow(Echo)

    @on(Down)
    def down(self, _: Down) -> None:
        pass


class Plain(Actor[Work | Echo]):
    """Neither a start nor a goodbye: dormant until its first message."""

    @on(Work)
    def work(self, _: Work) -> None:
        pass

    @on(Echo)
    def echo(self, m: Echo) -> int:
        return m.number


@attrs.frozen
class World:
    """What a scenario works with: a system, a supervisor that is not cancelled, an actor that lasts, a far system."""

    system: System
    sup: Supervisor
    lasting: Ref[Any]
    far: System
    far_lasting: Ref[Any]


async def spawns_and_stops(w: World) -> None:
    for kind in (Plain, Worker, lambda: Worker(busy=True)):
        ref = await w.sup.spawn(kind, "child", shutdown=1)
        await ref.tell(Work(0.2))
        assert await ref.ask(Echo(1), timeout=5) == 1
        await ref.tell(Work(0.2))
        await w.sup.stop(ref)


async def sends_into_a_full_mailbox(w: World) -> None:
    ref = await w.sup.spawn(Worker, "child", mailbox=Mailbox(2))
    for _ in range(4):
        await ref.tell(Work(0.1))
    assert await ref.ask(Echo(2), timeout=5) == 2
    for _ in range(3):
        await ref.tell(Work(1))
    with pytest.raises(PrimeError):
        await ref.ask(Echo(2), timeout=0.5)


async def asks(w: World) -> None:
    for ref in (w.lasting, w.far_lasting):
        assert await ref.ask(Echo(1), timeout=5) == 1
        assert await ref.ask(SlowEcho(2), timeout=5) == 2
        assert await ref.ask(LateEcho(3), timeout=5) == 3
        with pytest.raises(PrimeError):
            await ref.ask(SlowEcho(4), timeout=0.1)
        with pytest.raises(PrimeError):
            await ref.ask(LateEcho(4), timeout=0.1)


async def a_flood(w: World) -> None:
    ref = await w.sup.spawn(Plain, "child", mailbox=Mailbox(100))
    for number in range(150):
        await ref.tell(Work(0))
        assert await ref.ask(Echo(number), timeout=1) == number


async def watches(w: World) -> None:
    one = await w.sup.spawn(Worker, "one")
    two = await w.sup.spawn(Plain, "two")
    ends: list[str] = []
    unwatch = w.system.watch(one, ends.append)
    try:
        far = w.system.watch(w.far_lasting, ends.append)
        try:
            await one.tell(Watch(two))
            await one.tell(Watch(w.far_lasting))
            await trio.sleep(0.5)
            await w.sup.stop(two)
            await one.ask(SlowEcho(1), timeout=5)
        finally:
            far()
    finally:
        unwatch()


async def suspends(w: World) -> None:
    ref = await w.sup.spawn(Worker, "child", mailbox=Mailbox(1))
    await ref.tell(Work(0.5))
    w.sup.suspend(ref)
    with trio.move_on_after(2):
        await ref.tell(Work(0.1))
        await ref.tell(Work(0.1))
    w.sup.resume(ref)
    assert await ref.ask(SlowEcho(1), timeout=5) == 1
    w.sup.suspend(ref)
    await w.sup.stop(ref)


async def nested_supervisors(w: World) -> None:
    refs: list[Any] = []

    async def start(sup: Supervisor) -> None:
        refs.append(await sup.spawn(lambda: Worker(busy=True), "a"))
        refs.append(await sup.spawn(Plain, "b"))

    await w.sup.spawn_supervisor("nested", start, strategy="one_for_all")
    await refs[0].tell(Fail())
    await trio.sleep(2)
    await w.sup.stop_supervisor("nested")


async def a_supervisor_of_its_own(w: World) -> None:
    restart = Restart(max=3, within=1000, backoff=(0.5, 0.5))
    async with w.system.supervisor("own", strategy="rest_for_one", restart=restart) as sup:
        a = await sup.spawn(lambda: Worker(busy=True), "a")
        b = await sup.spawn(Worker, "b")
        await sup.spawn(Plain, "c")
        await a.tell(Watch(b))
        await a.tell(Fail())
        await b.tell(Work(0.1))
        await trio.sleep(0.3)
        assert await b.ask(SlowEcho(1), timeout=10) == 1
        await a.tell(Fail())
        await trio.sleep(0.1)


async def a_start_that_fails_at_first(w: World) -> None:
    starts: list[int] = []

    def factory() -> Worker:
        starts.append(1)
        if len(starts) < 3:
            raise OSError("not yet")
        return Worker(busy=True)

    ref = await w.sup.spawn(factory, "child", shutdown=1)
    assert await ref.ask(Echo(1), timeout=5) == 1
    await w.sup.stop(ref)


async def passivation(w: World) -> None:
    ref = await w.sup.spawn(Worker, "child", passivate=1)
    for pause in (3, 1, 2.1):
        assert await ref.ask(Echo(1), timeout=5) == 1
        await trio.sleep(pause)
        await ref.tell(Work(0.1))
        await trio.sleep(pause)


async def narrow_refs(w: World) -> None:
    far_child = await w.far_lasting.ask(Give(), timeout=5)
    assert await far_child.ask(Echo(5), timeout=5) == 5
    here = await w.lasting.ask(Give(), timeout=5)
    assert await here.ask(Echo(6), timeout=5) == 6


async def far_tells(w: World) -> None:
    for _ in range(200):
        await w.far_lasting.tell(Work(0.01))
    assert await w.far_lasting.ask(Echo(5), timeout=5) == 5


async def pools(w: World) -> None:
    pool = await w.sup.spawn_pool(Worker, "pool", size=2, shutdown=1, mailbox=Mailbox(4))
    for number in range(5):
        await pool.tell(Work(0.1))
        assert await pool.ask(Echo(number), timeout=5) == number
    await w.sup.resize(pool, 3)
    await w.sup.resize(pool, 1)
    await w.sup.stop(pool)


async def pipelines(w: World) -> None:
    for ref in (w.lasting, w.far_lasting):
        assert await ask_all(ref, [SlowEcho(n) for n in range(3)], timeout=5, in_flight=2) == [0, 1, 2]


SCENARIOS: list[Callable[[World], Awaitable[None]]] = [
    spawns_and_stops,
    sends_into_a_full_mailbox,
    asks,
    a_flood,
    watches,
    suspends,
    nested_supervisors,
    a_supervisor_of_its_own,
    a_start_that_fails_at_first,
    passivation,
    narrow_refs,
    far_tells,
    pools,
    pipelines,
]


@contextlib.asynccontextmanager
async def world(memory: prime.Memory) -> AsyncIterator[World]:
    async with (
        open_system(seed=1, transport=memory) as system,
        open_system(seed=2, transport=memory) as far,
        system.supervisor("s") as sup,
        far.supervisor("far") as far_sup,
    ):
        lasting = await sup.spawn(Worker, "lasting")
        await far_sup.spawn(Worker, "lasting")
        system.learn(far.peer, far.addresses)
        far_ref = system.ref(far.peer, "/far/lasting", Worker)
        await far_ref.ask(Echo(0), timeout=5)
        yield World(system, sup, lasting, far, far_ref)


async def clear_away(w: World) -> None:
    """Stop what a scenario that was cancelled had spawned and not stopped yet."""
    await w.sup.stop_supervisor("nested")
    for name in ("pool", "one", "two", "child"):
        ref = w.system.whereis(f"/s/{name}")
        if ref is not None:
            await w.sup.stop(ref)
    await trio.sleep(20)


async def run_once(scenario: Callable[[World], Awaitable[None]], step: int, *, late: bool) -> int:
    """Run a scenario, cancelled at one of its awaits, and look what is left. Returns how many awaits it went through."""
    with trio.fail_after(HANG_S):
        async with world(prime.Memory()) as w:
            await w.far_lasting.ask(Give(), timeout=5)
            before = w.system.leftovers(), w.far.leftovers()
            steps = await cancelled_at(step, scenario, w, late=late)
            await trio.sleep(20)
            await clear_away(w)
            assert (w.system.leftovers(), w.far.leftovers()) == before
            for ref in (w.lasting, w.far_lasting):
                assert await ref.ask(SlowEcho(7), timeout=1) == 7
                assert await ref.ask(Echo(7), timeout=1) == 7
            assert await (await w.sup.spawn(Plain, "child")).ask(Echo(8), timeout=1) == 8
            assert w.system.group("workers") == ()
    return steps


def cancel_everywhere(scenario: Callable[[World], Awaitable[None]], at_most: int) -> None:
    def run(step: int, schedule: int = 0, *, late: bool) -> int:
        trio._core._run._r.seed(
            step + 1000 * schedule
        )  # the order in which tasks run: another one each time, and the same ones again
        try:
            return trio.run(lambda: run_once(scenario, step, late=late), clock=virtual_clock())
        except BaseException as error:
            error.add_note(
                f"{scenario.__name__}, cancelled at its await number {step}, late={late}, schedule {schedule}"
            )
            raise

    count = run(0, late=False)
    assert count > 0
    stride = max(1, count // at_most)
    for step in range(1, count + 1, stride):
        for late in (False, True):
            for schedule in range(2):
                run(step, schedule, late=late)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_cancelled_anywhere_it_leaves_nothing(scenario: Callable[[World], Awaitable[None]]) -> None:
    cancel_everywhere(scenario, at_most=25)


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_cancelled_everywhere_it_leaves_nothing(scenario: Callable[[World], Awaitable[None]]) -> None:
    cancel_everywhere(scenario, at_most=1_000_000)
