"""The rank worker: the process in which torch runs. `python -m prime.trainer.worker --fd N`, started by a node.

The Trio loop keeps the main thread and torch one thread beside it, because a blocked torch call cannot be cancelled:
when the node is gone (end of the socket, or the kernel's death signal) the whole process goes, whatever torch does.
Standard output is never the channel: libraries print there. Torch is imported in its thread, after the first sign of
life, so a slow import is not taken for a hang.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import trio

from prime.errors import PrimeError, RunFailedError
from prime.trainer import pipe
from prime.trainer.framed import FramedStream
from prime.trainer.plans import Vector

if TYPE_CHECKING:
    from prime.trainer.replica import Replica

HEARTBEAT_S = 0.5
TEXT_MAX = 4_000
TRACE_MAX = 8_000
_PR_SET_PDEATHSIG = 1


class TorchThread:
    """The one thread that torch runs in, from start to end: its caches and thread counts belong to a thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="torch", daemon=True).start()

    async def answer(self, make: Callable[[], Any]) -> Any:
        """Return what `make` returned in the thread; one at a time, not to be cancelled."""
        answers: list[Any] = []
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def job() -> None:
            answers.append(make())
            token.run_sync_soon(done.set)

        self._jobs.put(job)
        await done.wait()
        return answers[0]

    def _run(self) -> None:
        while True:
            self._jobs.get()()


class Worker:
    """Answers one question after the other, in torch's thread, and says every half second that it lives."""

    def __init__(self, stream: FramedStream) -> None:
        self._stream = stream
        self._replica: Replica | None = None
        self._halt = threading.Event()
        self._torch = TorchThread()

    async def run(self) -> None:
        """Serve until the node closes the socket; then the process ends at once."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            questions, asked = trio.open_memory_channel[Any](4)
            nursery.start_soon(self._answer_all, asked)
            while (message := await self._receive()) is not None:
                if isinstance(message, pipe.Halt):
                    self._halt.set()
                else:
                    self._halt.clear()
                    await questions.send(message)
            end(0)  # torch may be in the middle of a step: nothing here is worth waiting for

    async def _receive(self) -> Any | None:
        try:
            return await self._stream.receive()
        except trio.BrokenResourceError:
            return None

    async def _send(self, message: Any) -> None:
        try:
            await self._stream.send(message)
        except trio.BrokenResourceError:
            end(0)  # nobody is left to answer

    async def _beat(self) -> None:
        while True:
            await self._send(pipe.Alive(self._replica.step if self._replica is not None else 0))
            await trio.sleep(HEARTBEAT_S)

    async def _answer_all(self, asked: trio.MemoryReceiveChannel[Any]) -> None:
        async for question in asked:
            await self._send(await self._torch.answer(functools.partial(self._safely, question)))

    def _safely(self, question: Any) -> Any:
        try:
            return self._answer(question)
        except BaseException as error:  # noqa: BLE001 - the supervisor border: a user's model may raise anything, SystemExit too
            return failure(error)

    def _answer(self, question: Any) -> Any:
        if isinstance(question, pipe.Setup):
            from prime.trainer.replica import Replica

            self._replica = Replica(question.config, question.rank)
            return pipe.Built(self._replica.metadata(), self._replica.baseline)
        if self._replica is None:
            raise RunFailedError("the worker was asked before it was set up")
        return self._answer_with(self._replica, question)

    def _answer_with(self, replica: Replica, question: Any) -> Any:
        match question:
            case pipe.Load(theta):
                replica.load(_vector(theta))
            case pipe.Rebase(theta):
                replica.rebase(_vector(theta))
            case pipe.GetInitial():
                return pipe.Vector(replica.initial.view(np.uint8).data)
            case pipe.TakeSnapshot():
                return pipe.Vector(replica.take_snapshot().view(np.uint8).data)
            case pipe.Train(steps):
                return replica.train(steps, self._halt.is_set)
            case pipe.Evaluate(theta, batches):
                return pipe.Loss(replica.evaluate(None if theta is None else _vector(theta), batches))
            case pipe.Write(prompt, length, seed):
                return pipe.Written(_text(replica.write(prompt, length, seed)))
            case _:
                raise RunFailedError(f"the worker cannot answer {type(question).__name__}")
        return pipe.Done()


def failure(error: BaseException) -> pipe.Failed:
    """Return an error in the form that crosses the pipe: bounded, and with nothing that UTF-8 cannot say."""
    hint = error.hint if isinstance(error, PrimeError) else "the traceback is in the text"
    trace = _text("".join(traceback.format_exception(error)))
    return pipe.Failed(type(error).__name__, _text(str(error))[:TEXT_MAX], hint, trace[-TRACE_MAX:])


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _vector(data: memoryview) -> Vector:
    """Return the float32 vector in a payload, a copy: it is kept, and the frame around it is not."""
    return np.frombuffer(data, "<f4").astype(np.float32)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent's thread dies, and end if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        end(0)


def end(status: int) -> NoReturn:
    """End the process without waiting for any thread; what was printed is flushed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def _serve(descriptor: int) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    await Worker(FramedStream(stream)).run()


def main() -> None:
    """Run the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the node decides
    parser = argparse.ArgumentParser(description="A rank worker; a node starts it.")
    parser.add_argument("--fd", type=int, required=True, help="the worker's end of the socket pair")
    parser.add_argument("--parent", type=int, required=True, help="the node's process id")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    try:
        trio.run(_serve, arguments.fd)
    except BaseException:  # noqa: BLE001 - the process border: written for the node, which reports it
        traceback.print_exc()
        end(1)


if __name__ == "__main__":
    main()
