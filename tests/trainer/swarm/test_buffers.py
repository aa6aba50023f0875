"""Buffers are used again when nobody holds them, and never before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from prime.trainer.codec import Vector
from prime.trainer.swarm.buffers import Buffers


def test_a_copy_that_nobody_holds_gives_its_memory_to_the_next() -> None:
    buffers, vector = Buffers(2), np.arange(9, dtype=np.float32)
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
    buffers, vector = Buffers(2), np.zeros(9, np.float32)
    first = buffers.copy(vector)
    address, held = first.ctypes.data, hold(first)
    del first
    assert buffers.copy(vector).ctypes.data != address
    del held
    addresses = {each.ctypes.data for each in (buffers.copy(vector), buffers.copy(vector + 1))}
    assert address in addresses or buffers.copy(vector).ctypes.data == address


def test_another_size_takes_other_memory_and_leaves_what_fits_another_time() -> None:
    buffers = Buffers(2)
    address = buffers.vector(3).ctypes.data
    other = buffers.vector(5)
    assert other.size == 5
    assert buffers.vector(3).ctypes.data == address


def test_no_more_is_kept_than_was_asked_for() -> None:
    buffers = Buffers(2)
    held = [buffers.vector(4096) for _ in range(5)]
    assert len({vector.ctypes.data for vector in held}) == 5
    held.clear()
    assert len(buffers._free) == 2


def test_no_two_threads_hold_the_same_memory() -> None:
    buffers = Buffers(2)

    def work(number: int) -> bool:
        vector = buffers.copy(np.full(4096, number, np.float32))
        return bool((vector == number).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(400)))
