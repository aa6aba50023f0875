"""An event store in one journal, for actors that persist on a simulated disk.

It is the simulator's own: SQLite makes its own calls to the system, so `SqliteEventStore` cannot run on a disk that is
simulated. The promises are those of `contract.EventStore`, kept by the journal that production uses; every read reads
the whole journal again, so damage is met where SQLite would meet it. A program with much to store wants the other one.

A record is: what was done (u8), the length of the key (u16), the count of bodies (u32), the numbers `last`, `deleted`
and `snapshot` of the key from then on (u64 each), all big endian; the key; each body behind its length (u32).
"""

from __future__ import annotations

import enum
import struct
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import attrs
import trio

from prime.actor.contract import SavedSnapshot
from prime.errors import CorruptedError, WorldError
from prime.store.files import Files
from prime.store.head import Head, checked_bodies, checked_key, page_of
from prime.store.journal import FileJournal

SLACK_BYTES = 4 << 10
"""By how much the journal may be longer than twice what it has to hold, before it is written anew."""

_HEAD = struct.Struct(">BHIQQQ")
_LENGTH = struct.Struct(">I")


class _Act(enum.IntEnum):
    APPENDED = 1
    SNAPSHOTTED = 2
    TRIMMED = 3
    FORGOTTEN = 4


@attrs.frozen
class _Log:
    """What there is of one key; `events` are those numbered `head.deleted + 1` and up."""

    head: Head = attrs.field(factory=Head)
    events: tuple[bytes, ...] = ()
    body: bytes = b""

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.events)) + len(self.body) + len(self.events) * _LENGTH.size


@attrs.frozen
class _Change:
    """One record: the numbers of a key from now on, and what comes with them."""

    act: _Act
    key: bytes
    head: Head = attrs.field(factory=Head)
    bodies: tuple[bytes, ...] = ()

    def on(self, log: _Log) -> _Log:
        """Return what there is of the key behind this change."""
        match self.act:
            case _Act.APPENDED:
                return attrs.evolve(log, head=self.head, events=log.events + self.bodies)
            case _Act.SNAPSHOTTED:
                return attrs.evolve(log, head=self.head, body=self.bodies[0])
            case _Act.TRIMMED:
                return attrs.evolve(log, head=self.head, events=log.events[self.head.deleted - log.head.deleted :])
            case _Act.FORGOTTEN:
                return _Log()

    def packed(self) -> bytes:
        """Return the record."""
        head = _HEAD.pack(
            self.act, len(self.key), len(self.bodies), self.head.last, self.head.deleted, self.head.snapshot
        )
        return b"".join((head, self.key, *(part for body in self.bodies for part in (_LENGTH.pack(len(body)), body))))


def _unpacked(record: bytes) -> _Change:
    """Return the change that a record holds; raises `struct.error` and `ValueError` for what is none."""
    act, key_length, count, *numbers = _HEAD.unpack_from(record)
    at = _HEAD.size + key_length
    key, bodies = record[_HEAD.size : at], []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(record, at)
        at += _LENGTH.size + length
        bodies.append(record[at - length : at])
    return _Change(_Act(act), key, Head(*numbers), tuple(bodies))


def _whole(logs: dict[bytes, _Log]) -> Iterator[_Change]:
    """Yield the changes that make these logs out of nothing."""
    for key, log in logs.items():
        begun = attrs.evolve(log.head, last=log.head.deleted, snapshot=0)
        yield _Change(_Act.APPENDED, key, begun)
        if log.head.snapshot:
            yield _Change(_Act.SNAPSHOTTED, key, attrs.evolve(begun, snapshot=log.head.snapshot), (log.body,))
        yield _Change(_Act.APPENDED, key, log.head, log.events)


class JournalEventStore:
    """An event store in the journal at `path` on a disk, opened at the first call; see `contract.EventStore`.

    A call that is cancelled before its turn has done nothing; one whose turn has come is finished, and returns.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self._path = path
        self._files = files
        self._turn = trio.Lock()
        self._journal: FileJournal | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the journal; the next call opens it again."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                journal, self._journal = self._journal, None
                if journal is not None:
                    journal.close()

    async def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        """See `contract.EventStore.append`."""
        bodies = tuple(checked_bodies(events))
        head = await self._change(
            _Act.APPENDED, key, lambda head, name: head.appended(name, expected, len(bodies)), bodies
        )
        return head.last

    async def last(self, key: str) -> int:
        """See `contract.EventStore.last`."""
        return (await self._log(key)).head.last

    async def events(
        self, key: str, after: int, *, count_max: int = 256, size_bytes_max: int = 4 << 20
    ) -> Sequence[bytes]:
        """See `contract.EventStore.events`."""
        log = await self._log(key)
        log.head.readable(self._name(key), after)
        first = after - log.head.deleted
        return page_of(log.events[first : first + max(count_max, 1)], size_bytes_max)

    async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        """See `contract.EventStore.save_snapshot`."""
        bodies = tuple(checked_bodies([body]))
        await self._change(_Act.SNAPSHOTTED, key, lambda head, name: head.snapshotted(name, sequence), bodies)

    async def snapshot(self, key: str) -> SavedSnapshot | None:
        """See `contract.EventStore.snapshot`."""
        log = await self._log(key)
        return SavedSnapshot(log.head.snapshot, log.body) if log.head.snapshot else None

    async def delete_events(self, key: str, up_to: int) -> None:
        """See `contract.EventStore.delete_events`."""
        await self._change(_Act.TRIMMED, key, lambda head, name: head.trimmed(name, up_to))

    async def forget(self, key: str) -> None:
        """See `contract.EventStore.forget`."""
        await self._change(_Act.FORGOTTEN, key, lambda _head, _name: Head())

    async def _log(self, key: str) -> _Log:
        id_ = checked_key(key)
        async with self._turn:
            return self._read(await self._opened()).get(id_, _Log())

    async def _change(
        self, act: _Act, key: str, step: Callable[[Head, str], Head], bodies: tuple[bytes, ...] = ()
    ) -> Head:
        """Do one thing to a key: `step` makes its numbers out of those before, or refuses."""
        id_ = checked_key(key)
        async with self._turn:
            journal = await self._opened()
            logs = self._read(journal)
            head = step(logs.get(id_, _Log()).head, self._name(key))
            await self._tidy(journal, logs)
            await journal.append(_Change(act, id_, head, bodies).packed())
            return head

    async def _opened(self) -> FileJournal:
        if self._journal is None:
            self._journal = await FileJournal.open(self._path, self._files)
        else:
            await trio.lowlevel.checkpoint()
        return self._journal

    def _read(self, journal: FileJournal) -> dict[bytes, _Log]:
        logs: dict[bytes, _Log] = {}
        for record in journal.records():
            try:
                change = _unpacked(record)
            except (struct.error, ValueError) as error:
                raise CorruptedError(
                    f"{self._path}: a record is no change of an event store", hint="another program wrote it"
                ) from error
            logs[change.key] = change.on(logs.get(change.key, _Log()))
        return {key: log for key, log in logs.items() if log != _Log()}

    async def _tidy(self, journal: FileJournal, logs: dict[bytes, _Log]) -> None:
        """Write the journal anew once most of it is of no use any more; a full disk lets it wait."""
        if journal.size_bytes > 2 * sum(log.size_bytes for log in logs.values()) + SLACK_BYTES:
            try:
                await journal.replace([change.packed() for change in _whole(logs)])
            except WorldError:  # it may be well again by the next call; what is stored is as it was
                return

    def _name(self, key: str) -> str:
        return f"{self._path}, key {key!r}"
