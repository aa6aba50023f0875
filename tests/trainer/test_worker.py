"""The rank worker's actor by itself: what it answers, and what it says when something fails. None of it loads torch."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from prime import open_system
from prime.errors import ConfigError, RunFailedError
from prime.trainer import pipe, worker
from prime.trainer.metadata import TrainingConfig
from prime.trainer.worker import TEXT_MAX, TRACE_MAX, TorchThread, Worker, failure
from prime.transport.failures import from_frame, to_frame

WAIT_S = 30  # a busy machine; what is meant is at once


class Replica:
    """Trains until it is told to halt, and notes in which threads it is used."""

    baseline = None

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.training = threading.Event()
        self.wrote = ""

    def train(self, steps: int, halted: Any) -> pipe.Trained:
        self.threads.add(threading.current_thread().name)
        self.training.set()
        made = 0
        while made < steps and not halted():
            threading.Event().wait(0.001)
            made += 1
        return pipe.Trained(made, made, 0.0, 0, 0.0)

    def write(self, prompt: str, _length: int, _seed: int) -> str:
        self.threads.add(threading.current_thread().name)
        if prompt == "fail":
            raise ConfigError("cannot write", hint="ask another")
        if prompt == "leave":
            raise SystemExit("left")
        return f"{prompt}\ud800"


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    found = Replica()
    monkeypatch.setattr(worker.Worker, "_build", lambda _self: found)
    return found


def make() -> Worker:
    return Worker(pipe.Setup(TrainingConfig(), 0))


async def test_a_halt_ends_the_training_before_it_and_no_other(replica: Replica) -> None:
    with trio.fail_after(WAIT_S):
        async with open_system() as system, system.supervisor("workers") as sup:
            ref = await sup.spawn(make, "worker")
            answers: list[pipe.Trained] = []

            async def train(steps: int) -> None:
                answers.append(await ref.ask(pipe.Train(steps), timeout=WAIT_S))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(train, 10**9)
                await trio.to_thread.run_sync(replica.training.wait)
                await ref.tell(pipe.Halt())
                nursery.start_soon(train, 3)  # asked for before the first has noticed its halt
            assert [answer.steps for answer in answers][1:] == [3]
            assert answers[0].steps < 10**9
            assert replica.threads == {"torch"}


async def test_an_error_is_an_answer_and_the_worker_goes_on(replica: Replica) -> None:
    with trio.fail_after(WAIT_S):
        async with open_system() as system, system.supervisor("workers") as sup:
            ref = await sup.spawn(make, "worker")
            with pytest.raises(ConfigError, match="cannot write") as caught:
                await ref.ask(pipe.Write("fail", 1, 0), timeout=WAIT_S)
            assert caught.value.hint == "ask another"
            with pytest.raises(RunFailedError, match="SystemExit: left"):
                await ref.ask(pipe.Write("leave", 1, 0), timeout=WAIT_S)
            assert await ref.ask(pipe.Write("on", 1, 0), timeout=WAIT_S) == "on\\ud800"
            assert system.tree()[0].children[0].restarts == 0
            assert replica.threads == {"torch"}


async def test_who_no_longer_waits_for_torch_is_free_at_once() -> None:
    go = threading.Event()
    with trio.fail_after(WAIT_S):
        torch = TorchThread()
        try:
            with trio.move_on_after(0.05) as scope:
                await torch.answer(go.wait)
            assert scope.cancelled_caught
        finally:
            go.set()
        assert await torch.answer(lambda: 7) == 7


def test_a_failure_is_bounded_and_can_always_be_sent() -> None:
    class UglyError(Exception):
        pass

    try:
        raise UglyError("\ud800" + "x" * 100_000)
    except UglyError as error:
        failed = failure(error)
    assert isinstance(failed, RunFailedError)
    assert "UglyError" in str(failed)
    assert len(str(failed)) <= TEXT_MAX + TRACE_MAX + 100
    sent = from_frame(to_frame(1, failed))
    assert (type(sent), str(sent), sent.hint) == (RunFailedError, str(failed), failed.hint)
