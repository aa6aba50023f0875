"""The node's side of a rank worker: starts the process, asks it, and never waits for a dead or stuck one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import trio

from prime.actor.groups import one_error
from prime.errors import ConfigError, DataError, DecodeError, PrimeError, RunFailedError
from prime.trainer import pipe
from prime.trainer.framed import FramedStream
from prime.trainer.metadata import ModelMetadata, TrainingConfig
from prime.trainer.plans import Vector

SETUP_S = 180.0
"""Importing torch, building the model and reading the data, on a busy machine."""
ANSWER_S = 600.0
SILENT_S = 30.0
"""A worker that is set up and gives no heartbeat for this long is stuck, and killed."""
SEND_S = 10.0
"""A worker reads its socket whatever torch does, so a question that it does not take within this finds it stuck."""
END_S = 5.0
OUTPUT_S = 0.5
OUTPUT_BYTES = 4096
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_HINT_RESTART = "its supervisor starts a new one"

T = TypeVar("T")


class RankWorker:
    """A rank worker that is set up. One question at a time; others wait their turn.

    Every method raises `RunFailedError` when the process died (with its status and last output) or is stuck, and the
    error that the worker itself met (`ConfigError`, `DataError`, otherwise `RunFailedError` with its traceback).
    Each may be cancelled and leaves the worker usable.
    """

    def __init__(self, process: subprocess.Popen[bytes], stream: FramedStream, output: _Output) -> None:
        self._process = process
        self._stream = stream
        self._output = output
        self._turn = trio.Lock()
        self._send_answer, self._answers = trio.open_memory_channel[Any](1)
        self._owed = False  # the answer to a question whose asker was cancelled is still to come
        self._heard_at = trio.current_time()
        self._built: pipe.Built | None = None
        self._over: PrimeError | None = None
        self.step = 0
        """Inner steps made since the start, as of the last heartbeat."""

    @property
    def metadata(self) -> ModelMetadata:
        """Describe the model."""
        return self._known().metadata

    @property
    def elements(self) -> int:
        """Return how many parameters the model has."""
        return self._known().metadata.parameters

    @property
    def unigram(self) -> float | None:
        """Return the data's trivial baseline (nats a character for text), if it has one."""
        return self._known().unigram

    @property
    def process_id(self) -> int:
        """Return the worker's process id."""
        return self._process.pid

    async def set_up(self, config: TrainingConfig, rank: int) -> None:
        """Build the model and read the data there; `open_rank` calls it."""
        self._built = await self._ask(pipe.Setup(config, rank), pipe.Built, SETUP_S)

    async def initial(self) -> Vector:
        """Return the parameters as the seed made them (float32[D], read-only)."""
        return _vector(await self._ask(pipe.GetInitial(), pipe.Vector))

    async def load(self, theta: Vector) -> None:
        """Set parameters and snapshot (float32[D]); the inner optimiser keeps its state."""
        await self._ask(pipe.Load(_payload(theta)), pipe.Done)

    async def rebase(self, theta: Vector) -> None:
        """Move onto new shared parameters: local <- theta + (local - snapshot), snapshot <- theta."""
        await self._ask(pipe.Rebase(_payload(theta)), pipe.Done)

    async def snapshot(self) -> Vector:
        """Return the local parameters (float32[D], read-only); the worker remembers them."""
        return _vector(await self._ask(pipe.TakeSnapshot(), pipe.Vector))

    async def train(self, steps: int) -> pipe.Trained:
        """Make inner steps. Cancelled, the worker stops after the step in hand."""
        return await self._ask(pipe.Train(steps), pipe.Trained)

    async def evaluate(self, theta: Vector | None, batches: int) -> float:
        """Return the mean loss of that many held-out batches, with `theta` or (None) with the local parameters."""
        data = None if theta is None else _payload(theta)
        return (await self._ask(pipe.Evaluate(data, batches), pipe.Loss)).loss

    async def write(self, prompt: str, length: int, seed: int) -> str:
        """Let the model continue a prompt; empty if it cannot write."""
        return (await self._ask(pipe.Write(prompt, length, seed), pipe.Written)).text

    def _known(self) -> pipe.Built:
        if self._built is None:
            raise RunFailedError("the worker is not set up yet")
        return self._built

    # --------------------------------------------------------------------------------------------- one question

    async def _ask(self, question: Any, answer: type[T], within_s: float = ANSWER_S) -> T:
        async with self._turn:
            if self._over is not None:
                raise _again(self._over)
            try:
                with trio.fail_after(within_s):
                    found = await self._exchange(question)
            except trio.TooSlowError:
                raise _again(self._give_up(f"did not answer {type(question).__name__} within {within_s:g} s")) from None
            except trio.EndOfChannel:
                raise _again(self._failure()) from None
        if isinstance(found, pipe.Failed):
            raise _error_of(found)
        if not isinstance(found, answer):
            raise RunFailedError(f"the worker answered {type(question).__name__} with {type(found).__name__}")
        return found

    async def _exchange(self, question: Any) -> Any:
        while self._owed:
            await self._receive()
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._send(question)
        self._owed = True
        try:
            return await self._receive()
        except trio.Cancelled:
            if isinstance(question, pipe.Train) and self._over is None:
                await self._send(pipe.Halt())
            raise

    async def _receive(self) -> Any:
        found = await self._answers.receive()
        self._owed = False
        return found

    async def _send(self, message: Any) -> None:
        """Send a whole message even when cancelled: half of one would cost the worker."""
        over = contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError)  # the missing answer tells
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as scope, over:
            await self._stream.send(message)
        if scope.cancelled_caught:
            self._give_up(f"took no message for {SEND_S:g} s")

    def _failure(self) -> PrimeError:
        return self._over or self._death()

    def _give_up(self, what: str) -> PrimeError:
        """Kill a worker that is of no use any more; return why, which may be older than this."""
        self._process.kill()
        self._over = self._over or RunFailedError(
            f"the worker (process {self._process.pid}) {what}: killed{self._output.said()}", hint=_HINT_RESTART
        )
        return self._over

    # ---------------------------------------------------------------------------------------------- the process

    async def listen(self) -> None:
        """Take heartbeats and answers until the worker ends; `open_rank` runs it."""
        try:
            await self._listen()
        finally:
            self._over = self._over or RunFailedError("the worker was ended with the block that opened it")
            self._send_answer.close()

    async def _listen(self) -> None:
        try:
            while (message := await self._stream.receive()) is not None:
                self._heard_at = trio.current_time()
                if isinstance(message, pipe.Alive):
                    self.step = message.step
                else:
                    await self._send_answer.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except DecodeError as error:
            self._give_up(f"sent what is no message ({error})")
        await trio.to_thread.run_sync(_reap, self._process)
        await self._output.rest()
        self._over = self._over or self._death()

    async def watch(self) -> None:
        """Kill the worker when it has been silent for too long; `open_rank` runs it once it is set up."""
        self._heard_at = trio.current_time()
        while trio.current_time() < self._heard_at + SILENT_S:  # noqa: ASYNC110 - the deadline moves on
            await trio.sleep_until(self._heard_at + SILENT_S)
        self._give_up(f"gave no sign of life for {SILENT_S:g} s")

    def _death(self) -> RunFailedError:
        status = self._process.returncode
        how = f"signal {_signal_name(-status)}" if status < 0 else f"exit status {status}"
        return RunFailedError(
            f"the worker (process {self._process.pid}) ended with {how}{self._output.said()}", hint=_HINT_RESTART
        )


