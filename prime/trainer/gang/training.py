"""What a rank does in torch's thread: meet the others, go on from a checkpoint, make steps, save, and come back.

All ranks of a generation do the same in the same order; rank 0 says what came of it. Errors are said, not raised.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from prime.errors import CorruptedError, PrimeError
from prime.trainer.checkpoint import About, Checkpoints, Retention
from prime.trainer.checkpoint.names import CHECKPOINTS
from prime.trainer.checkpoint.saving import Saving
from prime.trainer.gang.brake import Brake
from prime.trainer.gang.interfaces import INTERFACE
from prime.trainer.gang.messages import Item, Kept, Made, Measured, Placed, TakeRank
from prime.trainer.gang.trouble import trouble_of, words_of
from prime.trainer.job import Job
from prime.trainer.loop.learner import Learner, Prepared, device_of, prepare
from prime.trainer.loop.place import Place, StepReport

GROUP_TIMEOUT = timedelta(days=7)
"""The supervisor decides when a rank is lost, not a collective: a timeout of one would only hide which rank it was."""
MEETING_TIMEOUT = timedelta(seconds=60)
"""How long rank 0 may take until it listens: it has been given its rank in the same step as the others."""
TCP = "tcp://"
_PEER_WORDS = ("closed by peer", "reset by peer", "broken pipe", "connection refused", "gloo", "nccl")


class Training:
    """One process's part in a run, over all generations. `say` takes news, and may hold this thread up."""

    def __init__(self, job: Job, folder: Path, world: int, say: Callable[[Item], None]) -> None:
        self._job = job
        self._world = world
        self._folder = folder / CHECKPOINTS
        self._say_item = say
        self._prepared: Prepared | None = None
        self._learner: Learner | None = None
        self._checkpoints: Checkpoints | None = None
        self._saving: Saving | None = None
        self._rank = TakeRank(0, 0, 1, -1, "")
        self._loss: float | None = None
        self._measured_step = self._saved_step = -1
        self.step = 0
        """Steps made; the event loop's thread reads it."""
        self.work = 0
        """What was done in this generation: grows with everything that shows progress."""

    def prepare(self) -> None:
        """Leave the generation in hand, if any, and do whatever needs no rank."""
        self._part()
        self._prepared = prepare(self._job, self._world)

    def run(self, rank: TakeRank, brake: Brake) -> None:
        """Train as a rank until the run is done, or halts, or fails."""
        self._rank, self.step, self.work = rank, max(rank.step, 0), 0
        self._measured_step, self._saved_step = -1, rank.step
        try:
            learner = self._meet()
            self._resume(learner)
            self._go(learner, brake)
        except BaseException as error:  # noqa: BLE001 - the border to the user's model: whatever it raises is news
            loading = isinstance(error, CorruptedError)
            self._say(trouble=trouble_of(error, of_peer=is_of_peer(error), loading=loading))

    # ------------------------------------------------------------------------------------------------ begin and end

    def _meet(self) -> Learner:
        rank = self._rank
        place = Place(rank=rank.rank, local_rank=rank.local_rank, world=rank.world)
        if rank.world > 1:
            cuda = device_of(self._job, place).type == "cuda"
            if rank.interface:
                os.environ.setdefault(INTERFACE, rank.interface)
            store = dist.PrefixStore(f"generation-{rank.generation}", _store(rank))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=store,
                rank=rank.rank,
                world_size=rank.world,
                timeout=GROUP_TIMEOUT,
            )
        prepared, self._prepared = self._prepared, None
        self._learner = Learner(self._job, place, prepared)
        self.work += 1
        return self._learner

    def _resume(self, learner: Learner) -> None:
        rules, step = self._job.checkpoint, self._rank.step
        retention = Retention(
            keep_last=rules.keep_last, keep_hours=rules.keep_hours, milestone_steps=rules.milestone_steps
        )
        self._checkpoints = Checkpoints(self._folder, retention)
        if step >= 0:
            state = learner.state()
            self._checkpoints.load(step, state)
            learner.load(state)
        else:
            learner.start()
        self.step = learner.step
        self._say(placed=self._placed(learner))

    def _placed(self, learner: Learner) -> Placed:
        backend = dist.get_backend() if self._rank.world > 1 else ""
        return Placed(
            learner.strategy,
            backend,
            str(learner.device),
            learner.codec_engine,
            learner.parameters,
            learner.tokens_per_sample,
            learner.baseline,
        )

    def _part(self) -> None:
        """Forget the generation: its model, its group and its files."""
        self._learner = self._saving = None
        checkpoints, self._checkpoints = self._checkpoints, None
        if checkpoints is not None:
            with contextlib.suppress(PrimeError):  # a save in flight when a rank went away
                checkpoints.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        gc.collect()

    # ------------------------------------------------------------------------------------------------ steps

    def _go(self, learner: Learner, brake: Brake) -> None:
        job = self._job
        while learner.step < job.steps and brake.begin(learner.step + 1):
            self._make_step(learner)
            if _is_due(learner.step, job.evaluation.every_steps):
                self._measure(learner)
            if _is_due(learner.step, job.checkpoint.every_steps) and learner.step < job.steps:
                self._save(learner, wait=False)
            self._tell_of_saving()
        if brake.is_released:
            return
        if self._measured_step != learner.step:
            self._measure(learner)
        self._save(learner, wait=True)
        self._say(finished=True)

    def _make_step(self, learner: Learner) -> None:
        report = learner.train_step()
        self.step = report.step
        self.work += 1
        self._loss = report.loss
        if self._rank.rank == 0:
            self._say(made=_made(report))

    def _measure(self, learner: Learner) -> None:
        began_s = time.monotonic()
        loss = learner.evaluate(self._job.evaluation.batches)
        self.work += 1
        self._measured_step = learner.step
        if self._rank.rank == 0:
            self._say(measured=Measured(learner.step, loss, time.monotonic() - began_s, dict(learner.measures)))

    def _save(self, learner: Learner, *, wait: bool) -> None:
        checkpoints = self._checkpoints
        assert checkpoints is not None  # noqa: S101 - a pair with `_resume`
        self._settle(checkpoints)
        if learner.step == self._saved_step:
            return  # it halts where it was saved just now
        self._saved_step = learner.step
        about = About(
            job=self._job.tables(), loss=self._loss, dataset=learner.fingerprint, generation=self._rank.generation
        )
        self._saving = checkpoints.save(learner.step, learner.state(), about, wait=wait)
        self.work += 1
        self._tell_of_saving()

    def _settle(self, checkpoints: Checkpoints) -> None:
        """Wait for a save in flight, and tell of it before the next begins."""
        checkpoints.settle()
        self._tell_of_saving()

    def _tell_of_saving(self) -> None:
        saving = self._saving
        if saving is None or not saving.is_over:
            return
        self._saving = None
        saving.result()
        if self._rank.rank == 0:
            kept = Kept(saving.step, str(saving.path), saving.size_bytes, saving.seconds, saving.blocked_s)
            self._say(kept=kept)

    def _say(self, **what: Any) -> None:
        self._say_item(Item(self._rank.generation, self.step, **what))


def _store(rank: TakeRank) -> dist.Store:
    """Return where the ranks of a generation meet: a file of their machine, or a port of rank 0's."""
    if not rank.meeting.startswith(TCP):
        return dist.FileStore(rank.meeting, rank.world)
    host, _, port = rank.meeting.removeprefix(TCP).rpartition(":")
    return dist.TCPStore(
        host, int(port), rank.world, is_master=rank.rank == 0, timeout=MEETING_TIMEOUT, wait_for_workers=False
    )


def is_of_peer(error: BaseException | None) -> bool:
    """Tell whether an error says only that another rank went away: then that rank's end is the cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise error from error` is a ring
        seen.add(id(error))
        if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
            return True  # where the ranks meet is a rank's, too
        text = words_of(error).lower()
        if isinstance(error, dist.DistError | RuntimeError) and any(word in text for word in _PEER_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0


def _made(report: StepReport) -> Made:
    return Made(
        report.step,
        report.loss,
        report.learning_rate,
        report.samples,
        report.step_s,
        report.data_s,
        report.compute_s,
        report.reduce_s,
        report.optimiser_s,
        report.grad_norm,
        report.bytes_sent,
        report.bytes_exact,
    )
