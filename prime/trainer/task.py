"""What a user brings to train: a model and its data, each named as `module:function` or `path/to/file.py:function`.

`model`: the function takes the `TrainingConfig` and returns a `Model`. `data`: the function takes the config and
returns a `Data`. Both run in the rank worker only.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
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
    """Import `module:function` or `file.py:function`. Raises `ConfigError` naming what is missing."""
    module_name, _, function_name = name.rpartition(":")
    hint = f"train.{what} = 'module:function', importable where the node runs, or '/path/to/file.py:function'"
    if not module_name or not function_name:
        raise ConfigError(f"train.{what}: {name!r} is no module:function", hint=hint)
    try:
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except (ImportError, OSError) as error:
        raise ConfigError(f"train.{what}: {module_name} cannot be imported ({error})", hint=hint) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"train.{what}: {module_name} has no function {function_name!r}", hint=hint)
    found: Callable[..., Any] = function
    return found


def _from_file(path: Path) -> ModuleType:
    """Import a file by its path, once: model and data may stand in the same one."""
    path = path.expanduser().resolve()
    name = f"prime_task_{path.stem}"
    if (known := sys.modules.get(name)) is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
