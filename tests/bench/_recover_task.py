"""What `recover.py` trains: 10 M parameters, and what one fresh process needs until its first step.

Run as a program it prints the seconds of a step of a job in a process that has just been started: `ready` (torch is
imported, the model built) and `made` (the first step is), both from the time in the second argument.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

WIDTH = 1024
HIDDEN = 4864
"""2 x 1024 x 4864 weights: 9.96 M; with biases 10.0 M parameters."""


def model(_: Any) -> Any:
    """Return two layers and their loss."""
    from torch import nn

    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)), nn.MSELoss()


def data(_: Any) -> Any:
    """Return samples of noise."""
    import torch

    inputs = torch.randn(512, WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.TensorDataset(inputs, inputs)


def main() -> None:
    """Make the first step of a job in this process."""
    job_text, began_s = sys.argv[1], float(sys.argv[2])
    from prime.trainer.job import Job
    from prime.trainer.loop.learner import Learner, prepare
    from prime.trainer.loop.place import Place

    job = Job.from_json(job_text)
    prepared = prepare(job)
    ready_s = time.time() - began_s
    Learner(job, Place(device="cpu"), prepared).train_step()
    sys.stdout.write(json.dumps({"ready": ready_s, "made": time.time() - began_s}) + "\n")


if __name__ == "__main__":
    main()
