"""The arithmetic of the sparse forms in numba: the default on a CPU. The loops are those of `sparse_loops.py`."""

from __future__ import annotations

from typing import Final

import numpy as np

from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.sparse import TOPK, SparseForm
from prime.trainer.codec.sparse_loops import accumulate_gather, accumulate_topk, encode_gather, encode_topk

_NO_FLOATS: Final = np.empty(0, np.float32)


class NumbaSparse:
    """See `SparseEngine`."""

    name = "numba"

    def encode(
        self, form: SparseForm, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `SparseEngine.encode`."""
        before = _NO_FLOATS if residual is None else residual
        after = _NO_FLOATS if residual_out is None else residual_out
        if form is TOPK:
            return int(encode_topk(x, before, after, encoded))
        return int(encode_gather(x, before, after, encoded, form.kept, form.is_map))

    def accumulate(self, form: SparseForm, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `SparseEngine.accumulate`."""
        if form is TOPK:
            accumulate_topk(encoded, into, weight)
        else:
            accumulate_gather(encoded, into, weight, form.kept, form.is_map)

    def decode(self, form: SparseForm, encoded: Encoded, into: Vector) -> None:
        """See `SparseEngine.decode`."""
        into[:] = 0
        self.accumulate(form, encoded, into, np.float32(1))
