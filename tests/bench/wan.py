"""How much of its time a node computes while four of them train over slow links: 100 Mbit/s, 40 ms there and back.

Run: python tests/bench/wan.py [--json] [--case wan_utilisation] [--elements 100000000] [--period 60] [--rate 100]

Four nodes in network namespaces (root, `tests/netsim/`), a process each, with all that a node runs: transport, aggregator,
donor, trainer, journal on the disk, and 100 M parameters with the momentum of the outer optimiser. What is not real is
the rank worker: its inner steps are paced, that is, slept, because four models of that size do not compute on one machine;
it holds its parameters and moves them, and what it learns is noise of the size of a step. H lasts `--period` seconds.

`value` is the mean over the nodes of: time in inner steps / time that passed, over one whole period of H inner steps.
`wan_utilisation` is streaming: `fragments` of the vector in turn, each exchanged in int4 (results in int8) while training
goes on; measured from the first committed round on, one period long. `wan_utilisation_float32` is the same machinery
without any of it: all in one round, in float32, and nobody trains while it lasts; measured from the first inner step to the
end of the first round. `rss_mbytes` is the most memory that a node's process had. States are not written to the disk: four nodes on one machine have one disk.

The defaults want an idle machine with 20 GiB of memory. `--elements 10000000 --rate 10` is the same race between bytes and
seconds with a tenth of the work for the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))  # a fresh checkout needs no installation

import attrs  # noqa: E402
import numpy as np  # noqa: E402
import trio  # noqa: E402
from _report import machine, say, show  # noqa: E402

import prime  # noqa: E402
from prime.node import training as node_training  # noqa: E402
from prime.trainer import pipe  # noqa: E402
from prime.trainer.codec import Vector  # noqa: E402
from prime.trainer.metadata import ModelMetadata, TensorLayout, TrainingConfig  # noqa: E402
from prime.trainer.outer.optimisers import outer_optimiser  # noqa: E402
from prime.trainer.swarm import trainer as swarm_trainer  # noqa: E402
from prime.trainer.swarm.state import initial_state  # noqa: E402
from prime.transport.identity import KeyPair  # noqa: E402

NETSIM = HERE.parent / "netsim" / "netsim.sh"
NODES = 4
RATE_MBIT, DELAY = 100, "20ms"
PORT = 4001
INNER_STEPS = 240
DEADLINE_S = 600.0
ROUND_DEADLINE_S = 300.0
NOISE_ELEMENTS = 1 << 20


@attrs.frozen
class Case:
    """A way to train. `rounds` is how many the run has, and `first` the one from whose end on is measured; 0: from the start."""

    name: str
    codec: str
    gather_codec: str
    fragments: int
    overlap_steps: int
    rounds: int
    first: int
    reach: float | None


CASES = (
    Case("wan_utilisation", "int4", "int8", 4, -1, 5, 1, 0.95),
    Case("wan_utilisation_float32", "none", "none", 1, 0, 1, 0, None),
)

# ------------------------------------------------------------------------------------------------------- one node


class PacedWorker:
    """A rank worker whose inner steps are slept: `step_s` each. `local` is float32[D]."""

    unigram = None
    samples = 1
    layout_hash = ""
    process_id = 0

    def __init__(self, elements: int, step_s: float, seed: int) -> None:
        self.elements = elements
        self.metadata = ModelMetadata("paced", elements, (TensorLayout("weights", (elements,), "float32"),))
        self._step_s = step_s
        self._noise = np.random.default_rng(seed).normal(size=NOISE_ELEMENTS).astype(np.float32) * np.float32(1e-3)
        self._local: Vector = np.zeros(0, np.float32)
        self._snapshots: dict[int, Vector] = {}
        self._steps = 0
        self.computed_s = 0.0
        self.began_at = 0.0

    async def initial(self) -> Vector:
        """Return the parameters that all begin with."""
        return np.zeros(self.elements, np.float32)

    async def load(self, theta: Vector) -> None:
        """Take parameters."""
        self._local = theta.copy()

    async def train(self, steps: int) -> pipe.Trained:
        """Sleep."""
        self.began_at = self.began_at or time.monotonic()
        await trio.sleep(steps * self._step_s)
        self.computed_s += steps * self._step_s
        self._steps += steps
        return pipe.Trained(self._steps, steps, 1.0, steps, steps * self._step_s)

    async def snapshot(self, cut: slice) -> Vector:
        """Return what the steps made of a slice."""
        self._snapshots[cut.start] = taken = await trio.to_thread.run_sync(self._moved, cut)
        return taken

    def _moved(self, cut: slice) -> Vector:
        local = self._local[cut]
        for at in range(0, local.size, NOISE_ELEMENTS):
            piece = local[at : at + NOISE_ELEMENTS]
            piece += self._noise[: piece.size]
        return local.copy()

    async def forget_snapshot(self, cut: slice) -> None:
        """Count from the shared parameters again."""
        self._snapshots.pop(cut.start, None)

    async def rebase(self, theta: Vector, start: int = 0) -> None:
        """Move a slice onto new shared parameters."""
        await trio.to_thread.run_sync(self._rebase, theta, start)

    def _rebase(self, theta: Vector, start: int) -> None:
        local, snapshot = self._local[start : start + theta.size], self._snapshots.pop(start, None)
        if snapshot is None:
            local[:] = theta
        else:
            local -= snapshot
            local += theta

    async def evaluate(self, _theta: Vector | None, _batches: int) -> float:
        """Return a loss."""
        return 1.0

    async def write(self, _prompt: str, _length: int, _seed: int) -> str:
        """Write nothing."""
        return ""


class Begun(node_training.Training):
    """A node that has the state which the run begins with, and keeps states in memory: see above."""

    elements = 0

    def __init__(self, system: Any, config: TrainingConfig, plan: Any, journal: Any, _saved: Any) -> None:
        super().__init__(system, config, plan, journal, None)
        slots = outer_optimiser(self._config).slots
        self._state = initial_state(np.zeros(self.elements, np.float32), slots)


def address_of(rank: int) -> str:
    """Return where a node listens."""
    return f"/ip4/10.99.0.{rank + 1}/tcp/{PORT}"


async def serve(case: Case, elements: int, period_s: float, folder: Path) -> None:
    """Be one node of the run, and print one line of figures at its end."""
    rank = int(os.environ["RANK"])
    keys = [KeyPair.from_seed(bytes([index + 1] * 32)) for index in range(NODES)]
    worker = PacedWorker(elements, period_s / INNER_STEPS, rank)

    @contextlib.asynccontextmanager
    async def open_paced(*_: Any) -> AsyncIterator[PacedWorker]:
        yield worker

    swarm_trainer.open_rank = open_paced  # type: ignore[assignment]
    node_training.Training = Begun  # type: ignore[misc]
    Begun.elements = elements
    config = TrainingConfig(
        rounds=case.rounds, nodes_min=NODES, contributors_final_min=NODES, inner_steps=INNER_STEPS, batch_size=1,
        context=2, codec=case.codec, gather_codec=case.gather_codec, fragments=case.fragments,
        overlap_steps=case.overlap_steps, round_deadline_s=ROUND_DEADLINE_S,
    )  # fmt: skip
    seen = Seen(case.first, worker)
    async with prime.open_system(transport=prime.Tcp(address_of(rank)), key=keys[rank]) as system:
        system.subscribe(seen.observe)
        contacts = [f"{address_of(0)}/p2p/{keys[0].peer}"] if rank else []
        own = folder / str(rank)
        own.mkdir()
        async with node_training.open_trainer(system, config, contacts=contacts, folder=own) as training:
            await training.done()
            print(json.dumps(seen.figures(training.progress.state_hash)), flush=True)
            await trio.sleep(5.0)  # the others may still ask for this round


class Seen:
    """When the measured time began and ended at this node, and how much of it was computed."""

    def __init__(self, first: int, worker: PacedWorker) -> None:
        self._first = first
        self._worker = worker
        self._ends: dict[int, tuple[float, float]] = {}

    def observe(self, fact: Any) -> None:
        """Note when a round's outcome was taken into the parameters."""
        if isinstance(fact, swarm_trainer.RoundDecided) and fact.committed:
            now = time.monotonic()
            self._ends[fact.round] = (now, self._worker.computed_s)
            say(
                f"round {fact.round} at {now - self._worker.began_at:.1f} s, {self._worker.computed_s:.1f} s of them steps"
            )

    def figures(self, state_hash: str) -> dict[str, Any]:
        """Return what is printed."""
        began, computed = self._ends[self._first] if self._first else (self._worker.began_at, 0.0)
        ended, computed_then = self._ends[max(self._ends)]
        return {
            "utilisation": (computed_then - computed) / (ended - began),
            "seconds": ended - began,
            "rounds": max(self._ends) - self._first,
            "rss_mbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "state": state_hash,
        }


