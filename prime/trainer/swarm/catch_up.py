"""Catching up: the state that a node missed, from other members, and the rounds decided while it was on its way."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
import trio

from prime.trainer.swarm.transfer import Providers, StateFetch, StateFetched, nobody

if TYPE_CHECKING:
    from prime.actor import System
    from prime.trainer.outer.fragments import Fragments
    from prime.trainer.swarm import plans
    from prime.trainer.swarm.held import Held, OuterSteps
    from prime.trainer.swarm.progress import Progress
    from prime.trainer.swarm.state import OuterState

BEHIND_MAX = 32
"""Decided rounds whose bytes are kept while a state is fetched."""


@attrs.frozen
class StateReplaced:
    """The state held here is not the one that rounds start from after `round`: it is fetched from other members."""

    round: int
    reason: str


@attrs.frozen
class Confirmed:
    """The state that is held here is right after all."""

    held: Held


class CatchUp:
    """Brings the states of one run that this node missed; it keeps the chunks that it has from one try to the next."""

    def __init__(self, system: System, steps: OuterSteps, progress: Progress, providers: Providers = nobody) -> None:
        self._system = system
        self._providers = providers
        self._steps = steps
        self._progress = progress
        self._transfer: StateFetch | None = None
        self._scope = trio.CancelScope()
        self._behind: deque[plans.CommitKept] = deque(maxlen=BEHIND_MAX)
        self._told: plans.StateMissed | None = None

    def keep(self, commit: plans.CommitKept) -> None:
        """Keep a decided round that starts from a state which is not here yet."""
        self._behind.append(commit)

    def clear(self) -> None:
        """Let go of the rounds that are kept: the state that they lead to is held."""
        self._behind.clear()

    def interrupt(self) -> None:
        """Give up the try under way: a commit can be applied without it."""
        self._scope.cancel()

    async def find(
        self, missed: plans.StateMissed, held: Held | None, fragments: Fragments
    ) -> OuterState | Confirmed | None:
        """Return the state after the missed round or a later one; None when interrupted.

        Raises `NotFoundError` when the members of its view have none, or do not agree: try again then.
        """
        started = trio.current_time()
        found: tuple[OuterState, tuple[str, ...]] | Confirmed | None = None
        with trio.CancelScope() as self._scope:
            found = await self._find_once(missed, held, fragments.elements)
        if found is None or isinstance(found, Confirmed):
            return found
        state, donors = found
        self._system.emit(StateFetched(state.round, donors, trio.current_time() - started))
        forward = self._steps.brought_forward
        return await trio.to_thread.run_sync(forward, state, tuple(self._behind), fragments)

    async def _find_once(
        self, missed: plans.StateMissed, held: Held | None, elements: int
    ) -> tuple[OuterState, tuple[str, ...]] | Confirmed:
        """Return the state and who sent it, unless the one that is held is right."""
        peers = [peer for peer in missed.view.peers() if peer != self._system.peer]
        if self._transfer is None:
            slots = self._steps.slots
            self._transfer = StateFetch(self._system, self._steps.run, elements, slots, self._providers)
        if held is not None and await self._is_right(self._transfer, peers, missed, held):
            return Confirmed(held)
        self._progress.phase = "fetching"
        self._tell(missed, held)
        return await self._transfer.fetch(peers, missed.round)

    async def _is_right(self, transfer: StateFetch, peers: list[str], missed: plans.StateMissed, held: Held) -> bool:
        """Tell whether the held state is the one that is missed; a leader that calls it wrong may stand alone."""
        if held.round < missed.round:
            return False
        if missed.base in (b"", held.state_hash):
            return True
        agreed = await transfer.agreed(peers, missed.round)
        return agreed.manifest.state_hash == held.state_hash

    def _tell(self, missed: plans.StateMissed, held: Held | None) -> None:
        """Tell once why a state is fetched that this node should have had."""
        if missed is not self._told and held is not None:
            self._told = missed
            self._system.emit(StateReplaced(missed.round, missed.reason))
