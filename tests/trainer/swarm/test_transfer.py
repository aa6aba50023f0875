"""Fetching a state from others: whole and verified, also when donors leave, hang, lie, or have moved on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from prime import Memory, Tcp, on, open_system
from prime.actor import Later
from prime.errors import NotFoundError
from prime.trainer.round.messages import DescribeState, FetchStateChunk, StateChunk, StatesHeld
from prime.trainer.swarm import transfer
from prime.trainer.swarm.donor import DONOR_PATH, Donor, HoldState
from prime.trainer.swarm.fetch import FetchPlan
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, OuterState, chunked
from prime.trainer.swarm.transfer import Providers, StateFetch, nobody

SIZE = 3 * CHUNK_SIZE_BYTES // 4 + 5
CHUNKS = 7


def state_of(round_: int, seed: int = 0) -> OuterState:
    theta, slot = np.random.default_rng([round_, seed]).standard_normal((2, SIZE), np.float32)
    return OuterState(round_, 1, theta, (slot,))


class Liar(Donor):
    """Describes its state truly and sends zeros."""

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> Any:
        return StateChunk(m.index, memoryview(bytes(CHUNK_SIZE_BYTES)))


class Hung(Donor):
    """Describes its state and never sends a chunk."""

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> Later:
        return self.ctx.defer()


class Leaver(Donor):
    """Serves two chunks and then no more."""

    served = 0

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> Any:
        self.served += 1
        if self.served > 2:
            raise NotFoundError("I am leaving")
        return super().fetch(m)


class Forger(Donor):
    """Describes a state whose pages are not those of its hash."""

    @on(DescribeState)
    def describe(self, m: DescribeState) -> StatesHeld:
        return StatesHeld(tuple(attrs.evolve(each, state_hash=bytes(32)) for each in super().describe(m).states))


@attrs.define
class Fetcher:
    """A node without a state, and donors that it is linked to."""

    system: Any
    peers: list[str]
    refs: list[Any]
    systems: list[Any]

    async def hold(self, *states: OuterState, run: str = "run") -> None:
        for ref, state in zip(self.refs, states, strict=True):
            await ref.tell(HoldState(chunked(run, state)))
            await ref.ask(DescribeState(run), timeout=5)

    def new(self, size: int = SIZE, run: str = "run", providers: Providers = nobody) -> StateFetch:
        return StateFetch(self.system, run, size, 1, providers)

    async def fetch(self, round_min: int = 1) -> tuple[OuterState, tuple[str, ...]]:
        return await self.new().fetch(self.peers, round_min)


@asynccontextmanager
async def donors(*kinds: type[Donor], make_transport: Callable[[], Any] | None = None) -> AsyncIterator[Fetcher]:
    hub = Memory()
    transport = make_transport or (lambda: hub)
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(open_system(transport=transport(), seed=0))
            fetcher = Fetcher(system, [], [], [])
            for kind in kinds:
                far = await stack.enter_async_context(open_system(transport=transport(), seed=0))
                supervisor = await stack.enter_async_context(far.supervisor("state"))
                fetcher.refs.append(await supervisor.spawn(kind, "donor", shutdown=0.1))
                assert fetcher.refs[-1].path == DONOR_PATH
                assert system.network is not None
                fetcher.peers.append(await system.network.dial(far.addresses[0]))
                fetcher.systems.append(far)
            yield fetcher


@pytest.mark.parametrize("make_transport", [None, Tcp])
async def test_a_state_comes_whole_from_three_donors(make_transport: Any) -> None:
    async with donors(Donor, Donor, Donor, make_transport=make_transport) as fetcher:
        await fetcher.hold(*[state_of(4)] * 3)
        await fetcher.hold(*[state_of(5)] * 3)
        state, sent = await fetcher.fetch()
        assert (state.round, sorted(sent)) == (5, sorted(fetcher.peers))
        assert state.state_hash() == state_of(5).state_hash()
        agreed = await fetcher.new().agreed(fetcher.peers, 5)
        assert agreed.manifest.state_hash == state.state_hash()


def these(*peers: str) -> Providers:
    async def providers(run: str) -> Sequence[str]:
        assert run == "run"
        return peers

    return providers


async def test_chunks_come_from_providers_that_are_no_members() -> None:
    async with donors(Leaver, Donor, Donor) as fetcher:
        await fetcher.hold(*[state_of(4)] * 3)
        member, *others = fetcher.peers
        state, sent = await fetcher.new(providers=these(*fetcher.peers)).fetch([member], 4)
        assert state.state_hash() == state_of(4).state_hash()
        assert set(sent) == set(others)  # the member sent two chunks and left


async def test_a_provider_that_is_no_member_has_no_say_in_what_the_state_is() -> None:
    async with donors(Donor, Donor, Donor, Liar) as fetcher:
        await fetcher.hold(state_of(4), state_of(5, seed=666), state_of(4, seed=666), state_of(4))
        member, *others = fetcher.peers
        state, sent = await fetcher.new(providers=these(*others)).fetch([member], 4)
        assert (state.state_hash(), sent) == (state_of(4).state_hash(), (member,))


async def test_a_search_for_providers_holds_nobody_up() -> None:
    async def forever(run: str) -> Sequence[str]:
        await trio.sleep_forever()
        return (run,)

    async def fails(run: str) -> Sequence[str]:
        raise NotFoundError(f"nobody provides {run}", hint="none")

    async with donors(Donor) as fetcher:
        await fetcher.hold(state_of(4))
        for providers in (forever, fails):
            with trio.fail_after(5):
                await fetcher.new(providers=providers).fetch(fetcher.peers, 4)


async def test_a_lying_donor_cannot_choose_the_state() -> None:
    async with donors(Donor, Donor, Donor) as fetcher:
        await fetcher.hold(state_of(4, seed=666), state_of(4), state_of(4))
        state, sent = await fetcher.fetch()
        assert state.state_hash() == state_of(4).state_hash()
        assert fetcher.peers[0] not in sent


async def test_where_the_members_do_not_agree_nothing_is_taken() -> None:
    async with donors(Donor, Donor) as fetcher:
        await fetcher.hold(state_of(4, seed=666), state_of(4))
        with pytest.raises(NotFoundError, match="different states"):
            await fetcher.fetch()


async def test_a_member_that_is_about_to_apply_the_round_is_waited_for() -> None:
    async with donors(Donor, Donor, Donor) as fetcher, trio.open_nursery() as nursery:
        await fetcher.hold(state_of(5, seed=666), state_of(4), state_of(4))

        async def later() -> None:
            await trio.sleep(0.6)
            for ref in fetcher.refs[1:]:
                await ref.tell(HoldState(chunked("run", state_of(5))))

        nursery.start_soon(later)
        state, _ = await fetcher.fetch(5)
        assert state.state_hash() == state_of(5).state_hash()


@pytest.mark.parametrize("bad", [Liar, Leaver, Hung])
async def test_a_donor_that_lies_leaves_or_hangs_costs_nothing_but_itself(bad: type[Donor]) -> None:
    async with donors(bad, Donor, Donor) as fetcher:
        await fetcher.hold(*[state_of(4)] * 3)
        state, _ = await fetcher.fetch()
        assert state.state_hash() == state_of(4).state_hash()


async def test_a_hung_donor_alone_is_given_up_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE_S", 0.3)
    async with donors(Hung) as fetcher:
        await fetcher.hold(state_of(4))
        with pytest.raises(NotFoundError, match=f"every donor left; {CHUNKS} of {CHUNKS} chunks"):
            await fetcher.fetch()


async def test_a_fetch_goes_on_where_donors_left_it_with_others() -> None:
    async with donors(Leaver, Donor) as fetcher:
        await fetcher.hold(*[state_of(4)] * 2)
        fetch = fetcher.new()
        with pytest.raises(NotFoundError, match=f"every donor left; {CHUNKS - 2} of {CHUNKS} chunks") as caught:
            await fetch.fetch(fetcher.peers[:1], 4)
        assert "with the chunks that are here" in caught.value.hint
        before = fetcher.refs[1]
        state, sent = await fetch.fetch(fetcher.peers[1:], 4)
        assert state.state_hash() == state_of(4).state_hash()
        assert sent == (fetcher.peers[1],)
        assert before.path == DONOR_PATH


async def test_a_fetch_that_is_cancelled_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, left = FetchPlan.step, trio.Event()

    def step(plan: FetchPlan, event: Any) -> list[Any]:
        commands = honest(plan, event)
        if plan.here == 2:  # what the one sends before it leaves; the other hangs
            left.set()
        return commands

    monkeypatch.setattr(FetchPlan, "step", step)
    async with donors(Hung, Leaver) as fetcher:
        await fetcher.hold(*[state_of(4)] * 2)
        fetch = fetcher.new()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.fetch, fetcher.peers, 4)
            await left.wait()
            nursery.cancel_scope.cancel()
        assert fetch._plan is not None
        assert fetch._plan.here == 2


async def test_donors_of_an_older_state_do_not_help() -> None:
    async with donors(Donor, Donor, Donor) as fetcher:
        await fetcher.hold(state_of(4), state_of(5), state_of(5))
        state, sent = await fetcher.fetch()
        assert (state.round, set(sent)) == (5, set(fetcher.peers[1:]))


@pytest.mark.parametrize("kind", [Liar, Forger])
async def test_when_every_donor_lies_the_fetch_fails(kind: type[Donor]) -> None:
    async with donors(kind, kind) as fetcher:
        await fetcher.hold(state_of(4), state_of(4))
        with pytest.raises(NotFoundError, match="every donor left|not what its hash names"):
            await fetcher.fetch()


@pytest.mark.parametrize(
    ("run", "round_min", "size", "said"),
    [
        ("other", 1, SIZE, "no peer has a state of run 'run' from round 1"),
        ("run", 5, SIZE, "no peer has a state of run 'run' from round 5"),
        ("run", 1, SIZE + 1, f"this node's has {SIZE + 1} and 1"),
    ],
)
async def test_a_state_that_does_not_help(
    run: str, round_min: int, size: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PATIENCE_S", 0.3)
    async with donors(Donor) as fetcher:
        await fetcher.hold(state_of(4), run=run)
        with pytest.raises(NotFoundError, match=said) as caught:
            await fetcher.new(size).fetch(fetcher.peers, round_min)
        assert "[train]" in caught.value.hint
