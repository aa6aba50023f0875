"""The rank worker: the process in which torch runs. `python -m prime.trainer.worker --fd N`, started by a node.

The Trio loop keeps the main thread and torch one thread beside it, because a blocked torch call cannot be cancelled:
when the node is gone (end of the socket, or the kernel's death signal) the whole process goes, whatever torch does.
Standard output is never the channel: libraries print there.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import trio

from prime.errors import ConfigError, PrimeError, RunFailedError
from prime.trainer import pipe
from prime.trainer.framed import FramedStream
from prime.trainer.metadata import ModelMetadata, TensorLayout, TrainingConfig
from prime.trainer.task import resolve

HEARTBEAT_S = 0.5
_PR_SET_PDEATHSIG = 1


class Replica:
    """The local model, its optimiser, and the snapshot that the last contribution was counted from."""

    def __init__(self, config: TrainingConfig, rank: int) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self._config, self._rank = config, rank
        self._model, self._data = _task(config)
        self._parameters = [p for p in self._model.module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ConfigError("the model has no trainable parameters", hint="train.model must build a torch module")
        self.snapshot = self.local()
        self.initial = self.snapshot
        self.step = 0
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
        )
        self._held_out: dict[int, Any] = {}

    @property
    def baseline(self) -> float | None:
        """Return the data's trivial baseline."""
        return self._data.baseline

    def metadata(self) -> ModelMetadata:
        """Describe the model."""
        named = [(n, p) for n, p in self._model.module.named_parameters() if p.requires_grad]
        layout = tuple(TensorLayout(n, tuple(p.shape), str(p.dtype).removeprefix("torch.")) for n, p in named)
        name = self._config.model or "character-transformer"
        return ModelMetadata(name, sum(p.numel() for p in self._parameters), layout)

    def local(self) -> Any:
        """Return the parameters as one flat float32 vector, a copy."""
        with torch.no_grad():
            return torch.cat([p.detach().reshape(-1).float() for p in self._parameters]).numpy()

    def load(self, theta: Any) -> None:
        """Set parameters and snapshot."""
        self._set(theta)
        self.snapshot = theta

    def take_snapshot(self) -> Any:
        """Return the local parameters and remember them."""
        self.snapshot = self.local()
        return self.snapshot

    def rebase(self, theta: Any) -> None:
        """Move onto new shared parameters, keeping what was learnt since the snapshot."""
        self._set(theta + (self.local() - self.snapshot))
        self.snapshot = theta

    def train(self, steps: int, halted: Callable[[], bool]) -> pipe.Trained:
        """Make inner steps: AdamW, linear warm-up, clipping by the norm; ends early when halted."""
        started, total, made = time.monotonic(), 0.0, 0
        while made < steps and not halted():
            total += self._one_step()
            made += 1
        tokens = made * self._config.batch_size * self._config.context
        return pipe.Trained(self.step, made, total / max(made, 1), tokens, time.monotonic() - started)

    def _one_step(self) -> float:
        config = self._config
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self.step + 1) / max(config.warmup_steps, 1))
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._model.loss(self._data.batch(self.step, self._rank))
        loss.backward()
        if config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        self._optimiser.step()
        self.step += 1
        return float(loss.detach())

    def evaluate(self, theta: Any, batches: int) -> float:
        """Return the mean held-out loss with `theta`, or with the local parameters where it is empty."""
        if batches not in self._held_out:
            self._held_out[batches] = self._data.held_out(batches)
        found = self._held_out[batches]
        mine = self.local() if theta.size else None
        if mine is not None:
            self._set(theta)
        try:
            self._model.module.eval()
            with torch.no_grad():
                return sum(float(self._model.loss(batch)) for batch in found) / len(found)
        finally:
            self._model.module.train()
            if mine is not None:
                self._set(mine)

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Let the model write, if it can."""
        write = getattr(self._model, "write", None)
        return str(write(prompt, length, seed)) if write is not None else ""

    def _set(self, theta: Any) -> None:
        if theta.size != sum(p.numel() for p in self._parameters):
            raise ConfigError(
                f"{theta.size} parameters for a model of {sum(p.numel() for p in self._parameters)}",
                hint="every node of a run needs the same model: compare their [train] sections",
            )
        flat, at = torch.from_numpy(np.ascontiguousarray(theta)), 0
        with torch.no_grad():
            for parameter in self._parameters:
                count = parameter.numel()
                parameter.copy_(flat[at : at + count].view_as(parameter))
                at += count


def _task(config: TrainingConfig) -> tuple[Any, Any]:
    if config.model:
        model = resolve(config.model, "model")(config)
    else:
        from prime.trainer.model import CharacterModel

        model = CharacterModel(config)
    if ":" in config.data and not os.path.lexists(config.data):
        return model, resolve(config.data, "data")(config)
    from prime.trainer.model import CharacterData

    return model, CharacterData(config)


class Worker:
    """Answers one question after the other, in torch's thread, and says every half second that it lives."""

    def __init__(self, stream: FramedStream) -> None:
        self._stream = stream
        self._replica: Replica | None = None
        self._halt = threading.Event()
        self._limiter = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Serve until the node closes the socket; then the process ends at once."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            questions, asked = trio.open_memory_channel[Any](4)
            nursery.start_soon(self._answer_all, asked)
            while (message := await self._stream.receive()) is not None:
                if isinstance(message, pipe.Halt):
                    self._halt.set()
                else:
                    self._halt.clear()
                    await questions.send(message)
            os._exit(0)  # torch may be in the middle of a step: nothing here is worth waiting for

    async def _beat(self) -> None:
        while True:
            await self._stream.send(pipe.Alive(self._replica.step if self._replica is not None else 0))
            await trio.sleep(HEARTBEAT_S)

    async def _answer_all(self, asked: trio.MemoryReceiveChannel[Any]) -> None:
        async for question in asked:
            answer = await trio.to_thread.run_sync(self._safely, question, limiter=self._limiter)
            await self._stream.send(answer)

    def _safely(self, question: Any) -> Any:
        try:
            return self._answer(question)
        except Exception as error:  # noqa: BLE001 - the supervisor border: a user's model may raise anything
            hint = error.hint if isinstance(error, PrimeError) else "the traceback is in the node's log"
            return pipe.Failed(type(error).__name__, str(error), hint, traceback.format_exc())

    def _answer(self, question: Any) -> Any:
        if isinstance(question, pipe.Setup):
            self._replica = Replica(question.config, question.rank)
            return pipe.Built(self._replica.metadata(), self._replica.baseline)
        if self._replica is None:
            raise RunFailedError("the worker was asked before it was set up")
        return self._answer_with(self._replica, question)

    def _answer_with(self, replica: Replica, question: Any) -> Any:
        match question:
            case pipe.Load(theta):
                replica.load(vector_of(theta))
            case pipe.Rebase(theta):
                replica.rebase(vector_of(theta))
            case pipe.GetInitial():
                return pipe.Vector(replica.initial.view(np.uint8).data)
            case pipe.TakeSnapshot():
                return pipe.Vector(replica.take_snapshot().view(np.uint8).data)
            case pipe.Train(steps):
                return replica.train(steps, self._halt.is_set)
            case pipe.Evaluate(theta, batches):
                return pipe.Loss(replica.evaluate(vector_of(theta), batches))
            case pipe.Write(prompt, length, seed):
                return pipe.Written(replica.write(prompt, length, seed))
            case _:
                raise RunFailedError(f"the worker cannot answer {type(question).__name__}")
        return pipe.Done()


def vector_of(data: memoryview) -> Any:
    """Return the float32 vector in a payload, a copy of its own."""
    return np.frombuffer(data, "<f4").astype(np.float32)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent's thread dies, and check that it has not already."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


async def _main(descriptor: int) -> None:
    with contextlib.closing(socket.socket(fileno=descriptor)) as raw:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
        await Worker(FramedStream(stream)).run()


def main() -> None:
    """Run the worker."""
    parser = argparse.ArgumentParser(description="A rank worker; a node starts it.")
    parser.add_argument("--fd", type=int, required=True, help="the worker's end of the socket pair")
    arguments = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the node decides
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        trio.run(_main, arguments.fd)


if __name__ == "__main__":
    main()
