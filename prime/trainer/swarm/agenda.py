"""What a member does next, of all that it has heard: catch up, contribute, make steps, rest or leave. Pure.

The trainer notes here what it hears and what it holds, asks for the `next` thing between two slices of inner steps, and does
it. Nothing is contributed to a round but from the state that the round starts from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prime.trainer.swarm import plans

if TYPE_CHECKING:
    from prime.trainer.outer.pace import Pace
    from prime.trainer.round.view import View
    from prime.trainer.swarm.held import Held
    from prime.trainer.swarm.progress import Progress

SLICE_STEPS = 5
"""Inner steps between two looks at what was decided."""


@attrs.frozen
class FetchState:
    """Fetch the state that is missed from other members, or make sure that the one here is right."""

    missed: plans.StateMissed


@attrs.frozen
class MakeContribution:
    """Contribute to this round what was learnt for it, counted from the state that is held."""

    round: int
    held: Held


@attrs.frozen
class MakeSteps:
    """Make so many inner steps."""

    steps: int


@attrs.frozen
class Rest:
    """Wait until something is heard."""


@attrs.frozen
class Leave:
    """End this node's part in the run: nobody waits for it."""


@attrs.frozen
class AskToLeave:
    """Ask the members for a view without this node."""


@attrs.frozen
class TellOfStall:
    """Let people hear that nothing can be committed now."""

    stall: plans.RoundStalled


@attrs.frozen
class Finish:
    """Come to the run's end: `held` is its state."""

    held: Held


Activity = FetchState | MakeContribution | MakeSteps | Rest | Leave
"""What fills the time until something else is heard."""
Errand = Leave | AskToLeave | TellOfStall | Finish
"""What has to be done at once about what was heard."""
News = (
    plans.ViewEntered
    | plans.StateMissed
    | plans.LeftView
    | plans.RunEnded
    | plans.RoundStalled
    | plans.RoundResumed
    | plans.StateSaved
)


@attrs.define
class Agenda:
    """Where one member stands. The phase is kept in `progress`, where people read it.

    With `saves` a state has to be on the disk before anything is contributed that starts from it.
    """

    progress: Progress
    saves: bool = False
    held: Held | None = None
    """The last decided round's state, as far as it is here."""
    missed: plans.StateMissed | None = None
    """What has to be fetched, or made sure of."""
    _view: View | None = None
    round: int = 0
    """The round under way."""
    _state_round: int = 0
    _chosen: bool = True
    _stalled: bool = False
    _contributed: int = 0
    _saved_hash: bytes = b""
    _draining: bool = False
    _last_round: int | None = None

    # ---------------------------------------------------------------------------------------------- what to do

    def next(self, pace: Pace) -> Activity:
        """Return the next useful thing."""
        if self.missed is not None:
            return FetchState(self.missed)
        if self.held is not None and self._may_contribute(self.held, pace):
            return MakeContribution(self.round, self.held)
        if steps := self.steps_allowed(pace):
            return MakeSteps(steps)
        return Leave() if self._draining and self._is_unbound() else Rest()

    def has_come_to_nothing(self, round_: int) -> bool:
        """Tell whether a round was aborted unheard: it is over, and the present one starts from the state before it.

        A member that is more rounds behind than anybody remembers hears of none of them; a committed one would have
        brought it another state.
        """
        return self.missed is None and self._is_ready() and round_ < self.round

    def steps_allowed(self, pace: Pace) -> int:
        """Return how many inner steps to make now, a slice of them at most."""
        return min(SLICE_STEPS, pace.room(self.round, stalled=self._stalled)) if self._is_asked() else 0

    def _may_contribute(self, held: Held, pace: Pace) -> bool:
        return (
            self._is_asked()
            and self._contributed < self.round
            and pace.is_due(self.round)
            and (not self.saves or self._saved_hash == held.state_hash)
        )

    def _is_asked(self) -> bool:
        """Tell whether this node is to work for the present round: one that was not chosen for it idles."""
        return self._chosen and self._is_ready() and not self._draining

    def _is_ready(self) -> bool:
        """Tell whether this node is in a view and holds the state that its round starts from."""
        return (
            self._view is not None
            and self.held is not None
            and self._state_round <= self.held.round < max(self.round, 1)
            and self.progress.phase not in ("done", "left")
        )

    def _is_unbound(self) -> bool:
        """Tell whether no member counts on this node."""
        return self._view is None or self.progress.phase in ("done", "joining")

    # --------------------------------------------------------------------------------------------- what was heard

    def step(self, news: News) -> Errand | None:
        """Take note of what was heard; return what has to be done about it at once."""
        match news:
            case plans.ViewEntered():
                self._enter(news)
            case plans.StateMissed():
                self.missed = news
            case plans.LeftView(_, _, rejoining):
                return self._leave_view(rejoining=rejoining)
            case plans.RunEnded(round_):
                self._last_round = round_
                return self.finish() if self.progress.phase != "done" else None
            case plans.RoundStalled() | plans.RoundResumed():
                return self._stall(news)
            case plans.StateSaved(state_hash):
                self._saved_hash = state_hash
        return None

    def drain(self) -> Errand:
        """Note that this node shall leave once its round in hand is over."""
        self._draining = True
        if self.progress.phase == "done" or self._view is None or self.held is None:
            return Leave()
        self.progress.phase = "leaving"
        return AskToLeave()

    def contributed(self, round_: int) -> None:
        """Note that the contribution to this round is made."""
        self._contributed = round_

    def finish(self) -> Finish | None:
        """Return what to do where the state that is held is that of the end, which the members decided."""
        if self._last_round is None or self.held is None or self.held.round < self._last_round:
            return None
        return Finish(self.held)

    def _enter(self, event: plans.ViewEntered) -> None:
        self.round, self._view, self._state_round = event.round, event.view, event.state_round
        self._chosen = event.chosen
        self.progress.epoch = event.view.epoch
        self.progress.members = event.view.peers()
        if event.round > 0 and self.progress.phase == "joining":
            self.progress.phase = "training"

    def _leave_view(self, *, rejoining: bool) -> Leave | None:
        self._view = None
        if self._draining and not rejoining:
            return Leave()
        if self.progress.phase not in ("starting", "done"):
            self.progress.phase = "joining"
        return None

    def _stall(self, event: plans.RoundStalled | plans.RoundResumed) -> TellOfStall | None:
        if self.progress.phase == "done":
            return None  # others go their ways, and nothing is left to decide
        if isinstance(event, plans.RoundStalled):
            self._stalled = True
            self.progress.stalled, self.progress.hint = event.reason, event.hint
            return TellOfStall(event)
        self._stalled = False
        self.progress.stalled = self.progress.hint = ""
        return None
