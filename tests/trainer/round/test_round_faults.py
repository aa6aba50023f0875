"""The round's core under random schedules: members, links and disks fail while the numbers are followed exactly.

The world stands on the simulator's heap of events. Numbers are symbols with exact fractions, so that "the aggregate is
the exact aggregate over C" and "at most once" are equalities. One integer seeds everything.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.errors import CorruptedError, UsageError
from prime.sim import HeapNode, HeapWorld, NetworkFaults, Plan, Program
from prime.sim.decision import Decisions, RuleBrokenError
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.journal import compact
from prime.trainer.round.round import RoundCore
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member, Value
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

    def __init__(self, seed: int, faults: Faults = Faults(), timing: Timing | None = None) -> None:
        self.sim = HeapWorld(seed, Plan(network=_network(faults), storm_s=1e9))
        self.random = self.sim.random("schedule")
        self.faults = faults
        self.timing = timing or Timing(
            resend_s=0.2, transfer_s=0.4, suspect_s=1.0, stagger_s=0.3, seal_s=2.0, reduce_s=1.0, deadline_s=6.0
        )
        self.nodes: dict[str, Node] = {}
        self._cuts: set[frozenset[str]] = set()
        self.decided: dict[int, Value] = {}
        self.deltas: dict[str, Fraction] = {}
        self.spent: dict[str, Fraction] = {}
        self.frozen: dict[tuple[int, str, int], tuple[Sym, Fraction]] = {}
        self.states: dict[int, Sym] = {}
        self.votes: dict[tuple[int, Any], bytes] = {}
        self.founders = 1
        self.rules = Decisions(RUN)
        self.training = True
        self.pace_s = 1.0
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
        return Member(node.peer, (), 1.0, node.incarnation)

    def found(self, peer: str, nodes_min: int) -> None:
        self.founders = nodes_min
        node = self.nodes[peer] = self.nodes.get(peer) or self.machine(peer)
        node.disk, node.disk_bytes, node.disk_state = [], {}, (0, ZERO)
        node.incarnation = self.random.getrandbits(48)
        self.rules.lost_disk(peer)
        node.core = RoundCore.found(self.member(node), RUN, self.timing, nodes_min=nodes_min)
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
        node.core = RoundCore.join(self.member(node), RUN, self.timing)
        self.begin(node, contacts)

    def restart(self, peer: str) -> None:
        node = self.nodes[peer]
        if node.core is not None:
            return
        if self.random.random() < 0.5:
            node.disk = compact(node.disk)
        entered = any(isinstance(r, msg.Entered | msg.Decided) for r in node.disk)
        if peer == "a" and not entered and self.last_round < 0:
            self.found("a", self.founders)  # it died before its run began: nobody has heard of it
            return
        if not node.disk:
            self.join(peer, *[p for p in self.nodes if p != peer])
            return
        nodes_min = self.founders
        node.core = RoundCore.recover(self.member(node), RUN, self.timing, node.disk, nodes_min=nodes_min)
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

    def obey(self, node: Node, command: cmd.Command) -> None:  # noqa: C901 - one case for each command
        match command:
            case cmd.Persist(record):
                self.persist(node, record)
            case cmd.Send(to, message):
                assert to != node.peer
                self.rules.said(node.peer, message)
                self.post(node.peer, to, lambda n, m=message: self.step(n, cmd.Received(m)))
            case cmd.Transfer(round_, part, to):
                self.post(node.peer, to, self.store(round_, part, node.peer, node.mine[round_]))
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
            node.chunks[round_, sender, part] = y
            self.step(node, cmd.PartHeld(round_, sender, part, hash_of(y)))

        return act

    def keep(self, round_: int, part: int, hash_: bytes, result: Sym) -> Callable[[Node], None]:
        def act(node: Node) -> None:
            node.results[round_, part, hash_] = result
            self.step(node, cmd.ResultHeld(round_, part, hash_))

        return act

    def reduce(self, node: Node, round_: int, part: int, seal: bytes, shares: Any) -> None:
        total = sum(Fraction(s.weight) for s in shares)
        mean = ZERO
        for share in shares:
            mean = mean + node.chunks[round_, share.peer, part] * (Fraction(share.weight) / total)
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
        node.machine.later(self.pace_s * (0.5 + self.random.random()), self.contribute, node, round_)

    def contribute(self, node: Node, round_: int) -> None:
        core = node.core
        if core is None or core.round != round_ or core.seat is None or core.seat.restarted or core.seat.offer:
            return
        if core.behind or core.applying is not None or node.state is None or round_ == 0:
            node.machine.later(0.2, self.contribute, node, round_)
            return
        fresh = f"{node.peer}.{node.machine.lives}.{round_}"
        node.delta = node.delta + Sym(((fresh, Fraction(1)),))
        weight = Fraction(self.random.choice((1, 2, 4)))
        frozen = node.ledger.freeze(round_, node.delta, weight)  # type: ignore[arg-type]
        for name, factor in (node.delta * weight).terms:
            self.deltas[name] = self.deltas.get(name, Fraction(0)) + factor
        node.produced += sum((f for _, f in (frozen.delta * weight).terms), Fraction(0))
        node.mine[round_] = frozen.y
        self.frozen[round_, node.peer, int(frozen.weight)] = (frozen.y, Fraction(frozen.weight))
        self.frozen[round_, node.peer, 0] = (frozen.y, Fraction(frozen.weight))
        parts = (hash_of(frozen.y),) * len(core.seat.view.members)
        self.step(node, cmd.Contributed(round_, msg.Offer(float(frozen.weight), hash_of(node.state[1]), parts)))

    # ------------------------------------------------------------------------------------------------- the invariants

    def exact(self, value: Value) -> Sym:
        total = sum(Fraction(s.weight) for s in value.shares)
        mean = ZERO
        for share in value.shares:
            y, weight = self.frozen[value.round, share.peer, 0]
            assert float(weight) == share.weight
            mean = mean + y * (weight / total)
        return mean

    def check_decision(self, value: Value) -> None:
        known = self.decided.get(value.round)
        if known is not None:
            assert known.digest() == value.digest(), f"two decisions of round {value.round}"
            return
        self.decided[value.round] = value
        before = self.decided.get(value.round - 1)
        if before is not None:
            assert value.epoch == before.next_view.epoch
            assert set(value.contributors()) <= set(before.next_view.peers())
        for share in value.shares:
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


def chaos(seed: int, size: int = 3, seconds: float = 25.0) -> World:
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
    world = World(seed, faults)
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
    world.cuts = set()
    for peer in sorted(world.nodes):
        world.restart(peer)
    before = len(world.commits())
    view = world.decided[world.last_round].next_view if world.decided else None
    able = view is None or sum(_intact(world, m) for m in view.members) >= view.majority()
    able = able and any(n.disk_state is not None for n in world.nodes.values())  # the one copy may have been lost
    end = world.now + (40.0 if able else 5.0)
    while world.now < end and len(world.commits()) < before + 2:
        world.run(1.0)
    if able:
        assert len(world.commits()) >= before + 2, "no progress in the quiet period"


def _intact(world: World, member: Member) -> bool:
    node = world.nodes.get(member.peer)
    return node is not None and node.core is not None and node.incarnation == member.incarnation


# ---------------------------------------------------------------------------------------------------------- properties


@given(seed=st.integers(0, 2**32), size=st.integers(1, 4))
def test_any_schedule_keeps_every_invariant_and_goes_on_when_it_is_quiet(seed: int, size: int) -> None:
    chaos(seed, size, seconds=15.0)


@pytest.mark.nightly
@settings(max_examples=3000)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 5))
def test_many_schedules(seed: int, size: int) -> None:
    chaos(seed, size, seconds=40.0)


# -------------------------------------------------------------------------------------------------------- named faults


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


def test_a_member_killed_before_the_seal_is_left_out_of_c_and_of_the_next_view() -> None:
    world = World(1).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Transfer) and c.round == round_)
    value = survivors_commit(world, round_, limit_s=8.0)
    assert set(value.contributors()) == set(world.nodes) - {victim}
    assert victim not in value.next_view.peers()
    assert value.next_view.epoch == value.epoch + 1


def test_an_owner_killed_after_the_seal_moves_its_part_to_the_next_member_in_the_same_round() -> None:
    world = World(2).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Reduce) and c.round == round_)
    value = survivors_commit(world, round_, limit_s=8.0)
    assert not value.aborted
    assert set(value.contributors()) == set(world.nodes) - {victim}  # its own part lay only with itself
    ballots = {key[1] for key in world.votes if key[0] == round_}
    assert max(ballots) > (1, 0)
    moved = [c for n in world.nodes.values() for c in n.log if isinstance(c, cmd.Transfer) and c.round == round_]
    part = sorted(world.nodes).index(victim)
    assert {c.part for c in moved if c.to != sorted(world.nodes)[c.part]} == {part}, (
        "only the dead owner's part is resent"
    )


def test_a_member_killed_after_ready_is_in_c() -> None:
    world = World(3).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    crash_when(world, victim, lambda c: isinstance(c, cmd.Persist) and isinstance(c.record, msg.Decided))
    value = survivors_commit(world, round_, limit_s=4.0)
    assert victim in value.contributors()
    assert max(key[1] for key in world.votes if key[0] == round_) == (1, 0)


def test_a_leader_killed_when_a_minority_is_ready_has_its_value_carried_on() -> None:
    world = World(4).swarm(3)
    round_, leader, (holder, other) = next_round(world)

    def before(node: Node, command: cmd.Command) -> bool:
        if node.peer == leader and says(command, msg.Propose, round_):
            world.cuts = {frozenset((leader, other))}
        mine = isinstance(command, cmd.Persist) and isinstance(command.record, msg.Accepted)
        return node.peer == leader and mine and command.record.round == round_  # type: ignore[union-attr]

    world.before, world.notice_s = before, 0.5
    value = survivors_commit(world, round_, limit_s=8.0)
    assert value.digest() == world.votes[round_, (1, 0)], "the one vote's value was carried on"
    assert leader in value.contributors()
    first = [c for c in world.nodes[other].log if isinstance(c, cmd.Persist) and isinstance(c.record, msg.Accepted)]
    assert first[-1].record.ballot.counter > 1
    assert world.core(holder).decisions[round_] == value


def test_a_leader_killed_when_a_majority_is_ready_but_nobody_knows_it() -> None:
    world = World(5).swarm(3)
    round_, leader, _others = next_round(world)
    crash_when(world, leader, lambda c: isinstance(c, cmd.Persist) and isinstance(c.record, msg.Decided))
    value = survivors_commit(world, round_, limit_s=8.0)
    assert value.digest() == world.votes[round_, (1, 0)]
    assert len(value.contributors()) == 3


def test_two_of_which_one_dies_commit_nothing_and_say_what_to_do() -> None:
    world = World(6).swarm(2)
    _round, _leader, _others = next_round(world)
    before = len(world.decided)
    world.crash("b")
    world.run(30.0)
    assert len(world.decided) == before
    (stall,) = world.nodes["a"].stalls
    assert "1 of 2 members are reachable, 2 are needed" in stall.reason
    assert "found a new run" in stall.hint
    assert world.core("a").status().phase == "stalled"
    world.restart("b")
    world.until(lambda: len(world.commits()) >= before + 2)
    assert any(isinstance(c, cmd.Resumed) for c in world.nodes["a"].log)


def test_a_joiner_is_let_in_by_a_decision_and_contributes_after_fetching_the_state() -> None:
    world = World(7).swarm(2)
    world.join("c", "b")
    world.until(lambda: "c" in world.commits()[-1].contributors())
    first = next(v for v in world.commits() if "c" in v.contributors())
    let_in = next(v for _, v in sorted(world.decided.items()) if "c" in v.next_view.peers())
    assert let_in.round < first.round
    assert "c" not in let_in.contributors()
    world.until(world.same_states)


def test_a_leaver_is_let_out_by_a_decision() -> None:
    world = World(8).swarm(3)
    world.step(world.nodes["b"], cmd.LeaveRun())
    world.until(lambda: world.core("b").seat is None)
    outside = [c for c in world.nodes["b"].log if isinstance(c, cmd.Outside)]
    assert outside[-1].reason == "left"
    assert not outside[-1].rejoining
    before = len(world.commits())
    world.until(lambda: len(world.commits()) >= before + 2)
    assert world.commits()[-1].contributors() == ("a", "c")


def test_a_contribution_from_another_state_is_refused_by_name_and_its_member_catches_up() -> None:
    world = World(9).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    wrong = Sym((("wrong", Fraction(1)),))
    state = world.nodes[victim].state
    assert state is not None
    world.nodes[victim].state = world.nodes[victim].disk_state = (state[0], wrong)
    world.until(lambda: victim in world.commits()[-1].contributors() and world.last_round > round_)
    assert victim not in world.decided[round_].contributors()
    warnings = [c.text for c in world.nodes[victim].log if isinstance(c, cmd.Warn)]
    assert any(f"the contribution of {victim} to round {round_} starts from state" in text for text in warnings)
    world.until(world.same_states)


def test_a_member_whose_state_goes_wrong_applies_nothing_to_it_and_is_repaired() -> None:
    world = World(9).swarm(3)
    round_, _leader, (victim, _other) = next_round(world)
    node = world.nodes[victim]
    world.until(lambda: round_ in node.mine)
    assert node.state is not None
    node.state = node.disk_state = (node.state[0], Sym((("wrong", Fraction(1)),)))
    world.step(node, cmd.StateReady(node.state[0], hash_of(node.state[1])))
    world.until(lambda: world.last_round > round_ and victim in world.commits()[-1].contributors())
    reasons = [c.reason for c in node.log if isinstance(c, cmd.CatchUp)]
    assert any(reason.startswith("the state held here is") for reason in reasons)
    assert not [c for c in node.log if isinstance(c, cmd.Apply) and c.value.round == round_]
    world.until(world.same_states)


def test_when_all_members_came_back_the_round_is_given_up_at_once() -> None:
    world = World(12).swarm(3)
    round_, _leader, _others = next_round(world)
    for peer in world.nodes:
        world.crash(peer)
    for peer in world.nodes:
        world.restart(peer)
    world.until(lambda: round_ in world.decided, limit_s=1.9)  # nobody waits for contributions until seal_s, 2.0
    assert world.decided[round_].aborted
    world.until(lambda: world.commits()[-1].round > round_)
    world.until(world.same_states)


def test_a_member_back_in_the_same_round_votes_but_neither_leads_its_ballot_nor_owns_nor_contributes() -> None:
    world = World(10).swarm(3)
    round_, leader, _others = next_round(world)
    crash_when(world, leader, lambda c: says(c, msg.Propose, round_))
    world.until(lambda: world.nodes[leader].core is None)
    world.restart(leader)
    mark = len(world.nodes[leader].log)
    survivors_commit(world, round_, limit_s=10.0)
    later = world.nodes[leader].log[mark:]
    assert not [c for c in later if isinstance(c, cmd.Transfer | cmd.Reduce) and c.round == round_]
    proposals = [c.message for c in later if says(c, msg.Propose, round_) and isinstance(c, cmd.Send)]
    assert all(p.ballot.counter > 1 for p in proposals)  # type: ignore[union-attr]


def test_who_knows_a_decision_answers_its_round_with_the_commit_record_only() -> None:
    world = World(11).swarm(3)
    core, value = world.core("a"), world.decided[world.last_round]
    for message in (
        msg.Query(RUN, value.epoch, value.round, "b"),
        msg.Prepare(RUN, value.epoch, value.round, "b", Ballot(99, 0), ("a", "b", "c")),
        msg.Ready(RUN, value.epoch, value.round, "b", Ballot(1, 0), value.digest()),
    ):
        answers = [c for c in core.step(cmd.Received(message), world.now) if not _is_background(c)]
        assert [c.message.value for c in answers] == [core.decisions[value.round]]
        assert {c.to for c in answers} == {"b"}


def _is_background(command: cmd.Command) -> bool:
    """What a step may do besides answering: the next round's own business."""
    return not isinstance(command, cmd.Send) or isinstance(command.message, msg.Report | msg.Prepare | msg.Join)


