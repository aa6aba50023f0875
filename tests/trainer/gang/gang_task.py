"""A small model and its data, as the ranks of a gang under test import them; a file beside the run makes it fail."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class MuteError(RuntimeError):
    """An error that cannot say what it is, and is its own cause."""

    def __init__(self) -> None:
        super().__init__()
        self.__cause__ = self

    def __str__(self) -> str:
        raise TypeError


class Moody(nn.Module):
    """Two layers, and at one step whatever the options say: `{"at": step, "mood": "raise" | "mute" | "sleep" | "eat"}`."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 1))
        self.options = options
        self.step = 0

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:  # noqa: N803 - B samples, I inputs
        if self.training and self.options:
            self.be(self.options["mood"], int(x_BI[0, 0]))
        return self.layers(x_BI[:, 1:])

    def be(self, mood: str, sample: int) -> None:
        """Do what the mood is, once this rank meets the sample that it is about."""
        once = Path(self.options.get("once", "/"))
        if sample != self.options["at"] or once.is_file():
            return
        if once.name:
            once.touch()
        if mood == "raise":
            raise ValueError("made up")
        if mood == "mute":
            raise MuteError
        if mood == "eat":
            hoard = []
            while True:
                hoard.append(os.urandom(1 << 24))
        time.sleep(600)


class Numbers(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sample i starts with i, so that a model knows where it is."""

    held_out: Numbers

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(count, 8, generator=generator)
        self.samples = torch.cat([torch.arange(count)[:, None], inputs], dim=1)
        self.targets = inputs[:, :1] * 2 + torch.randn(count, 1, generator=generator) * 0.1

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.samples[index], self.targets[index]


def model(job: Any) -> Any:
    """Return the model and its loss."""
    return Moody(dict(job.model_options)), nn.MSELoss()


def data(_: Any) -> Numbers:
    """Return the data, and what is held out as its attribute."""
    found = Numbers(512, 1)
    found.held_out = Numbers(64, 2)
    return found
