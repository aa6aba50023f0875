"""Aggregators of several nodes in one Trio run: real messages over real links, numbers checked against numpy."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime import Memory, open_system
from prime.actor.contract import Entry, StagedRecord
from prime.actor.facts import ActorFailed
from prime.errors import WorldError
from prime.store import MemoryJournal
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.records import read_record
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member
from prime.trainer.swarm import aggregator, plans, recorder, spooler
from prime.trainer.swarm.aggregator import AGGREGATOR_PATH, Aggregator
from prime.trainer.swarm.float32 import Float32
from prime.trainer.swarm.membership import SwarmPlan
from prime.trainer.swarm.parts import digest_of
from prime.trainer.swarm.work import compute as work_compute
from prime.transport.identity import KeyPair
from tests.trainer.swarm.stand_ins import Listener

D = 70_000
TIMING = Timing(resend_s=0.05, suspect_s=1.0, stagger_s=0.1, seal_s=2.0, reduce_s=1.0, deadline_s=3.0, transfer_s=0.3)
PATIENT = Timing(resend_s=0.05, suspect_s=15.0, seal_s=20.0, reduce_s=15.0, deadline_s=40.0)
"""Where nobody dies: a busy machine stands still for seconds, and who is late is not gone."""


@attrs.define
class Node(Listener):
    """One node with a stand-in for its trainer: `theta` moves by the mean delta, whatever the delta is."""

    key: KeyPair
    journal: MemoryJournal = attrs.Factory(MemoryJournal)
    theta: Any = None
    round: int = 0
    heard: list[Any] = attrs.Factory(list)
    news: trio.Event = attrs.Factory(trio.Event)
    aggregator: Any = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    address: str = ""
    gone: trio.Event = attrs.Factory(trio.Event)
    dies_at: Callable[[cmd.Command], bool] = lambda _: False
    numbers: Any = attrs.Factory(Float32)
    living: Any = None

    async def hold(self) -> None:
        await self.aggregator.tell(plans.StateHeld(self.round, hashlib.sha256(self.theta.tobytes()).digest()))

    async def committed(self, round_: int) -> Any:
        outcome = await self.until(
            lambda o: isinstance(o, plans.RoundCommitted | plans.RoundAborted) and o.value.round == round_
        )
        if isinstance(outcome, plans.RoundCommitted) and self.round < round_:
            self.theta = self.theta - outcome.aggregate
        self.round = round_
        await self.hold()
        return outcome

    async def committed_in_part(self, round_: int) -> Any:
        """As `committed`, of a round that carries a fragment: what it does to theta is no matter here."""
        outcome = await self.until(lambda o: isinstance(o, plans.RoundCommitted) and o.value.round == round_)
        self.round = round_
        await self.hold()
        return outcome


class Mortal(Aggregator):
    """An aggregator whose whole node dies instead of carrying out a chosen command."""

    def __init__(self, plan: SwarmPlan, journal: Any, report: Callable[[plans.Outcome], None], node: Node) -> None:
        super().__init__(plan, journal, report, node.numbers)
        self._node = node
        node.living = self

    async def _do(self, command: cmd.Command) -> None:
        if self._node.dies_at(command):
            self._node.scope.cancel()
            await trio.sleep_forever()
        await super()._do(command)


class Swarm:
    def __init__(
        self, nursery: trio.Nursery, config: TrainingConfig, rates: tuple[int | None, ...], timing: Timing
    ) -> None:
        self.hub = Memory()
        self.timing = timing
        self.rates = rates
        self.config = config
        self.nursery = nursery
        self.nodes: list[Node] = []
        self.lives = 0

    async def add(self, *, nodes_min: int = 1, node: Node | None = None, through: Node | None = None) -> Node:
        found = not self.nodes
        if node is None:
            key = KeyPair.from_seed(bytes([len(self.nodes)] * 32))
            node = Node(key, numbers=Float32.of(self.config))
            self.nodes.append(node)
        else:
            await node.gone.wait()
        node.heard, node.scope, node.gone = [], trio.CancelScope(), trio.Event()
        known = [other for other in self.nodes if other is not node] if through is None else [through]
        await self.nursery.start(self._run, node, found, nodes_min, known)
        return node

    async def _run(self, node: Node, found: bool, nodes_min: int, known: list[Node], *, task_status: Any) -> None:
        with node.scope:
            async with (
                open_system(transport=self.hub, key=node.key, seed=0) as system,
                system.supervisor("train") as sup,
            ):
                contacts = []
                if not found:
                    for other in known:
                        if not other.scope.cancel_called:
                            assert system.network is not None
                            contacts.append(await system.network.dial(other.address))
                system.subscribe(node.report)
                self.lives += not node.journal.records()  # a journal that is empty is another life
                incarnation = self.lives
                rate_bytes_s = dict(zip(map(id, self.nodes), self.rates, strict=False)).get(id(node))
                member = Member(node.key.peer, system.addresses, 1.0, incarnation, rate_bytes_s)
                plan = SwarmPlan("run", member, found, tuple(contacts), nodes_min, self.timing)
                node.address = system.addresses[0]
                node.aggregator = await sup.spawn(
                    lambda: Mortal(plan, node.journal, node.report, node), "aggregator", shutdown=0.1
                )
                assert node.aggregator.path == AGGREGATOR_PATH
                await node.aggregator.tell(plans.Begin(D, self.config.fragments))
                task_status.started()
                await trio.sleep_forever()
        node.gone.set()


@asynccontextmanager
async def swarm_of(
    count: int,
    config: TrainingConfig | None = None,
    rates: tuple[int | None, ...] = (),
    timing: Timing = TIMING,
) -> AsyncIterator[Swarm]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            swarm = Swarm(nursery, TrainingConfig() if config is None else config, rates, timing)
            for _ in range(count):
                node = await swarm.add(nodes_min=count)
                node.theta = np.zeros(D, np.float32)
            for node in swarm.nodes:
                await node.until(lambda o: isinstance(o, plans.ViewEntered) and o.round == 1)
                await node.hold()
            yield swarm
            nursery.cancel_scope.cancel()


def delta_of(index: int, round_: int) -> Any:
    return np.random.default_rng([index, round_]).normal(size=D).astype(np.float32)


def at_once(*calls: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)

    return run()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
async def test_rounds_commit_the_mean_everywhere_alike(count: int) -> None:
    async with swarm_of(count, timing=PATIENT) as swarm:
        for round_ in (1, 2, 3):
            deltas = [delta_of(i, round_) for i in range(count)]
            for i, node in enumerate(swarm.nodes):
                await node.aggregator.tell(plans.Contribute(round_, deltas[i], float(i + 1)))
            outcomes = [await node.committed(round_) for node in swarm.nodes]
            mean = sum((i + 1) * d for i, d in enumerate(deltas)) / sum(range(1, count + 1))
            for outcome in outcomes:
                assert outcome.included
                assert np.array_equal(outcome.aggregate, outcomes[0].aggregate)
            error = np.linalg.norm(outcomes[0].aggregate - mean) / np.linalg.norm(mean)
            assert 0 < error < 0.02  # two quantisations to 8 bits
        assert len({node.theta.tobytes() for node in swarm.nodes}) == 1


async def test_a_client_owns_nothing_and_the_others_by_their_bandwidth() -> None:
    async with swarm_of(3, rates=(1_000_000, 3_000_000, 0), timing=PATIENT) as swarm:
        for round_ in (1, 2):
            for i, node in enumerate(swarm.nodes):
                await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
            outcomes = [await node.committed(round_) for node in swarm.nodes]
            assert all(outcome.included for outcome in outcomes)
            assert len({outcome.aggregate.tobytes() for outcome in outcomes}) == 1
            mean = sum(delta_of(i, round_) for i in range(3)) / 3
            assert np.linalg.norm(outcomes[0].aggregate - mean) / np.linalg.norm(mean) < 0.02
        made = {node.key.peer: node.living for node in swarm.nodes}
        (rnd,) = [rnd for number, rnd in made[swarm.nodes[0].key.peer]._rounds.items() if number == 2]
        owned = {
            m.peer: sum(c.stop - c.start for c in part) for m, part in zip(rnd.view.members, rnd.chunks, strict=True)
        }
        slow, fast, client = (owned[node.key.peer] for node in swarm.nodes)
        assert client == 0
        assert slow < fast
        assert slow + fast == D


@pytest.mark.parametrize(
    ("codec", "worst"), [("int8", 0.02), ("int4", 0.15), ("fp8", 0.06), ("fp16", 0.001), ("none", 1e-6), ("topk", 0.97)]
)
async def test_a_round_in_each_codec(codec: str, worst: float) -> None:
    gather = codec if codec in ("none", "fp16") else "auto"
    async with swarm_of(2, TrainingConfig(codec=codec, gather_codec=gather, outer_optimiser="sgd")) as swarm:
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(1, delta_of(i, 1), 1.0))
        outcomes = [await node.committed(1) for node in swarm.nodes]
    assert np.array_equal(outcomes[0].aggregate, outcomes[1].aggregate)
    mean = (delta_of(0, 1) + delta_of(1, 1)) / 2
    assert worst / 4 < np.linalg.norm(outcomes[0].aggregate - mean) / np.linalg.norm(mean) < worst or codec == "none"


@pytest.mark.parametrize("codec", ["int4", "topk"])
@pytest.mark.parametrize("fragments", [1, 2])
async def test_what_a_codec_left_out_comes_with_later_rounds_of_its_fragment(codec: str, fragments: int) -> None:
    config = TrainingConfig(codec=codec, gather_codec="none", fragments=fragments, outer_optimiser="sgd")
    size = D // fragments
    sums = np.zeros((2, fragments, size))
    arrived = np.zeros((fragments, size))
    async with swarm_of(2, config, timing=PATIENT) as swarm:
        for round_ in range(1, 2 * fragments + 2):
            fragment = (round_ - 1) % fragments
            for i, node in enumerate(swarm.nodes):
                delta = delta_of(i, round_)[:size]
                sums[i, fragment] += delta
                await node.aggregator.tell(plans.Contribute(round_, delta, 1.0))
            outcomes = [await node.committed_in_part(round_) for node in swarm.nodes]
            arrived[fragment] += outcomes[0].aggregate
        for node in swarm.nodes:
            await node.aggregator.ask(plans.GetRound(), timeout=5)
        for fragment in range(fragments):
            owed = [node.living._ledgers.of(fragment + 1).residual for node in swarm.nodes]
            assert np.linalg.norm(owed[0]) > 0
            kept = (sums[0, fragment] + sums[1, fragment] - owed[0] - owed[1]) / 2
            assert np.abs(kept - arrived[fragment]).max() < 1e-5


async def test_a_contribution_waits_until_the_round_before_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at a member that has the bytes of the decision last, and is slow to see what its own ones left out."""

    async def compute(work: Callable[[], Any], size_bytes: int) -> Any:
        name = getattr(getattr(work, "func", None), "__name__", "")
        await trio.sleep(0.2 if name == "residual" else 0.0)
        return await work_compute(work, size_bytes)

    async with swarm_of(3, TrainingConfig(codec="int4"), timing=PATIENT) as swarm:
        monkeypatch.setattr("prime.trainer.swarm.contribution.compute", compute)
        intake = swarm.nodes[2].living._intake
        digest = intake._digest

        async def digest_late() -> None:
            await trio.sleep(0.3 if any(arrival.key[1] for arrival in intake._arrivals) else 0.0)
            await digest()

        monkeypatch.setattr(intake, "_digest", digest_late)
        for round_ in (1, 2):
            for i, node in enumerate(swarm.nodes):
                await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
            outcomes = [await node.committed(round_) for node in reversed(swarm.nodes)]
            assert all(outcome.included for outcome in outcomes)
        assert not [f for node in swarm.nodes for f in node.heard if isinstance(f, ActorFailed)]


