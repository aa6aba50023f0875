"""What stands for parts of a node in the tests of the round's actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import trio

from prime.trainer.metadata import ModelMetadata, TensorLayout


class VectorWorker:
    """Stands for a rank worker whose model is a flat vector, zeros at first; how it makes steps is for who derives from it.

    It keeps the three vectors that a worker keeps: its own parameters, those of the last snapshot, the shared ones.
    """

    unigram: float | None = None
    layout_hash = "layout"

    def __init__(self, elements: int, samples: int) -> None:
        self.elements, self.samples = elements, samples
        self.metadata = ModelMetadata("model", elements, (TensorLayout("weights", (elements,), "float32"),))
        self.local, self.base, self.shared = np.zeros((3, elements), np.float32)
        self.steps = 0

    async def initial(self) -> Any:
        return np.zeros(self.elements, np.float32)

    async def load(self, theta: Any) -> None:
        self.local[:] = self.base[:] = self.shared[:] = theta

    async def rebase(self, theta: Any, start: int) -> None:
        cut = slice(start, start + theta.size)
        self.local[cut] = theta + (self.local[cut] - self.base[cut])
        self.base[cut] = self.shared[cut] = theta

    async def forget_snapshot(self, cut: slice) -> None:
        self.base[cut] = self.shared[cut]

    async def snapshot(self, cut: slice) -> Any:
        self.base[cut] = self.local[cut]
        return self.local[cut].copy()

    async def write(self, _prompt: str, _length: int, _seed: int) -> str:
        return ""


class Listener:
    """Keeps what an aggregator reports, in the fields `heard` and `news` of who derives from it."""

    heard: list[Any]
    news: trio.Event

    def report(self, outcome: Any) -> None:
        self.heard.append(outcome)
        self.news.set()

    async def until(self, is_it: Callable[[Any], bool]) -> Any:
        """Wait for the first outcome of a kind."""
        while True:
            for outcome in self.heard:
                if is_it(outcome):
                    return outcome
            self.news = trio.Event()
            await self.news.wait()
