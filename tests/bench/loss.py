"""What compression costs in loss: the character model, 300 steps over two replicas under FSDP2, exact, int8 and int4.

Run: python tests/bench/loss.py [--json] [--steps 300] [--codecs int8,int4]

The three runs see the same samples from the same first parameters. `value` is the held-out loss in nats a character,
`ratio` the exact run's by it, `off` how far it is from the exact run's, relative; what it may be is `off_reach`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import machine, say, show

ROOT = Path(__file__).resolve().parents[2]
OFF_REACH = {"none": 0.0, "int8": 0.005, "int4": 0.01}
WORLD = 2
DEADLINE_S = 1800.0


def job_tables(codec: str, steps: int) -> dict[str, Any]:
    """Return the job: every rank a replica, so that all that gradients cost on the wire is compressed."""
    return {
        "model": "charlm",
        "data": "stdlib",
        "data_options": {"context": 64},
        "steps": steps,
        "batch_size": 32,
        "optimiser": {"learning_rate": 1.5e-3},
        "schedule": {"warmup_steps": min(20, steps)},
        "parallel": {"strategy": "fsdp", "replicas": WORLD, "device": "cpu"},
        "compression": {"codec": codec},
    }


def be_a_rank(rank: int, steps: int, codecs: list[str], store: str) -> None:
    """Train each job as one rank; rank 0 prints a line for each."""
    import torch.distributed as dist

    from prime.trainer.job import job_of
    from prime.trainer.loop.learner import Learner
    from prime.trainer.loop.place import Place

    dist.init_process_group("gloo", store=dist.FileStore(store, WORLD), rank=rank, world_size=WORLD)
    for codec in codecs:
        learner = Learner(job_of(job_tables(codec, steps)), Place(rank=rank, local_rank=rank, world=WORLD))
        started = time.perf_counter()
        reports = [learner.train_step() for _ in range(steps)]
        last = reports[-50:]
        found = {
            "codec": codec,
            "held_out": learner.evaluate(16),
            "training": sum(report.loss for report in last) / len(last),
            "bytes_sent": sum(report.bytes_sent for report in reports),
            "bytes_exact": sum(report.bytes_exact for report in reports),
            "seconds": time.perf_counter() - started,
        }
        if rank == 0:
            print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def trained(steps: int, codecs: list[str]) -> dict[str, dict[str, Any]]:
    """Start the ranks; return rank 0's figures by codec."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, __file__, "--steps", str(steps), "--codecs", ",".join(codecs)]
        ranks = [
            subprocess.Popen(
                [*program, "--rank", str(rank), "--store", f"{folder}/store"],
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            for rank in range(WORLD)
        ]
        try:
            printed, _ = ranks[0].communicate(timeout=DEADLINE_S)
            for rank in ranks:
                if rank.wait(timeout=60):
                    raise SystemExit(f"a rank ended with status {rank.returncode}")
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    return {found["codec"]: found for found in map(json.loads, printed.splitlines())}


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--codecs", default="int8,int4", help="names, with commas between them")
    parser.add_argument("--rank", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    codecs = arguments.codecs.split(",")
    if arguments.rank >= 0:
        be_a_rank(arguments.rank, arguments.steps, codecs, arguments.store)
        return
    before = machine()
    found = trained(arguments.steps, ["none", *codecs])
    exact, results = found["none"], []
    for codec in codecs:
        ours = found[codec]
        off = {kind: ours[kind] / exact[kind] - 1 for kind in ("held_out", "training")}
        row = {
            "case": f"loss_{codec}",
            "value": ours["held_out"],
            "unit": "nats",
            "against": "exact",
            "against_value": exact["held_out"],
            "ratio": exact["held_out"] / ours["held_out"],
            "off": off["held_out"],
            "off_training": off["training"],
            "off_reach": OFF_REACH.get(codec),
            "bytes_ratio": ours["bytes_exact"] / ours["bytes_sent"],
            "steps": arguments.steps,
        }
        say(f"{row['case']}: held out {row['value']:.4f} against {exact['held_out']:.4f}, {off['held_out']:+.2%}; "
            f"training {ours['training']:.4f} against {exact['training']:.4f}, {off['training']:+.2%}; "
            f"{row['bytes_ratio']:.2f} times fewer bytes")  # fmt: skip
        results.append(row)
    show("loss", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
