"""Records in one SQLite file, on the disk before a write returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import trio

from prime.dht.backend import Entry, Loaded, Removal
from prime.dht.backends.file import RecordsFile

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 1.0
"""How long opening waits for another program that holds the file."""


class SqliteBackend:
    """A store in a SQLite file of which no other program can have any part while it is open.

    Beside the file lie its log (`-wal`) and its mark (`-mark`), and after damage what was put aside (`-damaged`). Calls run
    in a worker thread, one at a time. One that is cancelled before its turn has done nothing; one whose turn has come is
    finished, and returns.
    """

    def __init__(self, path: Path | str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._file = RecordsFile(Path(path), busy_timeout_s)
        self._turn = trio.CapacityLimiter(1)
        self._thread = trio.CapacityLimiter(1)  # free for whoever has the turn

    async def open(self) -> Loaded:
        """See `Backend.open`. Raises `WorldError` for a file of another program, or of another version of Prime, too."""
        return await self._run(self._file.open)

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        """See `Backend.write`."""
        await self._run(lambda: self._file.write(changes))

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        with trio.CancelScope(shield=True):
            await self._run(self._file.close)

    async def _run(self, call: Callable[[], T]) -> T:
        async with self._turn:
            with trio.CancelScope(shield=True):
                result = await trio.to_thread.run_sync(call, limiter=self._thread)
            return result  # noqa: RET504 - a type checker believes that the scope above may swallow what is raised
