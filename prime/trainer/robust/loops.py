"""The loops over decoded rows that numba compiles: cached on disk where that is possible, without the interpreter's lock.

Fast-math stays off, as in the codec's loops: `chunks.py` has the same arithmetic in numpy, and it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types

from prime.trainer.robust.lanes import LANES

_TILE: Final = 512
"""Elements of each row that are put in order before the next ones are begun: of nine rows, 18 KiB."""

_f4: Final = types.float32
_rows: Final = types.Array(_f4, 2, "C")
_floats: Final = types.Array(_f4, 1, "C")
_order: Final = types.Array(types.int32, 2, "C", readonly=True)
_square: Final = types.Array(types.float64, 2, "C")


def _compiled(signature: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def compile_(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except (RuntimeError, OSError):  # no writable place for the cache, or a full disk
            return njit(signature, nogil=True)(function)

    return compile_


@_compiled(types.void(_rows, _order, types.intp, types.intp, _floats))
def middle_mean(rows: Any, pairs: Any, first: Any, last: Any, into: Any) -> None:
    """`into = mean of the values at the places first..last-1`, by coordinate; `pairs` put them there. Spoils `rows`."""
    count = np.float32(last - first)
    for at in range(0, into.size, _TILE):
        end = min(at + _TILE, into.size)
        for p in range(pairs.shape[0]):
            low, high = rows[pairs[p, 0], at:end], rows[pairs[p, 1], at:end]
            for i in range(end - at):
                x, y = low[i], high[i]
                low[i] = x if x < y else y  # noqa: FURB136 - `min` minds NaN, so its loop is not vectorised
                high[i] = y if x < y else x  # noqa: FURB136 - as above
        into_t = into[at:end]
        into_t[:] = 0
        for r in range(first, last):
            row = rows[r, at:end]
            for i in range(end - at):
                into_t[i] += row[i]
        for i in range(end - at):
            into_t[i] = into_t[i] / count


@_compiled(types.void(_rows, _square))
def add_gram(rows: Any, gram: Any) -> None:
    """`gram += rows rows^T` in float64: each product exact, each of `LANES` places summed on its own, then these in order."""
    n, size = rows.shape
    whole = size - size % LANES
    lanes = np.empty(LANES, np.float64)
    for i in range(n):
        for j in range(i, n):
            x, y = rows[i], rows[j]
            lanes[:] = 0
            for at in range(0, whole, LANES):
                x_l, y_l = x[at : at + LANES], y[at : at + LANES]
                for k in range(LANES):
                    lanes[k] += np.float64(x_l[k]) * np.float64(y_l[k])
            for k in range(size - whole):
                lanes[k] += np.float64(x[whole + k]) * np.float64(y[whole + k])
            total = 0.0
            for k in range(LANES):
                total += lanes[k]
            gram[i, j] += total
            if i != j:
                gram[j, i] += total
