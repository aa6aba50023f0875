"""What the cases share: the kit, and how a store is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs

from prime.dht.backend import Backend, Entry, Loaded
from prime.errors import PrimeError

Case = Callable[["BackendKit"], Awaitable[None]]
Bodies = dict[tuple[str, bytes], bytes]


@attrs.frozen
class BackendKit:
    """What the suite must know of a store.

    `make` gives the store that is at the case's own place; called again, one that has what the one before had. For the
    cases of a disk, `program` says how another process makes it from its path: `module:callable`, or `file.py:callable`;
    `path` is that path, and nothing but the store's own files lies in its folder.
    """

    make: Callable[[], Backend]
    program: str = ""
    path: Path = Path()


def check(kept: bool, broken_promise: str) -> None:  # noqa: FBT001 (reads like assert)
    """Raise `AssertionError` with the promise that was broken."""
    if not kept:
        raise AssertionError(broken_promise)


@contextmanager
def refused(kind: type[PrimeError], broken_promise: str) -> Iterator[None]:
    """Expect an error of this kind from the block, with the next step in it."""
    try:
        yield
    except kind as error:
        check(bool(error.hint), f"an error has no hint: {error}")
        return
    raise AssertionError(broken_promise)


def equal(found: Bodies, written: Bodies) -> None:
    """Compare what is in a store with what was written."""
    check(found.keys() >= written.keys(), f"{len(written.keys() - found.keys())} entries that were written are gone")
    check(found.keys() <= written.keys(), f"{len(found.keys() - written.keys())} entries are there that should not be")
    check(found == written, "an entry is not as it was written")


@asynccontextmanager
async def opened(kit: BackendKit) -> AsyncIterator[tuple[Backend, Bodies]]:
    """Open the store for a block, sound as it has to be; yield it and what is in it."""
    backend = kit.make()
    loaded = await backend.open()
    check((loaded.damaged, loaded.lost_writes) == ((), 0), f"a sound store is said to be damaged: {loaded!r:.200}")
    try:
        yield backend, bodies_of(loaded)
    finally:
        await backend.aclose()


def bodies_of(loaded: Loaded) -> Bodies:
    """Return what was in a store, by kind and name."""
    bodies = {(entry.kind, entry.name): entry.body for entry in loaded.entries}
    check(len(bodies) == len(loaded.entries), "one name is there twice")
    return bodies


async def read(kit: BackendKit) -> Bodies:
    """Open the store, return what is in it, and close it."""
    async with opened(kit) as (_, bodies):
        return bodies


def entry(number: int, size_bytes: int = 40) -> Entry:
    """Return an entry that says by itself whether it is as it was written."""
    return Entry("record", b"%d" % number, b"%d:" % number + bytes(size_bytes))
