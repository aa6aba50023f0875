"""Plain loops with three changed lines, as one rank of a group that `attach` makes from torchrun's variables.

`python plain_ranks.py FILE`: writes what came of each loop to FILE, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from prime.errors import PrimeError
from prime.trainer import attach

SAMPLES, EPOCHS = 61, 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.aside = nn.Linear(16, 3)  # gets a gradient from some samples only, so on some ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        found: torch.Tensor = self.last(hidden)
        chosen = x[:, 0] > 0.8
        return found.index_add(0, chosen.nonzero()[:, 0], self.aside(hidden[chosen])) if chosen.any() else found


class Stream(IterableDataset[Any]):
    """Samples that can only be gone through."""

    def __iter__(self) -> Iterator[Any]:
        return iter(dataset())


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 6, generator=generator)
    return TensorDataset(x, (x[:, :3].argmax(dim=1) + (x[:, 4] > 1)) % 3)


def trained(loader: Any, *, codec: str = "none", microbatches: int = 1, poison: float = 1.0) -> dict[str, Any]:
    torch.manual_seed(7)
    model = Net()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02, foreach=False)
    loop = attach(model, codec=codec, exact_below=0)
    losses = []
    for _ in range(EPOCHS):
        for number, (x, y) in enumerate(loop.share(loader)):
            loss = nn.functional.cross_entropy(model(x), y) * (poison if loop.rank else 1.0)
            (loss / microbatches).backward()
            losses.append(loop.mean(loss))
            if number % microbatches == microbatches - 1:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimiser.step()
                optimiser.zero_grad()
    weights = [round(float(p.detach().double().sum()), 6) for p in model.parameters()]
    return {"losses": losses, "weights": weights, "bytes": [loop.bytes_sent, loop.bytes_exact], "world": loop.world}


def refused(loader: Any) -> dict[str, Any]:
    try:
        return trained(loader, poison=float("inf"), codec="int8")
    except PrimeError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = dataset().tensors
    return list(zip(x.split(7), y.split(7), strict=True))


def everything() -> dict[str, Any]:
    shuffled = DataLoader(dataset(), batch_size=7, shuffle=True)
    return {
        "shuffled": trained(shuffled),
        "workers": trained(DataLoader(dataset(), batch_size=7, shuffle=True, num_workers=1)),
        "list": trained(batches()),
        "stream": trained(DataLoader(Stream(), batch_size=7)),
        "accumulated": trained(DataLoader(dataset(), batch_size=7, shuffle=True, drop_last=True), microbatches=2),
        "int8": trained(shuffled, codec="int8"),
        "tiny batches": trained(DataLoader(dataset(), batch_size=4)),  # the last has one sample
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    came = everything()
    came["refused"] = refused(DataLoader(dataset(), batch_size=7))
    Path(sys.argv[1]).write_text(json.dumps(came))