async def test_an_aggregator_that_is_started_again_owes_nothing() -> None:
    async with swarm_of(3, TrainingConfig(codec="int4")) as swarm:
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(1, delta_of(i, 1), 1.0))
        for node in swarm.nodes:
            await node.committed(1)
        last = swarm.nodes[-1]
        await last.aggregator.ask(plans.GetRound(), timeout=5)  # it has done what the outcome is to what it owes
        assert last.living._ledgers.of(1).residual is not None
        last.scope.cancel()
        await swarm.add(node=last)
        assert last.living._ledgers.all() == ()


async def test_a_joiner_that_knows_one_member_is_let_in_by_whichever_leads_next() -> None:
    async with swarm_of(3) as swarm:
        members, round_ = list(swarm.nodes), 1
        entered = await members[0].until(lambda o: isinstance(o, plans.ViewEntered) and o.round == 1)
        while entered.view.order(round_)[0] == members[0].key.peer:
            await commit(members, round_)
            round_ += 1
        joiner = await swarm.add(through=members[0])
        while not all(joiner.key.peer in node.living._core.roster.joining for node in members):  # noqa: ASYNC110
            await trio.sleep(0.01)
        outcomes = await commit(members, round_)
        assert joiner.key.peer in outcomes[0].value.next_view.peers()
        outcomes = await commit(members, round_ + 1)  # the joiner has no state yet, but hears of it as a member
        kept = await joiner.until(lambda o: isinstance(o, plans.CommitKept) and o.value.round == round_ + 1)
        assert kept.value == outcomes[0].value
        assert np.array_equal(kept.join(), outcomes[0].aggregate)


