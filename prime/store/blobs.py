"""Blobs by content id on the disk: served chunk by chunk, each checked as it is read, and filled in by drafts.

The bytes of a blob are the store's own, or stay in a file elsewhere, which is never written to once it is whole. Whatever
was changed since, by a bit that turned or by an editor, is noticed when it is read: no wrong byte leaves, the error names
the file and the place, and a draft of the same blob fetches just what is wrong. Own bytes count against a quota; those that
no name keeps are given up for new ones, the oldest first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from prime.errors import ConflictError, CorruptedError, NotFoundError, RefusedError, UsageError
from prime.store.blob import (
    ABOUT,
    BODY,
    TREE,
    Blob,
    body_of,
    folder_of,
    hash_in_tree,
    read_about,
    read_chunk,
    read_node,
    write_about,
)
from prime.store.draft import STRETCH_CHUNKS, Draft
from prime.store.files import Files, SystemFiles, Work, disk_errors, make_folders, write_file
from prime.store.manifest import CHUNK_BYTES, ContentId, Manifest, TreeBuilder

ASIDE: Final = ".damaged"
PART: Final = ".part"
_AGAIN: Final = "push it again: it then has a new content id, and those who have the old one can still serve that"

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""


class BlobStore:
    """The blobs of one node. Open it with `BlobStore.open`; one program at a time has the folder."""

    def __init__(self, folder: Path, files: Files, size_bytes_max: int | None) -> None:
        self.folder = folder
        self.size_bytes_max = size_bytes_max
        self.damaged: list[str] = []
        """The folders of blobs whose description was damaged, put aside when the store was opened."""
        self.on_given_up: Callable[[ContentId], None] = lambda _: None
        """Told of a blob that had to make room for another."""
        self._files = files
        self._blobs: dict[ContentId, Blob] = {}
        self._open: dict[ContentId, tuple[Path, Blob | None]] = {}
        """Blobs that a draft is open of, where it writes, and what was known of the blob before."""
        self._lock = trio.Lock()

    @classmethod
    async def open(cls, folder: Path, files: Files | None = None, *, size_bytes_max: int | None = None) -> BlobStore:
        """Open or make a store that holds at most so many bytes of its own. Raises `WorldError`."""
        store = cls(folder, files if files is not None else SystemFiles(), size_bytes_max)
        with disk_errors(folder):
            await store._files.run(store._load)
        return store

    def _load(self) -> Work[None]:
        yield from make_folders(self._files, self.folder)
        yield
        for name in self._files.names(self.folder):
            if len(name) == 64:
                yield from self._load_one(self.folder / name)

    def _load_one(self, place: Path) -> Work[None]:
        try:
            blob = yield from read_about(self._files, place)
        except CorruptedError:
            yield from self._put_aside(place)
            return
        if blob is None:  # a crash came before its first word
            yield from self._remove(place)
        else:
            self._blobs[blob.content] = blob

    def _put_aside(self, place: Path) -> Work[None]:
        aside, number = place.with_name(place.name + ASIDE), 1
        while self._files.has(aside):
            number += 1
            aside = place.with_name(f"{place.name}{ASIDE}{number}")
        yield
        self._files.replace(place, aside)
        self.damaged.append(str(aside))

    # ------------------------------------------------------------------------------------------------ what is here

    def blobs(self) -> tuple[Blob, ...]:
        """Return all blobs, the oldest first."""
        return tuple(sorted(self._blobs.values(), key=lambda blob: blob.serial))

    def find(self, content: ContentId) -> Blob | None:
        """Return a blob, whole or not."""
        return self._blobs.get(content)

    def named(self, name: str) -> Blob | None:
        """Return the blob that a name keeps."""
        return next((blob for blob in self._blobs.values() if name in blob.names), None)

    @property
    def own_bytes(self) -> int:
        """Return how much counts against the quota."""
        return sum(blob.own_bytes for blob in self._blobs.values())

    async def node(self, content: ContentId, level: int, index: int) -> bytes:
        """Return a node of a blob's tree. Raises `NotFoundError`, `CorruptedError`, `WorldError`."""
        blob = self.require(content, level, index)
        with disk_errors(self.folder):
            data = await self._files.run(lambda: read_node(self._files, self.folder, blob.manifest, level, index))
        if data is None:
            raise await self._fault(blob, f"node {index} of level {level}", TREE)
        return data

    async def chunk(self, content: ContentId, index: int) -> bytes:
        """Return a chunk of a blob. Raises `NotFoundError`, `CorruptedError`, `WorldError`."""
        blob = self.require(content, 0, index)
        _, before = self._open.get(content, (None, None))
        bodies = [body_of(self.folder, one) for one in (blob, before) if one is not None]
        with disk_errors(bodies[0]):
            data = await self._files.run(lambda: self._read_chunk(blob, bodies, index))
        if data is None:
            raise await self._fault(blob, f"chunk {index}", BODY)
        return data

    async def verify(self, content: ContentId) -> bool:
        """Read every chunk of a blob, and tell whether it is whole. Raises `NotFoundError`, `WorldError`."""
        blob = self._blobs.get(content)
        if blob is None:
            raise NotFoundError("that blob is not here", hint="pull it first")
        try:
            for index in range(blob.manifest.chunks):
                await self.chunk(content, index)
        except (CorruptedError, NotFoundError):
            return False
        return blob.is_whole

    def _read_chunk(self, blob: Blob, bodies: list[Path], index: int) -> Work[bytes | None]:
        """Return a chunk out of the first file that has it: while a draft is open also where the blob lay before."""
        yield
        digest = hash_in_tree(self._files, self.folder, blob.manifest, 0, index)
        for body in bodies:
            data = yield from read_chunk(self._files, body, blob.manifest, index, digest)
            if data is not None:
                return data
        return None

    def require(self, content: ContentId, level: int, index: int) -> Blob:
        """Return a blob that has this chunk (level 0) or node. Raises `NotFoundError`, `RefusedError`."""
        blob = self._blobs.get(content)
        if blob is None:
            raise NotFoundError("that blob is not here", hint="ask another provider")
        if not blob.manifest.has(level, index):
            raise RefusedError(f"the blob has no {index} of level {level}", hint="read its manifest again")
        return blob

    async def _fault(self, blob: Blob, what: str, part: str) -> NotFoundError | CorruptedError:
        """Return why something of a blob cannot be had; of a whole one, mark that it is whole no more."""
        if not blob.is_whole:
            return NotFoundError(f"{what} of that blob is not here", hint="ask another provider")
        async with self._lock:
            if self._blobs.get(blob.content) == blob:
                await self._write(attrs.evolve(blob, is_whole=False))
        body = body_of(self.folder, blob)
        if blob.source is None or part == TREE:
            place = folder_of(self.folder, blob.content) / part
            return CorruptedError(
                f"{place}: {what} is damaged", hint="the disk damaged it: pull the blob again, only that is fetched"
            )
        there = "was changed" if self._files.has(body) else "is gone"
        return CorruptedError(f"{body} {there} since it was pushed ({what})", hint=_AGAIN)

    # --------------------------------------------------------------------------------------------------- new ones

    async def add_file(
        self, path: Path, *, name: str = "", chunk_bytes: int = CHUNK_BYTES, on_progress: Progress | None = None
    ) -> Blob:
        """Take in a file (an absolute path) that stays where it is, and is served from there.

        Raises `UsageError` for what is no whole file, `NotFoundError`, `ConflictError`, `WorldError`.
        """
        _require_absolute(path)
        if path.suffix == PART:
            raise UsageError(
                f"{path} is the beginning of a fetch", hint=f"name a whole file: one that ends in {PART} is removed"
            )
        size_bytes = self._files.size_bytes(path)
        if size_bytes is None:
            raise NotFoundError(f"{path}: no such file", hint="name a file that is there")
        tree = TreeBuilder(chunk_bytes)
        for at in range(0, size_bytes, stretch := STRETCH_CHUNKS * chunk_bytes):
            with disk_errors(path):
                end = min(at + stretch, size_bytes)
                await self._files.run(lambda at=at, end=end: self._hash(path, at, end, chunk_bytes, tree))  # type: ignore[misc]
            if on_progress is not None:
                on_progress(end, size_bytes)
        manifest, nodes = tree.finish()
        if manifest.size_bytes != size_bytes or self._files.size_bytes(path) != size_bytes:
            raise ConflictError(f"{path} was changed while it was read", hint="push it when nobody writes to it")
        return await self._added(Blob(manifest, path, True, 0), nodes, b"", name)

    def _hash(self, path: Path, at: int, end: int, chunk_bytes: int, tree: TreeBuilder) -> Work[None]:
        for start in range(at, end, chunk_bytes):
            yield
            data = self._files.read_part(path, start, min(chunk_bytes, end - start))
            tree.add(hashlib.sha256(data).digest(), len(data))

    async def add_bytes(self, data: bytes, *, name: str = "", chunk_bytes: int = CHUNK_BYTES) -> Blob:
        """Take in bytes, which the store keeps. Raises `RefusedError` over the quota, `WorldError`."""
        tree = TreeBuilder(chunk_bytes)
        for at in range(0, len(data), chunk_bytes):
            piece = data[at : at + chunk_bytes]
            tree.add(hashlib.sha256(piece).digest(), len(piece))
        manifest, nodes = tree.finish()
        return await self._added(Blob(manifest, None, True, 0), nodes, data, name)

    async def _added(self, blob: Blob, nodes: bytes, data: bytes, name: str) -> Blob:
        """Put a whole blob on the disk, or the way to its file; one that is here and whole stays as it is."""
        async with self._lock:
            known = self._blobs.get(blob.content)
            if blob.content in self._open:
                raise ConflictError("that blob is being fetched", hint="wait for its end, or stop it, and push again")
            if known is not None and known.is_whole and known.source in (None, blob.source):
                blob = known
            else:
                names = known.names if known is not None else ()
                blob = attrs.evolve(blob, names=names)
                await self._make_room(blob)
                with disk_errors(self.folder):
                    await self._files.run(lambda: self._put(blob, nodes, data))
            if name:
                await self._free(name, blob.content)
            await self._supersede(blob)
            return await self._write(_kept_by(blob, name, self._next_serial()))

    async def _supersede(self, blob: Blob) -> None:
        """Let go of other blobs that lay in the same file elsewhere: it has other bytes now."""
        for other in self.blobs():
            if blob.source is not None and other.source == blob.source and other.content != blob.content:
                await self._let_go(other.content)
                self.on_given_up(other.content)

    def _put(self, blob: Blob, nodes: bytes, data: bytes) -> Work[None]:
        place = folder_of(self.folder, blob.content)
        yield from make_folders(self._files, place)
        yield from write_file(self._files, place / TREE, nodes)
        if blob.source is None:
            yield from write_file(self._files, place / BODY, data)
        yield
        self._files.sync_folder(place)

    async def draft(self, manifest: Manifest, to: Path | None = None) -> Draft:
        """Begin or go on with the fetch of a blob: into the store, or into `to` and `.part` until it is whole.

        What lies there already, or in another place that this store knows of the blob, is not fetched again. Raises
        `ConflictError` while another draft writes there, `RefusedError` over the quota and where `to` is no file, `WorldError`.
        """
        part = None
        if to is not None:
            _require_absolute(to)
            self._require_place(to)
            part = to.with_name(to.name + PART)
        async with self._lock:
            place = part if part is not None else folder_of(self.folder, manifest.content) / BODY
            if manifest.content in self._open or place in {taken for taken, _ in self._open.values()}:
                raise ConflictError(f"{place} is being fetched", hint="wait for it, or stop that fetch first")
            known = self._blobs.get(manifest.content)
            blob = Blob(manifest, part, False, self._next_serial(), known.names if known is not None else ())
            await self._make_room(blob)
            seeds = [to] if to is not None else []
            if known is not None:
                seeds.append(body_of(self.folder, known))
            with disk_errors(self.folder):
                await self._files.run(lambda: make_folders(self._files, folder_of(self.folder, blob.content)))
            draft = Draft(self._files, self.folder, blob, to, seeds, self._ended)
            try:
                await draft.open()
                await self._write(blob)
            except BaseException:
                draft.close()
                raise
            self._open[blob.content] = (place, known)
            return draft

    def _require_place(self, to: Path) -> None:
        """Raise `RefusedError` for what is no file, such as a folder, a pipe or a device: a blob would take its name away."""
        if self._files.has(to) and self._files.size_bytes(to) is None:
            raise RefusedError(f"{to} is no file that could be replaced", hint="name another one")

    async def _ended(self, content: ContentId, to: Path | None, is_whole: bool) -> Blob | None:  # noqa: FBT001 - a callback
        """Write down that a draft is whole, or where the blob lay whole before a draft that was broken off."""
        _, before = self._open.pop(content, (None, None))
        blob = self._blobs.get(content)
        with trio.CancelScope(shield=True):
            async with self._lock:
                if blob is not None and is_whole:
                    done = await self._write(attrs.evolve(blob, source=to, is_whole=True))
                    await self._supersede(done)
                    self._remove_part(before, blob)
                    return done
                if blob is not None and before is not None and before.is_whole:
                    return await self._write(before)
        return blob

    # ------------------------------------------------------------------------------------------- kept and given up

    async def keep(self, content: ContentId, name: str) -> Blob:
        """Let a name keep a blob, and no other one. Raises `NotFoundError`, `WorldError`."""
        async with self._lock:
            await self._free(name, content)
            blob = self._blobs.get(content)
            if blob is None:
                raise NotFoundError("that blob is not here", hint="pull it first")
            return await self._write(_kept_by(blob, name, self._next_serial()))

    async def free(self, name: str) -> None:
        """Let a name keep nothing any more."""
        async with self._lock:
            await self._free(name)

    async def _free(self, name: str, but: ContentId | None = None) -> None:
        for blob in [one for one in self._blobs.values() if name in one.names and one.content != but]:
            await self._write(attrs.evolve(blob, names=tuple(each for each in blob.names if each != name)))

    async def remove(self, content: ContentId) -> None:
        """Let go of a blob, kept or not; a file elsewhere stays. Raises `ConflictError` while it is being fetched."""
        async with self._lock:
            await self._let_go(content)

    async def _let_go(self, content: ContentId) -> None:
        if content in self._open:
            raise ConflictError("that blob is being fetched", hint="stop the fetch first")
        blob = self._blobs.get(content)
        if blob is None:
            return
        place = folder_of(self.folder, content)
        with disk_errors(place):
            await self._files.run(lambda: self._remove(place))
            self._remove_part(blob)
        del self._blobs[content]

    def _remove_part(self, blob: Blob | None, but: Blob | None = None) -> None:
        """Remove what a draft into a file elsewhere has left, unless it is that of another."""
        source = None if blob is None or blob.is_whole else blob.source
        if source is not None and source.suffix == PART and (but is None or but.source != source):
            self._files.remove(source)

    def _remove(self, place: Path) -> Work[None]:
        names = self._files.names(place)
        for name in sorted(names, key=lambda name: name != ABOUT):  # without its first word it is nothing
            yield
            self._files.remove(place / name)
            if name == ABOUT:
                self._files.sync_folder(place)
        yield
        self._files.remove_folder(place)

    async def _make_room(self, blob: Blob) -> None:
        """Give up blobs that no name keeps, the oldest first, until this one fits. Raises `RefusedError`."""
        if self.size_bytes_max is None or not blob.own_bytes:
            return
        others = [one for one in self.blobs() if one.content != blob.content]
        free = [one for one in others if not one.names and one.own_bytes and one.content not in self._open]
        while (held := sum(one.own_bytes for one in others)) + blob.own_bytes > self.size_bytes_max:
            if not free:
                raise RefusedError(
                    f"{self.folder}: {blob.own_bytes:,} bytes do not fit beside the {held:,} that names keep: "
                    f"{self.size_bytes_max:,} are allowed",
                    hint="let go of some, allow more, or pull it into a file (--to)",
                )
            oldest = free.pop(0)
            others.remove(oldest)
            await self._let_go(oldest.content)
            self.on_given_up(oldest.content)

    async def _write(self, blob: Blob) -> Blob:
        with disk_errors(self.folder):
            await self._files.run(lambda: write_about(self._files, self.folder, blob))
        self._blobs[blob.content] = blob
        return blob

    def _next_serial(self) -> int:
        return 1 + max((blob.serial for blob in self._blobs.values()), default=0)


def _require_absolute(path: Path) -> None:
    if not path.is_absolute():
        raise UsageError(f"{path} is no absolute path", hint="the store outlives the folder that a program is in now")


def _kept_by(blob: Blob, name: str, serial: int) -> Blob:
    names = blob.names if not name or name in blob.names else (*blob.names, name)
    return attrs.evolve(blob, names=names, serial=serial)
