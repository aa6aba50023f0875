"""Event stores: the events of many keys, each in order, and the latest snapshot of each. In memory, and on a disk."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import attrs
import trio

from prime.actor.contract import SavedSnapshot
from prime.store.database import Database
from prime.store.head import Head, checked_bodies, checked_key, page_of

T = TypeVar("T")

BUSY_TIMEOUT_S = 1.0
"""How long a call waits for another program that holds the file."""


@attrs.define(slots=True)
class _Log:
    head: Head = attrs.field(factory=Head)
    events: list[bytes] = attrs.field(factory=list)
    """Those numbered `head.deleted + 1` and up."""
    snapshot: SavedSnapshot | None = None


class MemoryEventStore:
    """An event store for tests and simulations: it lives as long as the object, and outlives the actors that use it."""

    def __init__(self) -> None:
        self._logs: dict[bytes, _Log] = {}

    async def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        """See `contract.EventStore.append`."""
        bodies = checked_bodies(events)
        log = await self._log(key)
        log.head = log.head.appended(_name(key), expected, len(bodies))
        log.events.extend(bodies)
        self._logs[checked_key(key)] = log
        return log.head.last

    async def last(self, key: str) -> int:
        """See `contract.EventStore.last`."""
        return (await self._log(key)).head.last

    async def events(
        self, key: str, after: int, *, count_max: int = 256, size_bytes_max: int = 4 << 20
    ) -> Sequence[bytes]:
        """See `contract.EventStore.events`."""
        log = await self._log(key)
        log.head.readable(_name(key), after)
        first = after - log.head.deleted
        return page_of(log.events[first : first + max(count_max, 1)], size_bytes_max)

    async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        """See `contract.EventStore.save_snapshot`."""
        (kept,) = checked_bodies([body])
        log = await self._log(key)
        log.head = log.head.snapshotted(_name(key), sequence)
        log.snapshot = SavedSnapshot(sequence, kept)

    async def snapshot(self, key: str) -> SavedSnapshot | None:
        """See `contract.EventStore.snapshot`."""
        return (await self._log(key)).snapshot

    async def delete_events(self, key: str, up_to: int) -> None:
        """See `contract.EventStore.delete_events`."""
        log = await self._log(key)
        head = log.head.trimmed(_name(key), up_to)
        del log.events[: head.deleted - log.head.deleted]
        log.head = head

    async def forget(self, key: str) -> None:
        """See `contract.EventStore.forget`."""
        await self._log(key)
        self._logs.pop(checked_key(key), None)

    async def _log(self, key: str) -> _Log:
        """Return what there is of a key; the one checkpoint of each call, so that a cancelled one has done nothing."""
        await trio.lowlevel.checkpoint()
        return self._logs.get(checked_key(key)) or _Log()


class SqliteEventStore:
    """An event store in one SQLite file, synced at every append: `async with await SqliteEventStore.open(path)`.

    Beside the file lie its log (`-wal`, `-shm`) and its mark (`-mark`); a backup has all of them or is made with
    SQLite's own tools. Calls run in a worker thread, one at a time, in the order they came. A call that is cancelled
    before its turn has done nothing; one whose turn has come is finished, and returns.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = trio.CapacityLimiter(1)

    @classmethod
    async def open(cls, path: Path | str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open or make the store at `path`.

        `busy_timeout_s` bounds how long a call waits for another program that writes to the file. Raises
        `CorruptedError` for damage, `WorldError` where the disk refuses or another version of Prime wrote the file.
        """
        return cls(await trio.to_thread.run_sync(Database, Path(path), busy_timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file, after the calls that were before this one; harmless the second time."""
        with trio.CancelScope(shield=True):
            await self._run(self._database.close)

    async def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        """See `contract.EventStore.append`."""
        bodies = checked_bodies(events)
        return await self._run(lambda: self._database.append(key, expected, bodies))

    async def last(self, key: str) -> int:
        """See `contract.EventStore.last`."""
        return await self._run(lambda: self._database.last(key))

    async def events(
        self, key: str, after: int, *, count_max: int = 256, size_bytes_max: int = 4 << 20
    ) -> Sequence[bytes]:
        """See `contract.EventStore.events`."""
        return await self._run(lambda: self._database.events(key, after, count_max, size_bytes_max))

    async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        """See `contract.EventStore.save_snapshot`."""
        (kept,) = checked_bodies([body])
        await self._run(lambda: self._database.save_snapshot(key, sequence, kept))

    async def snapshot(self, key: str) -> SavedSnapshot | None:
        """See `contract.EventStore.snapshot`."""
        return await self._run(lambda: self._database.snapshot(key))

    async def delete_events(self, key: str, up_to: int) -> None:
        """See `contract.EventStore.delete_events`."""
        await self._run(lambda: self._database.delete_events(key, up_to))

    async def forget(self, key: str) -> None:
        """See `contract.EventStore.forget`."""
        await self._run(lambda: self._database.forget(key))

    async def _run(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._turn)


def _name(key: str) -> str:
    return f"memory, key {key!r}"
