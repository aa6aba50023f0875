"""The training round among three to five simulated nodes, under every fault: the scenario of `prime sim run`.

Each node runs a system with the aggregator of production and a stand-in for its trainer, whose numbers are exact. All
that `spec/protocols/round.md` promises ("What holds") is checked as it happens (`ledgers.py`, `prime.sim.decision`);
when the storm is over, the run must go on, let everyone in, and come to rest with one state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from prime.actor import Mailbox, Ref, Restart, System, on
from prime.actor.contract import Entry, Staged, StagedRecord
from prime.actor.facts import ActorFailed
from prime.errors import (
    CorruptedError,
    PrimeInternalError,
    RestartLimitError,
    UnreachableError,
    ViolationError,
    WorldError,
)
from prime.node.contacts import DIAL_DEADLINE_S, Contacts, dial_silent, find_contacts
from prime.sim.exact import Exact, Halved, Sum
from prime.sim.invariants import require
from prime.sim.run import scenario
from prime.sim.scenarios.learner import Keeper, Learner, Memory
from prime.sim.scenarios.ledgers import Book, Life, Settlement, names, round_of
from prime.sim.world import Node, World
from prime.store.journal import FileJournal
from prime.trainer.robust.rules import MEAN, Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.records import is_untrained, read_record
from prime.trainer.round.round import RoundCore
from prime.trainer.round.terms import Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member, Value, View
from prime.trainer.swarm import plans
from prime.trainer.swarm.aggregator import AGGREGATOR_PATH, Aggregator
from prime.trainer.swarm.carry import Ledger
from prime.trainer.swarm.membership import SwarmPlan
from prime.trainer.swarm.parts import digest

_DISK_ERRORS = ("WorldError: /rounds", "CorruptedError: /rounds")
RUN = "run"
NODES = ("n1", "n2", "n3", "n4", "n5")
FOUNDER = NODES[0]
TIMING = Timing(
    resend_s=0.25,
    transfer_s=0.5,
    suspect_s=2.0,
    stagger_s=0.5,
    seal_s=3.0,
    reduce_s=1.5,
    deadline_s=6.0,
    join_ttl_s=5.0,
)
JOURNAL_BYTES_MAX = 100_000
"""So little that a journal is written anew now and then."""
AWAY_S = 3.0
"""How long one that left in order stays away."""
RESTART_S = 1.0
"""How long it takes whoever runs a node to see that it ended, and to start it again."""
LATENCY_MAX_S = 0.2
BANDWIDTH_MIN = 1e5
"""A network worse than this is not said to exchange messages in time (bytes a second)."""
RATES = (None, 1_000_000, 0, 4_000_000, 50_000)
"""Bandwidths of members, 0 for a client; which node has which is drawn. The first pattern is of nodes that say nothing."""
RULES = (MEAN, Rule("mean", norm_gate=1e6), Rule("krum"))
"""Rules of aggregation: sealed at once; judged first, and all count; judged first, and one counts."""
COMMITS_QUIET = 2
"""Rounds that must commit once the storm is over."""

LATE_S = TIMING.deadline_s + 5.0
"""How long a round may take while a majority exchanges messages: its deadline, and what links need to be found again."""
LOOK_S = 0.25

Kill = Callable[[Life, cmd.Command | cmd.Event], bool]
"""Crashes a node, or not, before it carries out a command of its round's core or takes an event to it: whether it did."""


