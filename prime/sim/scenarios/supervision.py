"""Trees of supervisors whose actors fail, in every way and at every moment, while their nodes crash and stand still.

Each node grows a tree: all strategies, nested supervisors, all kinds of children and mailboxes. Its actors tell, ask, watch,
stash, put answers off, stop themselves and fail, in their factories, in `started`, in handlers, in side tasks and in
`stopping`. In the quiet nothing fails any more: then every actor that shall last must be there and answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import attrs
import trio

from prime.actor import Actor, Context, Down, Mailbox, Ref, Supervisor, System, on
from prime.actor.cell import Cell
from prime.actor.facts import ActorFailed, DeadLetter
from prime.actor.ref import LocalRef
from prime.errors import ActorUsageError, PrimeError, RefusedError, RestartLimitError, ViolationError
from prime.sim import plan as p
from prime.sim.invariants import require
from prime.sim.run import scenario
from prime.sim.scenarios import grove
from prime.sim.scenarios.grove import Branch, Leaf
from prime.sim.scenarios.patience import stood_still_s
from prime.sim.scenarios.post_books import Books
from prime.sim.world import Node, World
from prime.wire import Ask, message

FAILS = 0.03
"""The chance of a failure wherever one is possible."""
CALM_S = 30.0
"""How long after the last failure until every lasting actor must answer."""
ENDS_S = 60.0
TOLD_S = 4.0
"""How long a client waits for room in a mailbox."""


@message(tag=0xE10)
class Job:
    """A numbered tell of a teller on the same node."""

    teller: str
    number: int


@message(tag=0xE11)
class Errand:
    """A tell from another node."""

    number: int


@message(tag=0xE12)
class Question(Ask[int]):
    """An ask; its answer is twice the number."""

    number: int


@message(tag=0xE13)
class Ring:
    """A timer's."""


Told = Job | Errand | Question


class Plain(Actor[Told]):
    """An actor without `started`, `stopping` or anything that waits: it lies dormant, and answers in its asker's task."""

    def __init__(self, crew: Crew, leaf: Leaf) -> None:
        crew.make(leaf)
        self._crew = crew
        self._leaf = leaf

    @on(Job)
    def work(self, m: Job) -> None:
        """Do it, or fail."""
        self._crew.handle(self._leaf, m)
        self._crew.may_fail("work")

    @on(Errand)
    def run(self, _: Errand) -> None:
        """Do it, or fail."""
        self._crew.may_fail("errand")

    @on(Question)
    def answer(self, m: Question) -> int:
        """Answer, refuse or fail."""
        self._crew.may_fail("answer")
        return 2 * m.number


