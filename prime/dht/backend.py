"""Where a node keeps what it holds for the DHT, as one contract: memory, SQLite, or a package's own.

A node has all that it holds in memory too, within its quotas, so a backend is read once, when it is opened, and written
from then on. What `write` has returned from outlives a crash of the process and of the machine (but for `memory`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs


@attrs.frozen
class Entry:
    """A thing kept: `kind` is a word (`record`, `provider`, `register`, …), `name` unique within it, `body` its bytes."""

    kind: str
    name: bytes
    body: bytes


@attrs.frozen
class Removal:
    """The entry of this kind and name is there no more."""

    kind: str
    name: bytes


@attrs.frozen
class Loaded:
    """What was there: sound entries, and the names of those that were damaged and have been put aside (quarantined).

    `lost_writes` acknowledged writes are not there any more, and nothing says what was in them: all is of an earlier time.
    What is lost either way is fetched from the nodes that hold it too.
    """

    entries: tuple[Entry, ...]
    damaged: tuple[Removal, ...] = ()
    lost_writes: int = 0


class Backend(Protocol):
    """One node's store. One program at a time has it; each call is made after the one before has ended."""

    async def open(self) -> Loaded:
        """Open or make the store and return what is in it.

        Raises `WorldError` where the disk refuses, and `CorruptedError` where nothing can be read at all: the damaged file
        has been put aside then, and opening again begins with an empty store.
        """
        ...

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        """Make all these changes or none, the later of two to one name. A call that was cancelled has made all or none.

        Raises `WorldError`, such as on a full disk: nothing has changed then. Raises `CorruptedError` for damage that was
        found only now: close and open again, which saves what can be read.
        """
        ...

    async def aclose(self) -> None:
        """Close; harmless the second time."""
        ...
