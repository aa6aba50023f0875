"""Registers of the DHT on the fast engine: writers, readers and electors on each node, under every fault there is.

The cores are those of production (`prime.dht.registers`), in a shell of calls; what travels are opened objects, as
signatures are no part of what is looked for. What came of each operation is recorded, and the history of each register
must be linearizable (`prime.sim.linear`) as one object that knows its version: `Versions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import attrs

from prime.actor.contract import PeerId
from prime.dht.registers import elector as el
from prime.dht.registers import operation as op
from prime.dht.registers.proposal import STORE_BYTES, Register, Seat, Version, quorum_of
from prime.sim import linear
from prime.sim.heap import HeapNode, HeapWorld, Program
from prime.sim.invariants import require
from prime.sim.plan import ALL
from prime.sim.run import scenario
from prime.sim.world import World

NODES: Final = tuple(f"n{i}" for i in range(1, 10))
PUBLISHER: Final = PeerId("publisher")
EPOCH_MS: Final = 1_800_000_000_000
"""What wall clocks show when a world begins, in ms since 1970."""
SKEW_TIMES: Final = 20_000
"""A plan's skews of seconds are days here, until the storm is over: electors refuse what comes from ahead."""
HABITS: Final = op.Habits(electors=5, liars=0, answer_s=0.6, operation_s=6.0)
PAUSE_S: Final = 1.0
"""How long a client waits before its next operation, at the most."""
QUIET_S: Final = 12.0
SETTLE_S: Final = 40.0
MISSED_MAX: Final = 2
"""An elector that so many tendings in a row missed is replaced."""

Choose = Callable[[str, int, int], int]
Make = Callable[["Registry"], Program]


# ------------------------------------------------------------------------------------------------------------ the object


@attrs.frozen
class Versions:
    """A register: `read()` answers `(seq, value)`, `write(expected_seq, value)` the version now there, and whether it is this one."""

    def start(self) -> tuple[int, Any]:
        """Return the empty register."""
        return (0, None)

    def step(self, state: tuple[int, Any], operation: linear.Operation) -> Iterable[tuple[int, Any]]:
        """See `Model.step`."""
        is_known = operation.outcome == "returned"
        if operation.name == "read":
            return (state,) if not is_known or operation.result == state else ()
        expected_seq, value = operation.arguments
        takes = state[0] == expected_seq
        after = (expected_seq + 1, value) if takes else state
        return (after,) if not is_known or operation.result == (takes, after) else ()


def told(version: Version | None) -> tuple[int, Any]:
    """Return a version as the model has it."""
    return (0, None) if version is None else (version.seq, version.value)


# --------------------------------------------------------------------------------------------------------------- a node


@attrs.frozen
class Asked:
    """A question of an operation, by its number on its node."""

    operation: int
    round: int
    question: el.Question


@attrs.frozen
class Said:
    """An elector's answer."""

    operation: int
    round: int
    shown: el.Shown


@attrs.frozen
class Stored:
    """What lies on a disk: which store it is, or where the elector stands."""

    store: bytes = b""
    standing: el.Standing | None = None


@attrs.define
class Running:
    """An operation under way, with what records it."""

    core: op.Operation
    recorded: Any
    context: Any
    wake: int = 0


