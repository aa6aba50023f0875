"""Everything that goes from node to node, under every fault: told, told reliably, asked, watched and streamed.

Each node has a desk with a small mailbox and a slow clerk, an actor that comes and goes, and one that streams. Each tells,
asks, watches and reads those of every other. In the quiet after the storm all of it must work again; then everybody
stops sending, and what was sent must be accounted for and nothing be left behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import Random

import attrs
import trio

from prime.actor import (
    Actor,
    Mailbox,
    Ref,
    Stream,
    Streaming,
    Supervisor,
    System,
    on,
    open_stream,
    streams,
)
from prime.actor.facts import DeadLetter
from prime.actor.mailbox import Full
from prime.errors import PrimeError
from prime.sim import plan as p
from prime.sim.invariants import require
from prime.sim.run import scenario
from prime.sim.scenarios import post_books as books
from prime.sim.scenarios.patience import stood_still_s
from prime.sim.world import Node, World
from prime.transport.facts import LinkDown
from prime.transport.link import LinkLimits
from prime.transport.links import Links
from prime.wire import Ask, message

MAILBOX = 8
PADDING_BYTES = (0, 0, 0, 0, 0, 0, 0, 0, 300, 3000)
CALM_S = 5.0
"""How long after the storm before a tell that is lost on a link that is up counts as lost."""
AGAIN_S = 40.0
"""How long after the storm until every node must reach every other."""
SETTLED_S = 100.0
"""How long after the last message until all is settled: reliable tells are sent again for a while."""
ACCOUNTED_S = 60.0
"""How long until the desks have taken all that waits for them."""
LATE = 1.15
"""How much longer than its timeout an ask may take on a clock that is too slow."""


@message(tag=0xE00)
class Letter:
    """A numbered tell; `reliable` says how it was sent."""

    sender: str
    life: int
    number: int
    reliable: bool
    padding: bytes


@message(tag=0xE01)
class Question(Ask[int]):
    """An ask; its answer is twice the number."""

    name: str
    number: int


@message(tag=0xE02)
class Reel(Stream[int]):
    """A stream of the numbers below `count`."""

    count: int


@message(tag=0xE03)
class Poke:
    """What the mortal hears, and forgets."""


class Desk(Actor[Letter | Question]):
    """Takes letters at once and questions at leisure."""

    def __init__(self, office: Office) -> None:
        self._office = office

    @on(Letter)
    async def take(self, m: Letter) -> None:
        """Note it; now and then, take a while."""
        office = self._office
        if office.is_alive:
            target = office.life
            office.books.letter_came((m.sender, m.life), target, m.number, reliable=m.reliable)
        if office.random.random() < 0.05:
            await trio.sleep(office.random.random())

    @on(Question)
    async def answer(self, m: Question) -> int:
        """Answer, sometimes late."""
        if self._office.is_alive:
            self._office.books.question_came(m.name)
        if self._office.random.random() < 0.2:
            await trio.sleep(self._office.random.random())
        return 2 * m.number


class Projector(Streaming[Reel]):
    """Streams numbers."""

    def __init__(self, office: Office) -> None:
        self._office = office

    @streams(Reel)
    async def show(self, m: Reel) -> AsyncIterator[int]:
        """Count, with pauses."""
        for number in range(m.count):
            if self._office.random.random() < 0.2:
                await trio.sleep(self._office.random.random() / 2)
            yield number


class Mortal(Actor[Poke]):
    """Lives to be watched."""

    @on(Poke)
    async def poke(self, _: Poke) -> None:
        """Hear it."""


@attrs.define(eq=False)
class Office:
    """What one life of a node is about."""

    node: Node
    system: System
    all: Offices
    life: books.Life
    random: Random
    busy: int = 0
    """Clients that have not stopped."""
    reached: dict[str, float] = attrs.Factory(dict)
    """When each other node last answered."""
    leftovers: str | None = None
    """What was left in the end, in words; `None` before the end."""

    @property
    def is_alive(self) -> bool:
        """Tell whether the node has not crashed since."""
        return self.node.is_up and self.node.lives == self.life[1]

    @property
    def books(self) -> books.Books:
        """The books of the run."""
        return self.all.books

    def hear(self, fact: object) -> None:
        """Note what the runtime reports: a reliable tell that was given up, or a link that ended."""
        if not self.is_alive:
            return
        if isinstance(fact, LinkDown):
            self.books.link_down_at = max(self.books.link_down_at, trio.current_time())
        if isinstance(fact, DeadLetter) and fact.kind == "Letter" and fact.path != f"/app/desk-{self.node.name}":
            target = fact.path.removeprefix("/app/desk-")
            self.books.line(self.life, target, reliable=True).give_up(trio.current_time())

    async def pause(self) -> None:
        """Wait between two messages: mostly not at all, or long."""
        await trio.sleep(self.random.choice((0.0, 0.0, 0.02, 0.1, 0.5, 1.5)))


class Offices:
    """All nodes of the scenario, and the phases that they go through."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.books = books.Books(MAILBOX)
        self.open: dict[str, Office] = {}
        self.closing = False
        self.over = trio.Event()
        random = world.random("limits")
        self.traced = random.random() < 0.5
        """Messages without a trace take shorter ways through the runtime: those of most programs."""
        self.full: Full = random.choice(("wait", "wait", "reject"))
        self.limits = LinkLimits(
            reliable_give_up_s=random.choice((60.0, 60.0, 6.0)), reliable_messages=random.choice((256, 4)), write_s=8.0
        )

    async def main(self, node: Node) -> None:
        """Be one life of a node."""
        async with node.system(limits=self.limits, traced=self.traced) as system:
            office = Office(node, system, self, (node.name, node.lives), node.random("office", str(node.lives)))
            before = system.leftovers()
            self._open(office)
            async with system.supervisor("app") as sup:
                await self._staff(office, sup)
                async with trio.open_nursery() as nursery:
                    for other in self.world.nodes:
                        if other is not node:
                            _start_clients(nursery, office, other)
                    nursery.start_soon(come_and_go, office, sup)
                await self.over.wait()
            office.leftovers = await _left_behind(office, before)
            await trio.sleep_forever()

    def _open(self, office: Office) -> None:
        node = office.node
        earlier = self.open.get(node.name)
        self.open[node.name] = office
        if earlier is not None:
            self.books.crashes.setdefault(node.name, []).append((earlier.life[1], self.crashed_at(node.name)))
        office.system.subscribe(office.hear)

    def crashed_at(self, name: str) -> float:
        """Return when a node crashed last."""
        return next(e.at_s for e in reversed(self.world.history.events) if (e.node, e.kind) == (name, "crashes"))

    async def _staff(self, office: Office, sup: Supervisor) -> None:
        name = office.node.name
        await trio.sleep(office.random.choice((0.0, 0.3)))  # messages may come before there is anybody to take them
        await sup.spawn(lambda: Desk(office), f"desk-{name}", mailbox=Mailbox(MAILBOX, self.full))
        await sup.spawn(lambda: Projector(office), "projector")

    # ---- what must hold

    @property
    def living(self) -> list[Office]:
        """Return the office of each node's present life."""
        return [office for office in self.open.values() if office.is_alive]

    def all_reached(self, since: float) -> bool:
        """Tell whether every node got an answer from every other since then."""
        return len(self.living) == len(self.world.nodes) and all(
            office.reached.get(other.name, 0.0) > since
            for office in self.living
            for other in self.world.nodes
            if other is not office.node
        )

    def check_settled(self) -> None:
        """Raise `AssertionError` unless all clients have stopped."""
        busy = {office.node.name: office.busy for office in self.living if office.busy}
        require(not busy, f"clients that still wait: {busy}")

    def check_accounts(self) -> None:
        """Raise `AssertionError` if a tell is missing."""
        missing = list(self.books.missing(office.life for office in self.living))
        require(not missing, next(iter(missing), ""))

    def check_clean(self) -> None:
        """Raise `AssertionError` unless every node looked behind itself and found nothing."""
        left = {office.node.name: office.leftovers for office in self.living if office.leftovers != ""}
        require(not left, str(left))