async def test_who_left_the_run_is_watched_no_more() -> None:
    async with swarm_of(3) as swarm:
        *others, leaver = swarm.nodes
        await leaver.aggregator.tell(plans.LeaveSwarm())
        for round_ in range(1, 6):
            outcomes = await commit(swarm.nodes if round_ == 1 else others, round_)
            if leaver.key.peer not in outcomes[0].value.next_view.peers():
                break
        for later in (round_ + 1, round_ + 2):
            await commit(others, later)
        for node, other in zip(others, reversed(others), strict=True):
            assert node.living._watches.peers == {other.key.peer}


async def test_a_vote_of_which_some_bytes_are_staged_early_is_whole_in_the_journal() -> None:
    async with swarm_of(2) as swarm:
        for node in swarm.nodes:
            node.living._recorder.spooler.bytes_min = 0
        for round_ in (1, 2, 3):
            outcomes = await commit(swarm.nodes, round_)
            for node in swarm.nodes:
                votes = [read_record(data) for data in node.journal.records()]
                vote, payloads = [one for one in votes if isinstance(one[0], msg.Accepted)][-1]
                assert vote.value == outcomes[0].value
                chunks = iter(payloads)
                cuts = node.living._rounds[round_].chunks
                hashes = tuple(digest_of([next(chunks) for _ in part]) for part in cuts)
                assert hashes == vote.value.parts