def test_another_run_is_refused_by_name() -> None:
    world = World(12).swarm(2)
    core = world.core("a")
    other = msg.Join("another", Member("z", (), 1.0, 5))
    (answer,) = [c for c in core.step(cmd.Received(other), world.now) if isinstance(c, cmd.Send) and c.to == "z"]
    assert isinstance(answer.message, msg.Refuse)
    assert "trains run 'world', not 'another'" in answer.message.reason
    assert "z" not in core.roster.joining


def test_a_lost_disk_comes_back_as_another_life_that_never_speaks_for_the_old_one() -> None:
    world = World(13).swarm(3)
    _round, _leader, (victim, _other) = next_round(world)
    old = world.nodes[victim].incarnation
    world.crash(victim)
    world.nodes[victim].disk = []
    world.restart(victim)
    fresh = world.member(world.nodes[victim])
    assert fresh.incarnation != old
    world.until(lambda: world.commits()[-1].next_view.has(fresh))
    let_in = len(world.commits())
    world.until(lambda: any(victim in v.contributors() for v in world.commits()[let_in:]))


def test_a_journal_of_another_peer_or_run_is_refused() -> None:
    world = World(14).swarm(1)
    disk = world.nodes["a"].disk
    with pytest.raises(CorruptedError, match="birth of b"):
        RoundCore.recover(Member("b", (), 1.0, 1), RUN, world.timing, disk)
    with pytest.raises(UsageError, match="belongs to run 'world', not to 'other'"):
        RoundCore.recover(Member("a", (), 1.0, 1), "other", world.timing, disk)


