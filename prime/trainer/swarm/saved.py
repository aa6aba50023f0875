"""The states that this node has on its disk: written whole or not at all, and read back hash by hash.

A file is a line that names the format, the length of its head and the head's SHA-256, the head (the manifest and the
chunks' hashes), and the state's bytes. It gets its name once all of it is on the disk, so a node that dies while it
writes, or joins, leaves nothing that would be taken for a state. The last two are kept; where a round changed a part of the
state, the older one's file becomes the new one's, and only the chunks in which they differ are written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import trio

from prime.errors import CorruptedError, PrimeError
from prime.store.files import Files, SystemFiles, Work, disk_errors, make_folders, write_all
from prime.trainer.round.messages import StateManifest
from prime.trainer.round.names import lineage
from prime.trainer.swarm.state import (
    CHUNK_SIZE_BYTES,
    HASH_SIZE_BYTES,
    PAGE_CHUNKS,
    ChunkedState,
    OuterState,
    check_manifest,
    chunk_count,
    chunk_size_bytes,
    page_hash,
    state_from,
    state_size_bytes,
)
from prime.wire import decode_value, dumps, encode_value, loads

STATES_FOLDER: Final = "states"
STATES_KEPT: Final = 2
_MAGIC: Final = b"prime saved state 1\n"
_HEAD_BYTES_MAX: Final = 1 << 30
_DRAFT: Final = "draft"
_NAME: Final = re.compile(r"\d{12}-round-\d+\.state")


@attrs.frozen
class Found:
    """What a folder holds of a run: the newest sound state, if any, and what is wrong with newer ones."""

    state: OuterState | None
    state_hash: bytes
    faults: tuple[str, ...]


class StateFolder:
    """The saved states of one node, in one folder, which one process at a time may use."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder = folder
        self._files = SystemFiles() if files is None else files
        self._lock = trio.Lock()
        self._written: dict[str, tuple[int, tuple[bytes, ...]]] = {}

    async def save(self, cut: ChunkedState) -> None:
        """Put a state on the disk, then forget all but the last two. Raises `WorldError` where the disk refuses."""
        async with self._lock:
            with disk_errors(self._folder):
                await self._files.run(lambda: self._save(cut))

    def _save(self, cut: ChunkedState) -> Work[None]:
        files, draft = self._files, self._folder / _DRAFT
        yield from make_folders(files, self._folder)
        head = _head(cut)
        stale = yield from self._begin(cut, len(head))
        yield
        handle = files.open(draft)
        try:
            if len(stale) == len(cut.chunk_hashes):
                yield
                files.truncate(handle, 0)
            yield from write_all(files, handle, head, 0)
            for index in stale:
                yield from write_all(files, handle, cut.chunk(index), len(head) + index * CHUNK_SIZE_BYTES)
            yield
            files.sync(handle)
        finally:
            files.close(handle)
        yield
        name = self._next_name(cut.manifest)
        files.replace(draft, self._folder / name)
        self._written[name] = len(head), cut.chunk_hashes
        yield
        files.sync_folder(self._folder)
        for name in self._names()[STATES_KEPT:]:
            yield
            files.remove(self._folder / name)
            self._written.pop(name, None)

    def _begin(self, cut: ChunkedState, head_size_bytes: int) -> Work[Sequence[int]]:
        """Return the chunks to be written: those in which the oldest file differs, if that is worth it, or all of them.

        That file is no state from then on, before a byte of it changes. The newest one stays, and it is of the last
        decided round but one at the least.
        """
        every, name = range(len(cut.chunk_hashes)), next(iter(self._names()[STATES_KEPT - 1 :]), "")
        size_bytes, hashes = self._written.pop(name, (0, ()))
        stale = [index for index in every if hashes[index : index + 1] != cut.chunk_hashes[index : index + 1]]
        if size_bytes != head_size_bytes or len(hashes) != len(every) or 2 * len(stale) > len(every):
            return every
        yield
        self._files.replace(self._folder / name, self._folder / _DRAFT)
        yield
        self._files.sync_folder(self._folder)
        return stale

    async def find(self, run: str) -> Found:
        """Read the newest sound state of a run, or of one that it succeeds. Raises `WorldError` where the disk refuses."""
        with disk_errors(self._folder):
            return await self._files.run(lambda: self._find(run))

    def _find(self, run: str) -> Work[Found]:
        faults: list[str] = []
        for name in self._names():
            yield
            try:
                manifest, state = _read(self._files, self._folder / name)
            except CorruptedError as error:
                faults.append(str(error))
                continue
            if lineage(manifest.run)[0] == lineage(run)[0]:
                return Found(state, manifest.state_hash, tuple(faults))
        return Found(None, b"", tuple(faults))

    def _names(self) -> list[str]:
        """Return the names of the saved states, the one written last first."""
        return [name for name in reversed(self._files.names(self._folder)) if _NAME.fullmatch(name)]

    def _next_name(self, manifest: StateManifest) -> str:
        names = self._names()
        number = int(names[0].partition("-")[0]) + 1 if names else 1
        return f"{number:012d}-round-{manifest.round}.state"


