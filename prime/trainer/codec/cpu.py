"""Which engine serves vectors and tensors of the CPU, and why: `codec_engine` loads it, `prime doctor` says it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Literal

import attrs

from prime.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from prime.trainer.codec.engine import Engine

EngineName = Literal["auto", "numba", "torch", "numpy"]


@attrs.frozen
class CpuChoice:
    """The engine, the reason for it, and what would make a slow one fast (empty: it is the fast one)."""

    engine: Literal["numba", "numpy"]
    why: str
    fix: str = ""


def cpu_choice(library: str = "numba") -> CpuChoice:
    """Choose numba where it loads (about a second), else numpy: both write the same bytes, so ranks may differ."""
    try:
        version = getattr(importlib.import_module(library), "__version__", "")
    except ModuleNotFoundError:
        return CpuChoice("numpy", f"{library} is not installed", "pip install 'prime-actors[train]'")
    except (ImportError, OSError) as error:  # its native half is missing, or it wants an older numpy
        return CpuChoice("numpy", f"{library} does not load: {error}", f"pip install --force-reinstall {library}")
    return CpuChoice("numba", f"{library} {version}".strip())


def codec_engine(name: EngineName = "auto") -> Engine:
    """Import and return the engine of that name; `auto` is numba (a second to load) where it loads, else numpy.

    Raises ConfigError for a name that is none, MissingExtraError where the library is not installed.
    """
    try:
        return _load(cpu_choice().engine if name == "auto" else name)
    except ModuleNotFoundError as missing:
        raise MissingExtraError(
            f"the codec engine {name!r} needs {missing.name}, which is not installed",
            hint="pip install 'prime-actors[train]', or set the codec engine to 'auto'",
        ) from missing


def _load(name: str) -> Engine:
    if name == "numba":
        from prime.trainer.codec.engine_numba import NumbaEngine

        return NumbaEngine()
    if name == "torch":
        from prime.trainer.codec.engine_torch import TorchEngine

        return TorchEngine()
    if name == "numpy":
        from prime.trainer.codec.engine_numpy import NumpyEngine

        return NumpyEngine()
    raise ConfigError(f"no codec engine is called {name!r}", hint="choose one of auto, numba, torch, numpy")