class Worker(Actor[Told | Ring | Down]):
    """An actor that does all that an actor can."""

    ctx: Context

    def __init__(self, crew: Crew, leaf: Leaf) -> None:
        self._number = crew.make(leaf)
        self._crew = crew
        self._leaf = leaf
        self._told = 0
        self._watches: dict[tuple[str, str], int] = {}

    async def started(self) -> None:
        """Take a while, or fail."""
        await self._rest(0.1)
        self._crew.may_fail("started")
        if self._crew.random.random() < 0.5:
            self.ctx.every(0.2 + self._crew.random.random(), Ring())

    async def stopping(self) -> None:
        """Take a while, perhaps longer than there is, or fail."""
        await self._rest(self._leaf.shutdown_s if self._crew.random.random() < 0.1 else 0.02)
        self._crew.may_fail("stopping")

    async def _rest(self, for_s: float) -> None:
        if self._crew.random.random() < 0.5:
            await trio.sleep(for_s * self._crew.random.random())

    @on(Job)
    async def work(self, m: Job) -> None:
        """Do something."""
        if self._crew.random.random() < 0.05 and self._put_aside():
            self._crew.record.late[self._leaf.path, m.teller, m.number] = None
            return
        with self._crew.busy(self._leaf):
            self._crew.handle(self._leaf, m)
            await self._do_something()

    @on(Errand)
    async def run(self, _: Errand) -> None:
        """Do something."""
        with self._crew.busy(self._leaf):
            await self._do_something()

    @on(Question)
    async def answer(self, m: Question) -> int:
        """Answer now or later, refuse or fail."""
        random = self._crew.random
        if random.random() < 0.05 and self._put_aside():
            return 0
        with self._crew.busy(self._leaf):
            self._crew.may_fail("answer")
            if random.random() < 0.03:
                raise RefusedError("not today", hint="ask tomorrow")
            if random.random() < 0.1:
                later, answer = self.ctx.defer(), 2 * m.number
                self._beside(lambda: later.reply(answer))
            elif random.random() < 0.1:
                await self._do_something()
            return 2 * m.number

    @on(Ring)
    async def ring(self, _: Ring) -> None:
        """Take back what was put aside, and do something."""
        self.ctx.unstash_all()
        with self._crew.busy(self._leaf):
            await self._do_something()

    @on(Down)
    async def hear(self, m: Down) -> None:
        """Count it against the watches."""
        key = m.peer, m.path
        left = self._watches.get(key, 0) - 1
        self._watches[key] = left
        if left < 0:
            self._crew.blame(grove.WATCHES, f"{self._leaf.path} got a Down of {key} that it did not watch for")
        self._crew.may_fail("down")

    def _put_aside(self) -> bool:
        try:
            self.ctx.stash()
        except PrimeError:
            return False
        return True

    def _beside(self, act: Callable[[], object]) -> None:
        self.ctx.start_soon(self._side_task, act)

    async def _side_task(self, act: Callable[[], object]) -> None:
        with self._crew.busy(self._leaf, beside=True):
            await trio.sleep(self._crew.random.random() / 2)
            act()

    async def _do_something(self) -> None:
        crew = self._crew
        doing = crew.random.choice(("nothing", "rest", "fail", "ask", "tell", "watch", "side task", "stop", "ask far"))
        crew.may_fail(doing)
        if doing == "rest":
            await trio.sleep(crew.random.random() / 5)
        elif doing in {"ask", "ask far"}:
            await crew.ask(crew.someone(far=doing == "ask far"), crew.random.choice((0.0, 0.1, 0.5)))
        elif doing == "tell":
            self._told += 1
            ref = crew.someone()
            if ref is not None:
                await crew.tell(ref, Job(f"{self._leaf.path}#{self._number}", self._told))
        elif doing == "watch":
            self._watch(crew.someone(far=crew.random.random() < 0.3))
        elif doing == "side task":
            self._beside(lambda: crew.may_fail("beside"))
        elif doing == "stop" and crew.random.random() < 0.1 and not crew.all.calm:
            self.ctx.stop()

    def _watch(self, ref: Ref[Any] | None) -> None:
        if ref is None:
            return
        key = ref.peer, ref.path
        self._watches[key] = self._watches.get(key, 0) + 1
        unwatch = self.ctx.watch(ref)
        if self._crew.random.random() < 0.3:
            self._beside(unwatch)


@attrs.define(eq=False)
class _Busy:
    """The time in which a handler or a side task of an actor runs."""

    crew: Crew
    leaf: Leaf
    beside: bool

    def __enter__(self) -> None:
        table = self.crew.record.beside
        table[self.leaf.path] = table.get(self.leaf.path, 0) + 1
        if not self.beside:
            if self.leaf.path in self.crew.handling:
                self.crew.blame(grove.TASKS, f"{self.leaf.path} handles two messages at a time")
            self.crew.handling[self.leaf.path] = None

    def __exit__(self, *_: object) -> None:
        self.crew.record.beside[self.leaf.path] -= 1
        if not self.beside:
            self.crew.handling.pop(self.leaf.path, None)


