"""Robust rules in a swarm of aggregators over memory links: liars among them, what the others commit, and audits."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime import Memory, open_system
from prime.errors import NotFoundError, RefusedError
from prime.store import MemoryJournal
from prime.trainer.codec import codec
from prime.trainer.robust.rules import MEAN, Rule
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST
from prime.trainer.round.terms import Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member
from prime.trainer.swarm import plans
from prime.trainer.swarm.aggregator import Aggregator
from prime.trainer.swarm.audit import Finding, audit
from prime.trainer.swarm.float32 import Float32
from prime.trainer.swarm.membership import SwarmPlan
from prime.trainer.swarm.offers import Offers
from prime.trainer.swarm.parts import whole
from prime.transport.identity import KeyPair
from prime.transport.signing import KeySignatory
from prime.wire import signed_bytes
from tests.trainer.swarm.stand_ins import Listener

D = 20_000
TIMING = Timing(resend_s=0.05, suspect_s=2.0, stagger_s=0.1, seal_s=1.0, reduce_s=2.0, deadline_s=6.0, transfer_s=0.3)
"""On the virtual clock."""


class NanScales(Float32):
    """Writes what no codec writes: chunks whose scales are NaN."""

    def encode(self, y: Any, cut: slice) -> memoryview:
        data = bytearray(super().encode(y, cut))
        data[-4:] = b"\xff" * 4
        return memoryview(data)


@attrs.define(eq=False)
class Node(Listener):
    key: KeyPair
    numbers: Float32
    heard: list[Any] = attrs.Factory(list)
    news: trio.Event = attrs.Factory(trio.Event)
    hub: Any = None
    aggregator: Any = None
    actor: Any = None
    system: Any = None

    async def outcome(self, round_: int) -> Any:
        ends = plans.RoundCommitted | plans.RoundAborted
        return await self.until(lambda o: isinstance(o, ends) and o.value.round == round_)

    async def hold(self, round_: int) -> None:
        await self.aggregator.tell(plans.StateHeld(round_, hashlib.sha256(b"%d" % round_).digest()))


@asynccontextmanager
async def swarm_of(rule: Rule, numbers: list[Float32], seal_s: float = TIMING.seal_s) -> AsyncIterator[list[Node]]:
    """Found a run of as many members, and let them hold the state that its first round starts from."""
    hub, nodes = Memory(), [Node(KeyPair.from_seed(bytes([i] * 32)), each) for i, each in enumerate(numbers)]
    timing = attrs.evolve(TIMING, seal_s=seal_s)

    async def run(node: Node, contact: str, *, task_status: Any) -> None:
        async with open_system(transport=hub, key=node.key, seed=0) as system, system.supervisor("train") as sup:
            contacts = (await system.network.dial(contact),) if contact and system.network else ()
            member = Member(node.key.peer, system.addresses, 1.0, 1)
            plan = SwarmPlan("robust", member, not contact, contacts, len(nodes), timing, Terms(rule=rule))
            node.hub, node.system = hub, system
            node.actor = Aggregator(plan, MemoryJournal(), node.report, node.numbers)
            node.aggregator = await sup.spawn(lambda: node.actor, "aggregator", shutdown=0.1)
            await node.aggregator.tell(plans.Begin(D))
            task_status.started(system.addresses[0])
            await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            contact = await nursery.start(run, nodes[0], "")
            for node in nodes[1:]:
                await nursery.start(run, node, contact)
            for node in nodes:
                await node.until(lambda o: isinstance(o, plans.ViewEntered) and o.round == 1)
                await node.hold(0)
            yield nodes
            nursery.cancel_scope.cancel()


def honest(count: int, seed: int = 0) -> list[np.ndarray]:
    """Deltas that point one way, with noise of their own."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=D)
    return [(common + 0.5 * rng.normal(size=D)).astype(np.float32) for _ in range(count)]


async def contribute(nodes: list[Node], deltas: list[np.ndarray], round_: int = 1) -> list[Any]:
    for node, delta in zip(nodes, deltas, strict=True):
        await node.aggregator.tell(plans.Contribute(round_, delta, 100.0))
    return [await node.outcome(round_) for node in nodes]