class RegisterNode(Program):
    """An elector, and a client that reads, writes and tends; one life of it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.node: HeapNode
        self.elector: el.Elector | None = None
        self.terms: dict[Register, op.Term] = {}
        self.missed: Counter[PeerId] = Counter()
        self._running: dict[int, Running] = {}

    # ---- the elector

    def started(self, node: HeapNode) -> None:
        """Read the disk, and go on."""
        self.node = node
        self.node.later(0.0, self._open)
        self._plan_next()

    def _open(self) -> None:
        stored = [one for one in self.node.disk.records if isinstance(one, Stored)]
        stores = [one.store for one in stored if one.store]
        if not stores:
            stores = [self.node.random("store").randbytes(STORE_BYTES)]
            if not self.persist(Stored(store=stores[0])):
                self.node.later(0.5, self._open)
                return
        standings = {one.standing.register: one.standing for one in stored if one.standing is not None}
        self.elector = self.seated(Seat(PeerId(self.node.name), stores[0]), standings.values())
        self.registry.stores[self.node.name] = stores[0]

    def seated(self, seat: Seat, standings: Iterable[el.Standing]) -> el.Elector:
        """Return its elector; a liar's is another."""
        return el.Elector(seat, standings)

    def persist(self, record: Stored) -> bool:
        """Write to the disk; tell whether it took it."""
        try:
            self.node.persist(record)
        except OSError:
            return False
        return True

    def now_ms(self) -> int:
        """Return what this node's wall clock shows."""
        skew_s = self.node.clock - self.node.now if self.registry.world.is_stormy else 0.0
        return EPOCH_MS + int(1000 * (self.node.now + SKEW_TIMES * skew_s))

    def heard(self, source: str, message: Any) -> None:
        """Take a question or an answer."""
        match message:
            case Asked():
                shown = self.answer(message.question)
                if shown is not None:
                    self.node.send(source, Said(message.operation, message.round, shown), 200)
            case Said(number, round_, shown) if number in self._running:
                self._step(number, op.Answered(PeerId(source), round_, shown))

    def answer(self, question: el.Question) -> el.Shown | None:
        """Answer a question, once what it changes is on the disk; `None` where the disk took nothing."""
        if self.elector is None:
            return None
        shown = None
        for command in self.elector.step(question, self.now_ms()):
            match command:
                case el.Keep(standing):
                    if not self.persist(Stored(standing=standing)):
                        return None
                    self.elector.step(el.Kept(standing), self.now_ms())
                    self.registry.saw(self.node.name, standing)
                case el.Answer(found):
                    shown = found
                case el.Report(kind, _, text):
                    self.registry.report(kind, text)
        return shown

    # ---- the client

    def _plan_next(self) -> None:
        self.node.later(self.node.random("client").uniform(0.05, PAUSE_S), self._begin_next)

    def _begin_next(self) -> None:
        draw, registry = self.node.random("client"), self.registry
        register = draw.choice(registry.registers)
        has_key = self.node.name in registry.writers
        kind = draw.random()
        if has_key and kind < registry.writing:
            term = self.terms.get(register)
            seq = 0 if term is None or draw.random() < 0.05 else term.known.version.seq
            self.begin(register, op.Write(seq, registry.new_value(self.node.name)))
        elif has_key and kind > 0.88:
            away = frozenset(peer for peer, times in self.missed.items() if times >= MISSED_MAX)
            self.begin(register, op.Tend(away))
        else:
            self.begin(register, op.Read())

    def begin(self, register: Register, wish: op.Wish) -> None:
        """Start an operation."""
        registry, name = self.registry, self.node.name
        number = registry.next_number()
        is_write = isinstance(wish, op.Write)
        call = ("write", (wish.expected_seq, wish.value)) if isinstance(wish, op.Write) else ("read", ())
        context = registry.history.operation(f"{name}.{number}", register.salt, *call)
        core = op.Operation(
            register,
            wish,
            registry.habits,
            self.node.random("nonces").randbytes,
            sign=(lambda draft: draft) if is_write or name in registry.writers else None,
            term=self.terms.get(register),
        )
        self._running[number] = Running(core, context.__enter__(), context)
        self._step(number, op.Begin())

    def _step(self, number: int, event: op.Event) -> None:
        running = self._running.get(number)
        if running is None:
            return
        for command in running.core.step(event, self.node.now, self.now_ms()):
            self._do(number, running, command)

    def _do(self, number: int, running: Running, command: op.Command) -> None:
        match command:
            case op.Find():
                self.node.later(0.01, self._step, number, op.Found(self.registry.closest))
            case op.Put(peers, question, round_):
                for peer in peers:
                    self.node.send(peer, Asked(number, round_, question), 300)
            case op.Wake(at):
                running.wake += 1
                self.node.later(max(at - self.node.now, 0.0), self._wake, number, running.wake)
            case op.End(outcome, term):
                del self._running[number]
                self._ended(running, outcome, term)
            case el.Report(kind, _, text):
                self.registry.report(kind, text)

    def _wake(self, number: int, wake: int) -> None:
        running = self._running.get(number)
        if running is not None and running.wake == wake:
            self._step(number, op.Woken())

    def _ended(self, running: Running, outcome: op.Outcome, term: op.Term | None) -> None:
        if term is not None:
            self.terms[running.core.register] = term
        recorded = running.recorded
        match outcome:
            case op.Settled(version, away):
                recorded.returned(told(version))
                self._miss(away, running)
            case op.Written(version):
                recorded.returned((True, told(version)))
            case op.Conflict(version):
                recorded.returned((False, told(version)))
            case op.Gone(_, is_unknown):
                recorded.unknown() if is_unknown else recorded.failed()
        running.context.__exit__(None, None, None)
        self.registry.ended(self.node.name, outcome)
        self._plan_next()

    def _miss(self, away: Sequence[PeerId], running: Running) -> None:
        if running.core.is_tending:
            self.missed = Counter({peer: self.missed[peer] + 1 for peer in away})


class Liar(RegisterNode):
    """A hostile elector: it shows what once was, and forgets what it promised and accepted, whenever it likes."""

    def answer(self, question: el.Question) -> el.Shown | None:
        """Answer from any standing that it ever had."""
        draw = self.node.random("lies")
        if self.elector is not None and draw.random() < 0.5:
            past = self.registry.pasts.setdefault(self.node.name, [])
            past.append(self.elector.standings)
            self.elector = el.Elector(self.elector.seat, draw.choice(past))
        return super().answer(question) if draw.random() < 0.95 else None


# -------------------------------------------------------------------------------------------------------------- a world