def test_a_compacted_journal_recovers_the_same_member() -> None:
    world = World(15).swarm(3)
    world.until(lambda: len(world.commits()) > 12)
    for node in world.nodes.values():
        whole, short = node.disk, compact(node.disk)
        assert len(short) < len(whole) / 2
        member = world.member(node)
        full, brief = (RoundCore.recover(member, RUN, world.timing, r) for r in (whole, short))
        assert (full.round, full.boot, full.me) == (brief.round, brief.boot, brief.me)
        assert full.seat == brief.seat
        assert full.previous is not None
        assert brief.previous is not None
        assert full.previous.results == brief.previous.results


@pytest.mark.parametrize(
    ("rule", "is_lost"),
    [
        ("promise_on_disk", lambda r: isinstance(r, msg.Promised)),
        ("ready_on_disk", lambda r: isinstance(r, msg.Accepted)),
        ("commit_on_disk", lambda r: isinstance(r, msg.Decided)),
    ],
)
def test_a_disk_that_drops_what_was_written_breaks_a_rule(rule: str, is_lost: Callable[[msg.Record], bool]) -> None:
    world = World(18).swarm(3)
    round_, leader, _others = next_round(world)
    keep = world.persist
    world.persist = lambda n, r: None if is_lost(r) else keep(n, r)  # type: ignore[method-assign]
    if rule == "promise_on_disk":
        crash_when(world, leader, lambda c: says(c, msg.Propose, round_))
    with pytest.raises(RuleBrokenError, match=rule):
        world.run(20.0)


