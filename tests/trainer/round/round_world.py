"""Members of a run on the simulator's heap of events: links and disks fail while the numbers are followed exactly.

Numbers are symbols with exact fractions, so that "the aggregate is the exact aggregate over C" and "at most once" are
equalities. One integer seeds everything.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import attrs

from prime.sim import HeapNode, HeapWorld, NetworkFaults, Plan, Program
from prime.sim.decision import Decisions
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.journal import compacted
from prime.trainer.round.round import RoundCore
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member, Share, Value
from prime.trainer.swarm.carry import Ledger

RUN = "world"


@attrs.frozen(eq=True)
class Sym:
    """A linear combination of deltas: what numbers are in this world."""

    terms: tuple[tuple[str, Fraction], ...]

    def __add__(self, other: Sym) -> Sym:
        total = dict(self.terms)
        for name, factor in other.terms:
            total[name] = total.get(name, Fraction(0)) + factor
        return Sym(tuple(sorted(total.items())))

    def __mul__(self, factor: Fraction) -> Sym:
        return Sym(tuple((name, value * factor) for name, value in self.terms))


ZERO = Sym(())


def written_anew(disk: list[msg.Record]) -> list[msg.Record]:
    """Return a journal as it is when its last decision, with contributions or not, has replaced all before it."""
    at = max((i for i, record in enumerate(disk) if isinstance(record, msg.Decided)), default=None)
    if at is None:
        return disk
    before, decided = disk[:at], disk[at]
    birth = [next(r for r in before if isinstance(r, msg.Born)), [r for r in before if isinstance(r, msg.Booted)][-1]]
    vote = next((r for r in reversed(before) if isinstance(r, msg.Accepted)), None)
    entered = None
    for record in before:
        match record:
            case msg.Entered():
                entered = record
            case msg.Decided(value):
                entered = msg.Entered(value.round + 1, value.next_view, value.state_round)
            case _:
                pass
    kept = [*birth, decided] if entered is None else compacted(birth, entered, vote, decided)
    return [*kept, *disk[at + 1 :]]


def hash_of(*things: object) -> bytes:
    return hashlib.sha256(repr(things).encode()).digest()


@attrs.define
class Node:
    """One machine: a disk that survives crashes, and everything else, which does not."""

    peer: str
    disk: list[msg.Record]
    disk_bytes: dict[tuple[int, int, bytes], Sym]
    disk_state: tuple[int, Sym] | None
    incarnation: int
    core: RoundCore | None = None
    state: tuple[int, Sym] | None = None
    ledger: Ledger[Sym] = attrs.Factory(Ledger)
    mine: dict[int, Sym] = attrs.Factory(dict)
    chunks: dict[tuple[int, str, int], Sym] = attrs.Factory(dict)
    results: dict[tuple[int, int, bytes], Sym] = attrs.Factory(dict)
    delta: Sym = ZERO
    catching_up: bool = False
    plans: int = -1
    machine: HeapNode = attrs.field(init=False)
    produced: Fraction = Fraction(0)
    applied: Fraction = Fraction(0)
    stalls: list[cmd.Stalled] = attrs.Factory(list)
    log: list[cmd.Command] = attrs.Factory(list)


@attrs.frozen
class Faults:
    loss: float = 0.0
    double: float = 0.0
    delay_s: float = 0.02
    crash: float = 0.0
    forget: bool = False
    cut: float = 0.0


class Seat(Program):
    """What a machine runs: the core of its node, which is fed what comes."""

    def __init__(self, world: World, node: Node) -> None:
        self.world = world
        self.node = node

    def heard(self, source: str, message: Any) -> None:
        if self.node.core is not None:
            message(self.node)

    def woken(self, now: float) -> None:
        self.world.step(self.node, cmd.Tick())


def _network(faults: Faults) -> NetworkFaults:
    """Delays about a mean, with some far behind."""
    delay_s = faults.delay_s
    return NetworkFaults(
        latency_s=0.2 * delay_s,
        jitter_s=1.2 * delay_s,
        loss=faults.loss,
        duplication=faults.double,
        reordering=0.1,
    )


class World:
    """Nodes, links, faults, and the invariants, checked at every step."""

    def __init__(
        self, seed: int, faults: Faults = Faults(), timing: Timing | None = None, terms: Terms = DEFAULT_TERMS
    ) -> None:
        self.sim = HeapWorld(seed, Plan(network=_network(faults), storm_s=1e9))
        self.random = self.sim.random("schedule")
        self.faults = faults
        self.terms = terms
        self.rates: dict[str, int | None] = {}
        self.deaf: set[str] = set()
        self.loudness: dict[str, int] = {}
        self.is_paced = False
        """Whether a delta is as long as it has tokens, as one that is trained is."""
        self.timing = timing or Timing(
            resend_s=0.2, transfer_s=0.4, suspect_s=1.0, stagger_s=0.3, seal_s=2.0, reduce_s=1.0, deadline_s=6.0
        )
        self.nodes: dict[str, Node] = {}
        self._cuts: set[frozenset[str]] = set()
        self.decided: dict[int, Value] = {}
        self.decided_at: dict[int, float] = {}
        self.active_at: dict[int, float] = {}
        self.deltas: dict[str, Fraction] = {}
        self.spent: dict[str, Fraction] = {}
        self.frozen: dict[tuple[int, str, int], tuple[Sym, Fraction]] = {}
        self.bases: dict[tuple[int, str], bytes] = {}
        self.states: dict[int, Sym] = {}
        self.votes: dict[tuple[int, Any], bytes] = {}
        self.founders = 1
        self.rules = Decisions(RUN)
        self.training = True
        self.pace_s = 1.0
        self.paces_s: dict[str, float] = {}
        """Of those that are not as fast as the others."""
        self.notice_s = 0.0
        self.before: Callable[[Node, cmd.Command], bool] = lambda _n, _c: False

    # ---------------------------------------------------------------------------------------------------- the clock

    @property
    def now(self) -> float:
        return self.sim.now

    @property
    def quiet(self) -> bool:
        return not self.sim.is_stormy

    @property
    def cuts(self) -> set[frozenset[str]]:
        return self._cuts

    @cuts.setter
    def cuts(self, pairs: set[frozenset[str]]) -> None:
        """Let nothing go either way between the two of each pair, and mend all others."""
        self.sim.network.mend_all()
        self._cuts = pairs
        for one, two in sorted(sorted(pair) for pair in pairs):
            self.sim.cut(one, two)
            self.sim.cut(two, one)

    def at(self, delay_s: float, act: Callable[[], object]) -> None:
        self.sim.at(delay_s, act)

    def run(self, seconds: float) -> None:
        self.sim.run(seconds)

    def until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        self.sim.until(condition, limit_s)

    # ---------------------------------------------------------------------------------------------------- the nodes

    def member(self, node: Node) -> Member:
        return Member(node.peer, (), 1.0, node.incarnation, self.rates.get(node.peer))

    def found(self, peer: str, nodes_min: int) -> None:
        self.founders = nodes_min
        node = self.nodes[peer] = self.nodes.get(peer) or self.machine(peer)
        node.disk, node.disk_bytes, node.disk_state = [], {}, (0, ZERO)
        node.incarnation = self.random.getrandbits(48)
        self.rules.lost_disk(peer)
        node.core = RoundCore.found(self.member(node), RUN, self.timing, nodes_min=nodes_min, terms=self.terms)
        self.begin(node, ())

    def machine(self, peer: str) -> Node:
        node = Node(peer, [], {}, None, 0)
        node.machine = self.sim.add(peer, lambda: Seat(self, node))
        return node

    def join(self, peer: str, *contacts: str) -> None:
        node = self.nodes.get(peer) or self.machine(peer)
        self.nodes[peer] = node
        node.disk, node.disk_bytes, node.disk_state = [], {}, None
        self.rules.lost_disk(peer)
        node.incarnation = self.random.getrandbits(48)
        node.core = RoundCore.join(self.member(node), RUN, self.timing, terms=self.terms)
        self.begin(node, contacts)

    def restart(self, peer: str) -> None:
        node = self.nodes[peer]
        if node.core is not None:
            return
        if self.random.random() < 0.5:
            node.disk = written_anew(node.disk)
        entered = any(isinstance(r, msg.Entered | msg.Decided) for r in node.disk)
        if peer == "a" and not entered and self.last_round < 0:
            self.found("a", self.founders)  # it died before its run began: nobody has heard of it
            return
        if not node.disk:
            self.join(peer, *[p for p in self.nodes if p != peer])
            return
        nodes_min = self.founders
        node.core = RoundCore.recover(
            self.member(node), RUN, self.timing, node.disk, nodes_min=nodes_min, terms=self.terms
        )
        assert node.core.me.incarnation == node.incarnation
        self.begin(node, [p for p in self.nodes if p != peer])

    def begin(self, node: Node, contacts: Any) -> None:
        assert node.core is not None
        node.machine.crash(math.inf)  # nothing, unless it joins as another life
        node.machine.restart()
        node.results = dict(node.disk_bytes)
        node.state = node.disk_state
        self.carry_out(node, node.core.start(self.now))
        if node.state is not None:
            self.step(node, cmd.StateReady(node.state[0], hash_of(node.state[1])))
        if node.core is not None and contacts and node.core.seat is None:
            self.step(node, cmd.JoinRun(tuple(contacts)))
        self.beat(node)

    def beat(self, node: Node) -> None:
        """Send the heartbeats that are due, and again after a while as long as this life lasts."""
        if node.core is None:
            return
        for beat in node.core.beats():
            self.obey(node, beat)
        node.machine.later(self.timing.beat_s, self.beat, node)

    def pause(self, peer: str, seconds: float) -> None:
        """Let a node stand still: it neither hears nor says anything, and does not know afterwards (a SIGSTOP)."""
        self.nodes[peer].machine.pause(seconds)

    def crash(self, peer: str) -> None:
        node = self.nodes[peer]
        if node.core is None:
            return
        node.core = None
        node.machine.crash(math.inf)
        self.rules.crashed(peer)
        node.ledger, node.mine, node.chunks, node.results = Ledger(), {}, {}, {}
        node.delta, node.state, node.catching_up, node.plans = ZERO, None, False, -1
        node.produced = node.applied = Fraction(0)
        for other in self.nodes.values():
            if self.random.random() < 0.8:  # a broken link is not always noticed
                self.later(other, self.notice_s + self.delay(), cmd.PeerDown(peer))
        if not self.quiet and self.faults.crash:
            self.at(self.random.expovariate(0.3), lambda: self.restart(peer))

    def delay(self) -> float:
        return self.random.expovariate(1 / self.faults.delay_s) if not self.quiet else 0.005

    def later(self, node: Node, delay_s: float, event: cmd.Event) -> None:
        node.machine.later(delay_s, self.step, node, event)

    def step(self, node: Node, event: cmd.Event) -> None:
        if node.core is None:
            return
        core = node.core
        self.carry_out(node, core.step(event, self.now))
        if node.core is core:
            self.wake(node, core)
            if core.seat is not None and core.seat.active_since is not None:
                self.active_at.setdefault(core.round, self.now)

    def wake(self, node: Node, core: RoundCore) -> None:
        """Have the core ticked when it asks for it; of its alarms the soonest holds."""
        due = core.next_wakeup(self.now)
        if due is not None:
            node.machine.wake_at(due + 1e-6)

    def carry_out(self, node: Node, commands: list[cmd.Command]) -> None:
        core = node.core
        for command in commands:
            if self.before(node, command):
                self.crash(node.peer)
                return
            if not self.quiet and self.random.random() < self.faults.crash:
                if isinstance(command, cmd.Persist) and self.random.random() < 0.5:
                    self.persist(node, command.record)
                self.crash(node.peer)
                return
            node.log.append(command)
            self.obey(node, command)
            if node.core is not core:
                return

    # ------------------------------------------------------------------------------------------------- the commands

    def obey(self, node: Node, command: cmd.Command) -> None:  # noqa: C901, PLR0912 - one case for each command
        match command:
            case cmd.Persist(record):
                self.persist(node, record)
            case cmd.Send(to, message):
                assert to != node.peer
                self.rules.said(node.peer, message)
                self.post(node.peer, to, lambda n, m=message: self.step(n, cmd.Received(m)))
            case cmd.Transfer(round_, part, to):
                self.post(node.peer, to, self.store(round_, part, node.peer, node.mine[round_]))
            case cmd.Multiply(round_, part, seal, shares):
                self.later(node, self.delay(), cmd.GramReady(round_, part, seal, self.gram(node, round_, part, shares)))
            case cmd.Reduce(round_, part, seal, shares):
                self.reduce(node, round_, part, seal, shares)
            case cmd.SendResult(round_, part, hash_, to):
                self.post(node.peer, to, self.keep(round_, part, hash_, node.results[round_, part, hash_]))
            case cmd.Apply(value, included):
                self.apply(node, value, included)
            case cmd.Keep(value):
                node.ledger.abort(value.round)
                self.check_mass(node)
            case cmd.Settle(value, included):
                self.settle(node, value, included)
            case cmd.CatchUp(round_, _view, value, included, _reason, base):
                if base and node.state is not None and hash_of(node.state[1]) != base:
                    node.state = node.disk_state = None  # wrong: it is no start for what is fetched
                self.catch_up(node, round_, value, included)
            case cmd.EnterView(round_, _view):
                node.mine = {r: y for r, y in node.mine.items() if r >= round_ - 1}
                node.chunks = {k: y for k, y in node.chunks.items() if k[0] >= round_ - 1}
                node.results = {k: y for k, y in node.results.items() if k[0] >= round_ - 1}
                self.plan(node)
            case cmd.Stalled():
                node.stalls.append(command)

    def post(self, sender: str, to: str, act: Callable[[Node], None]) -> None:
        # a late copy may well reach a later life: the network does not know about lives
        self.nodes[sender].machine.send(to, act)

    def persist(self, node: Node, record: msg.Record) -> None:
        node.disk.append(record)
        self.rules.wrote(node.peer, record, bytes_held=self.has_bytes(node, record))
        if isinstance(record, msg.Accepted):
            self.check_vote(node, record)
            for part, hash_ in enumerate(record.value.parts):
                key = (record.round, part, hash_)
                node.disk_bytes[key] = node.results[key]
        if isinstance(record, msg.Decided):
            self.check_decision(record.value)

    def has_bytes(self, node: Node, record: msg.Record) -> bool:
        if not isinstance(record, msg.Accepted):
            return True
        return all((record.round, part, hash_) in node.results for part, hash_ in enumerate(record.value.parts))

    def store(self, round_: int, part: int, sender: str, y: Sym) -> Callable[[Node], None]:
        def act(node: Node) -> None:
            if node.peer in self.deaf and node.peer != sender:
                return
            node.chunks[round_, sender, part] = y
            self.step(node, cmd.PartHeld(round_, sender, part, hash_of(y)))

        return act

    def keep(self, round_: int, part: int, hash_: bytes, result: Sym) -> Callable[[Node], None]:
        def act(node: Node) -> None:
            node.results[round_, part, hash_] = result
            self.step(node, cmd.ResultHeld(round_, part, hash_))

        return act

    def gram(self, node: Node, round_: int, part: int, shares: tuple[Share, ...]) -> tuple[float, ...]:
        """Return the inner products of the candidates' symbols: those of different names are orthogonal."""
        terms = [dict(node.chunks[round_, share.peer, part].terms) for share in shares]
        pairs = itertools.combinations_with_replacement(terms, 2)
        return tuple(float(sum((f * b.get(name, 0) for name, f in a.items()), Fraction(0))) for a, b in pairs)

    def reduce(self, node: Node, round_: int, part: int, seal: bytes, shares: tuple[Share, ...]) -> None:
        total = sum(Fraction(s.counts) for s in shares)
        mean = ZERO
        for share in shares:
            mean = mean + node.chunks[round_, share.peer, part] * (Fraction(share.counts) / total)
        hash_ = hash_of(part, mean)
        node.results[round_, part, hash_] = mean
        self.later(node, self.delay(), cmd.Reduced(round_, part, seal, hash_))

    def apply(self, node: Node, value: Value, included: bool) -> None:
        assert node.state is not None
        assert included == (node.peer in value.contributors())
        assert hash_of(node.state[1]) == value.base, "applied on another state than the contributions started from"
        parts = {node.results[value.round, part, hash_] for part, hash_ in enumerate(value.parts)}
        assert parts == {self.exact(value)}, "the aggregate is not the exact one over C"
        node.state = node.disk_state = (value.round, node.state[1] + parts.pop())
        assert self.states.setdefault(value.round, node.state[1]) == node.state[1]
        self.settle(node, value, included)
        self.step(node, cmd.StateReady(value.round, hash_of(node.state[1])))
        self.plan(node)

    def settle(self, node: Node, value: Value, included: bool) -> None:
        frozen = node.ledger.frozen
        if frozen is not None and included:
            node.applied += sum((f for _, f in (frozen.y * Fraction(frozen.weight)).terms), Fraction(0))
        if frozen is not None:
            node.delta = ZERO
        node.ledger.commit(value.round, included=included)
        self.check_mass(node)

    def catch_up(self, node: Node, round_: int, value: Value | None, included: bool) -> None:
        if value is not None and not value.aborted:
            self.settle(node, value, included)
        elif node.ledger.frozen is not None:
            node.ledger.lose(node.ledger.frozen.round)
            node.delta = ZERO
        node.catching_up = True
        node.machine.later(self.delay() + 0.05, self.fetch_state, node, round_)

    def fetch_state(self, node: Node, round_: int) -> None:
        if not node.catching_up or node.core is None:
            return
        have = node.state[0] if node.state is not None else -1
        donors = [n for n in self.nodes.values() if n.core is not None and n.state is not None and n.state[0] > have]
        if donors:
            best = max(donors, key=lambda n: n.state[0] if n.state else -1)
            node.state = node.disk_state = best.state
        if node.state is not None:
            self.step(node, cmd.StateReady(node.state[0], hash_of(node.state[1])))
        if node.core is not None and node.core.behind:
            node.machine.later(0.3, self.fetch_state, node, round_)
        else:
            node.catching_up = False
            self.plan(node)

    # ---------------------------------------------------------------------------------------------------- training

    def plan(self, node: Node) -> None:
        core = node.core
        if core is None or core.seat is None or not self.training or node.plans == core.round:
            return
        round_ = node.plans = core.round
        pace_s = self.paces_s.get(node.peer, self.pace_s)
        node.machine.later(pace_s * (0.5 + self.random.random()), self.contribute, node, round_)

    def contribute(self, node: Node, round_: int) -> None:
        core = node.core
        if core is None or core.round != round_ or core.seat is None or core.seat.restarted or core.seat.offer:
            return
        if core.behind or core.applying is not None or node.state is None or round_ == 0:
            node.machine.later(0.2, self.contribute, node, round_)
            return
        fresh = f"{node.peer}.{node.machine.lives}.{round_}"
        weight = Fraction(self.random.choice((1, 2, 4)))
        length = (weight if self.is_paced else 1) * self.loudness.get(node.peer, 1)
        node.delta = node.delta + Sym(((fresh, Fraction(length)),))
        if self.is_paced:  # after an abort the delta is of more tokens
            weight = sum((factor for _, factor in node.delta.terms), Fraction(0))
        frozen = node.ledger.freeze(round_, node.delta, weight)  # type: ignore[arg-type]
        for name, factor in (node.delta * weight).terms:
            self.deltas[name] = self.deltas.get(name, Fraction(0)) + factor
        node.produced += sum((f for _, f in (frozen.delta * weight).terms), Fraction(0))
        node.mine[round_] = frozen.y
        self.frozen[round_, node.peer, int(frozen.weight)] = (frozen.y, Fraction(frozen.weight))
        self.frozen[round_, node.peer, 0] = (frozen.y, Fraction(frozen.weight))
        self.bases[round_, node.peer] = hash_of(node.state[1])
        parts = (hash_of(frozen.y),) * len(core.seat.view.members)
        self.step(node, cmd.Contributed(round_, msg.Offer(float(frozen.weight), hash_of(node.state[1]), parts)))

    # ------------------------------------------------------------------------------------------------- the invariants

    def exact(self, value: Value) -> Sym:
        total = sum(Fraction(s.counts) for s in value.shares)
        mean = ZERO
        for share in value.shares:
            y, weight = self.frozen[value.round, share.peer, 0]
            assert float(weight) == share.weight
            if share.counts:
                mean = mean + y * (Fraction(share.counts) / total)
        return mean

    def check_decision(self, value: Value) -> None:
        known = self.decided.get(value.round)
        if known is not None:
            assert known.digest() == value.digest(), f"two decisions of round {value.round}"
            return
        self.decided[value.round] = value
        self.decided_at[value.round] = self.now
        before = self.decided.get(value.round - 1)
        if before is not None:
            assert value.epoch == before.next_view.epoch
            assert set(value.contributors()) <= set(before.next_view.peers())
        for share in value.shares:
            assert self.bases[value.round, share.peer] == value.base, f"{share.peer} started from another state"
            y, weight = self.frozen[value.round, share.peer, 0]
            for name, factor in (y * weight).terms:
                assert name not in self.spent, f"{name} was applied twice"
                self.spent[name] = factor

    def check_vote(self, node: Node, record: msg.Accepted) -> None:
        """A ballot has one value."""
        key = (record.round, record.ballot.key())
        digest = record.value.digest()
        assert self.votes.setdefault(key, digest) == digest, "two values under one ballot"

    def check_mass(self, node: Node) -> None:
        """Nothing of a living member vanishes: it was applied, is carried, or was dropped and counted."""
        ledger = node.ledger
        if ledger.dropped or ledger.residual is not None:
            return
        carried = sum((f for _, f in (ledger.carry * ledger.carry_weight).terms), Fraction(0)) if ledger.carry else 0
        aborted = node.produced - node.applied - carried
        if node.delta == ZERO:
            assert aborted == 0, f"{node.peer} lost {aborted}"
        node.produced -= aborted  # the trainer still has it, and contributes it again

    # ---------------------------------------------------------------------------------------------------- shortcuts

    @property
    def last_round(self) -> int:
        return max(self.decided, default=-1)

    def commits(self) -> list[Value]:
        return [v for _, v in sorted(self.decided.items()) if not v.aborted]

    def swarm(self, size: int) -> World:
        """Found a run of `size` nodes named a, b, c, … and let it reach its first commit."""
        names = [chr(ord("a") + i) for i in range(size)]
        self.found("a", size)
        for name in names[1:]:
            self.join(name, "a")
        self.until(lambda: len(self.commits()) > 0)
        return self

    def core(self, peer: str) -> RoundCore:
        core = self.nodes[peer].core
        assert core is not None
        return core

    def leader(self) -> str:
        seat = next(n.core.seat for n in self.nodes.values() if n.core is not None and n.core.seat is not None)
        return seat.leader

    def same_states(self) -> bool:
        states = {n.state for n in self.nodes.values() if n.core is not None}
        return len(states) == 1


