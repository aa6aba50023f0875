"""Buffers are used again when nobody holds them, and never before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prime.trainer.codec import Vector
from prime.trainer.swarm.buffers import Buffers


def test_a_copy_that_nobody_holds_gives_its_memory_to_the_next() -> None:
    buffers, vector = Buffers(), np.arange(9, dtype=np.float32)
    first = buffers.copy(vector)
    address = first.ctypes.data
    assert np.array_equal(first, vector)
    second = buffers.copy(vector + 1)
    assert second.ctypes.data != address
    del first
    third = buffers.copy(vector + 2)
    assert third.ctypes.data == address
    assert np.array_equal(third, vector + 2)
    assert np.array_equal(second, vector + 1)


@pytest.mark.parametrize(
    "hold",
    [lambda copy: copy[2:4], lambda copy: copy.view(np.uint8).data[4:8], lambda copy: (1, (copy,))],
    ids=["view", "bytes", "record"],
)
def test_what_refers_to_a_copy_holds_it(hold: Callable[[Vector], Any]) -> None:
    buffers, vector = Buffers(), np.zeros(9, np.float32)
    first = buffers.copy(vector)
    address, held = first.ctypes.data, hold(first)
    del first
    assert buffers.copy(vector).ctypes.data != address
    del held
    assert buffers.copy(vector).ctypes.data == address


def test_another_size_takes_other_memory() -> None:
    buffers = Buffers()
    assert [buffers.copy(np.ones(size, np.float32)).size for size in (3, 5, 3)] == [3, 5, 3]
    assert len(buffers._made) == 2