async def commit(nodes: list[Node], round_: int) -> list[Any]:
    for i, node in enumerate(nodes):
        await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
    return [await node.committed(round_) for node in nodes]


async def test_a_dead_member_is_left_out_and_joins_again() -> None:
    async with swarm_of(3) as swarm:
        one, two, three = swarm.nodes
        three.scope.cancel()
        for round_ in (1, 2):
            for i, node in enumerate((one, two)):
                await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
            outcomes = [await node.committed(round_) for node in (one, two)]
            assert all(len(o.value.shares) == 2 for o in outcomes)
        assert len(outcomes[0].value.next_view.members) == 2
        three.journal = MemoryJournal()
        await swarm.add(node=three)
        round_, members = 3, 2
        while members < 3:
            for i, node in enumerate((one, two)):
                await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
            (outcome, _) = [await node.committed(round_) for node in (one, two)]
            members, round_ = len(outcome.value.next_view.members), round_ + 1
        missed = await three.until(lambda o: isinstance(o, plans.StateMissed))
        assert missed.round == round_ - 1
        three.theta, three.round = one.theta, missed.round
        await three.hold()
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
        outcomes = [await node.committed(round_) for node in swarm.nodes]
        assert all(len(o.value.shares) == 3 for o in outcomes)
        assert len({node.theta.tobytes() for node in swarm.nodes}) == 1


