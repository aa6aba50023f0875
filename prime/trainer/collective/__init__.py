"""The compressed all-reduce: gradients of a group of ranks become their mean, in a quarter or an eighth of the bytes.

| file | what it holds |
|---|---|
| `layout.py` | who owns what of a vector, and in which rounds it travels; pure |
| `plan.py` | which parameters travel together: those of one codec; pure |
| `refusal.py` | how all ranks learn alike that a gradient is not finite, and whose; pure but for numpy |
| `pipeline.py` | the exchange on CPUs: chunks encoded while others are on the wire |
| `stream.py` | the exchange on an accelerator: the same arithmetic, by the group's collectives |
| `lane.py` | the thread beside the backward pass |
| `reduce.py` | `compressed_all_reduce` for one tensor, `CompressedReduce` for a training run |
| `ddp.py`, `fsdp.py` | as hooks of torch's data parallel wrappers |
| `backward.py` | what is done when a backward pass ends |
| `race.py` | its time on a group's links, against the exact one: `prime bench allreduce` |

Importing this package loads neither torch nor numba: every name loads on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prime.trainer.collective.ddp import attach_ddp as attach_ddp
    from prime.trainer.collective.fsdp import attach_fsdp as attach_fsdp
    from prime.trainer.collective.reduce import CompressedReduce as CompressedReduce
    from prime.trainer.collective.reduce import Segment as Segment
    from prime.trainer.collective.reduce import compressed_all_reduce as compressed_all_reduce

_HOMES = {
    "CompressedReduce": "reduce",
    "Segment": "reduce",
    "attach_ddp": "ddp",
    "attach_fsdp": "fsdp",
    "compressed_all_reduce": "reduce",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names are the keys of one table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
