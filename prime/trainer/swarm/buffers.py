"""Vectors that are used again once nobody holds them: memory that is new to a process costs more than what is done in it."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from prime.trainer.codec import Vector


def _holders(found: list[Any], index: int) -> int:
    return sys.getrefcount(found[index])


_ALONE: Final = _holders([object()], 0)
"""What the count is of something that only its list holds."""


class Buffers:
    """Makes copies of float32 vectors, in the memory of earlier copies where that is free.

    Free is a copy that nobody holds any more: no variable, no state, no view of its bytes, as each of them counts as a
    holder. So there are never more buffers than copies that were held at one time.
    """

    def __init__(self) -> None:
        self._made: list[Vector] = []

    def copy(self, vector: Vector) -> Vector:
        """Return a copy of the vector; it is the caller's for as long as anything refers to it."""
        for index in range(len(self._made)):  # by index: a loop variable would be a holder
            if self._made[index].size == vector.size and _holders(self._made, index) == _ALONE:
                np.copyto(self._made[index], vector)
                return self._made[index]
        self._made.append(vector.copy())
        return self._made[-1]
