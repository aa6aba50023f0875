"""Which engine serves the tensors of CUDA devices, and why: `tensors.py` goes by it, `prime doctor` says it."""

from __future__ import annotations

import importlib
from typing import Final, Literal

import attrs

CAPABILITY_MIN: Final = (8, 0)
"""The oldest generation of devices (Ampere) that Triton supports."""


@attrs.frozen
class CudaChoice:
    """The engine, the reason for it, and what would make a slow one fast (empty: it is the fast one)."""

    engine: Literal["triton", "torch"]
    why: str
    fix: str = ""


def choose(capability: tuple[int, int], fault: str) -> CudaChoice:
    """Choose by the compute capability of a node's oldest device, and by what is wrong with Triton (nothing: empty)."""
    generation, oldest = (".".join(map(str, each)) for each in (capability, CAPABILITY_MIN))
    if capability < CAPABILITY_MIN:
        return CudaChoice("torch", f"Triton wants compute capability {oldest}, the GPU has {generation}", "a newer GPU")
    if fault:
        return CudaChoice("torch", f"Triton does not load: {fault}", "pip install triton")
    return CudaChoice("triton", f"compute capability {generation}")


def triton_fault() -> str:
    """Return why Triton does not load; empty where it does."""
    try:
        importlib.import_module("triton")
    except (ImportError, OSError) as error:
        return str(error)
    return ""
