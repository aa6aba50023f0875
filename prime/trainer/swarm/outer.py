"""The outer step: what a round's aggregate does to the shared parameters. Pure, flat float32 vectors.

Source: Douillard et al., "DiLoCo", 2023 (arXiv 2311.08105), with Nesterov momentum as in Sutskever et al., 2013.
"""

from __future__ import annotations

import attrs
import numpy as np

from prime.errors import ConfigError, LocalProtocolError
from prime.trainer.codec import Vector


@attrs.frozen
class OuterStep:
    """The outer optimiser: `learning_rate` is eta, `momentum` is mu.

    With eta 1 and mu 0 (`averaging()`) the new parameters are the weighted mean of the members' local ones.
    """

    learning_rate: float = 0.7
    momentum: float = 0.9

    def __attrs_post_init__(self) -> None:
        if not (0 < self.learning_rate <= 10 and 0 <= self.momentum < 1):
            raise ConfigError(
                f"no outer step has learning rate {self.learning_rate} and momentum {self.momentum}",
                hint="the learning rate is above 0 and at most 10, the momentum from 0 to below 1",
            )

    def apply(self, theta_D: Vector, momentum_D: Vector, delta_D: Vector) -> tuple[Vector, Vector]:  # noqa: N803
        """Return the new parameters and the new momentum; the arguments stay as they are. D: flat size.

        With D the aggregated pseudo-gradient (outer parameters minus local ones, averaged over the contributors)::

            v'     = mu v + D
            theta' = theta - eta (D + mu v')

        Each operation is one rounding to float32, in the order written, so equal inputs give equal bits everywhere.
        Raises LocalProtocolError where the shapes differ.
        """
        for vector in (theta_D, momentum_D, delta_D):
            if vector.dtype != np.float32 or vector.shape != (theta_D.size,):
                raise LocalProtocolError(
                    f"the outer step takes three float32 vectors of one size, got {vector.dtype}{list(vector.shape)} "
                    f"beside {theta_D.size} parameters",
                    hint="flatten each into one float32 vector",
                )
        mu, eta = np.float32(self.momentum), np.float32(self.learning_rate)
        momentum = mu * momentum_D
        momentum += delta_D
        step = mu * momentum
        step += delta_D
        step *= eta
        return np.subtract(theta_D, step, out=step), momentum


def averaging() -> OuterStep:
    """Return the outer step that is plain averaging of the local parameters."""
    return OuterStep(learning_rate=1.0, momentum=0.0)
