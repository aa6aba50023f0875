"""The node's side of a rank worker, with real worker processes: answers, faults, deaths, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import trio

pytest.importorskip("torch")

from prime import open_system
from prime.errors import ConfigError, LocalProtocolError, RunFailedError
from prime.process.output import TAIL_BYTES
from prime.trainer import rank as rank_module
from prime.trainer.metadata import TrainingConfig
from prime.trainer.rank import RankWorker, open_rank

WAIT_S = 60  # a busy machine; what is meant is a second or two

TASK = """
import os, sys, time
import numpy as np
import torch

class Model:
    def __init__(self, config):
        self.module = torch.nn.Linear(40, 25)
        self.folder = config.data.rpartition(":")[0].rpartition("/")[0]

    def wanted(self):
        for name in ("slow", "raise", "exit", "leave"):
            if os.path.exists(f"{self.folder}/{name}"):
                return name

    def loss(self, batch):
        match self.wanted():
            case "slow":
                time.sleep(0.05)
            case "raise":
                raise ValueError("made up")
            case "leave":
                sys.exit("left")
            case "exit":
                print("z" * 100_000 + "last words", flush=True)
                os._exit(7)
        return self.module(batch).square().mean()

class Data:
    baseline = 1.5

    def __len__(self):
        return 10_000

    def batch(self, indices):
        return np.random.default_rng(indices).standard_normal((4, 40)).astype(np.float32)

    def held_out(self, count):
        return [np.ones((2, 40), np.float32)] * count

def model(config):
    return Model(config)

def data(config):
    return Data()
"""


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """Return a tiny task whose steps do what a file of that name beside it says."""
    task = tmp_path / "rank_task.py"
    task.write_text(TASK)
    return TrainingConfig(model=f"{task}:model", data=f"{task}:data", learning_rate=0.01)


def _runs(pid: int) -> bool:
    """Say whether such a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def _is_gone(pid: int) -> bool:
    with trio.move_on_after(WAIT_S):
        while _runs(pid):  # noqa: ASYNC110 - a process that another one started has no event
            await trio.sleep(0.02)
    return not _runs(pid)


async def _answers(worker: RankWorker) -> None:
    assert worker.elements == worker.metadata.parameters == 1025
    assert worker.unigram == 1.5
    first = await worker.initial()
    assert (first.dtype, first.shape) == (np.float32, (1025,))
    measured = await worker.evaluate(None, 2)
    assert await worker.evaluate(first, 2) == measured
    assert await worker.evaluate(first * 2, 2) > measured
    assert await worker.evaluate(None, 2) == measured
    assert await worker.write("x", 3, 0) == ""
    done = await worker.train(3)
    assert (done.step, done.steps) == (3, 3)


async def _algebra(worker: RankWorker) -> None:
    """Rebasing keeps the steps since the snapshot and none before; its exact algebra is tested without a process."""
    theta = np.arange(1025, dtype=np.float32) / 1025
    await worker.load(theta)
    await worker.train(2)
    await worker.rebase(theta * 2)
    moved = await worker.snapshot(slice(0, worker.elements))
    assert 0 < np.abs(moved - theta * 2).max() < 0.1
    await worker.rebase(theta)
    assert np.array_equal(await worker.snapshot(slice(0, worker.elements)), theta)
    assert not moved.flags.writeable


async def _cancelling(worker: RankWorker, folder: Path) -> None:
    (folder / "slow").touch()
    before = (await worker.train(1)).step
    with trio.move_on_after(0.3) as scope:
        await worker.train(1_000_000)
    assert scope.cancelled_caught
    (folder / "slow").unlink()
    done = await worker.train(1)
    assert done.steps == 1  # the answer to this question, not to the cancelled one
    assert before + 1 < done.step < before + 100
    with trio.move_on_after(0) as scope:
        await worker.evaluate(None, 2)
    assert np.array_equal(
        await worker.snapshot(slice(0, worker.elements)), await worker.snapshot(slice(0, worker.elements))
    )