class _Output:
    """The last of what the worker printed: read all the time, so that it never blocks, and kept within a bound."""

    def __init__(self, descriptor: int) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)
        self._tail = b""
        self._ended = trio.Event()

    async def collect(self) -> None:
        """Read until every holder of the pipe's other end is gone."""
        async with self._stream:
            async for data in self._stream:
                self._tail = (self._tail + data)[-OUTPUT_BYTES:]
        self._ended.set()

    async def rest(self) -> None:
        """Wait a little for the last words of a dead worker; a child of its own may keep the pipe open."""
        with trio.move_on_after(OUTPUT_S):
            await self._ended.wait()

    def said(self) -> str:
        """Return the last output as the end of a sentence, or nothing."""
        text = self._tail.decode(errors="replace").strip()
        return f"; it last wrote:\n{text}" if text else ""


@contextlib.asynccontextmanager
async def open_rank(config: TrainingConfig, rank: int) -> AsyncIterator[RankWorker]:
    """Start a rank worker, set it up, and end it when the block is left, whatever happened.

    `rank` chooses the data: workers of one run have different ones. Call it from the main thread, because the kernel
    ends the worker with the thread that started it. Raises `ConfigError` or `DataError` where the model or the data
    cannot be had, `RunFailedError` otherwise.
    """
    with _started(config) as (process, ours, printed):
        output = _Output(printed)
        worker = RankWorker(process, FramedStream(ours), output)
        async with one_error(), ours, trio.open_nursery() as nursery:
            nursery.start_soon(output.collect)
            nursery.start_soon(worker.listen)
            await worker.set_up(config, rank)
            nursery.start_soon(worker.watch)
            yield worker
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _started(config: TrainingConfig) -> Iterator[tuple[subprocess.Popen[bytes], trio.SocketStream, int]]:
    """Run a worker process for the length of the block; yields it with our end of its socket and of its output."""
    ours, theirs = socket.socketpair()
    printed, prints = os.pipe()
    try:
        command = [sys.executable, "-P", "-m", "prime.trainer.worker"]
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=prints,
            stderr=prints,
            env=_environment(config.threads),
        )
    except OSError as error:
        ours.close()
        os.close(printed)
        raise RunFailedError(
            f"the worker process cannot be started: {error}", hint="free memory or processes"
        ) from error
    finally:
        theirs.close()
        os.close(prints)
    try:
        yield process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)), printed
    finally:
        process.kill()
        process.wait()  # after SIGKILL: the kernel's own time


def _environment(threads: int) -> dict[str, str]:
    """Return the worker's environment: it imports what its node imports, and its libraries start as few threads."""
    places = dict.fromkeys([*(place or str(Path.cwd()) for place in sys.path), str(Path.cwd())])
    counts = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return {**os.environ, **counts, "PYTHONPATH": os.pathsep.join(places)}


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _again(error: PrimeError) -> PrimeError:
    """Return a new exception with the same words: one object raised twice would gather both tracebacks."""
    return type(error)(str(error), hint=error.hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _payload(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, "<f4").view(np.uint8).data


def _vector(answer: pipe.Vector) -> Vector:
    """Return the vector where it lies: a copy is made only where it lies askew or the machine is big-endian."""
    vector = np.require(np.frombuffer(answer.data, "<f4").astype(np.float32, copy=False), requirements="A")
    vector.setflags(write=False)  # always, not only where it is the frame's own memory
    return vector


def _error_of(failed: pipe.Failed) -> PrimeError:
    """Return this side's error for one that the worker met: by a fixed table, never a class that it names."""
    kind = {"ConfigError": ConfigError, "DataError": DataError}.get(failed.code)
    if kind is not None:
        return kind(failed.text, hint=failed.hint)
    return RunFailedError(f"the worker failed with {failed.code}: {failed.text}\n{failed.trace}", hint=failed.hint)
