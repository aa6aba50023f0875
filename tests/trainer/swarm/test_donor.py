"""State transfer between nodes: whole and verified, from several donors, also when one leaves or lies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime import Actor, Memory, System, on, open_system
from prime.errors import NotFoundError
from prime.trainer.round.messages import DescribeState, FetchStateChunk, StateChunk, StateManifest
from prime.trainer.swarm.donor import Donor, HoldState, fetch_state
from prime.trainer.swarm.state import OuterState, chunked

D = 200_000


def state_of(round_: int) -> OuterState:
    generator = np.random.default_rng(round_)
    theta, momentum = generator.normal(size=(2, D)).astype(np.float32)
    return OuterState(round_, 1, theta, momentum)


class Liar(Actor[DescribeState | FetchStateChunk]):
    """Describes the right state and sends other bytes."""

    def __init__(self, state: OuterState) -> None:
        self.kept = chunked("run", state)

    @on(DescribeState)
    def describe(self, _: DescribeState) -> StateManifest:
        return self.kept.manifest

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> StateChunk:
        return StateChunk(m.index, memoryview(bytes(self.kept.chunk(m.index))[::-1]))


class Leaver(Liar):
    """Serves one chunk and then no more."""

    served = 0

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> StateChunk:
        self.served += 1
        if self.served > 1:
            raise NotFoundError("I am leaving")
        return StateChunk(m.index, self.kept.chunk(m.index))


@asynccontextmanager
async def swarm(*donors: Any) -> AsyncIterator[tuple[System, list[str]]]:
    """Yield a joiner's system and the peers of the donors, made by these factories."""
    hub = Memory()
    async with AsyncExitStack() as stack:
        joiner = await stack.enter_async_context(open_system(transport=hub))
        assert joiner.network is not None
        peers = []
        for factory in donors:
            system = await stack.enter_async_context(open_system(transport=hub))
            sup = await stack.enter_async_context(system.supervisor("state"))
            ref = await sup.spawn(factory, "donor", shutdown=0.1)
            if factory is Donor:
                await ref.tell(HoldState("run", state_of(6)))
                await ref.tell(HoldState("run", state_of(7)))
            peers.append(await joiner.network.dial(system.addresses[0]))
        yield joiner, peers


async def test_a_state_comes_whole_from_three_donors() -> None:
    with trio.fail_after(30):
        async with swarm(Donor, Donor, Donor) as (system, peers):
            state, donors = await fetch_state(system, peers, "run", 5, D)
            assert state.round == 7
            assert state.state_hash() == state_of(7).state_hash()
            assert sorted(donors) == sorted(peers)


@pytest.mark.parametrize("bad", [Liar, Leaver])
async def test_a_donor_that_lies_or_leaves_costs_nothing_but_itself(bad: Any) -> None:
    with trio.fail_after(30):
        async with swarm(lambda: bad(state_of(7)), Donor) as (system, peers):
            state, _ = await fetch_state(system, peers, "run", 7, D)
            assert state.state_hash() == state_of(7).state_hash()


async def test_what_nobody_can_give_is_said() -> None:
    with trio.fail_after(30):
        async with swarm(Donor, lambda: Liar(state_of(7))) as (system, peers):
            with pytest.raises(NotFoundError, match="from round 9 on"):
                await fetch_state(system, peers[:1], "run", 9, D)
            with pytest.raises(NotFoundError, match="of run 'other'"):
                await fetch_state(system, peers[:1], "other", 0, D)
            with pytest.raises(NotFoundError, match="parameters make"):
                await fetch_state(system, peers[:1], "run", 0, D + 1)
            with pytest.raises(NotFoundError, match="every donor left"):
                await fetch_state(system, peers[1:], "run", 0, D)


async def test_the_state_before_is_served_while_a_round_commits() -> None:
    kept = chunked("run", state_of(6)).manifest
    with trio.fail_after(30):
        async with open_system() as system, system.supervisor("state") as sup:
            donor = await sup.spawn(Donor, "donor")
            for round_ in (6, 7):
                await donor.tell(HoldState("run", state_of(round_)))
            chunk = await donor.ask(FetchStateChunk("run", 6, kept.state_hash, 0), timeout=5)
            assert len(chunk.data) == kept.chunk_bytes
            await donor.tell(HoldState("run", attrs.evolve(state_of(8))))
            with pytest.raises(NotFoundError, match="no longer held"):
                await donor.ask(FetchStateChunk("run", 6, kept.state_hash, 0), timeout=5)
