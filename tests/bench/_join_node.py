"""One node of `join.py`, in a network namespace of its own: RANK 0 founds the run, the last one joins it later.

The model is a vector that a stand-in for the rank worker moves (`--elements`), in paced steps: all else is production's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a fresh checkout needs no installation

import numpy as np  # noqa: E402
import trio  # noqa: E402

from prime import Tcp, open_system  # noqa: E402
from prime.node.training import Training, open_trainer  # noqa: E402
from prime.trainer import pipe  # noqa: E402
from prime.trainer.metadata import ModelMetadata, TensorLayout, TrainingConfig  # noqa: E402
from prime.trainer.swarm import trainer  # noqa: E402
from prime.trainer.swarm.trainer import RoundDecided  # noqa: E402
from prime.trainer.swarm.transfer import StateFetched  # noqa: E402
from prime.transport.identity import KeyPair  # noqa: E402

PORT = 4001
STEPS = 50
LOOK_S = 0.01
ROUNDS_BEFORE = 2
"""Rounds that the members have made when the joiner comes."""
ROUNDS_AFTER = 2


class Worker:
    """Stands for a rank worker: its parameters move a little, each another way; a round's steps take `pace_s`."""

    unigram, samples, layout_hash = None, 0, ""

    def __init__(self, elements: int, pace_s: float, rank: int) -> None:
        self.elements = elements
        self.metadata = ModelMetadata("vector", elements, (TensorLayout("vector", (elements,), "float32"),))
        self._pace_s = pace_s
        self._random = np.random.default_rng(rank)
        self._local, self._base, self._shared = np.zeros((3, elements), np.float32)
        self._steps = 0

    async def initial(self) -> Any:
        return np.random.default_rng(7).standard_normal(self.elements, np.float32)

    async def load(self, theta: Any) -> None:
        self._local[:] = self._base[:] = self._shared[:] = theta

    async def rebase(self, theta: Any, start: int = 0) -> None:
        cut = slice(start, start + theta.size)
        self._local[cut] += theta - self._base[cut]
        self._base[cut] = self._shared[cut] = theta

    async def forget_snapshot(self, cut: slice) -> None:
        self._base[cut] = self._shared[cut]

    async def snapshot(self, cut: slice) -> Any:
        self._local += np.float32(1e-3) * self._random.standard_normal(self.elements, np.float32)
        self._base[cut] = self._local[cut]
        return self._local[cut].copy()

    async def train(self, steps: int) -> pipe.Trained:
        await trio.sleep(self._pace_s * steps / STEPS)
        self._steps += steps
        return pipe.Trained(self._steps, steps, 1.0, steps, self._pace_s * steps / STEPS)

    async def evaluate(self, _theta: Any, _batches: int) -> float:
        return 1.0

    async def write(self, _prompt: str, _length: int, _seed: int) -> str:
        return ""


def address(rank: int) -> str:
    return f"/ip4/10.99.0.{rank + 1}/tcp/{PORT}/p2p/{KeyPair.from_seed(bytes([rank + 1] * 32)).peer}"


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--elements", type=int, required=True)
    parser.add_argument("--pace-s", type=float, required=True)
    parser.add_argument("--limit-s", type=float, required=True)
    options = parser.parse_args()
    rank, last = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1

    @contextlib.asynccontextmanager
    async def open_rank(*_: Any) -> AsyncIterator[Any]:
        yield Worker(options.elements, options.pace_s, rank)

    trainer.open_rank = open_rank
    facts: list[tuple[float, Any]] = []
    config = TrainingConfig(
        rounds=1_000_000, nodes_min=last, inner_steps=STEPS, outer_learning_rate=0.7, round_deadline_s=60.0
    )
    key = KeyPair.from_seed(bytes([rank + 1] * 32))
    with trio.fail_after(options.limit_s):
        async with open_system(transport=Tcp(f"/ip4/10.99.0.{rank + 1}/tcp/{PORT}"), key=key) as system:
            system.subscribe(lambda fact: facts.append((time.monotonic(), fact)))
            if rank == last:
                await until((options.folder / "go").exists)
            contacts = () if rank == 0 else (address(0),)
            began_at = time.monotonic()
            state = options.folder / f"node-{rank}"
            async with open_trainer(system, config, contacts=contacts, folder=state) as training:
                if rank == 0:
                    await lead(options.folder, training)
                elif rank == last:
                    await joined(training)
                    write(options.folder / "joiner", told(facts, began_at, training))
                await until((options.folder / "stop").exists)
                write(options.folder / f"rounds-{rank}", told_at_end(training, facts))


async def lead(folder: Path, training: Training) -> None:
    """Let the joiner come after some rounds, and end it all some rounds after it has joined."""
    await until(lambda: committed(training) >= ROUNDS_BEFORE)
    (folder / "go").touch()
    await until((folder / "joiner").exists)
    at = committed(training)
    await until(lambda: committed(training) >= at + ROUNDS_AFTER)
    (folder / "stop").touch()


def committed(training: Training) -> int:
    return sum(each.committed for each in training.progress.history)


async def joined(training: Training) -> None:
    """Wait until this node is in the view and holds the state that its round starts from."""
    await until(lambda: training.progress.phase == "training")


def told(facts: list[tuple[float, Any]], began_at: float, training: Training) -> dict[str, Any]:
    fetched = [fact for _, fact in facts if isinstance(fact, StateFetched)]
    return {
        "began_at_s": began_at,
        "joined_at_s": time.monotonic(),
        "fetch_s": sum(fact.seconds for fact in fetched),
        "donors": max((len(fact.donors) for fact in fetched), default=0),
        "fetches": len(fetched),
        "round": training.round,
    }


def told_at_end(training: Training, facts: list[tuple[float, Any]]) -> dict[str, Any]:
    return {"round": training.round, "hash": training.progress.state_hash, "at_s": decided(facts)}


def decided(facts: list[tuple[float, Any]]) -> list[float]:
    return [at for at, fact in facts if isinstance(fact, RoundDecided) and fact.committed]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - another process makes it true, or an actor that tells nobody
        await trio.sleep(LOOK_S)


def write(file: Path, found: dict[str, Any]) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(found), encoding="utf-8")
    draft.replace(file)


if __name__ == "__main__":
    trio.run(main)
