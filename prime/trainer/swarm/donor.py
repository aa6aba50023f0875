"""State transfer: the donor actor that serves this node's committed state, and the fetch that reads it from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from prime.actor import Actor, on
from prime.errors import NotFoundError, RefusedError, WorldError
from prime.trainer.round.messages import DescribeState, FetchStateChunk, StateChunk, StateManifest
from prime.trainer.swarm.fetch import Arrived, Command, Complete, DonorFound, Exhausted, Failed, FetchPlan, Request
from prime.trainer.swarm.state import ChunkedState, OuterState, check_manifest, chunked, join_state
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
        self._kept: list[ChunkedState] = []

    @on(HoldState)
    async def hold(self, m: HoldState) -> None:
        """Cut a state into chunks and serve it."""
        self._kept = [await trio.to_thread.run_sync(chunked, m.run, m.state), *self._kept[:1]]

    @on(DescribeState)
    def describe(self, m: DescribeState) -> StateManifest:
        """Answer what is held, if it is new enough."""
        for kept in self._kept:
            if kept.manifest.run == m.run and kept.manifest.round >= m.round_min:
                return kept.manifest
        raise NotFoundError(
            f"no state of run {m.run!r} from round {m.round_min} on is held here",
            hint="ask another node, or a round later",
        )

    @on(FetchStateChunk)
    def fetch(self, m: FetchStateChunk) -> StateChunk:
        """Answer one chunk of a state that is still held."""
        for kept in self._kept:
            found = kept.manifest
            if (found.run, found.state_hash) == (m.run, m.state_hash):
                if not 0 <= m.index < len(found.chunk_hashes):
                    raise RefusedError(
                        f"there is no chunk {m.index} of {len(found.chunk_hashes)}", hint="read its manifest again"
                    )
                return StateChunk(m.index, kept.chunk(m.index))
        raise NotFoundError("that state is no longer held here", hint="ask for a description again")


async def fetch_state(
    system: System, peers: Sequence[str], run: str, round_min: int, elements: int
) -> tuple[OuterState, tuple[str, ...]]:
    """Fetch a committed state of `run`, of `round_min` or later, from up to three of `peers` in parallel.

    Returns it with the donors that served to the end. Every chunk is checked against its hash and the whole against the state's.
    Raises `NotFoundError` when nobody has one or all donors left, `CorruptedError` where a manifest lied.
    """
    manifest, donors = await _offer(system, peers, run, round_min, elements)
    transfer = _Transfer(system, manifest)
    async with trio.open_nursery() as nursery:
        for donor in donors:
            transfer.carry_out(nursery, transfer.plan.step(DonorFound(donor)))
    if not transfer.plan.is_complete:
        raise NotFoundError(
            f"every donor left; {transfer.missing} chunks of the state are missing", hint="it is tried again"
        )
    return await trio.to_thread.run_sync(join_state, manifest, transfer.plan.chunks), transfer.plan.donors


class _Transfer:
    """The shell of one fetch plan: asks whom the plan says, and tells it what came back."""

    def __init__(self, system: System, manifest: StateManifest) -> None:
        self._system = system
        self._manifest = manifest
        self.plan = FetchPlan(manifest)
        self.missing = 0

    def carry_out(self, nursery: trio.Nursery, commands: list[Command]) -> None:
        """Do what the plan says; the nursery ends with the last chunk, or with the last request of the last donor."""
        for command in commands:
            match command:
                case Request():
                    nursery.start_soon(self._request, nursery, command)
                case Exhausted(missing):
                    self.missing = missing
                case Complete():
                    nursery.cancel_scope.cancel()  # a donor that hangs is not worth waiting for

    async def _request(self, nursery: trio.Nursery, wish: Request) -> None:
        ref: Ref[FetchStateChunk] = self._system.ref(wish.donor, DONOR_PATH, Donor)
        known = self._manifest
        try:
            chunk = await ref.ask(FetchStateChunk(known.run, known.round, known.state_hash, wish.index), timeout=ASK_S)
        except WorldError:
            outcome: Arrived | Failed = Failed(wish.donor, wish.index)
        else:
            outcome = Arrived(wish.donor, wish.index, chunk.data)
        self.carry_out(nursery, self.plan.step(outcome))


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
            check_manifest(manifest, elements)
        except WorldError as error:
            faults.append(f"{peer}: {error}")
        else:
            offers[peer] = manifest

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    if not offers:
        raise NotFoundError(
            f"no peer has a state of run {run!r} from round {round_min} on ({'; '.join(faults) or 'nobody to ask'})",
            hint="it is tried again; every node of a run needs the same [train] section",
        )
    newest = max(offers.values(), key=lambda manifest: manifest.round)
    donors = [peer for peer, manifest in offers.items() if manifest.state_hash == newest.state_hash]
    return newest, donors[:DONORS_MAX]
