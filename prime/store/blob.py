"""One blob on the disk: what is known of it, and its reading, each chunk and node checked against the hash above it.

A blob has a folder: `about` (what it is and where its bytes are, under a checksum), `tree` (all nodes of its manifest's
tree) and, unless its bytes stay in a file elsewhere, `body`. What `about` says is there was put on the disk before it.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Final

import attrs

from prime.errors import CorruptedError, DecodeError
from prime.store.files import Files, Work, write_file
from prime.store.manifest import HASH_BYTES, ContentId, Manifest, read_manifest
from prime.wire import dumps, loads

ABOUT: Final = "about"
TREE: Final = "tree"
BODY: Final = "body"
_FORMAT: Final = 1
_HINT: Final = "the disk damaged it: fetch or push the blob again"


@attrs.frozen
class Blob:
    """A blob of this store. `source` is the file elsewhere that its bytes are in, `None` where they are the store's own.

    `is_whole`: all its chunks were here and right when it was last written or read. `names` keep it from being given up;
    of those without, the one with the smallest `serial` goes first.
    """

    manifest: Manifest
    source: Path | None
    is_whole: bool
    serial: int
    names: tuple[str, ...] = ()

    @property
    def content(self) -> ContentId:
        """Return its content id."""
        return self.manifest.content

    @property
    def own_bytes(self) -> int:
        """Return what of it counts against the quota: nothing of what lies in a file elsewhere."""
        return self.manifest.size_bytes if self.source is None else 0


def folder_of(folder: Path, content: ContentId) -> Path:
    """Return the folder of a blob."""
    return folder / content.hex()


def body_of(folder: Path, blob: Blob) -> Path:
    """Return the file that a blob's bytes are in."""
    return blob.source if blob.source is not None else folder_of(folder, blob.content) / BODY


def write_about(files: Files, folder: Path, blob: Blob) -> Work[None]:
    """Put on the disk what is known of a blob, whole or not at all."""
    source = "" if blob.source is None else str(blob.source)
    body = dumps([_FORMAT, blob.manifest.packed, source, blob.is_whole, blob.serial, list(blob.names)])
    place = folder_of(folder, blob.content)
    yield from write_file(files, place / f"{ABOUT}.new", hashlib.sha256(body).digest() + body)
    yield
    files.replace(place / f"{ABOUT}.new", place / ABOUT)
    yield
    files.sync_folder(place)


def read_about(files: Files, place: Path) -> Work[Blob | None]:
    """Return what is known of the blob in a folder; `None` where it has no word yet. Raises `CorruptedError`."""
    yield
    data = files.read(place / ABOUT)
    if not data:
        return None
    check, body = data[:HASH_BYTES], data[HASH_BYTES:]
    try:
        if hashlib.sha256(body).digest() != check:
            raise DecodeError("its checksum is wrong")
        match loads(body):
            case [int(version), bytes(packed), str(source), bool(whole), int(serial), list(names)] if (
                version == _FORMAT
            ):
                manifest = read_manifest(packed, ContentId(bytes.fromhex(place.name)))
                return Blob(manifest, Path(source) if source else None, whole, serial, tuple(map(str, names)))
        raise DecodeError("its shape is another version's")
    except (DecodeError, ValueError) as error:
        raise CorruptedError(f"{place / ABOUT}: {error}", hint=_HINT) from error


def hash_in_tree(files: Files, folder: Path, manifest: Manifest, level: int, index: int) -> bytes:
    """Return what the tree says is the hash of a chunk (level 0) or node; empty where that is not on the disk."""
    at = manifest.hash_at(level, index)
    if at is None:
        return manifest.top
    with contextlib.suppress(FileNotFoundError):
        return files.read_part(folder_of(folder, manifest.content) / TREE, at, HASH_BYTES)
    return b""


def read_node(files: Files, folder: Path, manifest: Manifest, level: int, index: int) -> Work[bytes | None]:
    """Return a node, or `None` where it is not on the disk as the hash above it says."""
    yield
    wanted = hash_in_tree(files, folder, manifest, level, index)
    data = b""
    with contextlib.suppress(FileNotFoundError):
        place = folder_of(folder, manifest.content) / TREE
        data = files.read_part(place, manifest.node_at(level, index), manifest.node_size_bytes(level, index))
    return data if hashlib.sha256(data).digest() == wanted else None


def read_chunk(files: Files, body: Path, manifest: Manifest, index: int, digest: bytes) -> Work[bytes | None]:
    """Return a chunk out of a file, or `None` where what is there does not have this hash."""
    yield
    data = b""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
        data = files.read_part(body, index * manifest.chunk_bytes, manifest.chunk_size_bytes(index))
    return data if hashlib.sha256(data).digest() == digest else None
