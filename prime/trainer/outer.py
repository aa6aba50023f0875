"""The outer step of DiLoCo: what the mean delta of a round does to the shared parameters (pure).

Source: Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023, algorithm 1, with
Nesterov momentum as in Sutskever et al., 2013. Every node computes it from the same bytes with the same operations in
the same order, so all nodes hold the same bits afterwards.
"""

from __future__ import annotations

from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import LocalProtocolError

Vector = npt.NDArray[np.float32]


class OuterOptimiser(Protocol):
    """Moves the shared parameters by a mean delta (outer minus local: it points back along the progress made)."""

    def step(self, theta_D: Vector, momentum_D: Vector, delta_D: Vector) -> tuple[Vector, Vector]:  # noqa: N803
        """Return the new parameters and the new momentum, both float32[D]; the arguments stay as they are."""
        ...


@attrs.frozen
class Nesterov:
    """`v <- mu v + delta; theta <- theta - eta (delta + mu v)`, everything in float32.

    `learning_rate` is eta, `momentum` mu. With `momentum=0` and `learning_rate=1` it is plain averaging: theta becomes
    the weighted mean of the members' local parameters.
    """

    learning_rate: float = 0.7
    momentum: float = 0.9

    def step(self, theta_D: Vector, momentum_D: Vector, delta_D: Vector) -> tuple[Vector, Vector]:  # noqa: N803
        """See `OuterOptimiser.step`. Raises `LocalProtocolError` for vectors that do not fit each other."""
        if not theta_D.shape == momentum_D.shape == delta_D.shape:
            raise LocalProtocolError(
                f"an outer step over {theta_D.shape} parameters, {momentum_D.shape} momentum and {delta_D.shape} delta"
            )
        mu, eta = np.float32(self.momentum), np.float32(self.learning_rate)
        velocity_D: Vector = np.multiply(momentum_D, mu, dtype=np.float32)  # noqa: N806 - shape suffix: D is the flat size
        velocity_D += delta_D
        move_D: Vector = np.multiply(velocity_D, mu, dtype=np.float32)  # noqa: N806
        move_D += delta_D
        move_D *= eta
        return theta_D - move_D, velocity_D
