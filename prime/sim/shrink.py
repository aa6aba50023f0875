"""From a failing run to the smallest one found that fails in the same way, through Hypothesis (`[testing]`).

Every attempt is a run of the same seed under a plan with some knobs turned down (`knobs.py`). Hypothesis draws the
levels, finds a failing row of them and shrinks it; then each knob of the best plan is tried by itself until none goes lower.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from prime.errors import MissingExtraError, UsageError
from prime.sim.knobs import Knobs, cost
from prime.sim.notation import to_plain
from prime.sim.plan import Plan
from prime.sim.run import Outcome, Scenario, run

RUNS_MAX: Final = 500
WITHIN_S: Final = 60.0
_EXAMPLES_MAX: Final = 100
"""How many rows Hypothesis draws until one fails; most are near the plan, so the first ones should."""
_LEVEL_MAX: Final = 99
"""A knob is drawn from 0 to this, and everything above its top is the top: at random, nearly all stay where they are."""
_KEEP_MAX: Final = 9
"""The same for whether an action happens: at random, nine in ten do."""


class _Over(BaseException):
    """The runs or the time are used up; no `Exception`, which Hypothesis would take for a failure of its test."""


class Shrinking:
    """The attempts to make one failure smaller, and the best so far."""

    def __init__(
        self,
        outcome: Outcome,
        scenario: Scenario,
        *,
        runs_max: int = RUNS_MAX,
        within_s: float = WITHIN_S,
        clock: Callable[[], float] = time.monotonic,
        notice: Callable[[Shrinking], None] | None = None,
    ) -> None:
        if outcome.ok:
            raise UsageError(f"seed {outcome.seed} holds: there is nothing to shrink", hint="shrink a run that failed")
        self.best = outcome
        self.runs = 0
        self._scenario = scenario
        self._runs_max = runs_max
        self._ends_at = clock() + within_s
        self._clock = clock
        self._notice = notice
        self._known: dict[str, bool] = {_key(outcome.plan): True}

    @property
    def is_over(self) -> bool:
        """Whether all the runs, or all the time, are used up."""
        return self.runs >= self._runs_max or self._clock() >= self._ends_at

    def fails(self, plan: Plan) -> bool:
        """Tell whether a plan violates the same; a plan that was not tried in time does not."""
        key = _key(plan)
        if key not in self._known:
            if self.is_over:
                return False
            self._known[key] = self._try(plan)
        return self._known[key]

    def _try(self, plan: Plan) -> bool:
        self.runs += 1
        outcome = run(self.best.seed, self._scenario, plan)
        if outcome.ok or outcome.violated != self.best.violated:
            return False
        if cost(outcome.plan) < cost(self.best.plan):
            self.best = outcome
            if self._notice is not None:
                self._notice(self)
        return True

    def _still_fails(self, plan: Plan) -> bool:
        fails = self.fails(plan)
        if _key(plan) not in self._known:
            raise _Over  # told that nothing fails any more, Hypothesis would go on trying for seconds
        return fails

    def search(self) -> None:
        """Let Hypothesis find and shrink a failing row of knobs. Raises `MissingExtraError`."""
        try:
            from hypothesis import HealthCheck, Phase, find, settings
            from hypothesis import strategies as st
            from hypothesis.errors import NoSuchExample
        except ModuleNotFoundError as error:
            raise MissingExtraError("shrinking needs hypothesis", hint="pip install 'prime-actors[testing]'") from error
        knobs = Knobs.of(self.best.plan, self._scenario.space)
        levels = [st.integers(0, _KEEP_MAX if knob.place[0] == "keep" else _LEVEL_MAX) for knob in knobs.knobs]
        chosen = settings(
            max_examples=_EXAMPLES_MAX,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        try:
            find(st.tuples(*levels).map(knobs.turned), self._still_fails, settings=chosen)
        except _Over:
            return
        except NoSuchExample:  # only the plan itself fails: what is left is to turn one knob at a time
            return

    def walk(self) -> None:
        """Turn the knobs of the best plan down, one at a time, until none goes lower."""
        while not self.is_over:
            before = cost(self.best.plan)
            knobs = Knobs.of(self.best.plan, self._scenario.space)
            self._walk_once(knobs)
            if cost(self.best.plan) >= before:
                return

    def _walk_once(self, knobs: Knobs) -> None:
        levels = list(knobs.tops)
        for index, top in enumerate(knobs.tops):
            for level in range(top):
                lower = [*levels[:index], level, *levels[index + 1 :]]
                if self.fails(knobs.turned(lower)):
                    levels = lower
                    break


def shrink(
    outcome: Outcome,
    scenario: Scenario,
    *,
    runs_max: int = RUNS_MAX,
    within_s: float = WITHIN_S,
) -> Outcome:
    """Return the smallest run found that violates the same as a failed one, under the same seed and a smaller plan.

    It ends after `runs_max` runs or `within_s` real seconds, with the best by then. Not inside a Trio run. Raises
    `UsageError` for a run that did not fail, `MissingExtraError` without Hypothesis. `as_test` makes a test of the result.
    """
    shrinking = Shrinking(outcome, scenario, runs_max=runs_max, within_s=within_s)
    shrinking.search()
    shrinking.walk()
    return shrinking.best


def _key(plan: Plan) -> str:
    return json.dumps(to_plain(plan), sort_keys=True)
