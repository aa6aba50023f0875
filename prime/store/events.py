"""Event stores: the events of many keys, each in order, and the latest snapshot of each. In memory, and on a disk."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import attrs
import trio

from prime.actor.contract import SavedSnapshot
from prime.store.database import Database, Wish
from prime.store.head import Head, checked_bodies, checked_key, page_of

T = TypeVar("T")

BATCH_MAX = 256
BATCH_SIZE_BYTES_MAX = 16 << 20
"""How many appends, and how much of them, share one transaction and its sync."""
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


@attrs.define(slots=True, eq=False)
class _Waiting:
    """A task in `append`: it sleeps until its wish is settled, or until it is first in line and has to lead."""

    wish: Wish
    task: trio.lowlevel.Task
    is_settled: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.wish.bodies))


class SqliteEventStore:
    """An event store in one SQLite file, synced at every append: `async with await SqliteEventStore.open(path)`.

    One that is only made, `SqliteEventStore(path)`, opens its file at the first call: for a factory that cannot wait, such
    as that of a process actor. `busy_timeout_s` bounds how long a call waits for another program that writes to the file.
    Beside the file lie its log (`-wal`, `-shm`) and its mark (`-mark`); a backup has all of them or is made with
    SQLite's own tools. Calls run in a worker thread, one at a time; the appends that wait share one sync. A call that
    is cancelled before its turn has done nothing; one whose turn has come is finished, and returns.
    """

    def __init__(self, path: Path | str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._database = Database(Path(path), busy_timeout_s)
        self._turn = trio.CapacityLimiter(1)
        self._thread = trio.CapacityLimiter(1)  # free for whoever has the turn
        self._waiting: deque[_Waiting] = deque()
        self._leads = False
        """Whether one of those in `append` stores for all; while nobody does, nobody waits."""

    @classmethod
    async def open(cls, path: Path | str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Open or make the store at `path`.

        Raises `CorruptedError` for damage, `WorldError` where the disk refuses or another version of Prime wrote the file.
        """
        store = cls(path, busy_timeout_s=busy_timeout_s)
        await store._run(store._database.open)
        return store

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
        await trio.lowlevel.checkpoint_if_cancelled()
        mine = _Waiting(Wish(key, expected, checked_bodies(events)), trio.lowlevel.current_task())
        self._waiting.append(mine)
        if self._leads:
            await trio.lowlevel.wait_task_rescheduled(lambda _: self._give_up(mine))
        if not mine.is_settled:
            await self._lead(mine)
        return mine.wish.result()

    def _give_up(self, mine: _Waiting) -> trio.lowlevel.Abort:
        """Cancel one that still waits; one that is being stored is not."""
        if mine not in self._waiting:
            return trio.lowlevel.Abort.FAILED
        self._waiting.remove(mine)
        return trio.lowlevel.Abort.SUCCEEDED

    async def _lead(self, mine: _Waiting) -> None:
        """Store what waits, this one first; then let the next in line lead."""
        self._leads = True
        batch: list[_Waiting] = []
        try:
            async with self._turn:
                batch = self._take()
                await self._in_thread(lambda: self._database.append_all([each.wish for each in batch]))
        finally:
            self._leads = False
            self._settle(mine, batch)

    def _take(self) -> list[_Waiting]:
        """Take the appends of one transaction out of the line: the first, and as many as fit."""
        batch = [self._waiting.popleft()]
        size_bytes = batch[0].size_bytes
        while self._waiting and len(batch) < BATCH_MAX:
            size_bytes += self._waiting[0].size_bytes
            if size_bytes > BATCH_SIZE_BYTES_MAX:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _settle(self, mine: _Waiting, batch: list[_Waiting]) -> None:
        """Wake those whose append is over, and the next in line; one that was cancelled before its turn leaves it."""
        if not batch:
            self._waiting.remove(mine)
        for each in batch:
            each.is_settled = True
            if each is not mine:
                trio.lowlevel.reschedule(each.task)
        if self._waiting:
            self._leads = True
            trio.lowlevel.reschedule(self._waiting[0].task)

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
        async with self._turn:
            return await self._in_thread(call)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run a call whose turn has come, to its end: it is bounded by the disk and by `busy_timeout_s`."""
        with trio.CancelScope(shield=True):
            result = await trio.to_thread.run_sync(call, limiter=self._thread)
        return result  # noqa: RET504 - a type checker believes that the scope above may swallow what is raised


def _name(key: str) -> str:
    return f"memory, key {key!r}"
