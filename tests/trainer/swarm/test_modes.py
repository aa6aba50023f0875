"""Small swarms of whole nodes over the memory transport, in every mode of the outer loop: all hold the same bits.

The worker is a stand-in that goes down a paraboloid of its own; everything else is what trains in production.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime.actor import System
from prime.node.system import open_system
from prime.node.training import Training, open_trainer
from prime.trainer import pipe
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.names import lineage
from prime.trainer.round.timing import Timing
from prime.trainer.swarm import trainer
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory
from tests.trainer.swarm.stand_ins import VectorWorker

D = 10_000
STEP_S = 0.002
TIMING = Timing(resend_s=0.05, suspect_s=15.0, seal_s=20.0, reduce_s=15.0, deadline_s=40.0, join_ttl_s=15.0)
"""Long waits: a busy machine stands still for seconds, and nobody dies here."""
MIDDLE = np.random.default_rng(1).standard_normal(D).astype(np.float32)
"""Around it lie the members' own lowest points."""


class Walker(VectorWorker):
    """A worker whose loss is the squared distance from a point of its own."""

    def __init__(self, rank: int, pace: float = 1.0) -> None:
        super().__init__(D, samples=24)
        self.target = MIDDLE + np.random.default_rng(rank).standard_normal(D).astype(np.float32) * np.float32(0.2)
        self.step_s = STEP_S * pace

    async def train(self, steps: int) -> pipe.Trained:
        await trio.sleep(self.step_s * steps)
        for _ in range(steps):
            self.local += (self.target - self.local) * np.float32(0.1)
        self.steps += steps
        return pipe.Trained(self.steps, steps, loss_of(self.local), steps, self.step_s * steps)

    async def evaluate(self, theta: Any, _batches: int) -> float:
        return loss_of(self.local if theta is None else theta)


def loss_of(theta: Any) -> float:
    return float(np.mean((theta - MIDDLE) ** 2))


