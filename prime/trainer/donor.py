"""State transfer: the donor actor that serves this node's committed state, and the fetch that reads it from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from prime.actor import Actor, on
from prime.errors import DecodeError, NotFoundError, RefusedError, WorldError
from prime.trainer.messages import DescribeState, FetchStateChunk, StateChunk, StateManifest
from prime.trainer.state import IN_FLIGHT_MAX, FetchPlan, OuterState, fault_of, from_bytes, manifest_of
from prime.wire import message

if TYPE_CHECKING:
    from prime.actor import Ref, System

DONOR_PATH = "/state/donor"
DONORS_MAX = 3
"""Donors fetched from in parallel."""
ASK_S = 10.0


@message
class HoldState:
    """Serve this state from now on."""

    run: str
    epoch: int
    state: OuterState


@attrs.frozen
class StateFetched:
    """A state came from other members; `donors` sent it."""

    round: int
    donors: tuple[str, ...]
    seconds: float


class Donor(Actor[HoldState | DescribeState | FetchStateChunk]):
    """Serves the last committed state and the one before, so that a fetch can end while a round commits."""

    def __init__(self) -> None:
        self._kept: list[tuple[StateManifest, memoryview]] = []

    @on(HoldState)
    async def hold(self, m: HoldState) -> None:
        """Cut a state into chunks and serve it."""
        self._kept = [await trio.to_thread.run_sync(_described, m), *self._kept[:1]]

    @on(DescribeState)
    def describe(self, m: DescribeState) -> StateManifest:
        """Answer what is held, if it is new enough."""
        for manifest, _ in self._kept:
            if manifest.run == m.run and manifest.round >= m.round_min:
                return manifest
        raise NotFoundError(f"no state of run {m.run!r} from round {m.round_min} on is held here")

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> StateChunk:
        """Answer one chunk of a state that is still held."""
        for manifest, data in self._kept:
            if (manifest.run, manifest.round, manifest.state_hash) == (m.run, m.round, m.state_hash):
                if not 0 <= m.index < len(manifest.chunk_hashes):
                    raise RefusedError(f"chunk {m.index} of {len(manifest.chunk_hashes)}")
                at = m.index * manifest.chunk_bytes
                return StateChunk(m.index, data[at : at + manifest.chunk_bytes])
        raise NotFoundError("that state is no longer held here", hint="ask for a description again")


def _described(m: HoldState) -> tuple[StateManifest, memoryview]:
    data = m.state.to_bytes()
    return manifest_of(m.run, m.epoch, m.state, data), data


async def fetch_state(
    system: System, peers: Sequence[str], run: str, round_min: int, elements: int
) -> tuple[OuterState, tuple[str, ...]]:
    """Fetch a committed state of `run`, of `round_min` or later, from up to three of `peers` in parallel.

    Returns it with the donors that sent it. Every chunk is checked against its hash and the whole against the state's.
    Raises `NotFoundError` when nobody has one, `WorldError` kinds when all donors left, `DecodeError` for another
    model's state.
    """
    manifest, donors = await _offer(system, peers, run, round_min, elements)
    plan = FetchPlan(manifest, donors)
    while not plan.done:
        if not plan.donors:
            raise NotFoundError("every donor left before the state was whole", hint="it is tried again")
        async with trio.open_nursery() as nursery:
            for donor in plan.donors:
                for _ in range(IN_FLIGHT_MAX):
                    nursery.start_soon(_fetch_chunks, system, plan, manifest, donor)
    state = from_bytes(manifest.round, plan.data(), elements)
    if state.hash() != manifest.state_hash:
        raise DecodeError("the fetched state does not have the hash that its donor named", hint="it is tried again")
    return state, tuple(donors)


async def _offer(
    system: System, peers: Sequence[str], run: str, round_min: int, elements: int
) -> tuple[StateManifest, list[str]]:
    """Ask everyone what they hold; return the newest state and who holds that very one."""
    offers: dict[str, StateManifest] = {}
    faults: list[str] = []

    async def ask(peer: str) -> None:
        ref: Ref[DescribeState] = system.ref(peer, DONOR_PATH, Donor)
        try:
            manifest = await ref.ask(DescribeState(run, round_min), timeout=ASK_S)
        except WorldError as error:
            faults.append(f"{peer}: {error}")
            return
        fault = fault_of(manifest, elements)
        if fault:
            faults.append(f"{peer}: {fault}")
        else:
            offers[peer] = manifest

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    if not offers:
        raise NotFoundError(
            f"no peer has a state of run {run!r} from round {round_min} on ({'; '.join(faults) or 'nobody to ask'})",
            hint="every node of a run needs the same model: compare their [train] sections",
        )
    newest = max(offers.values(), key=lambda manifest: manifest.round)
    donors = [peer for peer, manifest in offers.items() if manifest.state_hash == newest.state_hash]
    return newest, donors[:DONORS_MAX]


async def _fetch_chunks(system: System, plan: FetchPlan, manifest: StateManifest, donor: str) -> None:
    ref: Ref[FetchStateChunk] = system.ref(donor, DONOR_PATH, Donor)
    while (index := plan.take(donor)) is not None:
        try:
            wish = FetchStateChunk(manifest.run, manifest.round, manifest.state_hash, index)
            chunk = await ref.ask(wish, timeout=ASK_S)
        except WorldError:
            plan.failed(index)
            return
        if chunk.index != index or not plan.arrived(index, chunk.data):
            return
