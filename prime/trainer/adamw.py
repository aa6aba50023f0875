"""AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2) for a worker that starts quickly.

It calls torch's own fused kernel. Torch's optimiser classes call the same one, but load the whole compiler first, which
doubles the time that a worker takes to start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.adamw import adamw

BETA_1, BETA_2, EPSILON = 0.9, 0.95, 1e-8
"""Decay of the mean gradient and of its square, as usual for transformers (Touvron et al., "Llama", 2023)."""


class AdamW:
    """Updates parameters in place by their gradients; a tensor without a gradient stays as it is.

    Norms and biases (fewer than two dimensions) do not decay.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], weight_decay: float) -> None:
        self._parameters = parameters
        self._weight_decay = weight_decay
        self._means = [torch.zeros_like(parameter) for parameter in parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in parameters]

    def zero_grad(self) -> None:
        """Drop all gradients: the next backward pass makes new ones."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Make one update with this learning rate."""
        moved = [n for n, parameter in enumerate(self._parameters) if parameter.grad is not None]
        self._update([n for n in moved if self._parameters[n].dim() > 1], learning_rate, self._weight_decay)
        self._update([n for n in moved if self._parameters[n].dim() <= 1], learning_rate, 0.0)

    def _update(self, numbers: list[int], learning_rate: float, weight_decay: float) -> None:
        gradients: list[Any] = [self._parameters[n].grad for n in numbers]
        adamw(
            [self._parameters[n].detach() for n in numbers],
            gradients,
            [self._means[n] for n in numbers],
            [self._squares[n] for n in numbers],
            [],
            [self._steps[n] for n in numbers],
            fused=True,
            amsgrad=False,
            beta1=BETA_1,
            beta2=BETA_2,
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=EPSILON,
            maximize=False,
        )
