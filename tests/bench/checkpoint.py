"""What a checkpoint costs: saving, loading and verifying it, and how long training stands still for one in the background.

Run: python tests/bench/checkpoint.py [--json] [--case NAME] [--millions 25] [--repeats 5]

The state is a model's parameters in float32 and AdamW's two moments, on one rank. Saving and loading are held against
torch's own FileSystemWriter and FileSystemReader (which sync, too, and hash nothing); verifying against reading the
same bytes; the stop of a background save against a whole save. Ours and theirs take turns, values are medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _report import machine, say, show
from torch.distributed import checkpoint as dcp

from prime.trainer.checkpoint import About, Checkpoints

LAYERS = 10


def state_of(millions: float) -> dict[str, Any]:
    """Return a model's parameters and moments: three times so many million elements."""
    width = int((millions * 1e6 / LAYERS) ** 0.5)
    generator = torch.Generator().manual_seed(0)

    def tensors() -> dict[str, torch.Tensor]:
        return {f"layers.{layer}.weight": torch.randn(width, width, generator=generator) for layer in range(LAYERS)}

    return {"model": tensors(), "optimiser": {"first": tensors(), "second": tensors()}}


class Bench:
    """One folder and one state; each case is a pair of calls that are timed in turns."""

    def __init__(self, folder: Path, millions: float, repeats: int) -> None:
        self.folder = folder
        self.repeats = repeats
        self.state = state_of(millions)
        self.ours = Checkpoints(folder / "ours")
        self.step = 0

    def save(self) -> None:
        """Save as a run does."""
        self.step += 1
        self.ours.save(self.step, self.state, About())

    def save_theirs(self) -> None:
        """Save with torch's own writer."""
        self.step += 1
        dcp.save(self.state, storage_writer=dcp.FileSystemWriter(self.folder / f"theirs-{self.step}"), no_dist=True)
        for old in sorted(self.folder.glob("theirs-*"), key=lambda path: int(path.name[7:]))[:-1]:
            shutil.rmtree(old)

    def load(self) -> None:
        """Load the newest, with its hashes."""
        self.ours.load(self.ours.at().step, self.state)

    def load_theirs(self) -> None:
        """Load the newest of torch's own."""
        newest = max(self.folder.glob("theirs-*"), key=lambda path: int(path.name[7:]))
        dcp.load(self.state, storage_reader=dcp.FileSystemReader(newest), no_dist=True)

    def begin_save(self) -> None:
        """Save in the background; `settle` waits for it outside of what is timed."""
        self.step += 1
        self.ours.save(self.step, self.state, About(), wait=False)

    def verify(self) -> None:
        """Hash the newest."""
        assert not self.ours.verify(self.ours.at().step)

    def read(self) -> None:
        """Read the newest and nothing more."""
        for file in self.ours.at().path.iterdir():
            with file.open("rb", buffering=0) as opened:
                while opened.read(8 << 20):
                    pass

    def pair(self, ours: Callable[[], None], theirs: Callable[[], None]) -> tuple[float, float]:
        """Return the median seconds of ours and the median of their share in it, theirs over ours."""
        pairs = [(self._seconds(ours), self._seconds(theirs)) for _ in range(self.repeats)]
        return statistics.median(mine for mine, _ in pairs), statistics.median(other / mine for mine, other in pairs)

    def _seconds(self, call: Callable[[], None]) -> float:
        started = time.perf_counter()
        call()
        found = time.perf_counter() - started
        self.ours.settle()
        return found

    def cases(self) -> dict[str, tuple[Callable[[], None], Callable[[], None], str]]:
        """Return ours, theirs, and what theirs is, by the case's name."""
        return {
            "checkpoint_save": (self.save, self.save_theirs, "torch's FileSystemWriter"),
            "checkpoint_load": (self.load, self.load_theirs, "torch's FileSystemReader"),
            "checkpoint_verify": (self.verify, self.read, "reading the same bytes"),
            "checkpoint_blocked": (self.begin_save, self.save, "a save that is waited for"),
        }


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--case", help="only this one")
    parser.add_argument(
        "--millions", type=float, default=25, help="millions of parameters; the state is three times that"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turns")
    parser.add_argument("--folder", type=Path, help="on which disk; else the system's folder for temporary files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch says that it saves without a group, which is meant so
    before, results = machine(), []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        bench = Bench(Path(folder), arguments.millions, arguments.repeats)
        bench.save()
        bench.save_theirs()
        size_bytes = bench.ours.at().manifest.size_bytes  # type: ignore[union-attr]  # `at` gives a whole one
        for case, (ours, theirs, against) in bench.cases().items():
            if arguments.case in (None, case):
                value, ratio = bench.pair(ours, theirs)
                results.append({"case": case, "value": value, "unit": "s", "against": against, "ratio": ratio})
                say(f"{case}: {value:.3f} s for {size_bytes / 1e6:.0f} MB ({size_bytes / 1e9 / value:.2f} GB/s)")
        bench.ours.close()
    show("checkpoint", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
