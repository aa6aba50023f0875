"""What waits while one write is under way shares the next one: as many answers as there are for one sync of the disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from prime.errors import RefusedError

T = TypeVar("T")

WAITING_MAX: Final = 512
"""Things that wait for their turn to be written; further ones are refused."""
BATCH_MAX: Final = 128
"""Things that share one write."""


class Batches(Generic[T]):
    """One actor's writes, one at a time, in the order in which they came. `write` answers for each thing of a batch."""

    def __init__(self, write: Callable[[list[T]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[T] = []
        self._writing = False

    def check_room(self) -> None:
        """Raise `RefusedError` where too many wait: to be asked before an answer is put off."""
        if len(self._waiting) >= WAITING_MAX:
            raise RefusedError("more comes than can be written", hint="try again, or another peer")

    def add(self, thing: T, start_soon: Callable[..., Any]) -> None:
        """Have a thing written, by a task of the actor if none is at it."""
        self._waiting.append(thing)
        if not self._writing:
            self._writing = True
            start_soon(self._run)

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            await self._write(batch)
        self._writing = False
