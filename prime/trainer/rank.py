"""The node's side of a rank worker: starts the process, asks it, and never waits for a dead or stuck one."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Any, TypeVar

import numpy as np
import trio

from prime import errors
from prime.errors import DecodeError, PrimeError, RunFailedError
from prime.trainer import pipe
from prime.trainer.framed import FramedStream
from prime.trainer.metadata import ModelMetadata, TrainingConfig
from prime.trainer.plans import Vector

SETUP_S = 180.0
"""Importing torch and reading the data, on a busy machine."""
ANSWER_S = 600.0
SILENT_S = 30.0
"""A worker without a heartbeat for this long is stuck, and killed."""
END_S = 5.0
LOG_BYTES = 4096

T = TypeVar("T")


class RankWorker:
    """A rank worker that is set up. One question at a time; others wait their turn.

    Every method raises `RunFailedError` when the process died (with its status and last log lines) or is stuck, and
    the error that the worker itself met (`ConfigError`, `DataError`, otherwise `RunFailedError` with its traceback).
    """

    def __init__(self, process: subprocess.Popen[bytes], stream: FramedStream, log: IO[bytes]) -> None:
        self._process = process
        self._stream = stream
        self._log = log
        self._turn = trio.Lock()
        self._send_answer, self._answers = trio.open_memory_channel[Any](8)
        self._heard_at = trio.current_time()
        self._over: PrimeError | None = None
        self._ended = trio.Event()
        self.step = 0
        self.metadata = ModelMetadata.__new__(ModelMetadata)
        self.unigram: float | None = None

    @property
    def elements(self) -> int:
        """Return how many parameters the model has."""
        return self.metadata.parameters

    @property
    def process_id(self) -> int:
        """Return the worker's process id."""
        return self._process.pid

    async def set_up(self, config: TrainingConfig, rank: int) -> None:
        """Build the model and read the data there."""
        built = await self._ask(pipe.Setup(config, rank), pipe.Built, SETUP_S)
        self.metadata, self.unigram = built.metadata, built.unigram

    async def initial(self) -> Vector:
        """Return the parameters as the seed made them (float32[D])."""
        return _vector(await self._ask(pipe.GetInitial(), pipe.Vector))

    async def load(self, theta: Vector) -> None:
        """Set parameters and snapshot (float32[D]); the inner optimiser keeps its state."""
        await self._ask(pipe.Load(_payload(theta)), pipe.Done)

    async def rebase(self, theta: Vector) -> None:
        """Move onto new shared parameters: local <- theta + (local - snapshot), snapshot <- theta."""
        await self._ask(pipe.Rebase(_payload(theta)), pipe.Done)

    async def snapshot(self) -> Vector:
        """Return the local parameters (float32[D]); the worker remembers them."""
        return _vector(await self._ask(pipe.TakeSnapshot(), pipe.Vector))

    async def train(self, steps: int) -> pipe.Trained:
        """Make inner steps. Cancelled, the worker stops after the step in hand and can be asked again."""
        return await self._ask(pipe.Train(steps), pipe.Trained)

    async def evaluate(self, theta: Vector | None, batches: int) -> float:
        """Return the mean loss of that many held-out batches, with `theta` or with the local parameters."""
        data = memoryview(b"") if theta is None else _payload(theta)
        return (await self._ask(pipe.Evaluate(data, batches), pipe.Loss)).loss

    async def write(self, prompt: str, length: int, seed: int) -> str:
        """Let the model continue a prompt; empty if it cannot write."""
        return (await self._ask(pipe.Write(prompt, length, seed), pipe.Written)).text

    async def _ask(self, question: Any, answer: type[T], within_s: float = ANSWER_S) -> T:
        async with self._turn:
            self._check()
            try:
                await self._stream.send(question)
                with trio.fail_after(within_s):
                    found = await self._answers.receive()
            except trio.TooSlowError:
                self.kill()
                raise RunFailedError(
                    f"the worker did not answer {type(question).__name__} within {within_s:g} s: killed",
                    hint="its supervisor starts a new one",
                ) from None
            except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._until_over()
                self._check()
                raise
            except trio.Cancelled:
                await self._give_up(question)
                raise
        if isinstance(found, pipe.Failed):
            raise _error_of(found)
        if not isinstance(found, answer):
            raise RunFailedError(f"the worker answered {type(question).__name__} with {type(found).__name__}")
        return found

    async def _give_up(self, question: Any) -> None:
        """Bring a cancelled question to its end, so that its answer is not taken for that of the next."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S) as scope:
            if isinstance(question, pipe.Train):
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send(pipe.Halt())
            with contextlib.suppress(trio.EndOfChannel):
                await self._answers.receive()
        if scope.cancelled_caught:
            self.kill()

    def _check(self) -> None:
        if self._over is not None:
            raise type(self._over)(str(self._over), hint=self._over.hint)

    async def _until_over(self) -> None:
        with trio.move_on_after(END_S):
            await self._ended.wait()

    # ---------------------------------------------------------------------------------------------- the process

    async def listen(self) -> None:
        """Take heartbeats and answers until the worker ends; `open_rank` runs it."""
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
            self.kill()
            self._over = RunFailedError(f"the worker sent what is no message: {error}", hint="this is a bug: report it")
        await self._reap()
        self._over = self._over or self._death()
        self._ended.set()
        self._send_answer.close()

    async def watch(self) -> None:
        """Kill the worker when it has been silent for too long; `open_rank` runs it."""
        while True:
            await trio.sleep_until(self._heard_at + SILENT_S)
            if trio.current_time() >= self._heard_at + SILENT_S and self._over is None:
                self._over = RunFailedError(
                    f"the worker (process {self._process.pid}) gave no sign of life for {SILENT_S:g} s: killed",
                    hint="its supervisor starts a new one; a stopped or swapping machine looks like this",
                )
                self.kill()
                return

    def kill(self) -> None:
        """End the process at once."""
        if self._process.poll() is None:
            self._process.kill()

    async def _reap(self) -> None:
        with trio.move_on_after(END_S):
            while self._process.poll() is None:  # noqa: ASYNC110 - a process that was only started has no event
                await trio.sleep(0.01)
        self.kill()
        await trio.to_thread.run_sync(self._process.wait)

    def _death(self) -> RunFailedError:
        status = self._process.returncode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._log.seek(0, 2)
        self._log.seek(max(self._log.tell() - LOG_BYTES, 0))
        lines = self._log.read().decode(errors="replace").strip()
        said = f"; it last wrote:\n{lines}" if lines else ""
        return RunFailedError(
            f"the worker (process {self._process.pid}) ended with {how}{said}", hint="its supervisor starts a new one"
        )


@contextlib.asynccontextmanager
async def open_rank(config: TrainingConfig, rank: int) -> AsyncIterator[RankWorker]:
    """Start a rank worker, set it up, and end it when the block is left, whatever happened.

    Raises `ConfigError` or `DataError` where the model or the data cannot be had, `RunFailedError` otherwise.
    """
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as log:
        with theirs:
            # From this thread, the program's main one: the kernel's death signal follows the thread that forked.
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own program; forking takes microseconds
                [sys.executable, "-m", "prime.trainer.worker", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            stream = FramedStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
            worker = RankWorker(process, stream, log)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.listen)
                nursery.start_soon(worker.watch)
                await worker.set_up(config, rank)
                yield worker
                nursery.cancel_scope.cancel()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(process.wait)


def _payload(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, "<f4").view(np.uint8).data


def _vector(answer: pipe.Vector) -> Vector:
    return np.frombuffer(answer.data, "<f4").astype(np.float32)


def _error_of(failed: pipe.Failed) -> PrimeError:
    """Return this side's error for one that the worker met: by a fixed table, never a class that it names."""
    known: dict[str, type[PrimeError]] = {"ConfigError": errors.ConfigError, "DataError": errors.DataError}
    kind = known.get(failed.code)
    if kind is not None:
        return kind(failed.text, hint=failed.hint)
    return RunFailedError(f"the worker failed with {failed.code}: {failed.text}\n{failed.trace}", hint=failed.hint)