# ------------------------------------------------------------------------------------------------------ the bench


def measured(case: Case, elements: int, period_s: float, rate_mbit: int) -> dict[str, Any]:
    """Run a case in four namespaces; return its row of the report."""
    folder = Path(tempfile.mkdtemp(prefix="wan-"))
    try:
        found = _nodes(case, elements, period_s, rate_mbit, folder)
    finally:
        shutil.rmtree(folder)
    if len(found) != NODES or len({each["state"] for each in found}) != 1:
        raise SystemExit(f"{case.name}: the nodes do not agree: {found}")
    value = sum(each["utilisation"] for each in found) / NODES
    seconds = max(each["seconds"] for each in found)
    say(f"{case.name}: {value:.3f} of {seconds:.0f} s, {max(each['rss_mbytes'] for each in found):.0f} MB a node")
    return {
        "case": case.name,
        "value": value,
        "unit": "of the time",
        "against": None,
        "ratio": None,
        "reach": case.reach,
        "least": min(each["utilisation"] for each in found),
        "seconds": seconds,
        "rounds": found[0]["rounds"],
        "rss_mbytes": max(each["rss_mbytes"] for each in found),
        "elements": elements,
        "period_s": period_s,
        "link": f"{rate_mbit} Mbit/s, {DELAY} each way",
        "compute": "paced",
    }