def test_idle_members_ask_for_no_wakeup() -> None:
    world = World(16).swarm(2)
    world.training = False
    world.run(30.0)
    for node in world.nodes.values():
        assert node.core is not None
        if node.core.seat is not None and node.core.seat.active_since is None:
            assert node.core.next_wakeup(world.now) is None


def test_a_member_whose_link_is_back_is_no_longer_down_though_nobody_speaks() -> None:
    world = World(18).swarm(3)
    world.training = False
    world.run(30.0)
    core = world.core("a")
    for peer in ("b", "c"):
        world.step(world.nodes["a"], cmd.PeerDown(peer))
    assert core.status().stalled
    world.step(world.nodes["a"], cmd.PeerUp("b"))
    assert not core.status().stalled
    assert dict(core.status().alive) == {"a": True, "b": True, "c": False}


def test_a_view_says_which_state_its_round_starts_from() -> None:
    world = World(19).swarm(2)
    core = world.core("a")
    seat = core.seat
    assert seat is not None
    abort = Value(core.round, seat.view.epoch, b"", (), (), seat.view, seat.state_round)
    entered = [
        c for c in core.step(cmd.Received(msg.Commit(RUN, "b", abort, 0)), world.now) if isinstance(c, cmd.EnterView)
    ]
    assert [(e.round, e.state_round) for e in entered] == [(abort.round + 1, seat.state_round)]