@attrs.define(eq=False)
class Crew:
    """One life of a node: its tree and its clients."""

    node: Node
    system: System
    all: Crews
    life: int
    random: Random
    tree: Branch
    record: grove.Record = attrs.Factory(grove.Record)
    handling: dict[str, None] = attrs.Factory(dict)
    root: Supervisor | None = None
    busy_clients: int = 0
    answered: dict[str, float] = attrs.Factory(dict)
    """When each actor of this node last answered."""
    leftovers: str | None = None
    dying: dict[Cell, float] = attrs.Factory(dict)
    """Dead actors whose task has a step to go, and since when."""

    @property
    def is_alive(self) -> bool:
        """Tell whether the node has not crashed since."""
        return self.node.is_up and self.node.lives == self.life

    def blame(self, name: str, text: str) -> None:
        """Note what is wrong, if anything."""
        if text and self.is_alive:
            self.all.books.blame(name, text)

    def may_fail(self, where: str) -> None:
        """Raise an error, now and then."""
        if not self.all.calm and self.random.random() < FAILS:
            raise ValueError(f"failed on purpose: {where}")

    # ---- what the actors do

    def make(self, leaf: Leaf) -> int:
        """Note that an actor is made; its factory may fail."""
        self.blame(grove.TASKS, self.record.born(leaf))
        self.blame(grove.ORDER, self._out_of_order(leaf))
        self.may_fail("factory")
        return self.record.made

    def _out_of_order(self, leaf: Leaf) -> str:
        """Say who that was up when this restart was decided on was not stopped before it."""
        parent = next(branch for branch in self.tree.branches() if leaf in branch.children)
        if parent.strategy == "one_for_one":
            return ""
        decided = self.record.decided.get(parent.path, 0.0)
        for later in parent.children[parent.children.index(leaf) + 1 :]:
            ref = self.system.whereis(later.path)
            cell = ref.cell if isinstance(ref, LocalRef) else None
            if cell is not None and cell.state in {"running", "suspended", "stopping"} and cell.started_at < decided:
                return f"{leaf.path} starts while {later.path} is {cell.state} ({parent.strategy})"
        return ""

    def handle(self, leaf: Leaf, job: Job) -> None:
        """Note that a job is handled."""
        if self.is_alive:
            self.blame(grove.JOBS, self.record.handled(leaf.path, job.teller, job.number))
            self.node.note("works", leaf.path, teller=job.teller, number=job.number)

    def busy(self, leaf: Leaf, *, beside: bool = False) -> _Busy:
        """Return the block in which a handler or a side task runs."""
        return _Busy(self, leaf, beside)

    def someone(self, *, far: bool = False) -> Ref[Any] | None:
        """Return some actor of this node, or of another."""
        if far:
            other = self.random.choice([node for node in self.all.world.nodes if node is not self.node])
            leaf, _ = self.random.choice(list(self.all.trees[other.name].leaves()))
            return self.system.ref(other.peer, leaf.path, Worker)
        leaf, _ = self.random.choice(list(self.tree.leaves()))
        return self.system.whereis(leaf.path)

    async def tell(self, ref: Ref[Any], job: Job) -> None:
        """Tell an actor of this node, and count it if it was told."""
        try:
            await ref.tell(job)
        except PrimeError as error:
            self.node.note("cannot tell", ref.path, why=type(error).__name__)
        else:
            self.record.tally.told += 1

    async def ask(self, ref: Ref[Any] | None, timeout_s: float) -> None:
        """Ask somebody, and check how that ends."""
        if ref is None:
            return
        began, number = trio.current_time(), self.random.randrange(1000)
        try:
            answer = await ref.ask(Question(number), timeout=timeout_s)
        except PrimeError as error:
            self.node.note("cannot ask", ref.path, why=type(error).__name__)
        else:
            self.blame(grove.ASKS, "" if answer == 2 * number else f"{ref.path} answered {number} with {answer}")
            if not ref.peer:
                self.answered[ref.path] = trio.current_time()
        now = trio.current_time()
        allowed_s = timeout_s * 1.15 + stood_still_s(self.all.world.plan, self.node.name, began, now) + 0.05
        late = f"an ask of {ref.path} with {timeout_s:g} s, begun at {began:g}, ended at {now:g}"
        self.blame(grove.ASKS, late if now - began > allowed_s else "")

    # ---- what the runtime reports

    def hear(self, fact: object) -> None:
        """Count failures and dead letters."""
        if not self.is_alive:
            return
        if isinstance(fact, DeadLetter) and fact.kind == "Job":
            self.record.tally.dead += 1
        elif isinstance(fact, ActorFailed) and fact.decision.startswith("restart in"):
            parent = fact.path.rpartition("/")[0]
            branch = next(branch for branch in self.tree.branches() if branch.path == parent)
            self.blame(grove.BUDGET, self.record.failed(branch, trio.current_time()))

    # ---- its tree

    async def live(self) -> None:
        """Keep the root supervisor up until the run is over: one that gave up is opened anew."""
        while not self.all.over.is_set():
            self.record.renewed(self.tree)
            try:
                async with self.system.supervisor(
                    "app", strategy=self.tree.strategy, restart=self.tree.restart
                ) as self.root:
                    await self.plant(self.root, self.tree)
                    await self.all.over.wait()
            except RestartLimitError:
                self.node.note("gives up", self.tree.path)
            self.root = None
            await trio.lowlevel.checkpoint()

    async def plant(self, sup: Supervisor, branch: Branch) -> None:
        """Start the children of a supervisor."""
        self.record.renewed(branch)
        for child in branch.children:
            if isinstance(child, Branch):
                await sup.spawn_supervisor(
                    child.name,
                    partial(self._planted, child),
                    strategy=child.strategy,
                    restart=child.restart,
                    kind=child.kind,
                )
            else:
                await self._spawn(sup, child)

    async def _planted(self, branch: Branch, sup: Supervisor) -> None:
        await self.plant(sup, branch)

    async def _spawn(self, sup: Supervisor, leaf: Leaf) -> None:
        made: Callable[[], Actor[Any]] = partial(Worker if leaf.worker else Plain, self, leaf)
        try:
            await sup.spawn(
                made,
                leaf.name,
                mailbox=Mailbox(leaf.capacity, leaf.full, on_restart=leaf.on_restart, stash=grove.STASH),
                kind=leaf.kind,
                shutdown=leaf.shutdown_s,
                passivate=leaf.passivate_s,
            )
        except PrimeError as error:  # it failed in `started` and never comes back
            if leaf.kind != "temporary":
                raise
            self.node.note("stillborn", leaf.path, why=type(error).__name__)

    # ---- what must hold

    def check_mailboxes(self) -> None:
        """Raise `AssertionError` if a mailbox holds more than it may."""
        for leaf, _ in self.tree.leaves():
            ref = self.system.whereis(leaf.path)
            if isinstance(ref, LocalRef):
                holds = len(ref.cell.queue) + len(ref.cell.stash or ())
                require(holds <= leaf.capacity + grove.STASH, f"{leaf.path} holds {holds}")

    def check_tasks(self) -> None:
        """Raise `AssertionError` if the task of an actor lives on after it, beyond its last step."""
        now, dead = trio.current_time(), [cell for cell in self.system.running.values() if cell.state == "dead"]
        self.dying = {cell: self.dying.get(cell, now) for cell in dead}
        for cell, since in self.dying.items():
            lives_s = now - since - stood_still_s(self.all.world.plan, self.node.name, since, now)
            require(lives_s <= 0, f"a task of {cell.path} lives on")

    def waiting(self) -> int:
        """Return how many jobs wait in mailboxes."""
        total = 0
        for leaf, _ in self.tree.leaves():
            ref = self.system.whereis(leaf.path)
            if isinstance(ref, LocalRef):
                entries = [*ref.cell.queue, *(ref.cell.stash or ())]
                total += sum(isinstance(getattr(entry, "message", entry), Job) for entry in entries)
        return total

    def balance(self) -> str:
        """Return what is wrong with the number of jobs, if anything."""
        tally, waiting = self.record.tally, self.waiting()
        if tally.told == tally.handled + tally.dead + waiting:
            return ""
        return (
            f"{self.node.name}: {tally.told} told, {tally.handled} handled, {tally.dead} dead letters, {waiting} wait"
        )

    def silent(self, since: float) -> list[str]:
        """Return the lasting actors that have not answered since then."""
        return [leaf.path for leaf, lasts in self.tree.leaves() if lasts and self.answered.get(leaf.path, 0.0) <= since]