@pytest.mark.parametrize("journal_bytes_max", [1 << 30, 0], ids=["whole", "replaced"])
async def test_all_that_lose_their_power_apply_the_last_round_from_their_journals(journal_bytes_max: int) -> None:
    async with swarm_of(2) as swarm:
        await commit(swarm.nodes, 1)
        for i, node in enumerate(swarm.nodes):
            node.living._recorder.journal_bytes_max = journal_bytes_max
            await node.aggregator.tell(plans.Contribute(2, delta_of(i, 2), 1.0))
        decided = [
            await node.until(lambda o: isinstance(o, plans.RoundCommitted) and o.value.round == 2)
            for node in swarm.nodes
        ]
        for node in swarm.nodes:
            node.scope.cancel()  # with the state after round 1: that after round 2 was not saved yet
        for node in swarm.nodes:
            await swarm.add(node=node)
            await node.hold()
        for node, before in zip(swarm.nodes, decided, strict=True):
            after = await node.until(lambda o: isinstance(o, plans.RoundCommitted) and o.value.round == 2)
            assert np.array_equal(after.aggregate, before.aggregate)


async def test_a_vote_that_a_member_had_from_its_disk_stays_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It voted, died, heard the outcome when it was back, and died once more before the state after it was saved."""
    monkeypatch.setattr(recorder, "JOURNAL_BYTES_MAX", 0)
    async with swarm_of(3) as swarm:
        await commit(swarm.nodes, 1)
        entered = await swarm.nodes[0].until(lambda o: isinstance(o, plans.ViewEntered) and o.round == 2)
        (voter,) = [node for node in swarm.nodes if node.key.peer == entered.view.order(2)[-1]]
        voter.dies_at = lambda c: isinstance(c, cmd.Send) and isinstance(c.message, msg.Ready)
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(2, delta_of(i, 2), 1.0))
        decided = [await node.committed(2) for node in swarm.nodes if node is not voter]
        voter.dies_at = lambda _: False
        for _ in range(2):
            await swarm.add(node=voter)
            await voter.hold()
            after = await voter.until(lambda o: isinstance(o, plans.RoundCommitted) and o.value.round == 2)
            assert np.array_equal(after.aggregate, decided[0].aggregate)
            voter.scope.cancel()


async def test_two_of_which_one_dies_commit_nothing_and_say_so() -> None:
    async with swarm_of(2) as swarm:
        one, two = swarm.nodes
        two.scope.cancel()
        await one.aggregator.tell(plans.Contribute(1, delta_of(0, 1), 1.0))
        stalled = await one.until(lambda o: isinstance(o, plans.RoundStalled))
        assert "1 of 2 members are reachable" in stalled.reason
        assert "prime train recover --new-view" in stalled.hint
        await trio.sleep(4)
        assert not [o for o in one.heard if isinstance(o, plans.RoundCommitted | plans.RoundAborted) and o.value.round]
        await swarm.add(node=two)  # with its journal: the same member is back
        await one.until(lambda o: isinstance(o, plans.RoundResumed))
        await one.committed(1)


async def test_a_non_finite_delta_is_refused_with_its_place() -> None:
    async with swarm_of(1) as swarm:
        (node,) = swarm.nodes
        bad = delta_of(0, 1)
        bad[17] = np.nan
        await node.aggregator.tell(plans.Contribute(1, bad, 1.0))
        failure = await node.until(lambda fact: isinstance(fact, ActorFailed))
        assert "from element 0 on: 1 of 70000 elements are not finite" in failure.error
        assert "index 17" in failure.error


def _sends(kind: type) -> Callable[[cmd.Command], bool]:
    return lambda c: isinstance(c, cmd.Send) and isinstance(c.message, kind)


def _persists(kind: type) -> Callable[[cmd.Command], bool]:
    return lambda c: isinstance(c, cmd.Persist) and isinstance(c.record, kind)


PHASES = {
    "scattering": (lambda c: isinstance(c, cmd.Transfer), False),
    "reducing": (lambda c: isinstance(c, cmd.Reduce), False),
    "sending a result": (lambda c: isinstance(c, cmd.SendResult), False),
    "voting": (_sends(msg.Ready), False),
    "hearing the outcome": (_persists(msg.Decided), False),
    "leading, before the seal": (_sends(msg.Seal), True),
    "leading, before the proposal": (_sends(msg.Propose), True),
    "leading, before its own vote": (_persists(msg.Accepted), True),
    "leading, before the commit": (_persists(msg.Decided), True),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_whoever_dies_in_whichever_phase_the_same_round_ends_alike(phase: str) -> None:
    """The survivors end the very round in which the third node died, with the same bits; it comes back with its disk."""
    dies_at, leads = PHASES[phase]
    async with swarm_of(3) as swarm:
        first = (await swarm.nodes[0].until(lambda o: isinstance(o, plans.ViewEntered) and o.round == 1)).view
        leader = first.order(1)[0]
        victim = next(n for n in swarm.nodes if (n.key.peer == leader) == leads)
        alive = [n for n in swarm.nodes if n is not victim]
        victim.dies_at = dies_at
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(1, delta_of(i, 1), 1.0))
        outcomes = [await node.committed(1) for node in alive]
        await victim.gone.wait()
        assert all(isinstance(o, plans.RoundCommitted) for o in outcomes)
        assert outcomes[0].value == outcomes[1].value
        assert np.array_equal(outcomes[0].aggregate, outcomes[1].aggregate)
        shares = outcomes[0].value.contributors()
        mean = sum(delta_of(i, 1) for i, n in enumerate(swarm.nodes) if n.key.peer in shares) / len(shares)
        assert np.linalg.norm(outcomes[0].aggregate - mean) < 0.02 * np.linalg.norm(mean)
        victim.dies_at = lambda _: False
        await swarm.add(node=victim)
        await _everyone_contributes_again(swarm, victim)


async def _everyone_contributes_again(swarm: Swarm, victim: Node) -> None:
    alive = [n for n in swarm.nodes if n is not victim]
    round_, shares = 2, 0
    while shares < 3:
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(round_, delta_of(i, round_), 1.0))
        outcomes = [await node.committed(round_) for node in alive]
        assert outcomes[0].value == outcomes[1].value
        victim.theta, victim.round = alive[0].theta, round_  # as a donor would send it
        await victim.hold()
        shares, round_ = len(outcomes[0].value.shares), round_ + 1
        assert round_ < 200


async def test_a_contribution_that_no_codec_wrote_leaves_the_others_their_round() -> None:
    async with swarm_of(3) as swarm:
        honest = swarm.nodes[2].numbers.encode

        def poisoned(y: Any, cut: slice, residual: Any = None) -> memoryview:
            bad = bytearray(honest(y, cut, residual))
            bad[-4:] = np.float32(np.nan).tobytes()
            return memoryview(bad)

        swarm.nodes[2].numbers.encode = poisoned
        for i, node in enumerate(swarm.nodes):
            await node.aggregator.tell(plans.Contribute(1, delta_of(i, 1), 1.0))
        outcomes = [await node.committed(1) for node in swarm.nodes[:2]]
        assert outcomes[0].value == outcomes[1].value
        assert swarm.nodes[2].key.peer not in outcomes[0].value.contributors()


@pytest.mark.parametrize("bytes_min", [1 << 30, 0], ids=["in one go", "staged"])
async def test_a_disk_that_refuses_a_vote_is_waited_for_while_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, bytes_min: int
) -> None:
    monkeypatch.setattr(spooler, "SPOOLED_BYTES_MIN", bytes_min)
    refused: list[Entry] = []

    async def refuse(record: Entry) -> None:
        refused.append(record)
        raise WorldError("the disk is full", hint="free space on it")

    async with swarm_of(3) as swarm:
        one, two, full = swarm.nodes
        with monkeypatch.context() as disk:
            disk.setattr(full.journal, "append", refuse)
            for i, node in enumerate(swarm.nodes):
                await node.aggregator.tell(plans.Contribute(1, delta_of(i, 1), 1.0))
            outcomes = [await node.committed(1) for node in (one, two)]
            said = await full.until(lambda o: isinstance(o, plans.RoundStalled))
            assert "the disk is full" in said.reason and said.hint == "free space on it"
            assert not [o for o in full.heard if isinstance(o, plans.RoundCommitted)]
        await full.until(lambda o: isinstance(o, plans.RoundResumed))
        outcomes.append(await full.committed(1))
        assert len({outcome.aggregate.tobytes() for outcome in outcomes}) == 1
        assert not [o for node in swarm.nodes for o in node.heard if isinstance(o, ActorFailed)]
        (first, *_) = refused
        assert isinstance(first, StagedRecord) == (bytes_min == 0)
        votes = [record for data in full.journal.records() if isinstance(record := read_record(data)[0], msg.Accepted)]
        assert {vote.round for vote in votes} == {1}


async def test_what_others_say_again_and_again_is_kept_once_while_a_disk_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(_: Entry) -> None:
        raise WorldError("the disk is full")

    async with swarm_of(2) as swarm:
        one, full = swarm.nodes
        with monkeypatch.context() as disk:
            disk.setattr(full.journal, "append", refuse)
            for i, node in enumerate(swarm.nodes):
                await node.aggregator.tell(plans.Contribute(1, delta_of(i, 1), 1.0))
            await full.until(lambda o: isinstance(o, plans.RoundStalled))
            living = full.living
            query = cmd.Received(msg.Query(living.status().run, 0, 1, one.key.peer))
            changes = [cmd.PeerDown("nobody"), cmd.PeerUp("nobody"), cmd.PeerDown("nobody")]
            for event in [query, *changes] + 20 * [query]:
                await living._step(event)
            waiting = [event for event in living._events if event in (query, *changes)]
            assert waiting == [query, *changes]
        assert (await full.committed(1)).value == (await one.committed(1)).value


async def test_contributions_of_two_rounds_that_come_within_one_step_are_both_kept() -> None:
    async with swarm_of(2, timing=PATIENT) as swarm:
        living = swarm.nodes[0].living
        living._stepping = True  # as while a disk refuses what several rounds want written
        for round_ in (1, 2):
            await living.contribute(plans.Contribute(round_, delta_of(0, round_), 1.0))
        living._stepping = False
        await living._contribute_pending()
        frozen = living._ledgers.in_flight()
        assert frozen is not None
        assert frozen.round == 1
        assert [waiting.round for waiting in living._pending] == [2]


async def test_a_waking_that_comes_after_another_event_sets_no_second_clock_going() -> None:
    async with swarm_of(2, timing=PATIENT) as swarm:
        one = swarm.nodes[0]
        await one.aggregator.tell(plans.Contribute(1, delta_of(0, 1), 1.0))
        while not one.living._core.seat.active_since:  # noqa: ASYNC110 - the round begins
            await trio.sleep(0.01)
        before = one.living.ctx._life.owned
        for _ in range(20):
            await one.aggregator.tell(aggregator._Wake())
        await trio.sleep(2 * PATIENT.resend_s)
        assert one.living.ctx._life.owned <= before + 2
