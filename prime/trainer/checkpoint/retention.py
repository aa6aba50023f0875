"""Which checkpoints stay and which go (pure): the last N, those of the last hours, and milestones."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from prime.errors import ConfigError

HOUR_S = 3600


@attrs.frozen
class Retention:
    """A checkpoint stays if any of the three rules holds it; the newest whole one always stays.

    `keep_last`: so many of the newest steps (at least 1). `keep_hours`: all that were saved within so many hours; 0
    for no such rule. `milestone_steps`: every step that is a multiple of it, for ever; 0 for no such rule.
    """

    keep_last: int = 3
    keep_hours: float = 0.0
    milestone_steps: int = 0

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.keep_last < 1:
            raise ConfigError(
                f"keep_last is {self.keep_last}: at least one checkpoint must stay",
                hint="set checkpoint.keep_last to 1 or more",
            )
        if not 0 <= self.keep_hours < float("inf") or self.milestone_steps < 0:
            raise ConfigError(
                f"keep_hours is {self.keep_hours} and milestone_steps {self.milestone_steps}: neither may be negative",
                hint="0 turns such a rule off",
            )


@attrs.frozen
class Saved:
    """A whole checkpoint as the rules see it: its step, and when it was saved (seconds since 1970)."""

    step: int
    saved_at_s: float


@attrs.frozen
class Keep:
    """This checkpoint stays, because of that."""

    step: int
    reason: str


@attrs.frozen
class Delete:
    """This checkpoint goes: no rule holds it."""

    step: int


def decide(saved: Iterable[Saved], retention: Retention, now_s: float) -> list[Keep | Delete]:
    """Return one command for each checkpoint, newest first, so that a crash between them loses the oldest only."""
    newest_first = sorted(saved, key=lambda one: one.step, reverse=True)
    return [_decision(place, one, retention, now_s) for place, one in enumerate(newest_first)]


def _decision(place: int, one: Saved, retention: Retention, now_s: float) -> Keep | Delete:
    if place < retention.keep_last:
        return Keep(one.step, f"one of the last {retention.keep_last}")
    if retention.keep_hours and now_s - one.saved_at_s <= retention.keep_hours * HOUR_S:
        return Keep(one.step, f"saved within {retention.keep_hours:g} h")
    if retention.milestone_steps and one.step % retention.milestone_steps == 0:
        return Keep(one.step, f"a multiple of {retention.milestone_steps}")
    return Delete(one.step)
