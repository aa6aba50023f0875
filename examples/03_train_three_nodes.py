"""Your own model and data, trained by three nodes in one program: every few steps they agree on one result.

Run: python examples/03_train_three_nodes.py
Needs: pip install '.[train]'
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import trio

import prime
from prime import TrainingConfig

FILE = Path(__file__).resolve()
NODES = 3
DEADLINE_S = 150

# ---------------------------------------------------------------------------------------------- your data and model

FONT = "75557 26227 71747 71717 55711 74717 74757 71111 75757 75717"
"""The digits 0 to 9 as 5 rows of 3 pixels; each row is one octal figure."""


class Digits:
    """Digits in 8 x 8 pixels, at a random place under noise, made as they are asked for: a sample is its number."""

    baseline = math.log(10)  # the loss of guessing

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.glyphs = np.array([[[int(bit) for bit in f"{int(row):03b}"] for row in word] for word in FONT.split()])

    def __len__(self) -> int:
        """Return how many samples there are to train on."""
        return 10**9

    def batch(self, indices: Any) -> Any:
        """Return the pixels and digits of these samples: each node asks for others, in an order of its own."""
        return self.drawn(np.random.default_rng([self.config.seed, *indices]), len(indices))

    def held_out(self, count: int) -> Sequence[Any]:
        """Return batches that nobody trains on."""
        size = self.config.batch_size
        return [self.drawn(np.random.default_rng([self.config.seed, 10**9 + i]), size) for i in range(count)]

    def drawn(self, random: np.random.Generator, size: int) -> Any:
        """Draw one batch."""
        digits = random.integers(0, 10, size)
        pixels = random.normal(0, 0.4, (size, 8, 8)).astype(np.float32)
        for image, digit, top, left in zip(pixels, digits, *random.integers(0, 3, (2, size)), strict=True):
            image[top : top + 5, left : left + 3] += self.glyphs[digit]
        return pixels.reshape(size, 64), digits


def build_data(config: TrainingConfig) -> Digits:
    """Return the data (called in each worker process)."""
    return Digits(config)


def build_model(_: TrainingConfig) -> Any:
    """Return the model: a torch module, and the loss of a batch (called in each worker process)."""
    import torch  # only the worker processes need it
    from torch import nn

    class Classifier:
        module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        def loss(self, batch: Any) -> torch.Tensor:
            pixels, digits = batch
            return nn.functional.cross_entropy(self.module(pixels), digits)

    return Classifier()


# --------------------------------------------------------------------------------------------------- the three nodes

CONFIG = TrainingConfig(
    model=f"{FILE}:build_model",  # or "package.module:function"
    data=f"{FILE}:build_data",
    rounds=8,
    nodes_min=NODES,  # the first round waits for all three
    contributors_final_min=NODES,
    inner_steps=40,
    batch_size=64,
    learning_rate=1e-2,
    round_deadline_s=30,
)


async def main() -> None:
    async with AsyncExitStack() as stack:
        nodes = []
        contacts: tuple[str, ...] = ()  # the first node founds the run, the others join it
        for _ in range(NODES):
            # Elsewhere each node is a program of its own; then `key=` and `folder=` name what it keeps over restarts.
            system = await stack.enter_async_context(prime.open_system(transport=prime.Tcp("/ip4/127.0.0.1/tcp/0")))
            nodes.append(await stack.enter_async_context(prime.open_trainer(system, CONFIG, contacts=contacts)))
            contacts = contacts or system.addresses
        with trio.fail_after(DEADLINE_S):
            for node in nodes:
                await node.done()
        report(nodes)


def report(nodes: list[Any]) -> None:
    first = nodes[0].progress
    for decided in first.history:
        loss = "none" if decided.loss is None else f"{decided.loss:.3f}"
        print(f"round {decided.round}: {len(decided.contributors)} nodes, training loss {loss}")
    print(f"held-out loss {first.loss_first:.3f} -> {first.loss_last:.3f} (guessing: {first.unigram:.3f})")
    identical = all(np.array_equal(nodes[0].parameters, node.parameters) for node in nodes)
    print(f"{nodes[0].parameters.size} parameters, identical on all {len(nodes)} nodes: {identical}")


if __name__ == "__main__":
    trio.run(main)