class WitnessedJournal:
    """The journal of a node's present life, looked at while it is written. `known` outlives it."""

    def __init__(self, inner: FileJournal, life: Life, book: Book, known: dict[bytes, int]) -> None:
        self._inner = inner
        self.life = self._life = life
        self._book = book
        self._known = known
        self._staged: dict[Staged, bytes] = {}
        self.find()

    def find(self) -> None:
        """Tell what is on the disk though the call that wrote it did not live to say so."""
        records = self._inner.records()
        if self._known and not records:
            self._known.clear()
            self._book.lost_disk(self._life)
        for record in records:
            self._take(record)

    async def append(self, record: Entry) -> None:
        """See `contract.Journal.append`."""
        await self._inner.append(record)
        self._take(self._whole(record))

    async def stage(self, group: int, pieces: Sequence[tuple[bytes | memoryview, bytes]]) -> tuple[Staged, ...]:
        """See `contract.Journal.stage`."""
        found = await self._inner.stage(group, pieces)
        self._staged.update(zip(found, (bytes(data) for data, _ in pieces), strict=True))
        return found

    async def replace(self, records: Sequence[Entry]) -> None:
        """See `contract.Journal.replace`."""
        await self._inner.replace(records)
        for record in records:
            self._take(self._whole(record))

    def _whole(self, record: Entry) -> bytes:
        if isinstance(record, StagedRecord):
            return record.body + b"".join(self._staged[piece] for piece in record.pieces)
        return bytes(record)

    def records(self) -> list[bytes]:
        """See `contract.Journal.records`."""
        return self._inner.records()

    def knows(self, round_: int) -> bool:
        """Tell whether the decision of a round is on the disk."""
        return round_ in self._known.values()

    @property
    def size_bytes(self) -> int:
        """See `contract.Journal.size_bytes`."""
        return self._inner.size_bytes

    def _take(self, data: bytes) -> None:
        key = digest(data)
        if key not in self._known and not self._life.is_over:
            record, parts = read_record(data)
            self._known[key] = record.value.round if isinstance(record, msg.Decided) else -1
            self._book.wrote(self._life, record, parts)


class Witnessed(Aggregator):
    """The aggregator of production, looked at while it works; its node may die at any of its commands."""

    def __init__(self, plan: SwarmPlan, journal: WitnessedJournal, life: Life, swarm: Swarm, report: Any) -> None:
        super().__init__(plan, journal, report, swarm.numbers)
        self._recorder.journal_bytes_max = JOURNAL_BYTES_MAX
        self._recorder.spooler.bytes_min = swarm.spooled_bytes_min
        self.life = self._life = life
        self._swarm = swarm

    @property
    def core(self) -> RoundCore | None:
        """The round's core, once it began."""
        return self._core

    @property
    def ledgers(self) -> tuple[Ledger[Sum], ...]:
        """What this member owes, in each fragment."""
        return self._ledgers.all()

    def _ledger(self, round_: int) -> Ledger[Sum]:
        """Return the ledger that the outcome of a round changes: the one in flight, if any is."""
        frozen = self._ledgers.in_flight()
        return self._ledgers.of(round_ if frozen is None else frozen.round)

    async def _do(self, command: cmd.Command) -> None:
        await self._may_die(command)
        if isinstance(command, cmd.Send):
            self._swarm.book.said(self._life, command.message)
        await super()._do(command)

    async def _may_die(self, thing: cmd.Command | cmd.Event) -> None:
        if self._life.is_over or self._swarm.kill(self._life, thing):
            await trio.sleep_forever()

    @on(plans.Contribute)
    async def contribute(self, m: plans.Contribute) -> None:
        """Contribute, and see that nothing gets lost."""
        ledger = self._ledgers.of(m.round)
        before = attrs.evolve(ledger)
        await super().contribute(m)
        self._swarm.book.owes(self._life, before, ledger)

    async def _step(self, event: cmd.Event) -> None:
        frozen = self._ledgers.in_flight()
        if isinstance(event, cmd.Contributed) and frozen is not None:
            self._swarm.book.froze(self._life, event.round, frozen, event.offer.base)
        await self._may_die(event)
        await super()._step(event)

    async def _settle(self, command: Settlement) -> None:
        ledger = self._ledger(round_of(command))
        before = attrs.evolve(ledger)
        await super()._settle(command)
        self._swarm.book.settles(self._life, before, command, ledger)