async def _left_behind(office: Office, before: dict[str, int]) -> str:
    """Return in words what a node still holds, once the links have had time to forget."""
    await trio.sleep(10.0)
    left = [f"{name} {count}" for name, count in office.system.leftovers().items() if count != before[name]]
    if isinstance(office.system.network, Links):
        others = len(office.all.world.nodes) - 1
        expected = {"links": others, "streams": others, "series": 2 * others, "outgoing": 8, "incoming": 8}
        sizes = office.system.network.sizes()
        left += [f"{name} {count}" for name, count in sizes.items() if count > expected.get(name, 0)]
    return ", ".join(left)


# ------------------------------------------------------------------------------------------------------- the clients


def _start_clients(nursery: trio.Nursery, office: Office, other: Node) -> None:
    for client in (tell_reliably, tell_plainly, ask, watch, read):
        nursery.start_soon(_be_busy, client, office, other)


async def _be_busy(client: Callable[[Office, Node], Awaitable[None]], office: Office, other: Node) -> None:
    office.busy += 1
    await client(office, other)
    office.busy -= 1


async def tell_reliably(office: Office, other: Node) -> None:
    """Tell reliably, and wait in the end until all of it was taken."""
    ref = office.system.ref(other.peer, f"/app/desk-{other.name}", Desk, reliable=True)
    await _tell(office, other, ref, reliable=True)
    try:
        await ref.flushed(timeout=SETTLED_S / 2)
    except PrimeError as error:
        office.node.note("cannot flush", other.name, why=type(error).__name__)