def off(aggregate: np.ndarray, deltas: list[np.ndarray]) -> float:
    """How far the aggregate is from the honest mean, by the mean's length."""
    mean = np.mean(deltas, axis=0)
    return float(np.linalg.norm(aggregate - mean) / np.linalg.norm(mean))


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        (Rule("median", 2), 0.6),
        (Rule("trimmed-mean", 2), 0.6),
        (Rule("krum", 1), 0.6),
        (Rule("multi-krum", 1), 0.6),
        (Rule("centred-clipping", 2), 0.6),
        (Rule("mean", 0, 3.0), 0.4),
    ],
    ids=lambda value: value.name if isinstance(value, Rule) else "",
)
async def test_a_round_commits_near_the_honest_mean_alike_on_all_whatever_liars_send(
    autojump_clock: Any, rule: Rule, bound: float
) -> None:
    liars = max(rule.byzantine_max, 1)
    good = honest(5 - liars)
    lies = [np.float32(-50) * good[0]] * liars
    async with swarm_of(rule, [Float32() for _ in range(5)]) as nodes:
        outcomes = await contribute(nodes, [*lies, *good])
    values = {outcome.value.digest() for outcome in outcomes}
    assert len(values) == 1 and not outcomes[0].value.aborted
    assert {outcome.aggregate.tobytes() for outcome in outcomes} == {outcomes[0].aggregate.tobytes()}
    assert off(outcomes[0].aggregate, good) < bound


async def test_plain_mean_follows_one_liar(autojump_clock: Any) -> None:
    good = honest(4)
    async with swarm_of(Rule(), [Float32() for _ in range(5)]) as nodes:
        outcomes = await contribute(nodes, [np.float32(-50) * good[0], *good])
    assert off(outcomes[0].aggregate, good) > 5


async def test_who_is_left_out_and_why_stands_in_the_decision(autojump_clock: Any) -> None:
    good = honest(8)
    async with swarm_of(Rule("multi-krum", 3, 3.0), [Float32() for _ in range(9)]) as nodes:
        outcomes = await contribute(nodes, [np.float32(-50) * good[0], *good])
        liar = nodes[0].key.peer
    shares = {share.peer: share for share in outcomes[0].value.shares}
    assert len(shares) == 9
    assert "times the median: the gate is 3" in shares[liar].reason
    assert shares[liar].coefficient == 0 and shares[liar].score > 5
    chosen = [share for share in shares.values() if share.coefficient]
    assert len(chosen) == 8 - 2 - 2  # of the eight that pass, f is cut to the two that are left to fear
    assert all(
        share.reason == "not chosen by multi-krum" for p, share in shares.items() if not share.coefficient and p != liar
    )
    assert all(outcome.included for outcome in outcomes)  # judged is settled: nothing is sent a second time


async def test_liars_whose_bytes_no_codec_writes_are_counted_among_the_f_and_stop_nothing(autojump_clock: Any) -> None:
    good = honest(6)
    numbers: list[Float32] = [NanScales() for _ in range(3)] + [Float32() for _ in range(6)]
    async with swarm_of(Rule("krum", 3), numbers) as nodes:
        outcomes = await contribute(nodes, [good[0]] * 3 + good)
    assert not outcomes[0].value.aborted
    assert set(outcomes[0].value.contributors()) == {node.key.peer for node in nodes[3:]}
    assert any(np.linalg.norm(outcomes[0].aggregate - each) < 0.02 * np.linalg.norm(each) for each in good)


async def test_with_more_missing_than_the_rule_admits_the_round_is_aborted(autojump_clock: Any) -> None:
    numbers: list[Float32] = [NanScales() for _ in range(2)] + [Float32() for _ in range(3)]
    async with swarm_of(Rule("krum", 1), numbers, seal_s=0.5) as nodes:
        outcomes = await contribute(nodes, honest(5))
    assert all(outcome.value.aborted for outcome in outcomes)


# ----------------------------------------------------------------------------------------------------------- audit


