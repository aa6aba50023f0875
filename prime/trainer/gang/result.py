"""What came of a run, put together fact by fact. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from prime.trainer import facts
from prime.trainer.facts import Fact

_PARTS: Final = ("data_s", "compute_s", "reduce_s", "optimiser_s")


@attrs.frozen(kw_only=True)
class Result:
    """What came of a run. Losses are in the model's own unit; all times are seconds of this call, not of earlier ones."""

    outcome: facts.Outcome
    step: int
    """The last step whose state is kept."""
    loss: float | None
    """That of the last step; None where none was made."""
    held_out: float | None
    """The newest loss on held-out data."""
    folder: Path
    checkpoint_step: int | None
    """The newest whole checkpoint; None where there is none."""
    restarts: int
    elapsed_s: float
    start_s: float
    """Until the first generation had begun."""
    recovery_s: float
    """From losses of ranks until their next generations had begun."""
    data_s: float
    compute_s: float
    reduce_s: float
    optimiser_s: float
    evaluation_s: float
    checkpoint_s: float
    """How long training stood still to save."""
    bytes_sent: int
    """What the reduction of gradients sent, over all ranks."""
    bytes_exact: int
    """What the same sends in float32."""


@attrs.define
class Tally:
    """What a run comes to, fact by fact."""

    began_s: float = 0.0
    loss: float | None = None
    held_out: float | None = None
    checkpoint_step: int | None = None
    start_s: float | None = None
    losses: int = 0
    recovery_s: float = 0.0
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    bytes_sent: int = 0
    bytes_exact: int = 0
    parts: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys(_PARTS, 0.0))
    ended: facts.RunEnded | None = None

    def take(self, fact: Fact, now: float) -> None:
        """Take the next fact, at `now` (seconds)."""
        match fact:
            case facts.RunBegan():
                self.checkpoint_step = fact.resumed_step or None
            case facts.GenerationBegan():
                self.start_s = now - self.began_s if self.start_s is None else self.start_s
                self.recovery_s += fact.recovery_s or 0.0
            case facts.RankLost():
                self.losses += 1
            case facts.StepMade():
                self._take_step(fact)
            case facts.Evaluated():
                self.held_out = fact.loss
                self.evaluation_s += fact.seconds
            case facts.CheckpointSaved():
                self.checkpoint_step = fact.step
                self.checkpoint_s += fact.blocked_s
            case facts.RunEnded():
                self.ended = fact
            case _:
                pass

    def _take_step(self, fact: facts.StepMade) -> None:
        self.loss = fact.loss
        self.bytes_sent += fact.bytes_sent
        self.bytes_exact += fact.bytes_exact
        for part in _PARTS:
            self.parts[part] += getattr(fact, part)

    def result(self, folder: Path) -> Result:
        """Return the result, once the run has ended."""
        ended = self.ended
        assert ended is not None  # noqa: S101 - the last fact of every run
        return Result(
            outcome=ended.outcome,
            step=ended.step,
            loss=ended.loss,
            held_out=ended.held_out,
            folder=folder,
            checkpoint_step=ended.checkpoint_step,
            restarts=ended.restarts,
            elapsed_s=ended.elapsed_s,
            start_s=self.start_s or 0.0,
            recovery_s=self.recovery_s,
            evaluation_s=self.evaluation_s,
            checkpoint_s=self.checkpoint_s,
            bytes_sent=self.bytes_sent,
            bytes_exact=self.bytes_exact,
            **self.parts,
        )
