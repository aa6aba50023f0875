"""Records in memory: for nodes without a disk, and for tests. They live as long as the object."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from prime.dht.backend import Entry, Loaded, Removal
from prime.errors import ActorUsageError


class MemoryBackend:
    """A store that outlives the actors that use it, and `aclose`, and no more: opened again, it has what it had."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[str, bytes], bytes] = {}
        self._is_open = False

    async def open(self) -> Loaded:
        """See `Backend.open`."""
        await trio.lowlevel.checkpoint()
        self._is_open = True
        return Loaded(tuple(Entry(kind, name, body) for (kind, name), body in self._bodies.items()))

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        """See `Backend.write`."""
        await trio.lowlevel.checkpoint()
        if not self._is_open:
            raise ActorUsageError("a store that is not open was written to", hint="open it first")
        for change in changes:
            place = (change.kind, change.name)
            if isinstance(change, Removal):
                self._bodies.pop(place, None)
            else:
                self._bodies[place] = bytes(change.body)

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        self._is_open = False
        await trio.lowlevel.checkpoint()
