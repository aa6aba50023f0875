"""This node's own replica of the model: its worker, driven through inner steps, and how far it has come.

What it learns is away from the shared parameters until a round takes it; those steps are kept when the shared ones move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import trio

from prime.errors import ConfigError, RunFailedError
from prime.trainer.outer.fragments import Fragments
from prime.trainer.outer.pace import Pace
from prime.trainer.swarm.plans import Contribute

if TYPE_CHECKING:
    from prime.trainer.codec import Vector
    from prime.trainer.metadata import TrainingConfig
    from prime.trainer.rank import RankWorker
    from prime.trainer.round.view import Value
    from prime.trainer.swarm.progress import Progress
    from prime.trainer.swarm.state import OuterState

BATCHES_WHOLE = 32
"""Held-out batches of the first and the last measurement."""
BATCHES_ROUND = 6
"""Held-out batches after a round, measured by one member alone."""
MEASURE_STEPS = 20
"""Inner steps between two such measurements, where rounds come oftener."""
SAMPLE_PROMPT = "def "
SAMPLE_LENGTH = 320


class LocalReplica:
    """One member's replica. Raises `ConfigError` where the settings do not fit the model or the data."""

    def __init__(self, worker: RankWorker, config: TrainingConfig, progress: Progress) -> None:
        self._worker = worker
        self._config = config
        self._progress = progress
        self._losses: list[float] = []
        self.fragments = Fragments(worker.elements, config.fragments)
        progress.unigram, progress.elements, progress.metadata = worker.unigram, worker.elements, worker.metadata
        progress.inner_steps = inner_steps = inner_steps_of(config, worker.samples)
        self.pace = Pace.of(self.fragments, inner_steps, config.overlap_steps, waits=config.participation < 1)

    # ---------------------------------------------------------------------------------------------- inner steps

    async def train(self, steps: int, round_: int) -> None:
        """Make inner steps towards a round. Raises `RunFailedError` where the loss is no number any more."""
        self._progress.phase = "training"
        done = await self._worker.train(steps)
        self.pace.made += done.steps
        self._losses.append(done.loss)
        self._progress.step = done.step
        self._progress.round_step = self.pace.steps(round_)
        self._progress.trained(done.steps, done.tokens, done.seconds)
        if not np.isfinite(done.loss):
            raise RunFailedError(
                f"the loss is {done.loss} at step {done.step}",
                hint="lower train.learning_rate or train.clip_norm, then start again",
            )

    def spend_losses(self) -> float | None:
        """Return the mean loss of the steps since this was last asked, if there were any."""
        losses, self._losses = self._losses, []
        return sum(losses) / len(losses) if losses else None

    # --------------------------------------------------------------------------------------- against what is shared

    async def contribution(self, round_: int, shared: OuterState) -> Contribute:
        """Return what was learnt for a round, from a snapshot that the worker remembers."""
        cut = self.fragments.cut_of(round_)
        local = await self._worker.snapshot(cut)
        tokens = self.pace.steps(round_) * self._config.batch_size * self._config.context
        self.pace.contribute(round_)
        delta = await trio.to_thread.run_sync(np.subtract, shared.theta[cut], local)
        return Contribute(round_, delta, float(tokens))

    async def begin(self, theta: Vector) -> None:
        """Begin from shared parameters beyond which nothing is learnt yet."""
        await self._worker.load(theta)
        self.pace.restart()

    async def rebase(self, theta: Vector, cut: slice | None = None) -> None:
        """Move a slice of the replica, or all, onto new shared parameters; the steps made since the snapshot stay."""
        moved = slice(0, theta.size) if cut is None else cut
        await self._worker.rebase(theta[moved], moved.start)
        self.pace.settle()

    async def abort(self, round_: int) -> None:
        """Count what was contributed to an aborted round into the next contribution: else a commit would drop it."""
        if self.pace.abort(round_):
            await self._worker.forget_snapshot(self.fragments.cut_of(round_))

    # ------------------------------------------------------------------------------------------------- measured

    async def measure_first(self) -> Vector:
        """Return the parameters as the seed made them, once they are measured."""
        theta = await self._worker.initial()
        self._progress.loss_first = await self._worker.evaluate(theta, BATCHES_WHOLE)
        self._progress.text_first = await self._write()
        return theta

    async def measure_round(self, value: Value, theta: Vector, own: str) -> float | None:
        """Return the held-out loss after a round where it is the turn of this member, `own`; None where it is not."""
        if value.last:
            return await self._worker.evaluate(theta, BATCHES_WHOLE)
        if self._is_measured(value.round) and value.contributors()[0] == own:
            return await self._worker.evaluate(theta, BATCHES_ROUND)
        return None

    async def measure_last(self, theta: Vector, loss: float | None = None) -> float:
        """Stand on the run's last parameters and return their held-out `loss`, measured here unless it is known."""
        found = await self._worker.evaluate(theta, BATCHES_WHOLE) if loss is None else loss
        await self._worker.load(theta)
        self._progress.text_last = await self._write()
        self._progress.loss_last = found
        return found

    def _is_measured(self, round_: int) -> bool:
        return round_ % -(-MEASURE_STEPS // self.fragments.steps_of(round_, self.pace.inner_steps)) == 0

    async def _write(self) -> str:
        return await self._worker.write(SAMPLE_PROMPT, SAMPLE_LENGTH, self._config.seed)


def inner_steps_of(config: TrainingConfig, samples: int) -> int:
    """Return H: the steps that are set, or those of so many passes over a node's samples. Raises `ConfigError`."""
    if not config.local_epochs:
        return config.inner_steps
    steps = config.local_epochs * -(-samples // config.batch_size)
    if steps < config.fragments:
        raise ConfigError(
            f"{config.local_epochs} passes over {samples} samples are {steps} steps, "
            f"too few for {config.fragments} fragments",
            hint="lower train.fragments or train.batch_size, or raise train.local_epochs",
        )
    return steps
