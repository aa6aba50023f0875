"""The state that a node holds, and what decided rounds make of it. Pure.

An outer step makes new vectors and leaves those it began from as they are: a donor, the disk and the worker still read
them. Memory comes back through `Buffers` once nobody does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

import attrs

from prime.trainer.outer.optimisers import OuterOptimiser, Slots
from prime.trainer.swarm.buffers import Buffers
from prime.trainer.swarm.state import ChunkedState, OuterState, chunked, initial_state

if TYPE_CHECKING:
    from prime.trainer.codec import Vector
    from prime.trainer.outer.fragments import Fragments
    from prime.trainer.round.view import Value
    from prime.trainer.swarm.plans import CommitKept


@attrs.frozen(eq=False)
class Held:
    """A committed state, cut into the chunks that others fetch and the disk keeps."""

    state: OuterState
    chunks: ChunkedState

    @classmethod
    def of(cls, run: str, state: OuterState) -> Self:
        """Cut a state into chunks, which hashes all of it."""
        return cls(state, chunked(run, state))

    @property
    def round(self) -> int:
        """The last decided round whose state this is."""
        return self.state.round

    @property
    def state_hash(self) -> bytes:
        """The SHA-256 over parameters and slots."""
        return self.chunks.manifest.state_hash

    def of_round(self, round_: int) -> Self:
        """Return the same state as that of a later round, which was aborted."""
        return attrs.evolve(self, state=attrs.evolve(self.state, round=round_), chunks=self.chunks.of_round(round_))


class OuterSteps:
    """Makes the outer steps of one run."""

    def __init__(self, run: str, optimiser: OuterOptimiser) -> None:
        self.run = run
        self._optimiser = optimiser
        self._buffers = Buffers(1 + optimiser.slots)

    @property
    def slots(self) -> int:
        """How many vectors beside the parameters a state of this run has."""
        return self._optimiser.slots

    def initial(self, theta: Vector) -> OuterState:
        """Return the state before the first round."""
        return initial_state(theta, self.slots)

    def after(self, held: Held, value: Value, cut: slice, aggregate: Vector) -> Held:
        """Return the state after a committed round: the chunks that its fragment `cut` does not touch keep their hashes."""
        following = self._stepped(held.state, value, cut, aggregate)
        return Held(following, chunked(self.run, following, held.chunks, cut))

    def brought_forward(self, state: OuterState, since: Iterable[CommitKept], fragments: Fragments) -> OuterState:
        """Return a fetched state with the rounds applied that were decided while it was on its way.

        Each names the state that it starts from, so where one is missing the next does not fit.
        """
        hash_ = state.state_hash()
        for kept in since:
            value = kept.value
            if value.round > state.round and value.base == hash_:
                state = self._stepped(state, value, fragments.cut_of(value.round), kept.join())
                hash_ = state.state_hash()
        return state

    def _stepped(self, state: OuterState, value: Value, cut: slice, aggregate: Vector) -> OuterState:
        theta, slots = self._vectors(state, cut, aggregate)
        return OuterState(value.round, value.epoch, theta, slots)

    def _vectors(self, state: OuterState, cut: slice, aggregate: Vector) -> tuple[Vector, Slots]:
        """Return parameters and slots with the outer step made in one fragment of them."""
        if cut == slice(0, state.theta.size):
            return self._optimiser.apply(state.theta, state.slots, aggregate)
        whole = tuple(map(self._buffers.copy, (state.theta, *state.slots)))
        into = tuple(vector[cut] for vector in whole)
        self._optimiser.apply_into(into[0], into[1:], aggregate, into)
        return whole[0], whole[1:]