def chaos(seed: int, size: int = 3, seconds: float = 25.0, terms: Terms = DEFAULT_TERMS) -> World:
    """Draw faults, run under them, heal everything, and demand progress."""
    draw = random.Random(seed ^ 0x5EED)
    faults = Faults(
        loss=draw.choice((0.0, 0.05, 0.3)),
        double=draw.choice((0.0, 0.2)),
        delay_s=draw.choice((0.01, 0.1, 0.5)),
        crash=draw.choice((0.0, 0.001, 0.01)),
        forget=draw.random() < 0.3,
        cut=draw.choice((0.0, 0.3)),
    )
    world = World(seed, faults, terms=terms)
    world.found("a", size)
    for i in range(1, size):
        world.join(chr(ord("a") + i), "a")
    world.at(draw.uniform(3, 15), lambda: world.join("j", *list(world.nodes)))
    if faults.cut:
        _cut_and_heal(world, draw)
    if faults.forget:
        world.at(draw.uniform(5, 20), lambda: _forget(world, draw))
    if draw.random() < 0.3:
        world.at(draw.uniform(5, 20), lambda: world.step(world.nodes[draw.choice(sorted(world.nodes))], cmd.LeaveRun()))
    world.run(seconds)
    _quiet(world)
    return world


def _cut_and_heal(world: World, draw: random.Random) -> None:
    def cut() -> None:
        peers = sorted(world.nodes)
        side = {p for p in peers if draw.random() < 0.5}
        world.cuts = {frozenset((p, q)) for p in side for q in peers if q not in side}
        world.at(draw.uniform(0.5, 5), heal)

    def heal() -> None:
        world.cuts = set()
        world.at(draw.uniform(0.5, 5), cut)

    world.at(draw.uniform(1, 5), cut)