def _head(cut: ChunkedState) -> bytes:
    manifest = dumps(encode_value(StateManifest, cut.manifest, []))
    body = len(manifest).to_bytes(4, "little") + manifest + b"".join(cut.chunk_hashes)
    return _MAGIC + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest() + body


def _read(files: Files, path: Path) -> tuple[StateManifest, OuterState]:
    """Return what a file holds. Raises `CorruptedError` unless every byte of it is what was written."""
    fixed = len(_MAGIC) + 8 + HASH_SIZE_BYTES
    start = files.read_part(path, 0, fixed)
    size = int.from_bytes(start[len(_MAGIC) : len(_MAGIC) + 8], "little")
    if len(start) != fixed or not start.startswith(_MAGIC) or size > _HEAD_BYTES_MAX:
        raise _damaged(path, "it does not begin as one")
    body = files.read_part(path, fixed, size)
    if len(body) != size or hashlib.sha256(body).digest() != start[-HASH_SIZE_BYTES:]:
        raise _damaged(path, "its head is not what was written")
    manifest, hashes = _parted(path, body)
    return manifest, _read_chunks(files, path, fixed + size, manifest, hashes)


def _parted(path: Path, body: bytes) -> tuple[StateManifest, tuple[bytes, ...]]:
    size = 4 + int.from_bytes(body[:4], "little")
    try:
        manifest: StateManifest = decode_value(StateManifest, loads(body[4:size]), [])
        check_manifest(manifest, manifest.elements, manifest.slots)
    except PrimeError as error:
        raise _damaged(path, str(error)) from error
    hashes = tuple(body[at : at + HASH_SIZE_BYTES] for at in range(size, len(body), HASH_SIZE_BYTES))
    pages = tuple(page_hash(hashes[at : at + PAGE_CHUNKS]) for at in range(0, len(hashes), PAGE_CHUNKS))
    if len(hashes) != chunk_count(manifest.elements, manifest.slots) or pages != manifest.page_hashes:
        raise _damaged(path, "its pages are not those of its state")
    return manifest, hashes


def _read_chunks(files: Files, path: Path, at: int, manifest: StateManifest, hashes: tuple[bytes, ...]) -> OuterState:
    whole = np.empty(state_size_bytes(manifest.elements, manifest.slots), np.uint8)
    for index, digest in enumerate(hashes):
        start, size = index * CHUNK_SIZE_BYTES, chunk_size_bytes(manifest, index)
        data = files.read_part(path, at + start, size)
        if len(data) != size or hashlib.sha256(data).digest() != digest:
            raise _damaged(path, f"chunk {index} is not what was written")
        whole[start : start + size] = np.frombuffer(data, np.uint8)
    return state_from(manifest, whole.data)


def _damaged(path: Path, why: str) -> CorruptedError:
    return CorruptedError(
        f"{path}: this is no sound state: {why}",
        hint="the one before it is used, or other members' state: see the disk",
    )
