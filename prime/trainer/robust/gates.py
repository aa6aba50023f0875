"""What a contribution must pass before any rule looks at it (pure): its norm per token, and a cap on its weight.

A member says itself how much its contribution weighs. So a weight never counts beyond a multiple of the median one, and
a norm is judged by what so many tokens usually move. Shape, dtype and finiteness are checked where a chunk arrives
(`swarm.numbers.Numbers.check`): what is no wire form of finite numbers is never a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

WEIGHT_CAP: Final = 4.0
"""No weight counts for more than this multiple of the candidates' median weight: more is cut, not refused."""


def capped(weights: Sequence[float]) -> list[float]:
    """Return the weights as they count: each at most `WEIGHT_CAP` times their median."""
    most = WEIGHT_CAP * median(weights)
    return [min(weight, most) for weight in weights]


def norms_per_token(norms: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return each contribution's norm by the tokens that it was trained on.

    `norms` are those of the contributions as they are sent: means by token, a carried delta included with its weight, so
    that what was carried is not mistaken for an attack. A fast member's delta grows with its tokens, up to the cap; a
    slow one's is not held against it: fewer tokens than the median count as the median.
    """
    usual = median(weights)
    return [norm / max(weight, usual) for norm, weight in zip(norms, capped(weights), strict=True)]


def gated(norms: Sequence[float], weights: Sequence[float], norm_gate: float) -> list[str]:
    """Say of each candidate why it is refused; empty: it passes. A `norm_gate` of 0 refuses only what is not finite."""
    finite = [norm for norm in norms if math.isfinite(norm)]
    if not finite:
        return ["its numbers are not finite"] * len(norms)
    usual_weights = [weight for norm, weight in zip(norms, weights, strict=True) if math.isfinite(norm)]
    usual = median(norms_per_token(finite, usual_weights))
    everyone = [norm if math.isfinite(norm) else math.inf for norm in norms]
    each = norms_per_token(everyone, weights)
    return [_fault(value, usual, norm_gate) for value in each]


def _fault(norm_per_token: float, usual: float, norm_gate: float) -> str:
    if not math.isfinite(norm_per_token):
        return "its numbers are not finite"
    if not norm_gate or norm_per_token <= norm_gate * usual:
        return ""
    times = "far more than" if norm_per_token > 1e6 * usual else f"{norm_per_token / usual:.1f} times"
    return f"its norm per token is {times} the median: the gate is {norm_gate:g}"


def median(values: Sequence[float]) -> float:
    """Return the median: of an even number, the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    low, high = ordered[(len(ordered) - 1) // 2], ordered[half]
    return low if low == high else 0.5 * low + 0.5 * high  # halves of the smallest floats are 0