def _forget(world: World, draw: random.Random) -> None:
    """One disk is lost for good: its owner comes back as another life."""
    peer = draw.choice(sorted(world.nodes))
    if world.quiet or not world.decided:
        return
    world.crash(peer)
    world.nodes[peer].disk = []


def _quiet(world: World) -> None:
    world.sim.calm()
    voted = set(world.votes.values())
    world.cuts = set()
    for peer in sorted(world.nodes):
        world.restart(peer)
    before = len(world.commits())
    view = world.decided[world.last_round].next_view if world.decided else None
    able = view is None or sum(_intact(world, m) for m in view.members) >= view.majority()
    able = able and any(n.disk_state is not None for n in world.nodes.values())  # the one copy may have been lost
    able = able and _is_known(world)
    end = world.now + (40.0 if able else 5.0)
    while world.now < end and len(world.commits()) < before + 2:
        world.run(1.0)
    if able and not _was_lost_unheard(world, voted):
        assert len(world.commits()) >= before + 2, "no progress in the quiet period"


def _was_lost_unheard(world: World, voted: set[bytes]) -> bool:
    """Tell whether the newest view, which was voted for in the storm and heard of later, had lost its majority by then."""
    last = world.decided[world.last_round]
    view = last.next_view
    return last.digest() in voted and sum(_intact(world, m) for m in view.members) < view.majority()


