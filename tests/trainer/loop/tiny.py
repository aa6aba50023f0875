"""A model of three blocks and data that it can learn, small enough for a test: what the ranks of a group train."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from prime.trainer.job import Job

WIDTH, SYMBOLS, TIME, SAMPLES = 16, 11, 8, 61


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        mixed = torch.cumsum(self.norm(x), dim=1) / TIME
        added: torch.Tensor = x + self.dropout(self.down(functional.gelu(self.up(mixed))))
        return added


class Noise(nn.Module):
    """Draws from each generator that there is, and keeps means of what it sees: other ones on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.BatchNorm1d(WIDTH)
        self.still = nn.BatchNorm1d(WIDTH).eval()
        self.register_buffer("mask", torch.ones(WIDTH, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.still(self.means(x.transpose(1, 2))).transpose(1, 2) * self.mask
        return x * (1 + 0.1 * random.random() + 0.1 * np.random.random()) if self.training else x  # noqa: NPY002


class Tiny(nn.Module):
    def __init__(self, dropout: float, *, unused: bool, noisy: bool) -> None:
        super().__init__()
        self.noise = Noise() if noisy else nn.Identity()
        self.symbols = nn.Embedding(SYMBOLS, WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(3))
        self.head = nn.Linear(WIDTH, SYMBOLS)
        if unused:
            self.unused = nn.Linear(2, 2)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        x = self.noise(self.symbols(symbols))
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(x)
        return logits


class TinyModel:
    def __init__(self, dropout: float = 0.0, *, unused: bool = False, noisy: bool = False) -> None:
        self.module = Tiny(dropout, unused=unused, noisy=noisy)

    def loss(self, batch: Any) -> torch.Tensor:
        logits = self.module(batch[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, SYMBOLS), batch[:, 1:].reshape(-1))

    def measures(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"accuracy": (self.module(batch[:, :-1]).argmax(-1) == batch[:, 1:]).float().mean()}


class TinyData:
    """Rows that count upwards from a start by a stride."""

    baseline: float | None = 2.4
    tokens_per_sample = TIME

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, indices: Any) -> Any:
        start, stride = indices[:, None] % SYMBOLS, 1 + indices[:, None] // SYMBOLS % 3
        return (start + stride * np.arange(TIME + 1)) % SYMBOLS

    def held_out(self, count: int) -> Sequence[Any]:
        return [self.batch(np.arange(4) + SAMPLES + 4 * number) for number in range(count)]


def build_model(job: Job) -> TinyModel:
    return TinyModel(**job.model_options)


def open_data(job: Job) -> TinyData:
    fingerprint = str(job.data_options.get("fingerprint", ""))
    return TinyData(str(dist.get_rank()) if fingerprint == "torn" else fingerprint)
