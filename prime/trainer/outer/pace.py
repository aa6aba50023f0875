"""The pace of one member: how many steps it has made, when a contribution is due, and how far it may train on (pure).

Steps count from the state that the member began with. A contribution to a round holds what was learnt, in the
round's fragment, since the last contribution to it that was settled. Meanwhile training goes on: `overlap_steps` (tau)
beyond the snapshot while the round is under way, and while nothing can be decided until some fragment holds the
steps of two periods, 2H. The steps made since a snapshot are kept when the outcome comes: Douillard et al., "Streaming
DiLoCo with overlapping communication", 2025 (arXiv 2501.18512), section 2.3, with all of the local progress instead of
half of it.
"""

from __future__ import annotations

from typing import Self

import attrs

from prime.trainer.outer.fragments import Fragments


@attrs.define
class Pace:
    """Where one member stands. `inner_steps` is H, `overlap_steps` tau; what it may be is between 0 and H/P."""

    fragments: Fragments
    inner_steps: int
    overlap_steps: int
    made: int = 0
    """Steps made."""
    _marked: int = 0
    _marked_before: int = 0
    _counted: list[int] = attrs.field(init=False)
    _out: int | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._counted = [0] * self.fragments.count

    @classmethod
    def of(cls, fragments: Fragments, inner_steps: int, overlap_steps: int, *, waits: bool) -> Self:
        """Return the pace at the start. Of -1 overlapping steps become H/P, and none where a member `waits` for outcomes.

        More than H/P steps overlap with nothing: then the next round is due.
        """
        period = fragments.steps_of(1, inner_steps)
        usual = 0 if waits or inner_steps == 1 else period
        return cls(fragments, inner_steps, min(usual if overlap_steps < 0 else overlap_steps, period))

    @property
    def is_out(self) -> bool:
        """Whether a contribution waits for its round's outcome."""
        return self._out is not None

    @property
    def out(self) -> int | None:
        """The round whose outcome a contribution waits for."""
        return self._out

    def steps(self, round_: int) -> int:
        """Return the steps that a contribution to this round would hold: its weight comes of them."""
        return self.made - self._counted[self.fragments.of_round(round_)]

    def is_due(self, round_: int) -> bool:
        """Tell whether the contribution to this round should be made now."""
        return not self.is_out and self.made - self._marked >= self.fragments.steps_of(round_, self.inner_steps)

    def room(self, round_: int, *, stalled: bool) -> int:
        """Return how many more steps may be made now: until the contribution is due, or while its outcome is awaited."""
        if not self.is_out:
            return max(self._marked + self.fragments.steps_of(round_, self.inner_steps) - self.made, 0)
        ahead = self.inner_steps if stalled else self.overlap_steps
        return max(min(self._marked + ahead, min(self._counted) + 2 * self.inner_steps) - self.made, 0)

    def contribute(self, round_: int) -> None:
        """Note that a snapshot was taken for this round."""
        self._marked_before, self._marked = self._marked, self.made
        self._out = round_

    def settle(self) -> None:
        """Note that what is out was taken, or is carried: the next contribution to its fragment begins after it."""
        if self._out is not None:
            self._counted[self.fragments.of_round(self._out)] = self._marked
            self._out = None

    def abort(self, round_: int) -> bool:
        """Note that a round changed nothing; True if what is out was for it.

        Then its steps stay, and the next contribution is due as it was.
        """
        if self._out != round_:
            return False
        self._marked = self._marked_before
        self._out = None
        return True

    def restart(self) -> None:
        """Forget all steps: the member begins from a state that it has learnt nothing beyond."""
        self.made = self._marked = self._marked_before = 0
        self._counted = [0] * self.fragments.count
        self._out = None