class Swarm:
    """All nodes of one run, and what is known of them."""

    def __init__(
        self, world: World, size: int, kill: Kill | None = None, numbers: Exact | None = None, fragments: int = 1
    ) -> None:
        self.world = world
        self.numbers = Exact() if numbers is None else numbers
        self.book = Book(world, RUN, self.numbers, fragments)
        self.nodes = world.nodes[:size]
        self.kill: Kill = kill if kill is not None else lambda _life, _thing: False
        self._since: dict[tuple[int, tuple[str, ...]], float] = {}
        self.leaver = ("", *(node.name for node in self.nodes))[world.choose("leaver", 0, size)]
        """Who leaves the run in order, and comes back; nobody, if empty."""
        self.leaves_s = min(world.choose("leaves", 2, 12), 0.5 * world.plan.storm_s)
        self.spooled_bytes_min = world.choose("spooled", 0, 1) << 30
        """From how many bytes on a vote is staged: always or never."""
        self._is_founded = True
        self.journals: dict[str, WitnessedJournal] = {}
        self._known: dict[str, dict[bytes, int]] = {node.name: {} for node in self.nodes}
        self.lives: dict[str, Life] = {}
        self.systems: dict[str, System] = {}
        self.rounds = 0
        """The round that the run ends with, at the soonest, without being asked; 0: with none."""
        self.memories: dict[str, Memory] = {}
        self.aggregators: dict[str, Witnessed] = {}

    def start(self) -> None:
        """Start every node's program."""
        for node in self.nodes:
            node.start(self._main)

    # ------------------------------------------------------------------------------------------- a node's program

    async def _main(self, node: Node) -> None:
        life = self.lives[node.name] = Life(node, node.lives)
        self.memories[node.name] = Memory()
        try:
            journal = self.journals[node.name] = await self._open_journal(life)
            await self._serve(life, journal)
        except (RestartLimitError, CorruptedError) as error:  # whoever runs it starts it again
            if not node.disk.flips and isinstance(error, CorruptedError):
                raise
            node.note("gives up", "", why=str(error))
            node.crash(RESTART_S)

    async def _open_journal(self, life: Life) -> WitnessedJournal:
        """Open the journal, as often as it takes; one that the disk damaged is put away, as its error says."""
        node = life.node
        while True:
            try:
                return WitnessedJournal(await node.disk.journal("rounds"), life, self.book, self._known[node.name])
            except CorruptedError as error:
                if not node.disk.flips:
                    raise
                node.note("puts its journal away", "", why=str(error))
                node.disk.wipe()
            except WorldError:
                await trio.sleep(RESTART_S)

    async def _serve(self, life: Life, journal: WitnessedJournal) -> None:
        node, memory = life.node, self.memories[life.node.name]
        async with node.system() as system, system.supervisor("state") as states:
            self.systems[node.name] = system
            system.subscribe(lambda fact: self._hear(life, fact))
            found = node.name == FOUNDER and self._founds(journal)
            contacts = Contacts() if found else await self._dial(system, node)
            random = node.random("incarnation", str(node.lives))
            member = Member(node.peer, system.addresses, 1.0, random.getrandbits(48) + 1, self._rate(node))
            terms = Terms(rule=RULES[self.world.choose("rule", 0, len(RULES) - 1)], rounds=self.rounds)
            plan = SwarmPlan(RUN, member, found, contacts.peers, len(self.nodes), TIMING, terms)
            founder = found and is_untrained(journal.records())
            restart = Restart(max=3, within=120, backoff=(0.5, 10))
            dialling, left = trio.CancelScope(), trio.Event()

            def report(outcome: plans.Outcome) -> None:
                if isinstance(outcome, plans.ViewEntered):
                    dialling.cancel()
                if isinstance(outcome, plans.LeftView) and not outcome.rejoining and not self.leaver:
                    left.set()
                ref = system.whereis("/train/trainer")
                if ref is not None:
                    ref.tell_nowait(outcome)

            def aggregator() -> Witnessed:
                self.book.rules.crashed(node.peer)
                life.unsent.clear()  # a ledger lives as long as its aggregator
                journal.find()
                made = self.aggregators[node.name] = Witnessed(plan, journal, life, self, report)
                return made

            async with system.supervisor("train", strategy="one_for_all", restart=restart) as sup:
                keeper = await states.spawn(Keeper, "donor")
                ref = await sup.spawn(aggregator, "aggregator", mailbox=Mailbox(4096))
                await sup.spawn(lambda: Learner(life, self.book, memory, ref, keeper, founder=founder), "trainer")
                with dialling:
                    await dial_silent(system, contacts.silent, lambda peers: ref.tell(plans.FurtherContacts(peers)))
                if self.leaver != node.name or self.world.now > self.leaves_s:
                    await trio.sleep_forever()
                await self._leave(node, ref, left)
        node.crash(AWAY_S)

    async def _leave(self, node: Node, ref: Ref[Any], left: trio.Event) -> None:
        """End the program in order, as a person would who wants the machine for something else for a while."""
        await trio.sleep_until(self.leaves_s)
        self.leaver = ""
        node.note("wants to leave")
        with trio.move_on_after(TIMING.deadline_s):
            await ref.tell(plans.LeaveSwarm())
            await left.wait()

    def _rate(self, node: Node) -> int | None:
        """Return the bandwidth that a node says it has; the founder is no client, or there would be no owner at first."""
        pattern, place = self.world.choose("rates", 0, len(RATES) - 1), self.nodes.index(node)
        rate = RATES[pattern * place % len(RATES)]
        return None if node.name == FOUNDER and rate == 0 else rate

    def _founds(self, journal: WitnessedJournal) -> bool:
        """Tell whether the founder's program is started as such: not after its disk was lost, once the run began."""
        self._is_founded = self._is_founded and (bool(journal.records()) or not self.book.values)
        return self._is_founded

    async def _dial(self, system: System, node: Node) -> Contacts:
        """Find members of the run, as often as it takes: a person would start the program again."""
        others = [other.address for other in self.nodes if other is not node]
        while True:
            try:
                return await find_contacts(system, others, DIAL_DEADLINE_S)
            except UnreachableError:
                node.note("finds nobody")

    def _hear(self, life: Life, fact: Any) -> None:
        """Fail the world when an actor of the round fails, and not of the disk."""
        is_disk = isinstance(fact, ActorFailed) and fact.error.startswith(_DISK_ERRORS)
        if isinstance(fact, ActorFailed) and not is_disk and not life.is_over:
            self.world.fail(ViolationError(f"{life.node.name}: {fact}\n{fact.traceback}"))

    # --------------------------------------------------------------------------------------------------- rounds in time

    async def watch(self) -> None:
        """Fail the world when a round is not decided in time though a majority of its view exchanges messages."""
        while True:
            await trio.sleep(LOOK_S)
            late = self._late()
            if late:
                self.world.fail(ViolationError(late, name="in_time"))

    def _late(self) -> str:
        last = self.book.last
        if last is None or last.last:
            return ""
        active = [(last.round + 1, group) for group in self._majorities(last)]
        self._since = {key: self._since.get(key, self.world.now) for key in active}
        for (round_, group), since in self._since.items():
            if self.world.now - since > LATE_S:
                return f"in_time: round {round_} is not decided after {LATE_S:g} s, though {', '.join(group)} were connected"
        return ""

    def _majorities(self, last: Value) -> list[tuple[str, ...]]:
        """Return each majority that could decide the round after `last` now, if one of it has begun to."""
        view, faults = last.next_view, self.world.network.faults
        if faults.loss or faults.corruption or faults.latency_s + faults.jitter_s > LATENCY_MAX_S:
            return []
        if faults.bandwidth_bytes_per_s < BANDWIDTH_MIN:
            return []
        fit = [node for node in self.nodes if self._is_fit(node, view)]
        groups = itertools.combinations(fit, view.majority())
        return [tuple(node.name for node in group) for group in groups if self._is_connected(group, last.round + 1)]

    def _is_fit(self, node: Node, view: View) -> bool:
        member = view.find(node.peer)
        life, aggregator = self.lives.get(node.name), self.aggregators.get(node.name)
        return (
            member is not None
            and member.incarnation == self.book.born.get(node.peer)
            and life is not None
            and aggregator is not None
            and aggregator.core is not None
            and aggregator.life is life
            and not life.is_over
            and not node.is_paused
            and node.name not in self.world.fabric.slow
        )

    def _is_connected(self, group: Sequence[Node], round_: int) -> bool:
        there = [node.name for node in group]
        if not all(self.world.network.is_open(a, b) for a, b in itertools.permutations(there, 2)):
            return False
        seats = [core.seat for name in there if (core := self.aggregators[name].core) is not None]
        return any(seat is not None and seat.round == round_ and seat.active_since is not None for seat in seats)

    # ------------------------------------------------------------------------------------------------- when it is quiet

    def is_lost(self) -> str:
        """Say why nobody can carry the run on: more was lost than it outlives. Empty where it must go on."""
        last = self.book.last
        if last is None:
            return ""
        intact = [m for m in last.next_view.members if self.book.born.get(m.peer) == m.incarnation]
        if len(intact) < last.next_view.majority():
            return (
                f"of the {len(last.next_view.members)} members after round {last.round} {len(intact)} have their disks"
            )
        if not any(journal.knows(last.round) for journal in self.journals.values()):
            return f"nobody has the decision of round {last.round} on its disk any more"
        if not last.state_round and self._known[FOUNDER] and self._is_founded:
            return ""  # the founder makes what it began with again, when it starts
        states = [memory.state for memory in self.memories.values() if memory.state is not None]
        base = self.book.values[last.state_round].base if last.state_round else b""
        if not any(state.round >= last.state_round or state.hash == base for state in states):
            return f"nobody holds the state after round {last.state_round}: it is in no process any more"
        return ""

    def has_begun(self) -> bool:
        """Tell whether every node has opened its journal in its present life."""
        lives = ((self.lives.get(node.name), self.journals.get(node.name)) for node in self.nodes)
        return all(life and not life.is_over and journal and journal.life is life for life, journal in lives)

    def all_in(self) -> bool:
        """Tell whether every node is a member and holds the newest state."""
        last = self.book.last
        peers = last.next_view.peers() if last is not None else ()
        return all(node.peer in peers for node in self.nodes) and self.is_agreed()

    def is_agreed(self) -> bool:
        """Tell whether every node is in the same round and holds the same state."""
        states = {self.memories[node.name].state for node in self.nodes}
        rounds = {self.aggregators[node.name].status().round for node in self.nodes}
        return len(states) == len(rounds) == 1 and None not in states

    def ask_for_end(self, name: str) -> None:
        """Let a node ask for the end of the run, if it is there."""
        life = self.lives.get(name)
        ref = None if life is None or life.is_over else self.systems[name].whereis(AGGREGATOR_PATH)
        if ref is not None:
            ref.tell_nowait(plans.EndSwarm())

    def has_ended(self) -> bool:
        """Tell whether every node, member or not, knows that the run is over, and holds the state that it ended with."""
        last = self.book.last
        learners = [memory.learner for memory in self.memories.values()]
        states = {memory.state for memory in self.memories.values()}
        return (
            last is not None
            and last.last
            and all(learner is not None and learner.has_ended for learner in learners)
            and {state.round for state in states if state is not None} == {last.round}
            and len(states) == 1
        )

    def rest(self) -> None:
        """Let nobody train any more."""
        for memory in self.memories.values():
            memory.is_training = False

    def is_at_rest(self) -> bool:
        """Tell whether nothing is pending anywhere, and all hold one state.

        One that the last round left out asks to be let in for ever: no round comes any more that could.
        """
        last = self.book.last
        peers = last.next_view.peers() if last is not None else ()
        seated = [self.aggregators[node.name].status() for node in self.nodes if node.peer in peers]
        states = {self.memories[node.name].state for node in self.nodes}
        return (
            len(states) == len({status.round for status in seated}) == 1
            and None not in states
            and all(status.phase == "training" for status in seated)
            and all(self._learner(node).is_idle for node in self.nodes)
        )

    def _learner(self, node: Node) -> Learner:
        learner = self.memories[node.name].learner
        if learner is None:
            raise PrimeInternalError(f"{node.name} is a member and has no learner")
        return learner

    def check_conserved(self) -> None:
        """Assert that all that living members made was applied, is owed, or was dropped and counted."""
        for node in self.nodes:
            life, learner, aggregator = self.lives[node.name], self._learner(node), self.aggregators[node.name]
            owed = learner.owed().union(*map(names, aggregator.ledgers))
            spent = {name for name in life.produced if name in self.book.spent}
            vanished = life.produced - owed - spent - life.dropped
            require(not vanished, f"conserved: {sorted(vanished)} of {node.name} vanished")
            again = owed & spent
            require(not again, f"once: {sorted(again)} of {node.name} were added and are owed still")


