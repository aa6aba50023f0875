"""Optimisers by name: any class of `torch.optim`, with its options, or a class of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

from prime.errors import ConfigError
from prime.trainer.job import Optimiser
from prime.trainer.task import resolve

SHORT: Final = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
"""The names that jobs usually say."""
_HINT: Final = "optimiser.name is sgd, adam, adamw, a class of torch.optim, or `module:Class`"


def optimiser_of(wanted: Optimiser, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of these parameters. Raises `ConfigError` for a name or an option that cannot be.

    Norms and biases (fewer than two dimensions) do not decay. Where torch has a fused kernel it is used.
    """
    made = _class(wanted.name)
    _refuse(wanted, made)
    known = inspect.signature(made).parameters
    options = {"lr": wanted.learning_rate, **_options(wanted)}
    groups = _groups(list(parameters), wanted.weight_decay if "weight_decay" in known else None)
    if "fused" in known and not {"fused", "foreach", "differentiable"} & options.keys():
        options["fused"] = True
    try:
        return made(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        names = ", ".join(name for name in known if name not in ("self", "params"))
        raise ConfigError(
            f"optimiser: {wanted.name} refused its arguments: {error}", hint=f"it takes {names}"
        ) from error


def arguments_of(kind: type[torch.optim.Optimizer]) -> set[str]:
    """Return the names of all that a class of optimisers, or one that it builds on, can be given."""
    kinds = [each for each in kind.__mro__ if issubclass(each, torch.optim.Optimizer)]
    return {name for each in kinds for name in inspect.signature(each).parameters}


class TorchUpdates:
    """A torch optimiser, driven by a learning rate of each step."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = optimiser

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._optimiser.zero_grad(set_to_none=True)

    def update(self, learning_rate: float) -> None:
        """Move the parameters along their gradients."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.step()


def _class(name: str) -> type[torch.optim.Optimizer]:
    found = resolve(name, "optimiser.name") if ":" in name else getattr(torch.optim, SHORT.get(name, name), None)
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer:
        return found
    raise ConfigError(f"optimiser.name: {name!r} is no optimiser", hint=_HINT)


def _refuse(wanted: Optimiser, made: type[torch.optim.Optimizer]) -> None:
    """Refuse a class that a step cannot drive, and options that are keys of the job."""
    closure = inspect.signature(made.step).parameters.get("closure")
    if (closure is not None and closure.default is inspect.Parameter.empty) or made is torch.optim.SparseAdam:
        needs = "sparse gradients" if made is torch.optim.SparseAdam else "to compute the loss several times a step"
        raise ConfigError(f"optimiser.name: {wanted.name} needs {needs}, which a job has not", hint=_HINT)
    for option, key in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if option in wanted.options:
            raise ConfigError(
                f"optimiser.options.{option}: a job has a key for that", hint=f"set optimiser.{key} instead"
            )


def _options(wanted: Optimiser) -> Mapping[str, Any]:
    """Return the further arguments, with tuples where torch wants them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in wanted.options.items()}


def _groups(parameters: list[torch.nn.Parameter], weight_decay: float | None) -> list[dict[str, Any]]:
    if weight_decay is None:  # the class has none
        return [{"params": parameters}]
    if not weight_decay:  # which is not what a class takes by itself: torch's AdamW decays by 0.01
        return [{"params": parameters, "weight_decay": 0.0}]
    decaying = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