def _is_known(world: World) -> bool:
    """Tell whether the newest decision is on a disk, or was made by members who would decide it again.

    Else whoever was let in by it is nobody to those who did not hear of it.
    """
    last = world.last_round
    before = world.decided[last - 1].next_view if last - 1 in world.decided else None
    again = before is not None and sum(_intact(world, m) for m in before.members) >= before.majority()
    told = any(isinstance(r, msg.Decided) and r.value.round == last for n in world.nodes.values() for r in n.disk)
    return last < 0 or again or told


def _intact(world: World, member: Member) -> bool:
    node = world.nodes.get(member.peer)
    return node is not None and node.core is not None and node.incarnation == member.incarnation


# ---------------------------------------------------------------------------------------------------- what tests ask of a world


def next_round(world: World) -> tuple[int, str, list[str]]:
    """Return the round under way, who leads it and who does not."""
    round_ = world.last_round + 1
    world.until(lambda: all(n.core is not None and n.core.round == round_ for n in world.nodes.values()))
    leader = world.leader()
    return round_, leader, [p for p in sorted(world.nodes) if p != leader]


def crash_when(world: World, peer: str, is_it: Callable[[cmd.Command], bool]) -> None:
    """Kill `peer` instead of letting it carry out the first such command."""
    done: list[bool] = []

    def before(node: Node, command: cmd.Command) -> bool:
        if node.peer == peer and not done and is_it(command):
            done.append(True)
            return True
        return False

    world.before = before


def says(command: cmd.Command, kind: type, round_: int) -> bool:
    return isinstance(command, cmd.Send) and isinstance(command.message, kind) and command.message.round == round_


def survivors_commit(world: World, round_: int, *, limit_s: float) -> Value:
    """Return what the round decided; everyone alive has the same state after it."""
    started = world.now
    world.until(lambda: all(n.core.round > round_ and n.core.applying is None for n in world.nodes.values() if n.core))
    assert world.now - started < limit_s
    assert world.same_states()
    return world.decided[round_]
