"""Which engine serves vectors and tensors of the CPU, and why: `engine.py` goes by it, `prime doctor` says it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal

import attrs


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
