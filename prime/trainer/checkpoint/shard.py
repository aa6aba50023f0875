"""One rank's tensors as a safetensors file, written once and hashed on the way; and its hash when it is read again.

The form is that of https://huggingface.co/docs/safetensors: the length of the header (u64, little endian), the header
(JSON: type, shape and place of each tensor), and their bytes. So any program that reads safetensors reads a shard.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from prime.store.files import Files, Work, write_all
from prime.trainer.checkpoint.manifest import Shard

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}
"""The types that a shard can hold, as torch names them and as safetensors does."""

READ_BYTES = 8 << 20
_ALIGNMENT_BYTES = 8


@attrs.frozen
class Entry:
    """A tensor of a file: the name it has there, its type as torch names it, its shape, and its length."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def header(entries: Sequence[Entry], notes: Mapping[str, str]) -> bytes:
    """Return what stands before the tensors' bytes, which follow in the order of the entries."""
    content: dict[str, object] = {"__metadata__": dict(notes)}
    at = 0
    for entry in entries:
        content[entry.key] = {
            "dtype": DTYPES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size_bytes],
        }
        at += entry.size_bytes
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return struct.pack("<Q", len(text)) + text


def write_shard(files: Files, path: Path, head: bytes, parts: Iterable[memoryview]) -> Work[Shard]:
    """Write a file and put it on the disk; the folder's names are the caller's to sync."""
    yield
    handle = files.open(path)
    try:
        yield
        files.truncate(handle, 0)
        found = hashlib.sha256(head)
        end = yield from write_all(files, handle, head, 0)
        with ThreadPoolExecutor(1) as beside:  # hashing takes as long as writing, and both leave the interpreter free
            for part in parts:
                hashing = beside.submit(found.update, part)
                end = yield from write_all(files, handle, part, end)
                hashing.result()
        yield
        files.sync(handle)
    finally:
        files.close(handle)
    return Shard(path.name, end, found.hexdigest())


def read_parts(files: Files, path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, some at a time."""
    at = 0
    while part := files.read_part(path, at, READ_BYTES):
        yield part
        at += len(part)


def hash_of(files: Files, path: Path) -> Work[str]:
    """Return the SHA-256 (hex) of a file that is there."""
    found = hashlib.sha256()
    for part in read_parts(files, path):
        found.update(part)
        yield
    return found.hexdigest()
