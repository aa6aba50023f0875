"""A model that is one flat vector, as a safetensors file: what a swarm ends with, written where torch is not loaded.

Beside it stands the same .json as beside a file that `prime model export` writes.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from prime.store.files import Files, Work, finish, write_file
from prime.trainer.checkpoint.shard import Entry, header, write_shard
from prime.trainer.metadata import ModelMetadata

SCHEMA: Final = 1
_FLOAT32_BYTES: Final = 4


def write_model(
    vector: memoryview, metadata: ModelMetadata, path: Path, about: Mapping[str, Any], files: Files
) -> None:
    """Write the float32 `vector` to `path`, cut into the tensors of its layout, and `about` it to `path` with .json.

    Files that stand there are replaced once the new ones are whole. Raises `OSError`.
    """
    finish(lambda: _write(vector.cast("B"), metadata, path, about, files))


def _write(
    vector: memoryview, metadata: ModelMetadata, path: Path, about: Mapping[str, Any], files: Files
) -> Work[None]:
    sizes = [math.prod(tensor.shape) * _FLOAT32_BYTES for tensor in metadata.layout]
    entries = [
        Entry(tensor.name, "float32", tensor.shape, size) for tensor, size in zip(metadata.layout, sizes, strict=True)
    ]
    draft, beside = path.with_name(path.name + ".new"), path.with_suffix(".json")
    try:
        shard = yield from write_shard(files, draft, header(entries, {"format": "pt"}), _pieces(vector, sizes))
        layout = [attrs.asdict(tensor) for tensor in metadata.layout]  # type: ignore[arg-type]  # a @record
        content = {"schema": SCHEMA, "file": path.name, "sha256": shard.sha256, **about, "layout": layout}
        yield from _write_text(files, beside, json.dumps(content, indent=1, ensure_ascii=False))
        files.replace(draft, path)
    finally:
        files.remove(draft)
        files.remove(beside.with_name(beside.name + ".new"))
    files.sync_folder(path.parent)


def _pieces(vector: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    ends = [0, *itertools.accumulate(sizes)]
    return [vector[start:end] for start, end in itertools.pairwise(ends)]


def _write_text(files: Files, path: Path, text: str) -> Work[None]:
    draft = path.with_name(path.name + ".new")
    yield from write_file(files, draft, text.encode() + b"\n")
    files.replace(draft, path)
