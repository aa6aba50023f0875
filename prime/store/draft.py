"""A blob on its way to the disk: nodes and chunks in any order, each checked before it is written.

A draft is its own record of how far it is: what lies in it and matches its hash is here, and nothing else says so. So a
crash at any byte, a torn write and a turned bit are all found the same way, when its chunks are looked through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from prime.errors import NotFoundError
from prime.store.blob import TREE, Blob, body_of, folder_of, hash_in_tree, read_chunk, read_node
from prime.store.files import Files, Work, disk_errors, write_all
from prime.store.manifest import NODE_BYTES_MAX, ContentId, Manifest

STRETCH_CHUNKS: Final = 32
"""Chunks that are read in one go: a fetch that is given up meanwhile ends after them."""


class Draft:
    """Fills in one blob. Its calls may overlap, but for `finish` and `aclose`, which are the last."""

    def __init__(
        self,
        files: Files,
        folder: Path,
        blob: Blob,
        to: Path | None,
        seeds: Sequence[Path],
        end: Callable[[ContentId, Path | None, bool], Awaitable[Blob | None]],
    ) -> None:
        """`seeds` are files that may hold chunks of it already; `end` is told once where it lies, and whether it is whole."""
        self.manifest: Manifest = blob.manifest
        self._files = files
        self._folder = folder
        self._body = body_of(folder, blob)
        self._to = to
        self._seeds = [path for path in seeds if path != self._body]
        self._end = end
        self._handle: int | None = None
        self._tree: int | None = None

    async def open(self) -> None:
        """Open its files. Raises `WorldError`."""
        with disk_errors(self._body):
            await self._files.run(self._open)

    def _open(self) -> Work[None]:
        yield
        self._tree = self._files.open(folder_of(self._folder, self.manifest.content) / TREE)
        yield
        self._handle = self._files.open(self._body)
        yield
        if (self._files.size_bytes(self._body) or 0) > self.manifest.size_bytes:
            self._files.truncate(self._handle, self.manifest.size_bytes)

    async def has_node(self, level: int, index: int) -> bool:
        """Tell whether a node is here and right."""
        with disk_errors(self._body):
            found = await self._files.run(lambda: read_node(self._files, self._folder, self.manifest, level, index))
        return found is not None

    async def put_node(self, level: int, index: int, data: bytes | memoryview) -> bool:
        """Write a node whose parent is here; `False`, and nothing written, where its hash names other bytes."""
        with disk_errors(self._body):
            return await self._files.run(lambda: self._put_node(level, index, data))

    def _put_node(self, level: int, index: int, data: bytes | memoryview) -> Work[bool]:
        yield
        wanted = hash_in_tree(self._files, self._folder, self.manifest, level, index)
        if len(data) > NODE_BYTES_MAX or hashlib.sha256(data).digest() != wanted:
            return False
        yield from write_all(self._files, self._opened(self._tree), data, self.manifest.node_at(level, index))
        return True

    async def missing(self, page: int) -> list[int]:
        """Return the chunks of a page that are not here yet; those that lie in a seed are copied out of it first."""
        found: list[int] = []
        chunks = self.manifest.chunks_of(page)
        for start in range(chunks.start, chunks.stop, STRETCH_CHUNKS):
            stretch = range(start, min(start + STRETCH_CHUNKS, chunks.stop))
            with disk_errors(self._body):
                found += await self._files.run(lambda stretch=stretch: self._missing(stretch))  # type: ignore[misc]
        return found

    def _missing(self, stretch: range) -> Work[list[int]]:
        found = []
        for index in stretch:
            digest = hash_in_tree(self._files, self._folder, self.manifest, 0, index)
            if (yield from read_chunk(self._files, self._body, self.manifest, index, digest)) is not None:
                continue
            if not (yield from self._copied(index, digest)):
                found.append(index)
        return found

    def _copied(self, index: int, digest: bytes) -> Work[bool]:
        for seed in self._seeds:
            data = yield from read_chunk(self._files, seed, self.manifest, index, digest)
            if data is not None:
                yield from write_all(self._files, self._opened(self._handle), data, index * self.manifest.chunk_bytes)
                return True
        return False

    async def put_chunk(self, index: int, data: bytes | memoryview) -> bool:
        """Write a chunk whose node is here; `False`, and nothing written, where its hash names other bytes."""
        with disk_errors(self._body):
            return await self._files.run(lambda: self._put_chunk(index, data))

    def _put_chunk(self, index: int, data: bytes | memoryview) -> Work[bool]:
        yield
        if hashlib.sha256(data).digest() != hash_in_tree(self._files, self._folder, self.manifest, 0, index):
            return False
        at = index * self.manifest.chunk_bytes
        handle = self._opened(self._handle)
        yield from write_all(self._files, handle, data, at)
        yield
        self._files.begin_sync(handle, at, len(data))
        return True

    async def finish(self) -> Blob:
        """Put all on the disk, give the body its name, and return the blob, which is whole from now on.

        Every chunk must be here. Raises `WorldError`.
        """
        with disk_errors(self._body):
            await self._files.run(self._finish)
        blob = await self._end(self.manifest.content, self._to, True)
        if blob is None:
            raise NotFoundError(f"{self._body}: removed while it was fetched", hint="fetch it again")
        return blob

    def _finish(self) -> Work[None]:
        for handle in (self._tree, self._handle):
            yield
            self._files.sync(self._opened(handle))
        self.close()
        yield
        self._files.sync_folder(folder_of(self._folder, self.manifest.content))
        if self._to is not None:
            yield
            self._files.replace(self._body, self._to)
            yield
            self._files.sync_folder(self._to.parent)

    async def aclose(self) -> None:
        """Stop where it is; what is here is found again by the next draft. Harmless after `finish`."""
        if self._handle is not None:
            self.close()
            await self._end(self.manifest.content, None, False)

    def close(self) -> None:
        """Close its files, and tell nobody: for who has not got it open yet."""
        handles, self._handle, self._tree = (self._handle, self._tree), None, None
        for handle in handles:
            if handle is not None:
                self._files.close(handle)

    def _opened(self, handle: int | None) -> int:
        if handle is None:
            raise NotFoundError(f"{self._body}: this draft was closed", hint="begin another one")
        return handle
