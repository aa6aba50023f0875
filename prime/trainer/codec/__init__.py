"""The codec: how vectors of numbers travel smaller, and what is kept of that which they lost on the way.

One wire form for each codec, and several engines that write the same bytes: replicas that decode the same bytes hold
the same bits.

| file | what it holds |
|---|---|
| `form.py` | the wire forms: codes, scales, sizes, and what no encoder writes; pure |
| `policy.py` | which codec each parameter's gradient travels in; pure |
| `engine.py` | the contract of the arithmetic |
| `cpu.py`, `cuda.py` | the choice of an engine for a device, with the reason |
| `engine_numpy.py`, `engine_torch.py`, `engine_numba.py`, `engine_triton.py` | the arithmetic, one engine a file |
| `numba_loops.py` | the loops that numba compiles for each form |
| `vectors.py` | numpy vectors there and back, checked: what the round between nodes uses |
| `sparse.py` | the sparse wire forms: the largest elements alone, with their places; pure |
| `sparse_vectors.py` | numpy vectors there and back in them, checked |
| `sparse_numpy.py`, `sparse_torch.py`, `sparse_numba.py`, `sparse_loops.py` | their arithmetic, one engine a file |
| `feedback.py` | the residuals of a sender, kept from one exchange to the next |
| `tensors.py` | tensors of any device there and back, unchecked: what the all-reduce inside a node uses |

Importing this package loads neither numpy, torch nor numba: every name loads on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prime.trainer.codec.engine import Vector as Vector
    from prime.trainer.codec.feedback import Feedback as Feedback
    from prime.trainer.codec.form import FORMS as FORMS
    from prime.trainer.codec.form import Form as Form
    from prime.trainer.codec.policy import Policy as Policy
    from prime.trainer.codec.policy import Rule as Rule
    from prime.trainer.codec.sparse_vectors import Sparse as Sparse
    from prime.trainer.codec.sparse_vectors import topk as topk
    from prime.trainer.codec.vectors import Codec as Codec
    from prime.trainer.codec.vectors import VectorCodec as VectorCodec
    from prime.trainer.codec.vectors import codec as codec

_HOMES = {
    "FORMS": "form",
    "Codec": "vectors",
    "Feedback": "feedback",
    "Form": "form",
    "Policy": "policy",
    "Rule": "policy",
    "Sparse": "sparse_vectors",
    "Vector": "engine",
    "VectorCodec": "vectors",
    "codec": "vectors",
    "topk": "sparse_vectors",
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