# ------------------------------------------------------------------------------------------------------- the clients


async def tell(crew: Crew, name: str) -> None:
    """Tell jobs to all, in bursts, as one teller for each."""
    numbers: dict[str, int] = {}
    while not crew.all.closing:
        ref = crew.someone()
        if ref is not None:
            numbers[ref.path] = numbers.get(ref.path, 0) + 1
            with trio.move_on_after(TOLD_S):
                await crew.tell(ref, Job(f"{name}.{crew.life}", numbers[ref.path]))
        await _pause(crew)


async def send_far(crew: Crew, _name: str) -> None:
    """Tell and ask actors of other nodes."""
    while not crew.all.closing:
        ref = crew.someone(far=True)
        if ref is not None and crew.random.random() < 0.5:
            await crew.ask(ref, crew.random.choice((0.1, 1.0)))
        elif ref is not None:
            try:
                with trio.move_on_after(TOLD_S):
                    await ref.tell(Errand(1))
            except PrimeError as error:
                crew.node.note("cannot tell", ref.path, why=type(error).__name__)
        await _pause(crew)


async def ask(crew: Crew, _name: str) -> None:
    """Ask actors of this node."""
    while not crew.all.closing:
        await crew.ask(crew.someone(), crew.random.choice((0.05, 0.5, 3.0)))
        await _pause(crew)


