"""The learning rate of a step: warm-up, then a curve down to its final fraction. Pure."""

from __future__ import annotations

import math

from prime.trainer.job import Schedule


def rate(schedule: Schedule, learning_rate: float, step: int, steps: int) -> float:
    """Return the learning rate of step `step` (from 0) of a run of `steps`.

    It rises linearly over `warmup_steps`, so that the last of them has the learning rate itself, and is
    `learning_rate x final` at the last step. Past the run's end it stays there.
    """
    warm = schedule.warmup_steps
    if step < warm:
        return learning_rate * (step + 1) / warm
    return learning_rate * _curve(schedule.name, _progress(step, warm, steps), schedule.final)


def _progress(step: int, warm: int, steps: int) -> float:
    """Return how far the curve has come at a step, 0 to 1; its first point is the last step of the warm-up."""
    first = max(warm - 1, 0)
    return min(1.0, (step - first) / max(steps - 1 - first, 1))


def _curve(name: str, t: float, final: float) -> float:
    match name:
        case "linear":
            return 1 + t * (final - 1)
        case (
            "cosine"
        ):  # Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, equation 5
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t))
        case "exponential":
            return float(final**t)
        case _:
            return 1.0