class Modes:
    """The nodes of one run, and each state that one of them came to hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: dict[int, float]) -> None:
        self.hub = Memory()
        self.stack = contextlib.AsyncExitStack()
        self.address = ""
        self.trainings: list[Training] = []
        self.states: dict[int, set[bytes]] = {}
        self.decided: list[tuple[int, tuple[str, ...]]] = []
        hold = trainer.SwarmTrainer._hold
        ranks = iter(range(100))

        async def held(actor: Any, state: Any) -> None:
            self.states.setdefault(state.round, set()).add(state.state.state_hash())
            await hold(actor, state)

        @contextlib.asynccontextmanager
        async def open_rank(_system: Any, _config: Any, _rank: int) -> AsyncIterator[Walker]:
            rank = next(ranks)
            yield Walker(rank, slow.get(rank, 1.0))

        monkeypatch.setattr(trainer.SwarmTrainer, "_hold", held)
        monkeypatch.setattr(trainer, "open_rank", open_rank)

    def note(self, fact: Any) -> None:
        if isinstance(fact, trainer.RoundDecided) and fact.committed:
            self.decided.append((fact.round, fact.contributors))


def config_of(**settings: Any) -> TrainingConfig:
    return TrainingConfig(**{"inner_steps": 8, "rounds": 6, "outer_optimiser": "average", **settings})


@contextlib.asynccontextmanager
async def swarm_of(
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    slow: dict[int, float] | None = None,
    timing: Timing = TIMING,
    **settings: Any,
) -> AsyncIterator[Modes]:
    """Run that many nodes in one run; `slow` says by how much which of them is slower than the others."""
    found = Modes(monkeypatch, slow or {})
    config = config_of(nodes_min=count, **settings)
    with trio.fail_after(120):
        async with found.stack as stack:
            address = ""
            for index in range(count):
                system: System = await stack.enter_async_context(open_system(transport=found.hub, seed=index))
                system.subscribe(found.note)
                contacts = [address] if address else []
                opened = open_trainer(system, config, contacts=contacts, timing=timing)
                found.trainings.append(await stack.enter_async_context(opened))
                address = found.address = address or system.addresses[0]
            yield found


MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"inner_steps": 1, "rounds": 12},
    "DiLoCo": {"outer_optimiser": "nesterov", "outer_momentum": 0.5},
    "DiLoCo without overlap": {"outer_optimiser": "sgd", "outer_learning_rate": 1.0, "overlap_steps": 0},
    "Adam": {"outer_optimiser": "adam", "outer_learning_rate": 0.2},
    "fragments": {"fragments": 4, "rounds": 12, "overlap_steps": 1},
    "robust": {"aggregation": "median", "byzantine_max": 1, "norm_gate": 3.0, "fragments": 2, "rounds": 10},
    "federated": {"participation": 0.5, "local_epochs": 2, "batch_size": 8, "rounds": 8},
}


@pytest.mark.parametrize("mode", MODES)
async def test_all_members_hold_the_same_bits_after_every_round(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MODES[mode]
    async with swarm_of(4, monkeypatch, **settings) as swarm:
        for training in swarm.trainings:
            await training.done()
        rounds = settings.get("rounds", 6)
        assert set(range(rounds + 1)) <= set(swarm.states)
        assert {round_: len(hashes) for round_, hashes in swarm.states.items()} == dict.fromkeys(swarm.states, 1)
        assert len({hash_ for hashes in swarm.states.values() for hash_ in hashes}) == len(swarm.states)
        parameters = [training.parameters for training in swarm.trainings]
        assert all(p is not None and p.tobytes() == parameters[0].tobytes() for p in parameters)  # type: ignore[union-attr]
        assert loss_of(parameters[0]) < 0.6 * loss_of(np.zeros(D, np.float32))
        asked = [len(contributors) for _, contributors in swarm.decided]
        wanted = 2 if mode == "federated" else 4
        assert max(asked) == wanted  # in the first rounds a joiner may still be fetching the state
        assert asked[-1] == wanted


async def test_a_wish_for_the_end_outlives_the_node_that_was_told_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Modes(monkeypatch, {})
    config, timing = config_of(nodes_min=2, rounds=10_000), attrs.evolve(TIMING, suspect_s=0.5)
    hub, keys = Memory(), [KeyPair.generate(), KeyPair.generate()]

    @contextlib.asynccontextmanager
    async def node(index: int, *contacts: str) -> AsyncIterator[tuple[System, Training]]:
        async with (
            open_system(transport=hub, key=keys[index]) as system,
            open_trainer(system, config, contacts=contacts, timing=timing, folder=tmp_path / str(index)) as training,
        ):
            yield system, training

    with trio.fail_after(60):
        async with node(0) as (system, told):
            async with node(1, system.addresses[0]) as (_, other):
                while min(told.round, other.round) < 1:  # noqa: ASYNC110 - a node is looked at
                    await trio.sleep(0.05)
            while not told.progress.stalled:  # noqa: ASYNC110 - as above
                await trio.sleep(0.05)
            await told.end()
        async with node(0) as (system, told), node(1, system.addresses[0]) as (_, other):
            await told.done()
            await other.done()
            assert told.progress.state_hash == other.progress.state_hash


async def test_a_member_that_is_started_again_alone_says_that_it_waits_and_can_found_the_successor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Modes(monkeypatch, {})
    config, timing = config_of(nodes_min=2, rounds=10_000), attrs.evolve(TIMING, suspect_s=0.5)
    hub, key = Memory(), KeyPair.generate()
    with trio.fail_after(60):
        async with open_system(transport=hub) as founder:
            contacts = [founder.addresses[0]]
            async with (
                open_trainer(founder, config, timing=timing),
                open_system(transport=hub, key=key) as system,
                open_trainer(system, config, contacts=contacts, timing=timing, folder=tmp_path) as member,
            ):
                while member.round < 1:  # noqa: ASYNC110 - a node is looked at
                    await trio.sleep(0.05)
        async with (
            open_system(transport=hub, key=key) as system,
            open_trainer(system, config, contacts=contacts, timing=timing, folder=tmp_path) as member,
        ):
            while not member.progress.stalled:  # noqa: ASYNC110 - as above
                await trio.sleep(0.05)
            assert lineage(member.succession().run) == ("main", 1)


async def test_a_node_audits_the_last_round_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    robust = {"aggregation": "centred-clipping", "byzantine_max": 1, "codec": "int4"}
    async with swarm_of(3, monkeypatch, rounds=4, **robust) as swarm:
        for training in swarm.trainings:
            await training.done()
        found = await swarm.trainings[1].audit()
        assert (found.run, found.rule) == ("main", "centred-clipping")
        assert found.round >= 4
        assert [finding.judgement for finding in found.findings] == ["right"] * 4  # three parts, and the seal


async def test_a_straggler_contributes_what_it_has_and_all_hold_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = attrs.evolve(TIMING, seal_min_s=0.05)
    async with swarm_of(3, monkeypatch, slow={2: 30.0}, timing=timing, rounds=12) as swarm:
        for training in swarm.trainings:
            await training.done()
        rounds = dict(swarm.decided)
        counts = Counter(peer for contributors in rounds.values() for peer in contributors)
        assert len(counts) == 3  # whoever was left out at times is in the sum of later rounds
        assert all(len(contributors) >= 2 for contributors in rounds.values())
        assert all(len(hashes) == 1 for hashes in swarm.states.values())


async def test_different_members_are_asked_from_round_to_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with swarm_of(3, monkeypatch, participation=0.3, rounds=12, inner_steps=2) as swarm:
        for training in swarm.trainings:
            await training.done()
        assert {len(contributors) for _, contributors in swarm.decided} == {1}
        assert len({contributors for _, contributors in swarm.decided}) > 1


async def test_a_node_that_comes_after_the_end_gets_the_final_state_from_whoever_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with swarm_of(3, monkeypatch, rounds=4) as swarm:
        for training in swarm.trainings:
            await training.done()
        for training in swarm.trainings[1:]:
            assert await training.leave(5)
        system = await swarm.stack.enter_async_context(open_system(transport=swarm.hub, seed=99))
        opened = open_trainer(system, config_of(nodes_min=3, rounds=4), contacts=[swarm.address], timing=TIMING)
        late = await swarm.stack.enter_async_context(opened)
        with trio.fail_after(30):
            await late.done()
        assert late.round == 4
        assert late.parameters is not None
        assert late.parameters.tobytes() == swarm.trainings[0].parameters.tobytes()  # type: ignore[union-attr]
        assert len(swarm.states[4]) == 1
