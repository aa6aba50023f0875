"""The donor: what it serves to whom, and how much."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime import Memory, Ref, open_system
from prime.errors import NotFoundError, RefusedError
from prime.trainer.round.messages import DescribeState, FetchStateChunk, FetchStatePage
from prime.trainer.swarm import donor as donor_module
from prime.trainer.swarm.donor import DONOR_PATH, Donor, HoldState
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, ChunkedState, OuterState, chunked

SIZE = 3 * CHUNK_SIZE_BYTES // 4 + 5


def cut_of(round_: int, seed: int = 0) -> ChunkedState:
    theta, slot = np.random.default_rng(seed or round_).standard_normal((2, SIZE), np.float32)
    return chunked("run", OuterState(round_, 1, theta, (slot,)))


@asynccontextmanager
async def asking(
    make: Any = Donor, joiners: int = 1, within_s: float = 30
) -> AsyncIterator[tuple[Ref[Any], list[Ref[Any]]]]:
    """Yield a donor on its own node, and the ways to it from so many joiners."""
    hub = Memory()
    with trio.fail_after(within_s):
        async with AsyncExitStack() as stack:
            near = await stack.enter_async_context(open_system(transport=hub, seed=0))
            supervisor = await stack.enter_async_context(near.supervisor("state"))
            donor = await supervisor.spawn(make, "donor")
            refs = []
            for _ in range(joiners):
                system = await stack.enter_async_context(open_system(transport=hub, seed=0))
                assert system.network is not None
                refs.append(system.ref(await system.network.dial(near.addresses[0]), DONOR_PATH, Donor))
            yield donor, refs


async def test_the_last_two_states_are_served() -> None:
    async with asking() as (donor, (ref,)):
        assert (await ref.ask(DescribeState("run"), timeout=5)).states == ()
        for round_ in (6, 7, 8):
            await donor.tell(HoldState(cut_of(round_)))
        states = (await ref.ask(DescribeState("run"), timeout=5)).states
        assert [manifest.round for manifest in states] == [8, 7]
        assert (await ref.ask(DescribeState("other"), timeout=5)).states == ()
        cut = cut_of(7)
        chunk = await ref.ask(FetchStateChunk("run", cut.manifest.state_hash, 3), timeout=5)
        page = await ref.ask(FetchStatePage("run", cut.manifest.state_hash, 0), timeout=5)
        assert bytes(chunk.data) == bytes(cut.chunk(3))
        assert page.hashes == b"".join(cut.chunk_hashes)
        with pytest.raises(NotFoundError, match="no longer held"):
            await ref.ask(FetchStateChunk("run", cut_of(6).manifest.state_hash, 0), timeout=5)


async def test_a_state_that_is_being_fetched_is_kept_though_rounds_go_on() -> None:
    async with asking() as (donor, (ref,)):
        await donor.tell(HoldState(cut_of(6)))
        wish = FetchStateChunk("run", cut_of(6).manifest.state_hash, 0)
        for round_ in range(7, 12):
            await ref.ask(wish, timeout=5)
            await donor.tell(HoldState(cut_of(round_)))
        await ref.ask(attrs.evolve(wish, index=1), timeout=5)
        states = (await ref.ask(DescribeState("run"), timeout=5)).states
        assert [manifest.round for manifest in states] == [11, 10]  # nobody begins with an old one


async def test_of_many_states_that_are_being_fetched_the_latest_are_kept() -> None:
    async with asking() as (donor, (ref,)):
        cuts = [cut_of(round_) for round_ in range(1, 7)]
        for cut in cuts:
            await donor.tell(HoldState(cut))
            await ref.ask(FetchStateChunk("run", cut.manifest.state_hash, 0), timeout=5)
        for cut in cuts[2:]:
            await ref.ask(FetchStateChunk("run", cut.manifest.state_hash, 1), timeout=5)
        for cut in cuts[:2]:
            with pytest.raises(NotFoundError, match="no longer held"):
                await ref.ask(FetchStateChunk("run", cut.manifest.state_hash, 1), timeout=5)


async def test_an_aborted_round_costs_no_place() -> None:
    async with asking() as (donor, (ref,)):
        await donor.tell(HoldState(cut_of(6)))
        for round_ in (7, 8, 9):  # round 7 changed the state, 8 and 9 were aborted
            cut = cut_of(7)
            cut = attrs.evolve(cut, manifest=attrs.evolve(cut.manifest, round=round_))
            await donor.tell(HoldState(cut))
        states = (await ref.ask(DescribeState("run"), timeout=5)).states
        assert [manifest.round for manifest in states] == [9, 6]


@pytest.mark.parametrize("kind", [FetchStateChunk, FetchStatePage])
async def test_what_a_state_does_not_have_is_refused(kind: Any) -> None:
    async with asking() as (donor, (ref,)):
        await donor.tell(HoldState(cut_of(7)))
        for index in (-1, 99):
            with pytest.raises(RefusedError, match=f"{index} of"):
                await ref.ask(kind("run", cut_of(7).manifest.state_hash, index), timeout=5)


async def test_a_peer_gets_one_state_a_few_times_and_no_more() -> None:
    cut = cut_of(7)
    async with asking(joiners=2) as (donor, (greedy, other)):
        await donor.tell(HoldState(cut))
        wish = FetchStateChunk("run", cut.manifest.state_hash, 0)
        for _ in range(donor_module.SERVINGS_MAX * len(cut.chunk_hashes)):
            await greedy.ask(wish, timeout=5)
        with pytest.raises(RefusedError, match="3 times"):
            await greedy.ask(wish, timeout=5)
        await other.ask(wish, timeout=5)
        await donor.tell(HoldState(cut_of(8)))
        await greedy.ask(attrs.evolve(wish, state_hash=cut_of(8).manifest.state_hash), timeout=5)


async def test_joiners_are_served_in_turns_and_requests_that_wait_are_bounded(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(donor_module, "SERVINGS_MAX", 100)
    cut, rest_s = cut_of(7), 1.0
    served: list[int] = []
    refused: list[str] = []

    async def ask(ref: Ref[Any], who: int) -> None:
        try:
            await ref.ask(FetchStateChunk("run", cut.manifest.state_hash, who), timeout=500)
            served.append(who)
        except RefusedError as error:
            refused.append(str(error))

    async with asking(lambda: Donor(lambda: rest_s), joiners=2, within_s=500) as (donor, (greedy, modest)):
        await donor.tell(HoldState(cut))
        async with trio.open_nursery() as nursery:
            for _ in range(2 * donor_module.WAITING_MAX):
                nursery.start_soon(ask, greedy, 0)
            await trio.sleep(3.5)
            for _ in range(3):
                nursery.start_soon(ask, modest, 1)
        assert served.count(0) in range(donor_module.WAITING_MAX, donor_module.WAITING_MAX + 5)
        assert set(refused) == {"too many requests wait here"}
        first = served.index(1)
        assert served[first : first + 5] in ([1, 0, 1, 0, 1], [1, 1, 0, 1, 0])
