"""What a user brings to train: a model and its data, each named as `module:function`.

`model`: the function takes the `TrainingConfig` and returns a `Model`. `data`: the function takes the config and
returns a `Data`. Both run in the rank worker only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prime.errors import ConfigError


class Model(Protocol):
    """A torch module and its loss."""

    module: Any
    """The `torch.nn.Module` whose trainable parameters the nodes share."""

    def loss(self, batch: Any) -> Any:
        """Return the mean loss of one batch, a scalar tensor; what a batch is, is between model and data."""
        ...


class Writer(Protocol):
    """A model that can also write a text, for people to look at."""

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Return `prompt` continued by `length` characters; the same seed, the same text."""
        ...


class Data(Protocol):
    """Batches as a pure function of where one is in the run."""

    baseline: float | None
    """A loss that a trivial guess reaches, for the curve; `None` if there is none."""

    def batch(self, step: int, rank: int) -> Any:
        """Return the batch of one step of one rank: always the same for the same step and rank."""
        ...

    def held_out(self, count: int) -> Sequence[Any]:
        """Return `count` batches that nobody trains on, the same for everyone."""
        ...


def resolve(name: str, what: str) -> Callable[..., Any]:
    """Import `module:function`. Raises `ConfigError` naming what is missing."""
    module_name, _, function_name = name.partition(":")
    hint = f"train.{what} = 'module:function', importable where the node runs"
    if not module_name or not function_name:
        raise ConfigError(f"train.{what}: {name!r} is no module:function", hint=hint)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"train.{what}: {module_name} cannot be imported ({error})", hint=hint) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"train.{what}: {module_name} has no function {function_name!r}", hint=hint)
    found: Callable[..., Any] = function
    return found