async def watch(crew: Crew, _name: str) -> None:
    """Watch actors here and there; a watch that is not told of an end is ended."""
    books = crew.all.books
    while not crew.all.closing:
        ref = crew.someone(far=crew.random.random() < 0.3)
        if ref is not None:
            number, told = books.watch(), trio.Event()
            unwatch = crew.system.watch(ref, partial(_notified, crew, number, told))
            with trio.move_on_after(2 * crew.random.random()):
                await told.wait()
            if not told.is_set():
                books.unwatch(number)
            unwatch()
        await _pause(crew)


def _notified(crew: Crew, number: int, told: trio.Event, _reason: str) -> None:
    if crew.is_alive:
        crew.all.books.notified(number)
    told.set()


async def meddle(crew: Crew, _name: str) -> None:
    """Suspend, resume, spawn and stop."""
    count = 0
    while not crew.all.closing:
        await trio.sleep(crew.random.random())
        root, ref = crew.root, crew.someone()
        if root is None or ref is None:
            continue
        count += 1
        try:
            if crew.random.random() < 0.5:
                root.suspend(ref)
                await trio.sleep(crew.random.random() / 2)
                root.resume(ref)
            else:
                extra = await root.spawn(_Extra, f"extra{count}", kind=crew.random.choice(("temporary", "transient")))
                await trio.sleep(crew.random.random() / 2)
                await root.stop(extra)
        except PrimeError as error:
            if not isinstance(error, ActorUsageError):
                crew.node.note("cannot meddle", ref.path, why=type(error).__name__)


class _Extra(Actor[Ring]):
    @on(Ring)
    async def ring(self, _: Ring) -> None:
        """Hear it."""


