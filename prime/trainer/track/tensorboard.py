"""TensorBoard, the extra `[observe]`: scalars in the run's folder, for `tensorboard --logdir runs`.

Its own writer of records is used. The one in torch would load torch into the process that supervises the ranks.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prime.errors import MissingExtraError
from prime.trainer.facts import CheckpointSaved, Evaluated, Fact, GenerationBegan, StepMade

FOLDER: Final = "tensorboard"


def check_installed() -> None:
    """Raise `MissingExtraError` where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError(
            "tracking.tensorboard needs tensorboard", hint="pip install 'prime-actors[observe]', or leave it off"
        )


class TensorBoard:
    """Writes the scalars of each fact as one record. What comes again after a restart replaces what was there."""

    def __init__(self, _job: Any, folder: Path, clock: Callable[[], float] = time.time) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(clock())}.{socket.gethostname()}.{os.getpid()}"
        self._event_class, self._clock = Event, clock
        self._file = (folder / FOLDER / name).open("ab")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def event(self, fact: Fact) -> None:
        """Write what the fact measures, if anything."""
        if isinstance(fact, GenerationBegan):
            self._forget_after(fact.step)
        if values := dict(scalars(fact)):
            self._write(step=fact.step, summary=_summary(values))  # type: ignore[union-attr]  # those with scalars have one

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _forget_after(self, step: int) -> None:
        """Let TensorBoard drop the later steps of an earlier generation: they are made again."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **fields: Any) -> None:
        event = self._event_class(wall_time=self._clock(), **fields)
        self._records.write(event.SerializeToString())
        self._file.flush()


def _summary(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def scalars(fact: Fact) -> Iterator[tuple[str, float]]:
    """Yield (tag, value) of what a fact measures."""
    match fact:
        case StepMade():
            yield from _step_scalars(fact)
        case Evaluated():
            yield "loss/held_out", fact.loss
            yield from ((f"held_out/{name}", value) for name, value in fact.measures.items())
        case CheckpointSaved():
            yield "checkpoint/seconds", fact.seconds
            yield "checkpoint/size_bytes", fact.size_bytes
        case GenerationBegan():
            yield "run/generation", fact.generation


def _step_scalars(fact: StepMade) -> Iterator[tuple[str, float]]:
    yield "loss/train", fact.loss
    yield "optimiser/learning_rate", fact.learning_rate
    if fact.grad_norm is not None:
        yield "optimiser/grad_norm", fact.grad_norm
    if fact.step_s > 0:
        yield "speed/samples_per_s", fact.samples / fact.step_s
    for part in ("data", "compute", "reduce", "optimiser"):
        yield f"time/{part}_s", getattr(fact, f"{part}_s")
    if fact.bytes_sent:
        yield "bytes/sent", fact.bytes_sent
        yield "bytes/ratio", fact.bytes_exact / fact.bytes_sent
