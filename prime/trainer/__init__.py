"""Training: what is trained, the group of ranks inside a node, the round between nodes, and the codecs of both.

Every name loads on first use: importing this room loads neither torch nor numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prime.trainer.checkpoint import About as About
    from prime.trainer.checkpoint import Checkpoints as Checkpoints
    from prime.trainer.checkpoint import Retention as Retention
    from prime.trainer.codec.policy import Policy as Policy
    from prime.trainer.codec.vectors import Codec as Codec
    from prime.trainer.collective.ddp import attach_ddp as attach_ddp
    from prime.trainer.collective.fsdp import attach_fsdp as attach_fsdp
    from prime.trainer.collective.reduce import CompressedReduce as CompressedReduce
    from prime.trainer.collective.reduce import compressed_all_reduce as compressed_all_reduce
    from prime.trainer.gang.result import Result as Result
    from prime.trainer.gang.trainer import Trainer as Trainer
    from prime.trainer.job import Job as Job
    from prime.trainer.loop.wrap import attach as attach

_HOMES = {
    "About": "prime.trainer.checkpoint",
    "Checkpoints": "prime.trainer.checkpoint",
    "Retention": "prime.trainer.checkpoint",
    "Codec": "prime.trainer.codec.vectors",
    "CompressedReduce": "prime.trainer.collective.reduce",
    "Job": "prime.trainer.job",
    "Policy": "prime.trainer.codec.policy",
    "Result": "prime.trainer.gang.result",
    "Trainer": "prime.trainer.gang.trainer",
    "attach": "prime.trainer.loop.wrap",
    "attach_ddp": "prime.trainer.collective.ddp",
    "attach_fsdp": "prime.trainer.collective.fsdp",
    "compressed_all_reduce": "prime.trainer.collective.reduce",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the names are the keys of one table


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'prime.trainer' has no attribute {name!r}") from None
    try:
        value = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name not in ("numpy", "torch"):
            raise
        from prime.errors import MissingExtraError

        raise MissingExtraError(
            f"prime.trainer.{name} needs {error.name}", hint="pip install 'prime-actors[train]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
