"""Numeric work beside the event loop: short work here, long work in a thread (the engines and hashes release the GIL)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import trio

T = TypeVar("T")

INLINE_BYTES = 1 << 20
"""Work on less than this stays on the loop: a thread would cost more than it saves."""
BATCH_CHUNKS = 4
"""Chunks that are worked on in one go: enough to be worth the way to a thread, few enough for the others not to wait."""


async def compute(work: Callable[[], T], size_bytes: int) -> T:
    """Run numeric work on that many bytes. It cannot be cancelled once it runs: a batch takes milliseconds."""
    return work() if size_bytes < INLINE_BYTES else await trio.to_thread.run_sync(work)


def batches(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Yield the items, `BATCH_CHUNKS` at a time."""
    rest = iter(items)
    while batch := tuple(itertools.islice(rest, BATCH_CHUNKS)):
        yield batch
