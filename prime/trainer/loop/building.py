"""From the name of a run's model to a module and its loss: a preset's, or what a function of the user's returns.

The function may return an object with `module` and `loss(batch)`; a `torch.nn.Module` that has `loss(batch)` itself; or
a module and a loss function over its outputs and the targets, for batches of inputs and targets:
`return model, torch.nn.CrossEntropyLoss()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import define
from torch import nn

from prime.errors import ConfigError
from prime.trainer.task import Model, built


@define
class OwnLoss:
    """A module that has its loss as a method."""

    module: Any

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the module's own mean loss of a batch."""
        found: torch.Tensor = self.module.loss(batch)
        return found


@define
class OwnMeasures(OwnLoss):
    """A module that has its loss and its measures as methods."""

    def measures(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Return what the module measures of a batch."""
        found: Mapping[str, torch.Tensor] = self.module.measures(batch)
        return found


@define
class Paired:
    """A module, and a loss function over its outputs and the targets."""

    module: Any
    function: Callable[[Any, Any], torch.Tensor]

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch of inputs and targets."""
        inputs, targets = batch
        return self.function(self.module(inputs), targets)


def model_of(name: str, request: Any, key: str) -> Model:
    """Build the model that stands at a configuration key. Raises `ConfigError` where it is none."""
    found = built(name, "model", request)
    if isinstance(found, nn.Module) and callable(getattr(found, "loss", None)):
        return OwnMeasures(found) if callable(getattr(found, "measures", None)) else OwnLoss(found)
    if isinstance(getattr(found, "module", None), nn.Module) and callable(getattr(found, "loss", None)):
        model: Model = found
        return model
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], nn.Module) and callable(found[1]):
        return Paired(*found)
    raise ConfigError(
        f"{key}: {name} returned a {type(found).__name__}, which is no model with a loss",
        hint="return an object with `module` and `loss(batch)`, or `model, loss_function`: docs/how-to/own-model.md",
    )