async def tell_plainly(office: Office, other: Node) -> None:
    """Tell."""
    ref = office.system.ref(other.peer, f"/app/desk-{other.name}", Desk)
    await _tell(office, other, ref, reliable=False)


async def _tell(office: Office, other: Node, ref: Ref[Letter | Question], *, reliable: bool) -> None:
    line = office.books.line(office.life, other.name, reliable=reliable)
    while not office.all.closing:
        number = line.begin(trio.current_time())
        try:
            await ref.tell(Letter(*office.life, number, reliable, bytes(office.random.choice(PADDING_BYTES))))
        except PrimeError as error:
            line.settle(number, "refused")
            office.node.note("cannot tell", other.name, why=type(error).__name__)
            await trio.sleep(0.2)
        else:
            line.settle(number, "kept")
        await office.pause()


async def ask(office: Office, other: Node) -> None:
    """Ask, with little time or much."""
    ref = office.system.ref(other.peer, f"/app/desk-{other.name}", Desk)
    count = 0
    while not office.all.closing:
        count += 1
        timeout_s = office.random.choice((0.1, 0.5, 2.0, 8.0))
        question = Question(f"{office.node.name}.{office.life[1]}.{other.name}.{count}", count)
        began = trio.current_time()
        try:
            answer = await ref.ask(question, timeout=timeout_s)
        except PrimeError as error:
            office.node.note("cannot ask", other.name, why=type(error).__name__)
        else:
            office.reached[other.name] = trio.current_time()
            wrong = f"{question} was answered with {answer}" if answer != 2 * count else ""
            office.books.blame(books.ASKS, wrong if office.is_alive else "")
        _check_in_time(office, question, began, timeout_s)
        await office.pause()


def _check_in_time(office: Office, question: Question, began: float, timeout_s: float) -> None:
    now = trio.current_time()
    allowed_s = timeout_s * LATE + stood_still_s(office.all.world.plan, office.node.name, began, now) + 0.05
    if office.is_alive and now - began > allowed_s:
        text = f"{question.name} with {timeout_s:g} s, begun at {began:g}, ended at {now:g}"
        office.books.blame(books.ASKS, text)


