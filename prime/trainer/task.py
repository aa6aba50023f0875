"""What a user brings to train: a model and its data, each named as `module:function` or `path/to/file.py:function`.

Each function takes what describes the run: the `Job`, or in a swarm the `TrainingConfig`. `model` returns a `Model`,
`data` a `Dataset` (`prime.trainer.data.contract`) or what can be made one. Both run in the rank worker only. A name
without a colon is a preset's.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, Protocol

from prime.errors import ConfigError, PrimeError
from prime.trainer.catalogue import DATASETS, MODELS
from prime.trainer.metadata import TrainingConfig

What = Literal["model", "data"]


class Model(Protocol):
    """A torch module and its loss."""

    module: Any
    """The `torch.nn.Module` whose trainable parameters are trained."""

    def loss(self, batch: Any) -> Any:
        """Return the mean loss of one batch, a scalar tensor.

        What a batch is, is between model and data; its arrays have become tensors on the rank's device.
        """
        ...


class Measurer(Protocol):
    """A model that says more of a batch than its loss."""

    def measures(self, batch: Any) -> Mapping[str, Any]:
        """Return figures by name, such as the accuracy: means over the batch, scalar tensors.

        They are asked for at evaluations and shown beside the loss. Every batch has the same names.
        """
        ...


class Writer(Protocol):
    """A model that can also write a text, for people to look at."""

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Return `prompt` continued by `length` characters; the same seed, the same text."""
        ...


def resolve(name: str, key: str, presets: Mapping[str, str] = MappingProxyType({})) -> Callable[..., Any]:
    """Import `module:function`, `file.py:function`, or one of the presets. Raises `ConfigError` naming what is missing.

    `key` is the configuration key that the name stands at.
    """
    module_name, _, function_name = presets.get(name, name).rpartition(":")
    hint = f"{key} = 'module:function', importable where the worker runs, or '/path/to/file.py:function'"
    if not module_name or not function_name:
        near = difflib.get_close_matches(name, presets, 1)
        known = f"did you mean {near[0]}?" if near else ", or ".join([hint, *sorted(presets)])
        raise ConfigError(f"{key}: {name!r} is no module:function", hint=known)
    try:
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except (ImportError, OSError) as error:
        raise ConfigError(f"{key}: {module_name} cannot be imported ({error})", hint=hint) from error
    except (Exception, SystemExit) as error:  # a program that reads its own arguments, for one
        raise ConfigError(
            f"{key}: {module_name} raised {type(error).__name__}: {error}{_last_place(error)}",
            hint="it is imported, not run: what a program does belongs under `if __name__ == '__main__':`",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"{key}: {module_name} has no function {function_name!r}", hint=hint)
    found: Callable[..., Any] = function
    return found


def built(name: str, what: What, request: Any) -> Any:
    """Call what the user named with the description of the run, and return what it returned.

    Whatever it raises, but for errors of Prime's own, is a fault of the configuration: a `ConfigError` with the cause.
    """
    key = f"train.{what}" if isinstance(request, TrainingConfig) else what
    function = resolve(name, key, MODELS if what == "model" else DATASETS)
    try:
        return function(request)
    except PrimeError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{key}: {name} raised {type(error).__name__}: {error}{_last_place(error)}",
            hint=f"the function must take the {type(request).__name__}; run it by itself to debug it",
        ) from error


def _last_place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code.co_filename.startswith("<frozen"):
        return ""  # Python's own import: a SyntaxError names the file and the line itself
    return f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"


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