class LyingOwner(Float32):
    """Adds up what it likes: three times the mean."""

    def reduce(
        self, inputs: Sequence[memoryview], weights: Sequence[float], cut: slice, rule: Rule = MEAN
    ) -> memoryview:
        honest_ = super().reduce(inputs, weights, cut, rule)
        codec_ = codec("int8")
        return codec_.encode(3 * codec_.decode(honest_, cut.stop - cut.start)).data


class LyingProducts(Float32):
    """Tells the leader that the first candidate lies beside everyone else."""

    def multiply(self, inputs: Sequence[memoryview], cut: slice) -> list[float]:
        products = super().multiply(inputs, cut)
        return [products[-1]] * len(products)


async def audited(nodes: list[Node], by: int) -> tuple[Finding, ...]:
    """Let one member audit the round that all have just decided."""
    case = nodes[by].actor.audit_case()
    assert case is not None
    return await audit(nodes[by].system, attrs.evolve(case, numbers=Float32()))


async def test_an_audit_finds_every_part_right_where_nobody_lied(autojump_clock: Any) -> None:
    for rule in (Rule(), Rule("median", 2), Rule("krum", 1)):
        async with swarm_of(rule, [Float32() for _ in range(5)]) as nodes:
            await contribute(nodes, honest(5))
            for by in (0, 4):
                findings = await audited(nodes, by)
                assert [f.judgement for f in findings] == ["right"] * (6 if rule.measured else 5)


@pytest.mark.parametrize("rule", [Rule(), Rule("multi-krum", 1)], ids=lambda rule: rule.name)
async def test_an_audit_names_the_owner_that_reduced_something_else(autojump_clock: Any, rule: Rule) -> None:
    numbers: list[Float32] = [LyingOwner(), *(Float32() for _ in range(4))]
    async with swarm_of(rule, numbers) as nodes:
        outcomes = await contribute(nodes, honest(5))
        liar = nodes[0].key.peer
        findings = await audited(nodes, 3)
        assert off(outcomes[3].aggregate, honest(5)) > 0.5  # and the round believed it
    wrong = [finding for finding in findings if finding.judgement == "wrong"]
    assert [finding.peer for finding in wrong] == [liar]
    assert "give another reduction than it said" in wrong[0].reason
    assert outcomes[3].value.parts  # it was decided all the same: an audit comes after


async def test_an_audit_shows_that_the_coefficients_are_not_those_of_the_contributions(autojump_clock: Any) -> None:
    good = honest(4)
    numbers: list[Float32] = [LyingProducts() for _ in range(5)]
    async with swarm_of(Rule("krum", 1), numbers) as nodes:
        await contribute(nodes, [*good, np.float32(-40) * good[0]])
        findings = await audited(nodes, 2)
    assert [finding.judgement for finding in findings] == ["right"] * 5 + ["wrong"]
    assert "was given the coefficient" in findings[-1].reason


async def test_an_audit_shows_that_a_weight_is_not_the_one_that_was_signed(autojump_clock: Any) -> None:
    async with swarm_of(Rule(), [Float32() for _ in range(3)]) as nodes:
        await contribute(nodes, honest(3))
        case = nodes[1].actor.audit_case()
        assert case is not None
        shares = tuple(attrs.evolve(share, weight=2 * share.weight) for share in case.value.shares)
        findings = await audit(nodes[1].system, attrs.evolve(case, value=attrs.evolve(case.value, shares=shares)))
    assert [finding.judgement for finding in findings] == ["wrong"] * 3  # though the mean is the same
    assert all("signed weight" in finding.reason for finding in findings)


async def test_what_an_owner_no_longer_has_is_no_proof_against_it(autojump_clock: Any) -> None:
    async with swarm_of(Rule(), [Float32() for _ in range(3)]) as nodes:
        await contribute(nodes, honest(3))
        nodes[0].actor._rounds[1].contributions.clear()
        nodes[1].actor._rounds[1].offers = Offers(1, nodes[1].actor._rounds[1].view)
        findings = {finding.peer: finding for finding in await audited(nodes, 2)}
        peers = [node.key.peer for node in nodes]
    assert [findings[peer].judgement for peer in peers] == ["not shown", "not shown", "right"]
    assert "is held here" in findings[peers[0]].reason and "no offer" in findings[peers[1]].reason


