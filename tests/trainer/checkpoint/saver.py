"""Saves until it is killed: at each folder on standard input a fork of this process, which has torch, begins to.

It says `begun PID`, then `saved STEP` after each save, and `gone` once the fork has ended.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from prime.trainer.checkpoint import About, Checkpoints, Retention, saving

ELEMENTS = 200_000


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def save_on(folder: Path) -> None:
    checkpoints = Checkpoints(folder, Retention(keep_last=2))
    newest = checkpoints.newest_whole()
    step = newest.step + 1 if newest is not None else 0
    while True:
        checkpoints.save(step, {"model": {"w": torch.full((ELEMENTS,), float(step))}, "step": step}, About())
        say("saved", step)
        step += 1


def main() -> None:
    torch.set_num_threads(1)
    assert saving.MEETING_TIMEOUT, "what saving takes is loaded before the fork, so that a kill comes while it saves"
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            say("begun", os.getpid())
            save_on(Path(line.strip()))
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main()