async def _pause(crew: Crew) -> None:
    await trio.sleep(crew.random.choice((0.0, 0.0, 0.02, 0.1, 0.4)))


async def _be_busy(crew: Crew, client: Callable[[Crew, str], Awaitable[None]], name: str) -> None:
    crew.busy_clients += 1
    await client(crew, name)
    crew.busy_clients -= 1


# ------------------------------------------------------------------------------------------------------- the scenario


class Crews:
    """All nodes of the scenario, and the phases that they go through."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.books = Books(0)
        self.trees = {node.name: grove.grow(world.random("tree", node.name)) for node in world.nodes}
        self.open: dict[str, Crew] = {}
        self.traced = world.random("traced").random() < 0.5
        self.calm = False
        self.closing = False
        self.over = trio.Event()

    async def main(self, node: Node) -> None:
        """Be one life of a node."""
        async with node.system(traced=self.traced) as system:
            random = node.random("crew", str(node.lives))
            crew = Crew(node, system, self, node.lives, random, self.trees[node.name])
            before = system.leftovers()
            self.open[node.name] = crew
            system.subscribe(crew.hear)
            async with trio.open_nursery() as nursery:
                for number, client in enumerate((tell, tell, ask, send_far, watch, watch, meddle)):
                    nursery.start_soon(_be_busy, crew, client, f"client{number}")
                await crew.live()
            await trio.sleep(8.0)
            left = [f"{name} {count}" for name, count in system.leftovers().items() if count != before[name]]
            left += [path for path, count in crew.record.beside.items() if count]
            crew.leftovers = ", ".join(left)
            await trio.sleep_forever()

    @property
    def living(self) -> list[Crew]:
        """Return the crew of each node's present life."""
        return [crew for crew in self.open.values() if crew.is_alive]

    def check(self, what: Callable[[Crew], None]) -> None:
        """Check something on every node."""
        for crew in self.living:
            what(crew)

    def check_answers(self, since: float) -> None:
        """Raise `AssertionError` unless every lasting actor has answered since then."""
        silent = {crew.node.name: crew.silent(since) for crew in self.living if crew.silent(since)}
        require(not silent, str(silent))

    def check_settled(self) -> None:
        """Raise `AssertionError` unless all clients have stopped."""
        busy = {crew.node.name: crew.busy_clients for crew in self.living if crew.busy_clients}
        require(not busy, f"clients that still wait: {busy}")

    def check_clean(self) -> None:
        """Raise `AssertionError` unless every node looked behind itself and found nothing."""
        left = {crew.node.name: crew.leftovers for crew in self.living if crew.leftovers != ""}
        require(not left, str(left))


@scenario(nodes=2, kinds=p.NETWORK | p.NODE, storm_s=10.0, quiet_s=150.0)
async def supervision(world: World) -> None:
    """Let everything fail, and hold the runtime to what it promises."""
    crews = Crews(world)
    for name in grove.NAMES:
        if name != grove.MAILBOXES:
            world.always(name, partial(crews.books.check, name))
    world.always(grove.MAILBOXES, partial(crews.check, Crew.check_mailboxes))
    world.always("no task of a dead actor runs", partial(crews.check, Crew.check_tasks))
    world.start(crews.main)
    await world.storm()
    crews.calm = True
    calm_at = world.now + 10.0
    await trio.sleep(10.0)
    await world.eventually("every actor that shall last is there", partial(crews.check_answers, calm_at), CALM_S)
    crews.closing = True
    await world.eventually("everything pending is settled", crews.check_settled, ENDS_S)
    await world.eventually("no job is lost", lambda: not any(crew.balance() for crew in crews.living), 5.0)
    crews.over.set()
    await world.eventually("nothing is left behind", crews.check_clean, 30.0)
    for crew in crews.living:
        if crew.balance():
            raise ViolationError(f"each job is handled once, a dead letter, or waits: {crew.balance()}")