def _nodes(case: Case, elements: int, period_s: float, rate_mbit: int, folder: Path) -> list[dict[str, Any]]:
    program = [sys.executable, str(Path(__file__).resolve()), "--serve", case.name, "--folder", str(folder)]
    program += ["--elements", str(elements), "--period", str(period_s)]
    path = os.pathsep.join(filter(None, [str(ROOT), str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "NETSIM_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [str(NETSIM), str(NODES), f"{rate_mbit}mbit", DELAY, "--", *program],
        stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=True, env=environment,
    )  # fmt: skip
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    """Run the bench."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--case", action="append", choices=names, help="only this case; may be given more than once")
    parser.add_argument("--elements", type=int, default=100_000_000, help="parameters")
    parser.add_argument("--period", type=float, default=60.0, help="seconds that H inner steps take")
    parser.add_argument("--rate", type=int, default=RATE_MBIT, help="what each node may send, in Mbit/s")
    parser.add_argument("--serve", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [case for case in CASES if case.name in (arguments.case or names)]
    if arguments.serve:
        (case,) = [case for case in CASES if case.name == arguments.serve]
        trio.run(serve, case, arguments.elements, arguments.period, arguments.folder)
        return
    if os.geteuid() != 0 or shutil.which("tc") is None:
        raise SystemExit("wan.py needs root and tc: it makes network namespaces")
    before = machine()
    results = [measured(case, arguments.elements, arguments.period, arguments.rate) for case in chosen]
    show("wan", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
