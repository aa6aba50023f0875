"""Models of under two thousand parameters, but for one: the runs under test need rounds, not learning."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

SLOW_STEP_S = 0.05
LEARNER_STEP_S = 0.1


class Tiny:
    """Guesses the next character from the present one."""

    def __init__(self, step_s: float, words: int = 97) -> None:
        self.module = nn.Sequential(nn.Embedding(words, 8), nn.Linear(8, 97))
        self._step_s = step_s

    def loss(self, batch: Any) -> torch.Tensor:
        time.sleep(self._step_s)
        logits = self.module(batch[:, :-1])
        return nn.functional.cross_entropy(logits.reshape(-1, 97), batch[:, 1:].reshape(-1))


def quick(_: Any) -> Tiny:
    """Build a model whose steps take no time."""
    return Tiny(0)


def slow(_: Any) -> Tiny:
    """Build the same model with steps long enough to be killed in."""
    return Tiny(SLOW_STEP_S)


def large(_: Any) -> Tiny:
    """Build a slow model with a state of megabytes, most of which its data never touch."""
    return Tiny(SLOW_STEP_S, 1 << 18)


def learner(_: Any) -> Tiny:
    """Build the same model with steps that leave room for other nodes on the same cores."""
    return Tiny(LEARNER_STEP_S)
