"""The course of a run: what its facts add up to, for the live view and the report. Pure; times are given.

A run that lost a rank, or was resumed, makes some steps again: curves go back with it, while time and bytes count all that
was spent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import attrs

from prime.trainer.facts import (
    CheckpointSaved,
    Evaluated,
    Fact,
    GenerationBegan,
    RankLost,
    RankStarted,
    RunBegan,
    RunEnded,
    RunStopping,
    StepMade,
    TrackerDropped,
)
from prime.trainer.track.curve import Curve

PACE_STEPS: Final = 50
"""The pace is that of so many last steps."""
LOSSES_KEPT: Final = 1000
"""Lost ranks that are listed; those after are only counted."""
CHECKPOINTS_KEPT: Final = 1000

Phase = Literal["starting", "training", "recovering", "stopping", "done", "stopped", "failed"]


@attrs.define
class RankSeen:
    """One process of the gang, as last heard of."""

    rank: int
    process: int = 0
    host: str = ""
    device: str = ""
    """cpu or cuda; empty until it has joined."""
    state: Literal["starting", "ready", "training", "lost"] = "starting"
    lost: int = 0
    """How often this rank was lost."""


@attrs.define
class Split:
    """Where the time of a run went, in seconds."""

    data_s: float = 0.0
    compute_s: float = 0.0
    reduce_s: float = 0.0
    optimiser_s: float = 0.0
    checkpoint_s: float = 0.0
    evaluation_s: float = 0.0
    start_s: float = 0.0
    """From a start of the run to its first generation."""
    recovery_s: float = 0.0
    """From the loss of a rank to the next generation."""

    def parts(self, elapsed_s: float) -> dict[str, float]:
        """Return each part by name, and what is left of the whole as `other`."""
        parts = {name.removesuffix("_s"): value for name, value in attrs.asdict(self).items()}
        return {**parts, "other": max(0.0, elapsed_s - sum(parts.values()))}


@attrs.define
class Course:
    """The run so far. `take` is its one way in."""

    began: RunBegan | None = None
    generation: GenerationBegan | None = None
    ended: RunEnded | None = None
    stopping: RunStopping | None = None
    phase: Phase = "starting"
    step: int = 0
    last: StepMade | None = None
    sessions: int = 0
    """How often the run was started: once, and again each time it was resumed."""
    restarts: int = 0
    loss: Curve = attrs.field(factory=Curve)
    learning_rate: Curve = attrs.field(factory=Curve)
    grad_norm: Curve = attrs.field(factory=Curve)
    samples_per_s: Curve = attrs.field(factory=Curve)
    held_out: Curve = attrs.field(factory=Curve)
    measures: Mapping[str, float] = attrs.field(factory=dict)
    """What the model measured beside its loss when it was last evaluated, such as its accuracy."""
    ranks: dict[int, RankSeen] = attrs.field(factory=dict)
    spares: set[int] = attrs.field(factory=set)
    """Process ids of the warm spares."""
    lost: list[RankLost] = attrs.field(factory=list)
    resumed: list[int] = attrs.field(factory=list)
    """The steps from which later sessions went on."""
    checkpoints: list[CheckpointSaved] = attrs.field(factory=list)
    checkpoints_saved: int = 0
    dropped: list[TrackerDropped] = attrs.field(factory=list)
    split: Split = attrs.field(factory=Split)
    steps_made: int = 0
    """All that were made, those that were made again too."""
    samples: int = 0
    bytes_sent: int = 0
    bytes_exact: int = 0
    checkpoint_at_s: float | None = None
    elapsed_before_s: float = 0.0
    """What earlier sessions took."""
    _began_at_s: float = attrs.field(default=0.0, init=False)
    _now_s: float = attrs.field(default=0.0, init=False)
    _lost_at_s: float | None = attrs.field(default=None, init=False)
    _pace: deque[tuple[float, int]] = attrs.field(factory=lambda: deque(maxlen=PACE_STEPS), init=False)

    def take(self, fact: Fact, at_s: float) -> None:
        """Add one fact that came at `at_s`, in seconds since any point that stays the same."""
        handler = _HANDLERS.get(type(fact))
        if handler is None:
            return
        if not isinstance(fact, RunBegan):
            self._now_s = max(self._now_s, at_s)
        handler(self, fact, at_s)

    # --------------------------------------------------------------------------------------------- what they ask

    def elapsed_s(self, now_s: float | None = None) -> float:
        """Return the seconds that all sessions took, up to the last fact or to now."""
        if self.began is None:
            return 0.0
        until_s = self._now_s if now_s is None or self.ended is not None else now_s
        return self.elapsed_before_s + max(0.0, until_s - self._began_at_s)

    def step_every_s(self) -> float | None:
        """Return the seconds from step to step lately, with all that comes between; None before the third step."""
        if len(self._pace) < 3:
            return None
        (from_s, first), (to_s, last) = self._pace[0], self._pace[-1]
        return max(to_s - from_s, 1e-9) / (last - first) if last > first else None

    def eta_s(self) -> float | None:
        """Estimate the seconds that are left, at the pace of the last steps."""
        every_s = self.step_every_s()
        if every_s is None or self.began is None or self.phase != "training":
            return None
        return every_s * max(0, self.began.steps - self.step)

    def rate(self) -> tuple[float, str] | None:
        """Return samples a second lately, or tokens where a sample is a sequence, and the unit."""
        every_s = self.step_every_s()
        if every_s is None or self.last is None:
            return None
        tokens = self.generation.tokens_per_sample if self.generation is not None else 0
        return self.last.samples * (tokens or 1) / every_s, "tokens/s" if tokens else "samples/s"

    def ratio(self) -> float | None:
        """Return how many times fewer bytes were sent than in float32; None where none were."""
        return self.bytes_exact / self.bytes_sent if self.bytes_sent and self.bytes_exact else None

    @property
    def newest_checkpoint(self) -> CheckpointSaved | None:
        """Return the newest whole checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    # ------------------------------------------------------------------------------------------------ what comes

    def _run_began(self, fact: RunBegan, at_s: float) -> None:
        if self.began is not None:
            self.elapsed_before_s = self.elapsed_s()
            self.resumed.append(fact.resumed_step)
        self.began, self.ended, self.stopping, self.phase = fact, None, None, "starting"
        self._began_at_s = self._now_s = at_s
        self._lost_at_s = None
        self.sessions += 1
        self.ranks = {rank: RankSeen(rank) for rank in range(fact.world)}
        self.spares.clear()
        self._rewind(fact.resumed_step)

    def _rank_started(self, fact: RankStarted, _at_s: float) -> None:
        if fact.rank < 0:
            self.spares.add(fact.process)
            return
        self.spares.discard(fact.process)  # a spare that stands in
        seen = self.ranks.setdefault(fact.rank, RankSeen(fact.rank))
        seen.process, seen.host, seen.state = fact.process, fact.host, "ready"

    def _generation_began(self, fact: GenerationBegan, at_s: float) -> None:
        if self._lost_at_s is not None:
            self.split.recovery_s += at_s - self._lost_at_s if fact.recovery_s is None else fact.recovery_s
            self.restarts += 1
        elif self.phase == "starting":
            self.split.start_s += at_s - self._began_at_s
        self._lost_at_s = None
        self.generation = fact
        self.phase = "stopping" if self.stopping is not None else "training"
        for rank in [rank for rank in self.ranks if rank >= fact.world]:
            del self.ranks[rank]
        for rank in range(fact.world):
            seen = self.ranks.setdefault(rank, RankSeen(rank))
            seen.device, seen.state = fact.device.partition(":")[0], "training"
        self._rewind(fact.step)

    def _rewind(self, step: int) -> None:
        self.step = step
        self._pace.clear()
        for curve in (self.loss, self.learning_rate, self.grad_norm, self.samples_per_s, self.held_out):
            curve.rewind(step)

    def _step_made(self, fact: StepMade, at_s: float) -> None:
        self.step, self.last = fact.step, fact
        self.steps_made += 1
        self.samples += fact.samples
        self.bytes_sent += fact.bytes_sent
        self.bytes_exact += fact.bytes_exact
        self._pace.append((at_s, fact.step))
        for name in ("data_s", "compute_s", "reduce_s", "optimiser_s"):
            setattr(self.split, name, getattr(self.split, name) + getattr(fact, name))
        self.loss.add(fact.step, fact.loss)
        self.learning_rate.add(fact.step, fact.learning_rate)
        self.grad_norm.add(fact.step, fact.grad_norm)
        self.samples_per_s.add(fact.step, fact.samples / fact.step_s if fact.step_s > 0 else None)

    def _evaluated(self, fact: Evaluated, _at_s: float) -> None:
        self.held_out.add(fact.step, fact.loss)
        self.measures = fact.measures
        self.split.evaluation_s += fact.seconds

    def _checkpoint_saved(self, fact: CheckpointSaved, at_s: float) -> None:
        self.checkpoints_saved += 1
        self.checkpoints = [*self.checkpoints[-CHECKPOINTS_KEPT + 1 :], fact]
        self.checkpoint_at_s = at_s
        self.split.checkpoint_s += fact.blocked_s

    def _rank_lost(self, fact: RankLost, at_s: float) -> None:
        self.lost = [*self.lost[-LOSSES_KEPT + 1 :], fact]
        self._lost_at_s = at_s if self._lost_at_s is None else self._lost_at_s
        self.phase = "recovering"
        for seen in self.ranks.values():
            seen.state = "lost" if seen.state == "lost" else "starting"  # all of them start again
        seen = self.ranks.setdefault(fact.rank, RankSeen(fact.rank))
        seen.state, seen.lost = "lost", seen.lost + 1

    def _run_stopping(self, fact: RunStopping, _at_s: float) -> None:
        self.stopping, self.phase = fact, "stopping"

    def _tracker_dropped(self, fact: TrackerDropped, _at_s: float) -> None:
        self.dropped.append(fact)

    def _run_ended(self, fact: RunEnded, _at_s: float) -> None:
        self.ended, self.phase = fact, fact.outcome


_HANDLERS: Final[Mapping[type, Callable[[Course, Any, float], None]]] = {
    RunBegan: Course._run_began,  # noqa: SLF001 - the class's own table
    RankStarted: Course._rank_started,  # noqa: SLF001
    GenerationBegan: Course._generation_began,  # noqa: SLF001
    StepMade: Course._step_made,  # noqa: SLF001
    Evaluated: Course._evaluated,  # noqa: SLF001
    CheckpointSaved: Course._checkpoint_saved,  # noqa: SLF001
    RankLost: Course._rank_lost,  # noqa: SLF001
    RunStopping: Course._run_stopping,  # noqa: SLF001
    TrackerDropped: Course._tracker_dropped,  # noqa: SLF001
    RunEnded: Course._run_ended,  # noqa: SLF001
}
