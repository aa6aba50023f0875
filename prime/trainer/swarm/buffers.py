"""Memory of vectors that is used again once nobody holds them: pages that are new to a process cost more than what fills them."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque

import numpy as np

from prime.trainer.codec import Vector


class Buffers:
    """The memory of float32 vectors that nobody holds any more, of `kept` of them at most.

    A vector is its holder's for as long as anything shows a piece of it: a variable, a state, a view, its bytes. Any
    thread may take one, and let it go.
    """

    def __init__(self, kept: int) -> None:
        self._free: deque[memoryview] = deque(maxlen=kept)

    def vector(self, elements: int) -> Vector:
        """Return a float32[elements] with whatever its memory held."""
        memory = self._taken(4 * elements)
        vector: Vector = np.frombuffer(memory, np.float32)
        weakref.finalize(vector, self._free.append, memory).atexit = False
        return vector

    def copy(self, vector: Vector) -> Vector:
        """Return a copy of a vector."""
        copied = self.vector(vector.size)
        np.copyto(copied, vector)
        return copied

    def _taken(self, size_bytes: int) -> memoryview:
        for _ in range(len(self._free)):
            with contextlib.suppress(IndexError):  # another thread was quicker
                memory = self._free.popleft()
                if len(memory) == size_bytes:
                    return memory
                self._free.append(memory)
        return np.empty(size_bytes, np.uint8).data