def test_a_promise_on_the_disk_binds_the_next_life() -> None:
    world = World(17).swarm(3)
    round_, leader, (victim, _other) = next_round(world)
    core = world.core(victim)
    seat = core.seat
    assert seat is not None
    high, low = (Ballot(7, seat.order.index(leader)), Ballot(6, seat.order.index(leader)))
    head = (RUN, seat.view.epoch, round_, leader)
    answers = core.step(cmd.Received(msg.Prepare(*head, high, seat.owners)), world.now)
    assert [c.record for c in answers if isinstance(c, cmd.Persist)] == [msg.Promised(round_, high)]
    order = [c for c in answers if isinstance(c, cmd.Persist) or says(c, msg.Promise, round_)]
    assert isinstance(order[0], cmd.Persist), "the promise is on the disk before it is given"
    assert says(order[1], msg.Promise, round_)
    disk = [*world.nodes[victim].disk, msg.Promised(round_, high)]
    again = RoundCore.recover(world.member(world.nodes[victim]), RUN, world.timing, disk)
    again.start(world.now)
    abort = Value(round_, seat.view.epoch, b"", (), (), seat.view, seat.state_round)
    replies = again.step(cmd.Received(msg.Propose(*head, low, seat.owners, (), abort)), world.now)
    assert not [c for c in replies if isinstance(c, cmd.Persist)]
    (nack,) = [c.message for c in replies if says(c, msg.Nack, round_) and isinstance(c, cmd.Send)]
    assert isinstance(nack, msg.Nack)
    assert nack.promised == high
    later = again.step(cmd.Received(msg.Propose(*head, high, seat.owners, (), abort)), world.now)
    votes = [c for c in later if isinstance(c, cmd.Persist) or says(c, msg.Ready, round_)]
    assert votes[0] == cmd.Persist(msg.Accepted(round_, high, abort))
    assert says(votes[1], msg.Ready, round_)