async def _refusing(worker: RankWorker, folder: Path) -> None:
    with pytest.raises(ConfigError, match="3 parameters for a model of 1025"):
        await worker.load(np.zeros(3, np.float32))
    with pytest.raises(LocalProtocolError):
        await worker.train(0)
    for name, said in (("raise", "ValueError: made up\n(.|\n)*rank_task.py"), ("leave", "SystemExit: left")):
        (folder / name).touch()
        with pytest.raises(RunFailedError, match=said):
            await worker.train(1)
        (folder / name).unlink()
    assert (await worker.train(1)).steps == 1


async def test_a_worker_from_start_to_sigkill(config: TrainingConfig, tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S * 2):
        async with open_system() as system, open_rank(system, config, rank=0) as worker:
            await _answers(worker)
            await _algebra(worker)
            await _cancelling(worker, tmp_path)
            await _refusing(worker, tmp_path)
            (tmp_path / "slow").touch()

            async def kill() -> None:
                await trio.sleep(0.2)
                os.kill(worker.process_id, signal.SIGKILL)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                with pytest.raises(RunFailedError, match="ended with signal SIGKILL"):
                    await worker.train(1_000_000)
            with pytest.raises(RunFailedError, match="ended with signal SIGKILL"):
                await worker.snapshot(slice(0, worker.elements))
    assert await _is_gone(worker.process_id)
    with pytest.raises(RunFailedError):
        await worker.train(1)


async def test_a_worker_that_exits_is_reported_and_the_blocks_own_error_stays_itself(
    config: TrainingConfig, tmp_path: Path
) -> None:
    with trio.fail_after(WAIT_S), pytest.raises(ZeroDivisionError):
        async with open_system() as system, open_rank(system, config, rank=0) as worker:
            (tmp_path / "exit").touch()
            with pytest.raises(RunFailedError, match="exit status 7(.|\n)*zzzlast words$") as caught:
                await worker.train(1)
            raise ZeroDivisionError
    assert len(str(caught.value)) < TAIL_BYTES + 300
    assert caught.value.hint


async def test_a_worker_that_hangs_is_killed_and_reported(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_module, "SILENT_S", 2.0)
    with trio.fail_after(WAIT_S):
        async with open_system() as system, open_rank(system, config, rank=0) as worker:
            os.kill(worker.process_id, signal.SIGSTOP)
            with pytest.raises(RunFailedError, match="killed because of its link: nothing was heard for 2 s"):
                await worker.train(1)
    assert await _is_gone(worker.process_id)


async def test_a_task_that_cannot_be_used_comes_out_as_it_is(tmp_path: Path) -> None:
    config = TrainingConfig(model=f"{tmp_path}/nowhere.py:model")
    with trio.fail_after(WAIT_S), pytest.raises(ConfigError, match=r"nowhere.py cannot be imported") as caught:
        async with open_system() as system, open_rank(system, config, rank=0):
            pass
    assert caught.value.hint


async def test_no_worker_is_left_when_the_start_is_cancelled(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    popen = subprocess.Popen

    def noting(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        process = popen(*args, **kwargs)  # type: ignore[call-overload]
        started.append(process.pid)
        return process  # type: ignore[no-any-return]

    monkeypatch.setattr(subprocess, "Popen", noting)
    with trio.move_on_after(0.5) as scope:
        async with open_system() as system, open_rank(system, config, rank=0):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(started) == 1
    assert await _is_gone(started[0])


PARENT = """
import sys
import prime
import trio
from prime.trainer.metadata import TrainingConfig
from prime.trainer.rank import open_rank

async def main():
    config = TrainingConfig(model=sys.argv[1], data=sys.argv[2])
    async with prime.open_system() as system, open_rank(system, config, 0) as worker:
        print(worker.process_id, flush=True)
        await worker.train(1_000_000)

trio.run(main)
"""


async def test_a_worker_in_mid_step_goes_with_its_killed_node(config: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    node = subprocess.Popen(  # noqa: ASYNC220 - a node of its own, that the test may kill
        [sys.executable, "-c", textwrap.dedent(PARENT), config.model, config.data], stdout=subprocess.PIPE
    )
    with node:
        assert node.stdout is not None
        pid = int(await trio.to_thread.run_sync(node.stdout.readline))
        await trio.sleep(0.2)
        node.kill()
    assert await _is_gone(pid)