async def test_an_owner_cannot_show_other_chunks_in_the_name_of_a_contributor(autojump_clock: Any) -> None:
    async with swarm_of(Rule(), [Float32() for _ in range(3)]) as nodes:
        await contribute(nodes, honest(3))
        held = nodes[0].actor._rounds[1].contributions
        part = next(part for part, _ in held)
        forged = tuple(
            nodes[0].numbers.encode(np.ones(D, np.float32), cut) for cut in nodes[0].actor.audit_case().chunks[part]
        )
        held[part, nodes[1].key.peer] = whole(forged)
        findings = await audited(nodes, 2)
        peers = [node.key.peer for node in nodes]
    assert [f.judgement for f in findings].count("wrong") == 1
    wrong = next(f for f in findings if f.judgement == "wrong")
    assert wrong.peer == peers[0] and f"what it shows of {peers[1]} is not what {peers[1]} signed" in wrong.reason


async def test_an_offer_without_a_signature_that_holds_is_no_candidate(autojump_clock: Any) -> None:
    """One member's offers are signed by another key: nobody's leader takes them, and the round goes on without it."""
    async with swarm_of(Rule(), [Float32() for _ in range(3)], seal_s=0.5) as nodes:
        other = KeySignatory(KeyPair.from_seed(b"\7" * 32))
        order = nodes[0].actor._core.seat.order
        liar = next(node for node in nodes if node.key.peer != order[0])
        liar.system.signatory = other
        outcomes = await contribute(nodes, honest(3))
    assert set(outcomes[0].value.contributors()) == {node.key.peer for node in nodes} - {liar.key.peer}


async def test_what_members_contributed_is_shown_to_members_alone(autojump_clock: Any) -> None:
    async with swarm_of(Rule(), [Float32() for _ in range(2)]) as nodes:
        await contribute(nodes, honest(2))
        async with open_system(transport=nodes[0].hub, seed=0) as stranger:
            peer = await stranger.network.dial(nodes[0].system.addresses[0])
            ref = stranger.ref(peer, "/train/aggregator", Aggregator)
            with pytest.raises(RefusedError, match="shown to members"):
                await ref.ask(msg.ShowChunk("robust", 1, 0, nodes[1].key.peer, 0), timeout=5)
        with pytest.raises(NotFoundError, match="round 7 of robust is not kept"):
            await (
                nodes[1]
                .system.ref(peer, "/train/aggregator", Aggregator)
                .ask(msg.ShowPart("robust", 7, 0, ()), timeout=5)
            )


async def test_an_offer_is_what_its_member_signed_and_only_its_first_one_counts(autojump_clock: Any) -> None:
    async with swarm_of(Rule(), [Float32() for _ in range(2)]) as nodes:
        leader = next(node for node in nodes if node.key.peer == node.actor._core.seat.order[0])
        other = next(node for node in nodes if node is not leader)
        rnd, peer = leader.actor._rounds[1], other.key.peer

        def offer(weight: float, signed_weight: float, parts: tuple[bytes, ...]) -> msg.Offer:
            said = msg.SignedOffer("robust", rnd.view.epoch, 1, signed_weight, b"b" * 32, parts)
            return msg.Offer(weight, b"b" * 32, parts, signed_bytes(other.system.sign(said)))

        def taken(one: msg.Offer) -> bool:
            report = msg.Report("robust", rnd.view.epoch, 1, peer, 1, False, True, FIRST, one, (), (), (), None)
            return bool(leader.actor._is_signed(report, one))

        parts = (b"1" * 32, b"2" * 32)
        assert not taken(msg.Offer(1.0, b"b" * 32, parts, b""))
        good = offer(1.0, 1.0, parts)
        assert not taken(attrs.evolve(good, weight=9.0))  # type: ignore[misc]  # a @record is an attrs class
        assert taken(good) and taken(good)
        assert not taken(offer(2.0, 2.0, parts))  # it signed another one before
        assert rnd.offers.of(peer) == good.signed