async def watch(office: Office, other: Node) -> None:
    """Watch the mortal of another node, again and again."""
    ref = office.system.ref(other.peer, "/app/mortal", Mortal)
    while not office.all.closing:
        number, told = office.books.watch(), trio.Event()

        def notify(_reason: str, number: int = number, told: trio.Event = told) -> None:
            if office.is_alive:
                office.books.notified(number)
            told.set()

        unwatch = office.system.watch(ref, notify)
        if office.random.random() < 0.2:
            await trio.sleep(office.random.random())
            office.books.unwatch(number)
            unwatch()
        else:
            await told.wait()
        await trio.sleep(0.1 + office.random.random())


async def read(office: Office, other: Node) -> None:
    """Read streams, not all to the end."""
    ref = office.system.ref(other.peer, "/app/projector", Projector)
    while not office.all.closing:
        count = office.random.randrange(60)
        leaves_at = office.random.choice((count, count, office.random.randrange(60)))
        got: list[int] = []
        try:
            async with open_stream(ref, Reel(count), timeout=2.0, credit=8) as items:
                async for item in items:
                    got.append(item)
                    if len(got) == leaves_at:
                        break
        except PrimeError as error:
            office.node.note("cannot read", other.name, why=type(error).__name__)
        else:
            if office.is_alive and len(got) != min(count, leaves_at or count):
                office.books.blame(books.STREAMS, f"a stream of {count} ended well after {len(got)}")
        if office.is_alive and got != list(range(len(got))):
            office.books.blame(books.STREAMS, f"a stream of {count} brought {got}")
        await trio.sleep(office.random.random())


async def come_and_go(office: Office, sup: Supervisor) -> None:
    """Start and stop the mortal."""
    while not office.all.closing:
        ref = await sup.spawn(Mortal, "mortal", kind="temporary")
        await trio.sleep(2 * office.random.random())
        await sup.stop(ref)
        await trio.sleep(office.random.random() / 2)


# ------------------------------------------------------------------------------------------------------ the scenarios


@scenario(nodes=3, kinds=p.NETWORK | p.NODE, storm_s=12.0, quiet_s=200.0)
async def delivery(world: World) -> None:
    """Send everything that can be sent, and account for it."""
    offices = Offices(world)
    for name in books.NAMES:
        world.always(name, partial(offices.books.check, name))
    offices.books.may_drop = offices.full == "reject"
    await _play(world, offices, accounted=True)


async def _play(world: World, offices: Offices, *, accounted: bool) -> None:
    world.start(offices.main)
    await world.storm()
    calm_at = world.now + CALM_S
    offices.books.link_down_at = max(offices.books.link_down_at, calm_at)
    await trio.sleep(CALM_S)
    await world.eventually(
        "after the storm every node reaches every other", lambda: offices.all_reached(calm_at), AGAIN_S
    )
    offices.closing = True
    await world.eventually("everything pending is settled", offices.check_settled, SETTLED_S)
    if accounted:
        await world.eventually(
            "what was told is handled, reported, or lost with its receiver", offices.check_accounts, ACCOUNTED_S
        )
    offices.over.set()
    await world.eventually("nothing is left behind", offices.check_clean, 30.0)


@scenario(nodes=3, kinds=frozenset({"latency", "corruption", "cut", "crash"}), storm_s=12.0, quiet_s=200.0)
async def flipped_bits(world: World) -> None:
    """As `delivery` over streams without a seal: no node fails, nothing hangs, nothing is left behind.

    What arrives may be anything, so its order and its content are not looked at.
    """
    world.network.faults = attrs.evolve(world.network.faults, sealed=False)
    offices = Offices(world)
    world.always(books.WATCHES, lambda: offices.books.check(books.WATCHES))
    await _play(world, offices, accounted=False)
