"""How soon a run goes on after one of its ranks is killed: with warm spares, and with a process that has to be started.

Run: python tests/bench/recover.py [--json] [--case NAME,...] [--kills 3]

Two ranks train 10 M parameters on the CPU, and rank 1 gets SIGKILL after a checkpoint is whole. The time is from there to
the first step of the next generation. `recover_warm`: as many spares as ranks, all is killed and replaced;
`recover_warm_one`: one spare, the survivor is kept. `recover_cold`: no spare, the survivor is kept; against a process
that is started by hand and makes its first step, before the kills. `recover_torchft` is no case of ours: the seconds that
torchft 0.2.0 takes after the same kill, where `PRIME_BENCH_TORCHFT` names a Python that has it (README.md says how).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _torchft_recover
import attrs
import trio
from _report import machine, say, show

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

from prime.trainer import facts
from prime.trainer.gang.trainer import Trainer
from prime.trainer.job import Job, job_of

HERE = Path(__file__).resolve().parent
TASK = HERE / "_recover_task.py"
STEPS = 1_000_000
"""More than are made: the bench ends the run."""
EVERY_STEPS = 10
DEADLINE_S = 300.0


def job(folder: str, spares: int) -> Job:
    """Return the job of all cases."""
    return job_of(
        {
            "name": "recover",
            "model": f"{TASK}:model",
            "data": f"{TASK}:data",
            "steps": STEPS,
            "batch_size": 32,
            "folder": folder,
            "parallel": {"ranks": 2, "device": "cpu"},
            "schedule": {"name": "constant"},
            "checkpoint": {"every_steps": EVERY_STEPS, "keep_last": 2},
            "evaluation": {"every_steps": 0, "batches": 1},
            "supervision": {"spares": spares},
        }
    )


@attrs.define
class Killed:
    """One run whose rank 1 is killed again and again; `times` are the seconds of each kill, `notices` until the notice."""

    trainer: Trainer
    kills: int
    spares: int
    between: Any
    times: list[float] = attrs.field(factory=list)
    notices: list[float] = attrs.field(factory=list)
    processes: dict[int, int] = attrs.field(factory=dict)
    generation: int = -1
    warm: int = 0
    saved: bool = False
    killed_s: float | None = None

    def __attrs_post_init__(self) -> None:
        self.trainer.subscribe(self.take)

    def take(self, fact: facts.Fact) -> None:
        match fact:
            case facts.RankStarted():
                self.processes[fact.rank] = fact.process
                self.warm += 1 if fact.rank < 0 else -1
            case facts.GenerationBegan():
                self.generation, self.saved = fact.generation, False
            case facts.CheckpointSaved():
                self.saved = True
            case facts.RankLost() if self.killed_s is not None:
                self.notices.append(time.monotonic() - self.killed_s)
            case facts.StepMade():
                self.step()
            case _:
                pass

    def step(self) -> None:
        """Note the first step after a kill; kill again once a checkpoint is whole and the spares are warm."""
        if self.killed_s is not None and len(self.notices) > len(self.times):
            self.times.append(time.monotonic() - self.killed_s)
            self.killed_s = None
            say(f"  {self.times[-1]:.2f} s, noticed after {self.notices[-1]:.3f} s")
            if len(self.times) == self.kills:
                self.trainer.stop("the bench")
        elif self.killed_s is None and self.saved and self.warm >= self.spares and len(self.times) < self.kills:
            self.between()
            self.killed_s = time.monotonic()
            os.kill(self.processes[1], signal.SIGKILL)

    async def run(self) -> None:
        with trio.fail_after(DEADLINE_S):
            await self.trainer.train()


def fresh(text: str) -> dict[str, float]:
    """Return the seconds that a process started now needs, while nothing else runs here."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(TASK), text, repr(time.time())]
    output = subprocess.run(words, env=environment, capture_output=True, check=True, timeout=DEADLINE_S)
    found: dict[str, float] = json.loads(output.stdout)
    return found


def race(name: str, spares: int, kills: int) -> Iterator[dict[str, Any]]:
    """Kill and measure; the cold case has a fresh process before and after."""
    say(f"{name}: 2 ranks, {spares} spares, {kills} kills")
    with tempfile.TemporaryDirectory() as folder:
        found = job(folder, spares)
        alone = [fresh(found.to_json()) for _ in range(kills)] if not spares else []
        run = Killed(Trainer(found), kills, spares, lambda: None)
        trio.run(run.run)
    value = statistics.median(run.times)
    base = statistics.median(each["made"] for each in alone) if alone else None
    yield {
        "case": name,
        "value": value,
        "unit": "s",
        "against": "a fresh process: importing torch, building the model, its first step" if alone else None,
        "base": base,
        "ratio": None if base is None else base / value,
        "reach": 0.5 if base is not None else 3.0,
        "shape": {
            "ranks": 2,
            "spares": spares,
            "parameters": 9_967_360,
            "seconds": run.times,
            "noticed_s": run.notices,
            "fresh": alone,
        },
    }


def torchft(kills: int) -> Iterator[dict[str, Any]]:
    """Let torchft recover from the same kill, if a Python that has it is named."""
    python = os.environ.get("PRIME_BENCH_TORCHFT", "")
    if not python:
        say("recover_torchft is left out: PRIME_BENCH_TORCHFT names no Python that has torchft")
        return
    try:
        times = [_torchft_recover.race(python) for _ in range(kills)]
    except TimeoutError as error:  # it is theirs: our own cases stand
        say(f"recover_torchft is left out: {error}")
        return
    yield {
        "case": "recover_torchft",
        "value": statistics.median(times),
        "unit": "s",
        "against": None,
        "ratio": None,
        "shape": {"replicas": 2, "parameters": 9_967_360, "seconds": times},
    }


CASES = {"recover_warm": 2, "recover_warm_one": 1, "recover_cold": 0}
TORCHFT = "recover_torchft"


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", "--cases", default=",".join((*CASES, TORCHFT)))
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    before = machine()
    results: list[dict[str, Any]] = []
    for name in options.case.split(","):
        results += torchft(options.kills) if name == TORCHFT else race(name, CASES[name], options.kills)
    show("recover", results, before, as_json=options.json)


if __name__ == "__main__":
    main()
