"""Asks that go round in a circle over nodes and through forwarders are found at once, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from prime.actor import Actor, Mailbox, Ref, Restart, System, on
from prime.actor.cell import CHAIN_CHARS_MAX, CHAIN_MAX, Cell
from prime.errors import ActorCrashedError, AskCycleError, DeadlineError
from prime.node.system import open_system
from prime.transport.memory import Memory, MemoryHub
from prime.wire import Ask, message

Clock = trio.testing.MockClock


@message(tag=0x7D21)
class Through(Ask[str]):
    """Ask the next one of the list after a pause, and so on."""

    refs: list[Ref[Any]]
    pause_s: float = 0.0


@message(tag=0x7D22)
class Hold(Ask[str]):
    """Take your time."""

    seconds: float


@message(tag=0x7D23)
class GiveUp(Ask[str]):
    """As `Through`, with little patience; then hold the last of the list for a while."""

    refs: list[Ref[Any]]
    pause_s: float
    patience_s: float


@message(tag=0x7D24)
class Forward(Ask[str]):
    """Ask the far actor, which puts its answer off, and asks back meanwhile."""

    ref: Ref[Any]


@message(tag=0x7D27)
class PutOff(Ask[str]):
    """Put the answer off, and ask meanwhile."""

    ref: Ref[Any]


@message(tag=0x7D28)
class Heard(Ask[list[str]]):
    """Say what was answered, and when."""


@message
class Nothing:
    """Do nothing."""


@message(tag=0x7D29)
class Tell:
    """Tell something."""

    ref: Ref[Any]


@message(tag=0x7D25)
class Told:
    """As `Through`, but told."""

    refs: list[Ref[Any]]


@message(tag=0x7D26)
class Chain(Ask[list[str]]):
    """Say who waits for you."""

    refs: list[Ref[Any]]


class Link(Actor[Through | Hold | GiveUp | Forward | PutOff | Heard | Told | Tell | Nothing | Chain]):
    def __init__(self) -> None:
        self.heard: list[str] = []

    @on(Through)
    async def through(self, m: Through) -> str:
        if not m.refs:
            return "end"
        await trio.sleep(m.pause_s)
        answer: str = await m.refs[0].ask(Through(m.refs[1:], m.pause_s), timeout=1000)
        self.note(answer)
        return answer

    @on(Hold)
    async def hold(self, m: Hold) -> str:
        await trio.sleep(m.seconds)
        return "held"

    @on(GiveUp)
    async def give_up(self, m: GiveUp) -> str:
        *refs, last = m.refs
        try:
            await refs[0].ask(Through(refs[1:], m.pause_s), timeout=m.patience_s)
        except DeadlineError:
            return str(await last.ask(Hold(m.pause_s * 10), timeout=1000))
        return "answered"

    @on(Forward)
    async def forward(self, m: Forward) -> str:
        answer: str = await m.ref.ask(PutOff(self.ctx.self_ref), timeout=1000)
        return answer

    @on(PutOff)
    async def put_off(self, m: PutOff) -> None:
        later = self.ctx.defer()
        self.ctx.start_soon(self.answer, later)
        self.note(await m.ref.ask(Through([]), timeout=1000))

    async def answer(self, later: Any) -> None:
        await trio.sleep(3)
        later.reply("later")

    def note(self, answer: str) -> None:
        self.heard.append(f"{trio.current_time():.1f} {answer}")

    @on(Heard)
    def say_heard(self, _: Heard) -> list[str]:
        return self.heard

    @on(Tell)
    async def tell(self, m: Tell) -> None:
        await m.ref.tell(Nothing())

    @on(Nothing)
    def do_nothing(self, _: Nothing) -> None:
        pass

    @on(Told)
    async def told(self, m: Told) -> None:
        self.note(await m.refs[0].ask(Through(m.refs[1:]), timeout=1000))

    @on(Chain)
    async def chain(self, m: Chain) -> list[str]:
        if m.refs:
            answer: list[str] = await m.refs[0].ask(Chain(m.refs[1:]), timeout=1000)
            return answer
        return list(self.ctx.self_ref.cell.asked_by() or ())  # type: ignore[attr-defined]


class Careful(Link):
    """Answers with the kind and the text of its failure instead of failing."""

    @on(Through)
    async def through(self, m: Through) -> str:
        try:
            return await super().through(m)
        except AskCycleError as error:
            return str(error)


class Forwarding(Link):
    """Hands an ask on to the second of its list, as a router would: whole, and without waiting for the answer."""

    def __init__(self, to: Ref[Any]) -> None:
        super().__init__()
        self.to = to

    async def take_entry(self, entry: Any) -> None:
        self.to.put_nowait(entry)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[System]]:
    hub = MemoryHub()
    async with contextlib.AsyncExitStack() as stack:
        systems = [
            await stack.enter_async_context(open_system(seed=seed, transport=Memory(hub=hub))) for seed in range(count)
        ]
        for one in systems:
            for other in systems:
                one.learn(other.peer, other.addresses)
        yield systems
        for system in systems:
            assert [cell for cell in cells(system) if cell.asking or cell.awaiting or cell.mark] == []


def seen(by: Ref[Any], *refs: Ref[Any]) -> list[Ref[Any]]:
    """Return refs as the node of an actor has them: far ones where they are far."""
    system = by.cell.system  # type: ignore[attr-defined]
    return [system.ref(ref.cell.system.peer, ref.path, Link) for ref in refs]  # type: ignore[attr-defined]


def cells(system: System) -> Iterator[Cell]:
    for info in system.tree():
        for child in info.children:
            ref: Any = system.whereis(child.path)
            yield ref.cell


@contextlib.asynccontextmanager
async def on_nodes(*homes: str, kind: type[Link] = Link) -> AsyncIterator[tuple[list[System], dict[str, Ref[Any]]]]:
    """Run a node for each text, with an actor for each letter of it; give the nodes and the refs by letter."""
    refs: dict[str, Ref[Any]] = {}
    async with nodes(len(homes)) as systems, contextlib.AsyncExitStack() as stack:
        for system, names in zip(systems, homes, strict=True):
            sup = await stack.enter_async_context(system.supervisor("s", restart=Restart(max=10)))
            for name in names:
                refs[name] = await sup.spawn(kind, name)
        yield systems, refs


@pytest.mark.parametrize(
    ("homes", "way", "text"),
    [
        (("a", "b"), "aba", r"/s/a on …\w{8} -> /s/b on …\w{8} -> /s/a"),
        (("ac", "b"), "abca", r"/s/a on …\w{8} -> /s/b on …\w{8} -> /s/c -> /s/a"),
        (("a", "b", "c"), "abca", r"/s/a on …\w{8} -> /s/b on …\w{8} -> /s/c on …\w{8} -> /s/a"),
        (("a", "bd", "c"), "abdca", r"/s/a on …\w{8} -> /s/b on …\w{8} -> /s/d on …\w{8} -> /s/c on …\w{8} -> /s/a"),
        (("ad", "b"), "adba", r"/s/a on …\w{8} -> /s/d on …\w{8} -> /s/b on …\w{8} -> /s/a"),
        (("ad", "b"), "adbd", r"/s/d on …\w{8} -> /s/b on …\w{8} -> /s/d"),
        (("a", "bc"), "abcb", r"/s/c -> /s/b -> /s/c"),
    ],
)
async def test_a_cycle_over_nodes_fails_at_once_and_names_its_path(
    homes: tuple[str, ...], way: str, text: str, autojump_clock: Clock
) -> None:
    async with on_nodes(*homes, kind=Careful) as (_, refs):
        first, *rest = way
        answer = await refs[first].ask(Through(seen(refs[first], *(refs[name] for name in rest))), timeout=500)
        assert re.search(f"asks itself through {text}: it would wait for ever", answer)
        assert trio.current_time() < 1
        whole = [refs[name] for name in dict.fromkeys(way[1:]) if name != first]
        assert await refs[first].ask(Through(seen(refs[first], *whole)), timeout=500) == "end"  # one step less


async def test_the_failed_ask_crashes_who_made_it_and_nobody_else(autojump_clock: Clock) -> None:
    async with on_nodes("a", "b") as (systems, refs):
        with pytest.raises(ActorCrashedError, match="AskCycleError"):
            await refs["b"].ask(Through(seen(refs["b"], refs["a"], refs["b"])), timeout=500)
        await trio.sleep(5)
        assert [child.restarts for system in systems for child in system.tree()[0].children] == [1, 1]
        assert await refs["b"].ask(Through(seen(refs["b"], refs["a"])), timeout=500) == "end"


async def test_a_cycle_through_a_forwarder_is_found_here_too(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        a, b = await sup.spawn(Careful, "a"), await sup.spawn(Careful, "b")
        forwarder = await sup.spawn(lambda: Forwarding(b), "forwarder")
        answer = await a.ask(Through([forwarder, a]), timeout=500)
        assert "/s/a asks itself through /s/a -> /s/b -> /s/a" in answer
        assert trio.current_time() < 1


async def test_who_gave_up_waits_for_nobody(autojump_clock: Clock) -> None:
    """A asks B, B asks C; A gives up, waits for D, and C, still at it, asks A: that is no circle any more."""
    async with on_nodes("a", "b", "c", "d") as (_, refs):
        a, b, c, d = (refs[name] for name in "abcd")
        assert await a.ask(GiveUp(seen(a, b, c, a, d), 2.0, 3.0), timeout=100) == "held"
        await trio.sleep(1)
        assert await c.ask(Heard(), timeout=1) == [f"{trio.current_time() - 1:.1f} end"]


async def test_who_gave_up_at_a_forwarder_waits_for_nobody(autojump_clock: Clock) -> None:
    """The same on one node, where the ask was handed on by one who does not wait."""
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        a, b, d = [await sup.spawn(Link, name) for name in "abd"]
        forwarder = await sup.spawn(lambda: Forwarding(b), "forwarder")
        assert await a.ask(GiveUp([forwarder, a, d], 2.0, 1.0), timeout=100) == "held"
        await trio.sleep(1)
        assert await b.ask(Heard(), timeout=1) == ["21.0 end"]


async def test_who_puts_an_answer_off_makes_nobody_wait(autojump_clock: Clock) -> None:
    async with on_nodes("a", "b") as (_, refs):
        a, b = refs["a"], refs["b"]
        assert await a.ask(Forward(*seen(a, b)), timeout=100) == "later"
        await trio.sleep(1)
        assert await b.ask(Heard(), timeout=1) == ["3.0 end"]


async def test_whoever_handles_a_told_message_waits_for_itself_only(autojump_clock: Clock) -> None:
    async with on_nodes("a", "b") as (_, refs):
        a, b = refs["a"], refs["b"]
        await a.tell(Told(seen(a, b, a)))  # nobody waits for a, but a waits for b, and so may not be asked by it
        await trio.sleep(5)
        assert await a.ask(Heard(), timeout=5) == [], "its only handler failed"
        await a.tell(Told(seen(a, b)))
        assert await a.ask(Heard(), timeout=5) == ["5.0 end"]
        await b.tell(Told(seen(b, a)))
        assert await b.ask(Heard(), timeout=5) == ["5.0 end"]


async def test_an_answer_on_its_way_is_no_wait(autojump_clock: Clock) -> None:
    """B answers A and turns to the next message at once, before A has had its turn, and that one asks A."""
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        a, b = await sup.spawn(Link, "a"), await sup.spawn(Link, "b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: b.ask(Hold(1), timeout=5))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: a.ask(Through([b]), timeout=5))
            await trio.testing.wait_all_tasks_blocked()
            await b.tell(Told([a]))
        assert await b.ask(Heard(), timeout=5) == ["1.0 end"]


async def test_room_that_came_is_no_wait(autojump_clock: Clock) -> None:
    """A waits for room at B; B takes a message, so that A has it, and asks A before A has had its turn."""
    async with open_system(seed=0) as system, system.supervisor("s") as sup:
        a = await sup.spawn(Link, "a")
        b = await sup.spawn(Link, "b", mailbox=Mailbox(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: b.ask(Hold(1), timeout=5))
            await trio.testing.wait_all_tasks_blocked()
            await b.tell(Told([a]))
            await a.tell(Tell(b))
        assert await b.ask(Heard(), timeout=5) == ["1.0 end"]


async def test_a_long_chain_keeps_its_last_marks(autojump_clock: Clock) -> None:
    names = "abcdefghijklmnopqrstuvwx"
    async with on_nodes(names[0::2], names[1::2]) as (systems, refs):
        way = [refs[name] for name in names]
        chain = await way[0].ask(Chain(seen(*way)), timeout=50)
        assert len(chain) == CHAIN_MAX
        peers = [systems[number % 2].peer for number in range(len(names))]
        assert [mark.rpartition("#")[0] for mark in chain] == [
            f"{peer}/s/{name}" for peer, name in zip(peers, names, strict=True)
        ][-CHAIN_MAX - 1 : -1]


async def test_paths_too_long_for_a_chain_ask_all_the_same(autojump_clock: Clock) -> None:
    async with nodes(2) as (here, there), here.supervisor("h" * 400) as h, there.supervisor("t" * 400) as t:
        way = [await sup.spawn(Link, name) for name in "abcdefgh" for sup in (h, t)]
        chain = await way[0].ask(Chain(seen(*way)), timeout=50)
        assert 1 < len(chain) < CHAIN_MAX
        assert sum(map(len, chain)) <= CHAIN_CHARS_MAX
        assert "/g#" in chain[-2]


async def test_a_forged_chain_fails_nothing(autojump_clock: Clock) -> None:
    """A waits in an ask while a stranger names it in chains: with no number, a wrong one, and one that was right."""
    async with on_nodes("a", "b", "c") as (systems, refs):
        a, network = refs["a"], systems[2].network
        assert network is not None
        [right] = await a.ask(Chain(seen(a, refs["b"])), timeout=5)
        name = right.rpartition("#")[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.ask(GiveUp(seen(a, refs["b"], refs["c"], refs["c"]), 2.0, 50.0), timeout=100))
            await trio.sleep(1)
            for chain in ((name,), (f"{name}#0",), (right,), ("",), ("#", "/")):
                nursery.start_soon(_ask_with, network, systems[0].peer, chain)
        assert trio.current_time() >= 2


async def _ask_with(network: Any, peer: str, chain: tuple[str, ...]) -> None:
    assert await network.ask(peer, "/s/a", Through([]), timeout_s=60, chain=chain) == "end"
