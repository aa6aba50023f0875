"""The rank worker: the actor around torch. `open_rank` (`rank.py`) starts it in a child process.

The event loop keeps the process's main thread and torch one thread beside it, because a blocked torch call cannot be
cancelled: the worker gives signs of life whatever torch does, and when it is stopped the process goes without waiting.
Torch is imported in its thread.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import trio

from prime.actor import Actor, on
from prime.errors import PrimeError, RunFailedError
from prime.trainer import pipe
from prime.trainer.codec import Vector

if TYPE_CHECKING:
    from prime.actor.slots import Later
    from prime.trainer.replica import Replica

TEXT_MAX = 500
TRACE_MAX = 3_000

Question = (
    pipe.Describe
    | pipe.Load
    | pipe.GetInitial
    | pipe.Train
    | pipe.TakeSnapshot
    | pipe.Rebase
    | pipe.Evaluate
    | pipe.Write
)


class TorchThread:
    """The one thread that torch runs in, from start to end: its caches and thread counts belong to a thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._run, name="torch", daemon=True).start()

    def do(self, make: Callable[[], Any], then: Callable[[Any, PrimeError | None], None]) -> None:
        """Call `make` there, after all that was given before, and `then(value, error)` on the event loop."""

        def job() -> None:
            value, error = None, None
            try:
                value = make()
            except BaseException as raised:  # noqa: BLE001 - the supervisor border: a user's model may raise anything, SystemExit too
                error = failure(raised)
            self._token.run_sync_soon(then, value, error)

        self._jobs.put(job)

    async def answer(self, make: Callable[[], Any]) -> Any:
        """As `do`, and wait: return what `make` returned, or raise its error. Cancelled, the thread goes on alone."""
        answers: list[tuple[Any, PrimeError | None]] = []
        done = trio.Event()

        def then(value: Any, error: PrimeError | None) -> None:
            answers.append((value, error))
            done.set()

        self.do(make, then)
        await done.wait()
        value, error = answers[0]
        if error is not None:
            raise error
        return value

    def _run(self) -> None:
        while True:
            self._jobs.get()()


class Worker(Actor[Question | pipe.Halt]):
    """Answers one question after the other, in torch's thread; an error that torch or the model met is the answer."""

    _replica: Replica

    def __init__(self, setup: pipe.Setup) -> None:
        self._setup = setup
        self._halt = threading.Event()

    async def started(self) -> None:
        """Build the model and read the data."""
        self._torch = TorchThread()
        self._replica = await self._torch.answer(self._build)

    def _build(self) -> Replica:
        from prime.trainer.replica import Replica

        return Replica(self._setup.config, self._setup.rank)

    @on(
        pipe.Describe,
        pipe.Load,
        pipe.GetInitial,
        pipe.Train,
        pipe.TakeSnapshot,
        pipe.Rebase,
        pipe.ForgetSnapshot,
        pipe.Evaluate,
        pipe.Write,
    )
    def hear(self, question: Any) -> Any:
        """Give the question to torch's thread and answer when it has: meanwhile a halt is heard."""
        later: Later = self.ctx.defer()

        def then(value: Any, error: PrimeError | None) -> None:
            if error is None:
                later.reply(value)
            else:
                later.fail(error)

        self._torch.do(self._job(question), then)

    @on(pipe.Halt)
    def halt(self, _: pipe.Halt) -> None:
        """Stop the training that was asked for last."""
        self._halt.set()

    def _job(self, question: Any) -> Callable[[], Any]:
        if isinstance(question, pipe.Train):
            self._halt = halt = threading.Event()  # its own: a halt means one training, also when the next is asked for
            return lambda: self._replica.train(question.steps, halt.is_set)
        return lambda: answer(self._replica, question)


def answer(replica: Replica, question: Any) -> Any:
    """Answer every question but `Train`."""
    match question:
        case pipe.Describe():
            return pipe.Built(replica.metadata(), replica.baseline, os.getpid(), replica.samples)
        case pipe.Load(theta):
            replica.load(_vector(theta))
        case pipe.Rebase(theta, start):
            replica.rebase(_vector(theta), start)
        case pipe.GetInitial():
            return pipe.Vector(replica.initial.view(np.uint8).data)
        case pipe.TakeSnapshot(start, stop):
            return pipe.Vector(replica.take_snapshot(slice(start, stop)).view(np.uint8).data)
        case pipe.ForgetSnapshot(start, stop):
            replica.forget_snapshot(slice(start, stop))
        case pipe.Evaluate(theta, batches):
            return replica.evaluate(None if theta is None else _vector(theta), batches)
        case pipe.Write(prompt, length, seed):
            return _text(replica.write(prompt, length, seed))
        case _:
            raise RunFailedError(
                f"the worker cannot answer {type(question).__name__}", hint="both sides need one version"
            )
    return None


def failure(error: BaseException) -> PrimeError:
    """Return an error as a node may hear it: one of Prime's own, bounded, and with nothing that UTF-8 cannot say."""
    if isinstance(error, PrimeError):
        return error
    trace = _text("".join(traceback.format_exception(error)))[-TRACE_MAX:]
    return RunFailedError(
        f"the worker failed with {type(error).__name__}: {_text(str(error))[:TEXT_MAX]}\n{trace}",
        hint="the traceback is in the text",
    )


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _vector(data: memoryview) -> Vector:
    """Return the float32 vector in a payload, a copy: it is kept, and the frame around it is not."""
    return np.frombuffer(data, "<f4").astype(np.float32)