class Registry:
    """All nodes of a world: what they did, and how much of the registers is lost."""

    def __init__(self, world: HeapWorld, nodes: Sequence[str], habits: op.Habits, *, registers: int = 1) -> None:
        self.world = world
        self.habits = habits
        self.closest = tuple(map(PeerId, nodes))
        self.registers = tuple(Register(PUBLISHER, b"r%d" % number) for number in range(registers))
        self.writers = frozenset(nodes[::2])
        self.writing = 0.5
        self.history = linear.History(lambda: world.now, note=world.note)
        self.stores: dict[str, bytes] = {}
        self.pasts: dict[str, list[Any]] = {}
        self.reports: Counter[str] = Counter()
        self.outcomes: dict[str, op.Outcome] = {}
        self.lost_at = float("inf")
        self._terms: dict[Register, op.Term] = {}
        self._numbers = 0

    def next_number(self) -> int:
        """Return the number of a new operation."""
        self._numbers += 1
        return self._numbers

    def new_value(self, name: str) -> bytes:
        """Return a value that nobody else writes."""
        return f"{name}:{self._numbers}".encode()

    def saw(self, name: str, standing: el.Standing) -> None:
        """Learn which terms there are."""
        term = op.Term.shown_by(el.Shown("shown", self.stores.get(name, b""), standing.promised, standing.accepted))
        if term is not None and term.is_newer_than(self._terms.get(standing.register)):
            self._terms[standing.register] = term

    def look_for_loss(self) -> None:
        """Note when more disks are gone than a register outlives: its electors no longer decide, or are not found."""
        for term in self._terms.values():
            seats, quorum = term.electors.seats, term.electors.quorum
            gone = sum(self.world.nodes[seat.peer].disk.records[:1] != [Stored(store=seat.store)] for seat in seats)
            if gone > self.bound(len(seats), quorum, term.electors.liars) and self.lost_at > self.world.now:
                self.lost_at = self.world.now
                self.world.note("is lost", f"{gone} of {len(seats)} electors have lost their disks")

    def bound(self, seats: int, quorum: int, liars: int) -> int:
        """Return how many electors may lose their disks: one that creates it anew must still find one who knows."""
        absent = max((quorum_of(seats, liars) - liars - 1) // 2, 0)
        return min(seats - quorum, quorum - liars - 1 - absent)

    def report(self, kind: str, text: str) -> None:
        """Note what somebody should hear of."""
        self.reports[kind] += 1
        self.world.note("is reported", kind, text=text)

    def ended(self, name: str, outcome: op.Outcome) -> None:
        """Note what an operation ended with."""
        self.outcomes[name] = outcome
        self.world.note("has ended", f"{name}: {type(outcome).__name__}")

    def check(self) -> linear.Verdict:
        """Judge the history, up to where more was lost than a register outlives."""
        return linear.check(self._judged(), Versions())

    def _judged(self) -> list[linear.Operation]:
        until = self.lost_at
        kept = [one for one in self.history.operations if one.invoked_at <= until]
        return [
            one
            if one.returned_at <= until or one.outcome == "unknown"
            else attrs.evolve(one, outcome="unknown", returned_at=float("inf"), ended=float("inf"), result=None)
            for one in kept
        ]


def gather(
    world: HeapWorld, nodes: Sequence[str], choose: Choose, *, make: Make = RegisterNode, liar: Make = Liar
) -> Registry:
    """Put the nodes into a world; as many of them lie as its registers bear, if so many are drawn."""
    electors, liars = choose("electors", 3, 7), choose("liars", 0, 2)
    habits = attrs.evolve(HABITS, electors=electors, liars=liars)
    registry = Registry(world, nodes, habits, registers=choose("registers", 1, 2))
    registry.writing = choose("writing", 1, 8) / 10
    liars = habits.liars_of(min(electors, len(nodes)))
    for number, name in enumerate(nodes):
        world.add(name, partial(liar if number < liars else make, registry))
    world.always("loss", registry.look_for_loss)
    return registry


def play(registry: Registry) -> None:
    """Let nodes read, write and tend through the storm; then everybody must get on, and the history be sound."""
    world = registry.world
    world.run_until(world.plan.storm_s + 0.001)
    world.run(QUIET_S)
    registry.check().require()
    if registry.lost_at > world.now:
        _require_progress(registry)


def _require_progress(registry: Registry) -> None:
    """When it is quiet each node reads and writes."""
    registry.outcomes.clear()
    up = [name for name, node in registry.world.nodes.items() if node.is_up]

    def all_settled() -> bool:
        return all(not isinstance(registry.outcomes.get(name, op.Gone("")), op.Gone) for name in up)

    registry.world.eventually("progress", all_settled, SETTLE_S)
    registry.check().require()
    require(not registry.reports["equivocation"], "equivocation: one ballot proposed two things")
    require(not registry.reports["split"], "split: one key has two registers")


@scenario(nodes=NODES, nodes_min=3, kinds=ALL - {"bit_flip", "slow_reader", "torn"}, storm_s=20.0, quiet_s=60.0)
async def registers(world: World) -> None:
    """Read, write and tend registers through the storm: what each operation said must fit one order of them all.

    It is played on the fast engine, at no time of this world's own. Where more electors lose their disks than a register
    outlives, what follows is not judged: the event `is lost` says so.
    """
    fast = HeapWorld(world.seed, world.plan)
    try:
        play(gather(fast, [node.name for node in world.nodes], world.choose))
    finally:
        for event in fast.history.events:
            world.history.add(event.at_s, event.node, event.kind, event.subject, event.detail)
