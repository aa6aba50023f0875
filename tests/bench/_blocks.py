"""What a contestant is: something opened once that runs a block of work, and says how many a second it did."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import trio

BLOCK_S = 0.4
"""A measured block lasts at least this long."""

Block = Callable[[], float]
"""Runs one measured block and returns its rate."""

Opening = Callable[[], AbstractContextManager[Block]]
"""Makes a contestant ready; raises `MissingError` when this machine does not have it."""


class MissingError(Exception):
    """A contestant cannot run here; the text says what would help."""


def in_trio(run: Callable[..., Awaitable[float]], *args: Any) -> Opening:
    """Make a contestant of an async function that measures one block in a Trio of its own."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        yield lambda: trio.run(run, *args)

    return opened


def plain(run: Callable[..., float], *args: Any) -> Opening:
    """Make a contestant of a function that measures one block."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        yield lambda: run(*args)

    return opened


async def rate(batch: Callable[[], Awaitable[object]], size: int) -> float:
    """Repeat a batch of `size` for a block, after one to warm up; return how many a second."""
    await batch()
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < BLOCK_S:
        await batch()
        count += size
    return count / took


def rate_sync(batch: Callable[[], object], size: int) -> float:
    """As `rate`, for a batch that blocks."""
    batch()
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < BLOCK_S:
        batch()
        count += size
    return count / took


def resident_bytes() -> int:
    """Return how much memory this process holds (Linux), or the most it has held (elsewhere)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
