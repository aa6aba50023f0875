"""One rank of a gloo group of tests: does what each case says, and writes down what came of it as JSON.

`python ranks.py RANK WORLD FOLDER`: the cases are in FOLDER/cases.json, a list of [name, job tables, steps, extra].
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from prime.errors import PrimeError
from prime.trainer.checkpoint import About, Checkpoints
from prime.trainer.job import job_of
from prime.trainer.loop.learner import Learner
from prime.trainer.loop.place import Place


def done(tables: dict[str, Any], place: Place, steps: int, extra: dict[str, Any]) -> dict[str, Any]:
    try:
        learner = Learner(job_of(tables), place)
        if extra.get("load"):
            load(learner, extra["load"])
        reports = [learner.train_step() for _ in range(steps)]
        if extra.get("save"):
            learner.evaluate(3)
            save(learner, extra["save"])
        replay = [learner.train_step().loss for _ in range(extra.get("more", 0))]
    except PrimeError as error:
        return {"error": f"{type(error).__name__}: {error}", "hint": error.hint}
    return {
        "strategy": learner.strategy,
        "codec_engine": learner.codec_engine,
        "losses": [report.loss for report in reports] + replay,
        "norms": [report.grad_norm for report in reports],
        "rates": [report.learning_rate for report in reports],
        "bytes": [reports[-1].bytes_sent, reports[-1].bytes_exact],
        "held_out": learner.evaluate(3),
        "measures": dict(learner.measures),
        "bits": bits(learner),
        "local_elements": sum(local(p).numel() for p in learner.model.module.parameters()),
        "elements": learner.parameters,
        "calls": [getattr(block, "calls", 0) for block in getattr(learner.model.module, "blocks", [])],
        "step": learner.step,
    }


def save(learner: Learner, folder: str) -> None:
    Checkpoints(Path(folder)).save(learner.step, learner.state(), About())


def load(learner: Learner, folder: str) -> None:
    checkpoints, state = Checkpoints(Path(folder)), learner.state()
    checkpoints.load(checkpoints.at().step, state)
    learner.load(state)


def local(tensor: Any) -> torch.Tensor:
    found: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def full_parameters(learner: Learner) -> dict[str, torch.Tensor]:
    """Return the whole model's tensors by name, on the CPU: on rank 0; the other ranks help, and get an empty one."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_model_state_dict(learner.model.module, options=options)
    if learner.place.rank:
        return {}
    return {name: value.detach().clone() for name, value in found.items() if isinstance(value, torch.Tensor)}


def bits(learner: Learner) -> str:
    """Return a hash of the bits of all parameters; empty on the other ranks."""
    tensors = full_parameters(learner)
    whole = b"".join(tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(whole).hexdigest() if tensors else ""


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    place = Place(rank=rank, local_rank=rank, world=world)
    cases = json.loads((folder / "cases.json").read_text())
    found = {name: done(tables, place, steps, extra) for name, tables, steps, extra in cases}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