@scenario(nodes=NODES, nodes_min=3, storm_s=20.0, quiet_s=120.0)
async def training_round(world: World) -> None:
    """Train through the storm; then everybody is let in, two rounds commit, and all come to rest with one state.

    The storm may take more than a run outlives: fewer than a majority of the newest view still have their disks, or
    nobody has the newest decision, or its state, any more. Nothing could decide or go on then (`round.md`, "Below a
    majority"), so nothing is asked of what follows: the event `is lost` says so, and the run counts as one that held.
    What happened until then was checked like everything else. The tests see to it that this is rare.

    `in_time` (a round that a majority could decide is decided before its deadline) is judged only while the network
    neither loses nor corrupts bytes, and is not slower than `LATENCY_MAX_S` and `BANDWIDTH_MIN` say.
    """
    await train(world, Swarm(world, world.choose("size", 3, len(world.nodes))))


@scenario(nodes=NODES, nodes_min=3, storm_s=20.0, quiet_s=120.0)
async def training_round_feedback(world: World) -> None:
    """`training_round` with a codec that leaves out half of each contribution, and error feedback that brings it later.

    What each member owes is then known to a fraction, at each outcome: `fed_back`.
    """
    await train(world, Swarm(world, world.choose("size", 3, len(world.nodes)), numbers=Halved(8192)))


