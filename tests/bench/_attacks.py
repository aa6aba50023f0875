"""What liars send instead of what they trained: each knows all that the others send (N honest ones, D parameters)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from prime.trainer.codec import Vector

Rows = npt.NDArray[np.float32]
JUST_WITHIN: Final = 0.97
"""Of the norm that the gate lets through."""


class Liars:
    """`count` of them, with one plan. `send` returns what they send in a round, or None: bytes that no codec writes."""

    def __init__(self, plan: str, count: int, norm_gate: float, seed: int = 0) -> None:
        self._attack = ATTACKS[plan] if plan else None
        self.count = count if plan else 0
        self.norm_gate = norm_gate
        self.random = np.random.default_rng(seed)
        self.first: Rows | None = None

    def send(self, honest_ND: Rows) -> list[Vector | None]:  # noqa: N803 - shape suffix
        """Return what the liars send, given what the honest ones do."""
        self.first = honest_ND.copy() if self.first is None else self.first
        if self._attack is None:
            return []
        rows = self._attack(self, honest_ND)
        return [None if row is None else np.ascontiguousarray(row, np.float32) for row in rows]


def _usual_norm(honest_ND: Rows) -> float:  # noqa: N803
    return float(np.median(np.linalg.norm(honest_ND, axis=1)))


def scaled(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send a hundred times what an honest member sends, the other way."""
    return [-100 * honest_ND[i] for i in range(liars.count)]


def flipped(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send an honest delta with its sign turned."""
    return [-honest_ND[i] for i in range(liars.count)]


def nan(liars: Liars, honest_ND: Rows) -> list[None]:  # noqa: N803
    """Send codes whose scales are NaN: no encoder writes that, so it is made by hand."""
    return [None] * liars.count


def stale(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send the first round's delta again and again, with the present base on it."""
    first = honest_ND if liars.first is None else liars.first
    return [first[i] for i in range(liars.count)]


def random(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send noise of ten times the usual norm."""
    noise = liars.random.normal(size=(liars.count, honest_ND.shape[1]))
    return [10 * _usual_norm(honest_ND) * row / np.linalg.norm(row) for row in noise]


def alie(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send, all alike, as much off the mean as would pass for an honest member's spread.

    Source: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS
    2019, algorithm 3.
    """
    members = len(honest_ND) + liars.count
    supporters = members // 2 + 1 - liars.count
    share = (len(honest_ND) - supporters) / len(honest_ND)
    z = max(NormalDist().inv_cdf(share), 0.0)
    return [honest_ND.mean(axis=0) - z * honest_ND.std(axis=0)] * liars.count


def inner_product(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send, all alike, a tenth of the honest mean with its sign turned: close to the others, and against them.

    Source: Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation", UAI
    2019, section 4, with a small epsilon.
    """
    return [-0.1 * honest_ND.mean(axis=0)] * liars.count


def within_gate(liars: Liars, honest_ND: Rows) -> list[Vector]:  # noqa: N803
    """Send, all alike, the honest mean with its sign turned, as long as the gate lets through."""
    mean = honest_ND.mean(axis=0)
    most = JUST_WITHIN * (liars.norm_gate or 3.0) * _usual_norm(honest_ND)
    return [-most * mean / np.linalg.norm(mean)] * liars.count


ATTACKS: Final[dict[str, Callable[[Liars, Rows], list[Vector] | list[None]]]] = {
    "scaled": scaled,
    "flipped": flipped,
    "nan": nan,
    "stale": stale,
    "random": random,
    "alie": alie,
    "inner product": inner_product,
    "within the gate": within_gate,
}
