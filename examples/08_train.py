"""A trainer inside a program of your own: two ranks, gradients in 8 bits, and a program that says when it is enough.

Run: python examples/08_train.py [FOLDER]
Needs: pip install '.[train]'
"""

from __future__ import annotations

import sys

import trio

from prime.trainer import Job, Trainer
from prime.trainer.facts import CheckpointSaved, Evaluated, GenerationBegan, RankLost
from prime.trainer.job import Checkpoint, Compression, Evaluation, Optimiser, Parallel, Schedule

GOOD_ENOUGH = 3.0  # nats a character; guessing by letter frequency alone comes to 3.3

JOB = Job(
    name="example",
    folder=sys.argv[1] if len(sys.argv) > 1 else "",  # by default runs/example
    model="charlm",  # or a function at the top of this file: it takes the job and returns a module and its loss
    model_options={"width": 64, "layers": 2},
    steps=400,
    batch_size=16,
    optimiser=Optimiser(learning_rate=3e-3),
    schedule=Schedule(warmup_steps=10),
    parallel=Parallel(ranks=2),
    compression=Compression(codec="int8"),
    evaluation=Evaluation(every_steps=20, batches=4),
    checkpoint=Checkpoint(every_steps=50),
)


async def watch(trainer: Trainer) -> None:
    async for fact in trainer.facts():
        match fact:
            case GenerationBegan(generation=generation, world=world, step=step):
                print(f"generation {generation}: {world} ranks, from step {step}")
            case Evaluated(step=step, loss=loss):
                print(f"step {step}: held-out loss {loss:.2f}")
                if loss < GOOD_ENOUGH:
                    trainer.stop("it is good enough")
            case RankLost(rank=rank, cause=cause):
                print(f"rank {rank} {cause}; all go on from the newest checkpoint")
            case CheckpointSaved(step=step):
                print(f"step {step} is saved")


async def main() -> None:
    trainer = Trainer(JOB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, trainer)
        result = await trainer.train()
    print(f"{result.outcome} at step {result.step}; the report is in {result.folder}")


if __name__ == "__main__":
    trio.run(main)