@scenario(nodes=NODES, nodes_min=3, storm_s=20.0, quiet_s=120.0)
async def training_round_fragments(world: World) -> None:
    """`training_round` of a vector in fragments, one a round: members train on while a round is under way.

    What a round adds was learnt in the fragment that it carries, and the state of all fragments is one at all members.
    """
    fragments = world.choose("fragments", 2, 4)
    await train(
        world, Swarm(world, world.choose("size", 3, len(world.nodes)), numbers=Exact(8192), fragments=fragments)
    )


@scenario(nodes=NODES, nodes_min=3, storm_s=20.0, quiet_s=120.0)
async def training_round_ends(world: World) -> None:
    """`training_round` whose run ends in the storm: all come to the same last round, and to its state.

    A member asks for the end, or so many rounds were wanted. Whoever asked may die at once; then all ask again when it
    is quiet. Nothing is decided after the last round, which is never one that was given up.
    """
    swarm = Swarm(world, world.choose("size", 3, len(world.nodes)))
    swarm.rounds = max(world.choose("rounds", -10, 20), 0)
    who = swarm.nodes[world.choose("ender", 0, len(swarm.nodes) - 1)].name
    at_s = min(world.choose("ends", 2, 18), world.plan.storm_s)
    world.nursery.start_soon(_ask_for_end_at, swarm, who, at_s)
    if not await survive(world, swarm):
        return
    for node in swarm.nodes:
        swarm.ask_for_end(node.name)
    await world.eventually("ended", swarm.has_ended, within_s=60.0)
    last = swarm.book.last
    await trio.sleep(2 * TIMING.deadline_s)
    require(swarm.book.last is last and swarm.has_ended(), "ended: the run went on after its last round")
    swarm.check_conserved()


async def _ask_for_end_at(swarm: Swarm, who: str, at_s: float) -> None:
    await trio.sleep_until(at_s)
    swarm.ask_for_end(who)


async def train(world: World, swarm: Swarm) -> None:
    """Play the scenario with this swarm."""
    if not await survive(world, swarm):
        return
    book = swarm.book
    before = book.commits()
    await world.eventually("progress", lambda: book.commits() >= before + COMMITS_QUIET, within_s=40.0)
    await world.eventually("all_in", swarm.all_in, within_s=40.0)
    swarm.rest()
    await world.eventually("rest", swarm.is_at_rest, within_s=4 * TIMING.deadline_s)
    swarm.check_conserved()


async def survive(world: World, swarm: Swarm) -> bool:
    """Let the swarm train through the storm; tell whether it can be asked to go on."""
    swarm.start()
    world.nursery.start_soon(swarm.watch)
    await world.storm()
    await world.eventually("start", swarm.has_begun, within_s=10.0)
    lost = swarm.is_lost()
    if lost:
        world.note("is lost", lost)
    return not lost
