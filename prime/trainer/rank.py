"""The node's side of a rank worker: a process actor behind plain calls."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import trio

from prime.actor.restart import Restart
from prime.errors import (
    ActorCrashedError,
    ConfigError,
    DataError,
    DeadlineError,
    NoSuchActorError,
    PrimeError,
    RunFailedError,
)
from prime.trainer import pipe
from prime.trainer.codec import Vector
from prime.trainer.metadata import ModelMetadata, TrainingConfig
from prime.trainer.threads import threads_of
from prime.trainer.worker import Question, Worker

if TYPE_CHECKING:
    from prime.actor.ref import Ref
    from prime.actor.system import System
    from prime.wire import Ask

SETUP_S = 180.0
"""Importing torch, building the model and reading the data, on a busy machine."""
ANSWER_S = 600.0
SILENT_S = 30.0
"""A worker that gives no heartbeat for this long is stuck, and killed; an import may hold its process for a while."""
END_S = 1.0
SUPERVISOR = "worker"
_HINT_RESTART = "its supervisor starts a new one"

T = TypeVar("T")


class RankWorker:
    """A rank worker that is set up. It answers one question after the other.

    Every method raises `RunFailedError` when the process died (with its status and last output) or is stuck, and the
    error that the worker itself met (`ConfigError`, `DataError`, otherwise `RunFailedError` with its traceback).
    Each may be cancelled and leaves the worker usable.
    """

    def __init__(self, ref: Ref[Question | pipe.Halt]) -> None:
        self._ref = ref
        self._built: pipe.Built | None = None
        self._over: PrimeError | None = None

    @property
    def metadata(self) -> ModelMetadata:
        """Describe the model."""
        return self._known().metadata

    @property
    def elements(self) -> int:
        """Return how many parameters the model has."""
        return self._known().metadata.parameters

    @property
    def layout_hash(self) -> str:
        """Return the hash of how the model's vector is cut into tensors."""
        return self._known().metadata.layout_hash

    @property
    def unigram(self) -> float | None:
        """Return the data's trivial baseline (nats a character for text), if it has one."""
        return self._known().unigram

    @property
    def samples(self) -> int:
        """Return how many samples the worker trains on: one pass over its data."""
        return self._known().samples

    @property
    def process_id(self) -> int:
        """Return the worker's process id."""
        return self._known().process

    async def describe(self) -> None:
        """Learn what the worker built; `open_rank` calls it."""
        self._built = await self._ask(pipe.Describe())

    async def initial(self) -> Vector:
        """Return the parameters as the seed made them (float32[D], read-only)."""
        return _vector(await self._ask(pipe.GetInitial()))

    async def load(self, theta: Vector) -> None:
        """Set parameters and snapshot (float32[D]); the inner optimiser keeps its state."""
        await self._ask(pipe.Load(_payload(theta)))

    async def rebase(self, theta: Vector, start: int = 0) -> None:
        """Move onto new shared parameters, from `start` on: local <- theta + (local - snapshot), snapshot <- theta."""
        await self._ask(pipe.Rebase(_payload(theta), start))

    async def snapshot(self, cut: slice) -> Vector:
        """Return that slice of the local parameters (float32, read-only); the worker remembers it."""
        return _vector(await self._ask(pipe.TakeSnapshot(cut.start, cut.stop)))

    async def forget_snapshot(self, cut: slice) -> None:
        """Count the next delta of that slice from the shared parameters again, not from the last snapshot."""
        await self._ask(pipe.ForgetSnapshot(cut.start, cut.stop))

    async def train(self, steps: int) -> pipe.Trained:
        """Make inner steps. Cancelled, the worker stops after the step in hand."""
        try:
            return await self._ask(pipe.Train(steps))
        except trio.Cancelled:
            self._ref.tell_nowait(pipe.Halt())
            raise

    async def evaluate(self, theta: Vector | None, batches: int) -> float:
        """Return the mean loss of that many held-out batches, with `theta` or (None) with the local parameters."""
        return await self._ask(pipe.Evaluate(None if theta is None else _payload(theta), batches))

    async def write(self, prompt: str, length: int, seed: int) -> str:
        """Let the model continue a prompt; empty if it cannot write."""
        return await self._ask(pipe.Write(prompt, length, seed))

    def hear_of_end(self, reason: str) -> None:
        """Keep why the worker ended; `open_rank` watches it."""
        self._over = self._over or RunFailedError(f"the worker has ended: {reason}", hint=_HINT_RESTART)

    def _known(self) -> pipe.Built:
        if self._built is None:
            raise RunFailedError("the worker is not set up yet", hint="send it its task first")
        return self._built

    async def _ask(self, question: Ask[T]) -> T:
        if self._over is not None:
            raise _again(self._over)
        try:
            return await self._ref.ask(question, timeout=ANSWER_S)  # type: ignore[arg-type] # each is in `Question`
        except (ActorCrashedError, NoSuchActorError) as error:
            raise RunFailedError(f"the worker failed: {error}", hint=_HINT_RESTART) from None
        except DeadlineError:
            self._over = RunFailedError(
                f"the worker did not answer {type(question).__name__} within {ANSWER_S:g} s", hint=_HINT_RESTART
            )
            raise _again(self._over) from None


@contextlib.asynccontextmanager
async def open_rank(system: System, config: TrainingConfig, rank: int) -> AsyncIterator[RankWorker]:
    """Start a rank worker at `/worker/rank`, set up; it is ended when the block is left, whatever happened.

    `rank` chooses the data: workers of one run have different ones. Raises `ConfigError` or `DataError` where the model
    or the data cannot be had, `RunFailedError` otherwise.
    """
    async with system.supervisor(SUPERVISOR, restart=Restart(max=0)) as sup:
        try:
            ref = await sup.spawn_process(
                Worker,
                "rank",
                kind="temporary",
                shutdown=END_S,
                args=(pipe.Setup(config, rank),),
                starting=SETUP_S,
                silent=SILENT_S,
                output="facts",
                environment=threads_of(config.threads),
            )
        except ActorCrashedError as error:
            raise _cause_of(error) from None
        worker = RankWorker(ref)
        system.watch(ref, worker.hear_of_end)
        await worker.describe()
        yield worker


def _cause_of(error: ActorCrashedError) -> PrimeError:
    """Return why a worker did not start."""
    cause = error.__cause__
    if isinstance(cause, ConfigError | DataError | RunFailedError):
        return _again(cause)
    return RunFailedError(f"the worker failed: {error}", hint=_HINT_RESTART)


def _again(error: PrimeError) -> PrimeError:
    """Return a new exception with the same words: one object raised twice would gather both tracebacks."""
    return type(error)(str(error), hint=error.hint)


def _payload(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, "<f4").view(np.uint8).data


def _vector(answer: pipe.Vector) -> Vector:
    """Return the vector where it lies: a copy is made only where it lies askew or the machine is big-endian."""
    vector = np.require(np.frombuffer(answer.data, "<f4").astype(np.float32, copy=False), requirements="A")
    vector.setflags(write=False)  # always, not only where it is the frame's own memory
    return vector
