"""Fetching a state from donors that hang, forge, are behind, or hold another run's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime import Memory, open_system
from prime.actor import on
from prime.errors import CorruptedError, NotFoundError
from prime.trainer.round.messages import DescribeState, FetchStateChunk, StateChunk, StateManifest
from prime.trainer.swarm.donor import DONOR_PATH, Donor, HoldState, fetch_state
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, OuterState

SIZE = 3 * CHUNK_SIZE_BYTES // 4 + 5


def state_of(round_: int) -> OuterState:
    theta, momentum = np.random.default_rng(round_).standard_normal((2, SIZE), np.float32)
    return OuterState(round_, 1, theta, momentum)


class Liar(Donor):
    """Describes its state truly and sends zeros."""

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> StateChunk:
        return StateChunk(m.index, memoryview(bytes(CHUNK_SIZE_BYTES)))


class Hung(Donor):
    """Describes its state and never sends a chunk."""

    @on(FetchStateChunk)
    async def fetch(self, m: FetchStateChunk) -> StateChunk:
        await trio.sleep_forever()
        raise AssertionError


class Forger(Donor):
    """Describes a state whose hash is not that of its chunks."""

    @on(DescribeState)
    def describe(self, m: DescribeState) -> StateManifest:
        return attrs.evolve(super().describe(m), state_hash=bytes(32))

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> StateChunk:
        return super().fetch(attrs.evolve(m, state_hash=state_of(4).state_hash()))


@attrs.frozen
class Fetcher:
    """A node without a state, and donors that it is linked to."""

    system: Any
    peers: list[str]
    refs: list[Any]

    async def hold(self, *states: OuterState, run: str = "run") -> None:
        """Hand the donors their states; each has cut its own when this returns, for it answers in order."""
        for ref, state in zip(self.refs, states, strict=True):
            await ref.tell(HoldState(run, state))
            await ref.ask(DescribeState(run, state.round), timeout=5)

    async def fetch(self, round_min: int = 1, size: int = SIZE) -> tuple[OuterState, tuple[str, ...]]:
        return await fetch_state(self.system, self.peers, "run", round_min, size)


@asynccontextmanager
async def donors(*kinds: type[Donor]) -> AsyncIterator[Fetcher]:
    hub = Memory()
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(open_system(transport=hub, seed=0))
            fetcher = Fetcher(system, [], [])
            for kind in kinds:
                far = await stack.enter_async_context(open_system(transport=hub, seed=0))
                supervisor = await stack.enter_async_context(far.supervisor("state"))
                fetcher.refs.append(await supervisor.spawn(kind, "donor"))
                assert fetcher.refs[-1].path == DONOR_PATH
                assert system.network is not None
                fetcher.peers.append(await system.network.dial(far.addresses[0]))
            yield fetcher


async def test_the_newest_state_is_taken_from_those_who_hold_it() -> None:
    async with donors(Donor, Donor, Donor) as fetcher:
        await fetcher.hold(state_of(4), state_of(5), state_of(4))
        state, sent = await fetcher.fetch()
        assert (state.round, sent) == (5, (fetcher.peers[1],))


async def test_a_hung_donor_is_given_up_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.trainer.swarm.donor.ASK_S", 0.3)
    async with donors(Hung, Donor) as fetcher:
        await fetcher.hold(state_of(4), state_of(4))
        state, sent = await fetcher.fetch()
        assert state.state_hash() == state_of(4).state_hash()
        assert sent == (fetcher.peers[1],)


async def test_when_every_donor_lies_the_fetch_fails() -> None:
    async with donors(Liar, Liar) as fetcher:
        await fetcher.hold(state_of(4), state_of(4))
        with pytest.raises(NotFoundError, match="every donor left; 7 chunks"):
            await fetcher.fetch()


async def test_a_forged_manifest_is_found_out() -> None:
    async with donors(Forger) as fetcher:
        await fetcher.hold(state_of(4))
        with pytest.raises(CorruptedError, match="does not have the hash"):
            await fetcher.fetch()


@pytest.mark.parametrize(
    ("run", "round_min", "size", "said"),
    [
        ("other", 1, SIZE, "no state of run 'run' from round 1"),
        ("run", 5, SIZE, "no state of run 'run' from round 5"),
        ("run", 1, SIZE + 1, f"{SIZE + 1} parameters make"),
    ],
)
async def test_a_state_that_does_not_help(run: str, round_min: int, size: int, said: str) -> None:
    async with donors(Donor) as fetcher:
        await fetcher.hold(state_of(4), run=run)
        with pytest.raises(NotFoundError, match=said) as caught:
            await fetcher.fetch(round_min, size)
        assert "[train]" in caught.value.hint
