"""Batches as tensors on the device of a rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def on_device(batch: Any, device: torch.device | str = "cpu") -> Any:
    """Return a batch with its arrays and tensors as tensors on that device; all else in it stays as it is.

    Tuples, named ones too, lists and dicts are gone through. On the CPU nothing is copied that torch can share.
    """
    match batch:
        case torch.Tensor():
            return batch.to(device, non_blocking=True)
        case np.ndarray() if batch.dtype != object:
            return _tensor(batch).to(device, non_blocking=True)
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(on_device(part, device) for part in batch))
        case tuple() | list():
            return type(batch)(on_device(part, device) for part in batch)
        case dict():
            return {key: on_device(part, device) for key, part in batch.items()}
        case _:
            return batch


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Share the array's memory where it may be written to: torch knows no tensor that must not be."""
    return torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())
