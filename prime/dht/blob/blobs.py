"""Blobs of a node: push what others may fetch, pull what others have; found through a directory such as the DHT."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import trio

from prime.actor import Restart
from prime.dht.blob.content import key_of_content
from prime.dht.blob.fetching import PATIENCE_S, fetch_blob
from prime.dht.blob.filling import FetchProgress
from prime.dht.blob.keeper import NAME, SUPERVISOR, BlobKeeper
from prime.dht.contact import Contact
from prime.dht.key import Key
from prime.errors import WorldError
from prime.store.blob import Blob
from prime.store.blobs import BlobStore
from prime.store.manifest import ContentId

if TYPE_CHECKING:
    from prime.actor import System
    from prime.store.blobs import Progress

PROVIDERS_MAX: Final = 20
PROVIDERS_AGAIN_MAX: Final = 200
"""Providers that are looked for at first, and when those were not enough: liars may have been the quickest to be found."""
DAMAGED_MAX: Final = 64
"""Damaged blobs that wait to be mended; of more, those that are asked for again."""
_RESTART: Final = Restart(max=10, within=60)


class Directory(Protocol):
    """Who provides what: the DHT, as far as blobs need it."""

    async def joined(self) -> None:
        """Wait until it can be asked."""
        ...

    async def provide(self, key: Key) -> int:
        """Say that this node has what the key names, from now on; return how many took note."""
        ...

    async def stop_providing(self, key: Key) -> None:
        """Say so no more."""
        ...

    async def find_providers(self, key: Key, *, count_max: int = PROVIDERS_MAX) -> tuple[Contact, ...]:
        """Return who says that he has what the key names."""
        ...


class Blobs:
    """The blobs of one node. Open them with `open_blobs`."""

    def __init__(self, system: System, store: BlobStore, directory: Directory | None) -> None:
        self.store = store
        self._system = system
        self._directory = directory
        self._damaged, self._to_mend = trio.open_memory_channel[ContentId](DAMAGED_MAX)

    async def push(self, source: Path | bytes, *, name: str = "", on_progress: Progress | None = None) -> Blob:
        """Let others fetch a file (an absolute path), which stays where it is, or bytes, which the store keeps.

        `name` keeps it here until another has the name. Raises `NotFoundError`, `ConflictError`, `RefusedError`,
        `WorldError`.
        """
        if isinstance(source, bytes):
            blob = await self.store.add_bytes(source, name=name)
        else:
            blob = await self.store.add_file(source, name=name, on_progress=on_progress)
        await self.provide(blob)
        return blob

    async def pull(
        self,
        content: ContentId,
        *,
        to: Path | None = None,
        name: str = "",
        providers: Sequence[str] = (),
        on_progress: Callable[[FetchProgress], None] = lambda _: None,
        patience_s: float = PATIENCE_S,
    ) -> Blob:
        """Return a blob once it is whole here: in the store, or in the file `to`, which it replaces.

        What is here already is read and checked, and not fetched again. `providers` are peers to ask besides those that the
        directory names. Raises as `fetch_blob`.
        """
        counts = itertools.chain([PROVIDERS_MAX], itertools.repeat(PROVIDERS_AGAIN_MAX))

        async def find() -> Sequence[str]:
            return await self._found(content, providers, next(counts))

        blob = self.store.find(content)
        if blob is None or to not in (None, blob.source) or not await self.store.verify(content):
            fetch = functools.partial(fetch_blob, self._system, self.store, content, find)
            blob = await fetch(to=to, on_progress=on_progress, patience_s=patience_s)
        if name:
            blob = await self.store.keep(content, name)
        await self.provide(blob)
        return blob

    async def _found(self, content: ContentId, providers: Sequence[str], count_max: int) -> Sequence[str]:
        found: list[str] = list(providers)
        if self._directory is not None:
            for contact in await self._directory.find_providers(key_of_content(content), count_max=count_max):
                self._system.learn(contact.peer, contact.addresses)
                found.append(contact.peer)
        return [peer for peer in dict.fromkeys(found) if peer != self._system.peer]

    async def provide(self, blob: Blob) -> None:
        """Say that this node has a blob, where there is anybody to tell."""
        if self._directory is not None:
            with contextlib.suppress(WorldError):  # nobody is there: whoever comes is told when it is published anew
                await self._directory.provide(key_of_content(blob.content))

    async def provide_all(self) -> None:
        """Say so of every blob that is whole here, one after the other: a node that has started does."""
        if self._directory is not None:
            await self._directory.joined()
        for blob in self.store.blobs():
            if blob.is_whole:
                await self.provide(blob)

    def damaged(self, content: ContentId) -> None:
        """Have a blob mended, or provided no more, that is not as it was."""
        with contextlib.suppress(trio.WouldBlock):
            self._damaged.send_nowait(content)

    async def mend(self) -> None:
        """Mend what is damaged as it is found, for ever: what the store keeps itself is fetched from others.

        A file elsewhere is its owner's: it is not written to, and it is said no more that the blob is here; nor of one that had to
        make room.
        """
        async for content in self._to_mend:
            blob = self.store.find(content)
            try:
                if blob is not None and blob.source is None and not blob.is_whole:
                    await self.pull(content, patience_s=0)
                elif (blob is None or not blob.is_whole) and self._directory is not None:
                    await self._directory.stop_providing(key_of_content(content))
            except WorldError:
                continue  # it is told when it was found; whoever asks for it again has it tried again

    async def remove(self, content: ContentId) -> None:
        """Let go of a blob, and say no more that it is here; a file elsewhere stays."""
        await self.store.remove(content)
        if self._directory is not None:
            with contextlib.suppress(WorldError):
                await self._directory.stop_providing(key_of_content(content))


@contextlib.asynccontextmanager
async def open_blobs(
    system: System,
    folder: Path,
    directory: Directory | None = None,
    *,
    size_bytes_max: int | None = None,
    bytes_per_s: float = float("inf"),
) -> AsyncIterator[Blobs]:
    """Open the blobs in a folder, serve them to other nodes, and say in the directory that they are here.

    `size_bytes_max` bounds what the store itself keeps, `bytes_per_s` what it sends. Raises `WorldError`.
    """
    store = await BlobStore.open(folder, size_bytes_max=size_bytes_max)
    blobs = Blobs(system, store, directory)
    store.on_given_up = blobs.damaged
    async with system.supervisor(SUPERVISOR, restart=_RESTART) as supervisor, trio.open_nursery() as nursery:
        keeper = functools.partial(BlobKeeper, store, bytes_per_s=bytes_per_s, on_damage=blobs.damaged)
        await supervisor.spawn(keeper, NAME)
        nursery.start_soon(blobs.provide_all)
        nursery.start_soon(blobs.mend)
        try:
            yield blobs
        finally:
            nursery.cancel_scope.cancel()
