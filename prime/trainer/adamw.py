"""AdamW, the inner optimiser (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2).

Torch's own optimisers load its whole compiler at their first use, which doubles the time that a worker takes to start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

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
        self._steps = 0

    def forget_gradients(self) -> None:
        """Drop all gradients: the next backward pass makes new ones."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Make one update with this learning rate."""
        self._steps += 1
        size = learning_rate / (1 - BETA_1**self._steps)
        root = math.sqrt(1 - BETA_2**self._steps)
        for parameter, mean, square in zip(self._parameters, self._means, self._squares, strict=True):
            if (gradient := parameter.grad) is None:
                continue
            mean.lerp_(gradient, 1 - BETA_1)
            square.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            if parameter.dim() > 1:
                parameter.mul_(1 - learning_rate * self._weight_decay)
            parameter.addcdiv_(mean, square.sqrt().div_(root).add_(EPSILON), value=-size)
