"""How torch.distributed.checkpoint writes and reads our form: safetensors and JSON in the place of its pickled files.

Torch's own FileSystemWriter keeps its metadata as a pickle, which FileSystemReader loads without a check, and its
planner loads other values by `torch.load(weights_only=False)`; its HuggingFaceStorageWriter writes safetensors, but
no file that makes a checkpoint count, and guesses shapes when it reads. (torch 2.11 to 2.13: `filesystem.py`,
`default_planner.py`, `hf_storage.py`.) Its interface for storages is public, so this is one. Ranks of one run do send
each other plans as pickles, over their own group: torch's collectives of objects are made so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from prime.errors import ActorUsageError, CorruptedError
from prime.store.files import Files, finish, make_folders
from prime.trainer.checkpoint import folders
from prime.trainer.checkpoint.manifest import Chunk, Manifest, Shard, StoredTensor, shard_name
from prime.trainer.checkpoint.shard import DTYPES, Entry, header, write_shard


@attrs.frozen
class Written:
    """What a rank tells the coordinator of one box: where it lies, and the file as it is now."""

    key: str
    shard: Shard


class ShardWriter(StorageWriter):
    """Writes each rank's boxes to one file of a draft; the coordinator begins the draft and makes it count.

    `own` is what this rank says of itself with its plan. On the coordinator, `begin` gets what all ranks said, by
    rank, and returns the draft's folder; `publish` gets the files and the tensors when all ranks have written.
    """

    def __init__(
        self,
        files: Files,
        own: Any,
        begin: Callable[[list[Any]], Path],
        publish: Callable[[tuple[Shard, ...], Mapping[str, StoredTensor]], None],
    ) -> None:
        self._files = files
        self._own = own
        self._begin = begin
        self._publish = publish
        self._draft: Path | None = None

    @contextlib.contextmanager
    def discarding(self) -> Iterator[None]:
        """Delete the draft if what is done inside fails: it takes room, and the disk may be full."""
        try:
            yield
        except BaseException:
            if self._draft is not None:
                with contextlib.suppress(OSError):
                    finish(partial(folders.discard_draft, self._files, self._draft))
            raise

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one save to the next: each has a writer of its own."""

    def set_up_storage_writer(self, *_: Any, **__: Any) -> None:
        """See `StorageWriter`; what the coordinator alone does comes in calls that it alone gets."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuse what a file cannot hold, before anything is written."""
        for item in plan.items:
            _checked_item(item)
        return dataclasses.replace(plan, storage_data=self._own)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the draft, and tell each rank which file of it is its own."""
        draft = self._draft = self._begin([plan.storage_data for plan in plans])
        return [dataclasses.replace(plan, storage_data=draft / shard_name(rank)) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file, synced and hashed; no file if there is nothing for this rank to write."""
        results = self._write(plan, planner) if plan.items else []
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        self._draft = plan.storage_data.parent
        finish(
            lambda: make_folders(self._files, plan.storage_data.parent)
        )  # unless its name has come from rank 0's host
        keys = _keys(plan.items)
        entries = [_entry(key, item) for key, item in zip(keys, plan.items, strict=True)]
        head = header(entries, {"format": "pt"})
        parts = (bytes_of(planner.resolve_data(item)) for item in plan.items)
        shard = finish(lambda: write_shard(self._files, plan.storage_data, head, parts))
        return [
            WriteResult(item.index, entry.size_bytes, Written(entry.key, shard))
            for item, entry in zip(plan.items, entries, strict=True)
        ]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the about file, which makes the checkpoint count; called on the coordinator, when all have written."""
        written = {result.index: result.storage_data for of_rank in results for result in of_rank}
        shards = {one.shard.name: one.shard for one in written.values()}
        tensors = {
            name: _stored(name, stored, written)
            for name, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        self._publish(tuple(shards[name] for name in sorted(shards)), tensors)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003 - torch's signature
        """Nothing is found by an id of torch's."""
        return False


class ShardReader(StorageReader):
    """Reads the boxes that a rank needs out of the files that hold them, on any world size."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one load to the next: each has a reader of its own."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return what the manifest says in torch's own words."""
        return Metadata({name: _metadata(tensor) for name, tensor in self._manifest.tensors.items()})

    def set_up_storage_reader(self, *_: Any, **__: Any) -> None:
        """See `StorageReader`; the manifest has all there is to know."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """See `StorageReader`; the default planner's plan is as it should be."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """See `StorageReader`; each rank reads for itself."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy what is stored into the tensors that the planner names."""
        for file, items in self._by_file(plan):
            try:
                with safe_open(self._path / file, framework="pt") as source:
                    for chunk, item in items:
                        _copy(source, chunk, item, planner)
            except (SafetensorError, OSError) as error:
                raise CorruptedError(
                    f"{self._path / file}: {error}", hint="`prime model verify` says which files are damaged"
                ) from error
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _by_file(self, plan: LoadPlan) -> Iterator[tuple[str, list[tuple[Chunk, ReadItem]]]]:
        wanted: dict[str, list[tuple[Chunk, ReadItem]]] = {}
        for item in plan.items:
            chunk = _chunk_of(self._manifest, item.storage_index)
            wanted.setdefault(chunk.file, []).append((chunk, item))
        yield from wanted.items()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003 - torch's signature
        """Nothing is found by an id of torch's."""
        return False


def dtype_name(dtype: torch.dtype) -> str:
    """Return a type as torch names it: `float32`."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str, where: str) -> torch.dtype:
    """Return the type of that name; raises `CorruptedError` for one that no shard can hold."""
    found = getattr(torch, name, None) if name in DTYPES else None
    if not isinstance(found, torch.dtype):
        raise CorruptedError(f"{where}: {name!r} is no type of tensors", hint="a newer version of Prime may have it")
    return found


def _checked_item(item: WriteItem) -> None:
    name = item.index.fqn
    if item.tensor_data is None or dtype_name(item.tensor_data.properties.dtype) not in DTYPES:
        kind = "no tensor" if item.tensor_data is None else dtype_name(item.tensor_data.properties.dtype)
        raise ActorUsageError(f"state {name}: {kind} cannot be saved", hint=f"one of {', '.join(DTYPES)}")


def _keys(items: list[WriteItem]) -> list[str]:
    """Return a key for each box of a file: the tensor's name, with the box's place where the file has several."""
    names = [item.index.fqn for item in items]
    places = [",".join(map(str, item.index.offset or ())) for item in items]
    return [f"{name}@{place}" if names.count(name) > 1 else name for name, place in zip(names, places, strict=True)]


def _entry(key: str, item: WriteItem) -> Entry:
    data = item.tensor_data
    assert data is not None, "a plan with such an item was refused"  # noqa: S101 - for the type checker
    size_bytes = data.chunk.sizes.numel() * data.properties.dtype.itemsize
    return Entry(key, dtype_name(data.properties.dtype), tuple(data.chunk.sizes), size_bytes)


def bytes_of(tensor: Any) -> memoryview:
    """Return a tensor's bytes, on the host and in one piece; no copy is made of one that lies so already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def _stored(name: str, stored: TensorStorageMetadata, written: Mapping[MetadataIndex, Written]) -> StoredTensor:
    chunks = tuple(
        Chunk(tuple(chunk.offsets), tuple(chunk.sizes), found.shard.name, found.key)
        for chunk in stored.chunks
        if (found := written.get(MetadataIndex(name, chunk.offsets))) is not None
    )
    return StoredTensor(dtype_name(stored.properties.dtype), tuple(stored.size), chunks)


def _metadata(tensor: StoredTensor) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.lengths)) for chunk in tensor.chunks]
    properties = TensorProperties(dtype=dtype_of(tensor.dtype, "the about file"))
    return TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)


def _chunk_of(manifest: Manifest, index: MetadataIndex) -> Chunk:
    wanted = tuple(index.offset or ())
    return next(chunk for chunk in manifest.tensors[index.fqn].chunks if chunk.offsets == wanted)


def _copy(source: Any, chunk: Chunk, item: ReadItem, planner: LoadPlanner) -> None:
    """Copy a part of a box, from `storage_offsets` on and as long as `lengths`, to where the planner wants it."""
    target = planner.resolve_tensor(item).detach()
    if tuple(item.lengths) == chunk.lengths:
        part = source.get_tensor(chunk.key)
    else:
        ends = zip(item.storage_offsets, item.lengths, strict=True)
        part = source.get_slice(chunk.key)[tuple(slice(at, at + length) for at, length in ends)]
    if part.shape != target.shape:
        raise CorruptedError(
            f"{chunk.file}: {chunk.key} has the shape {tuple(part.shape)}, not {tuple(target.shape)}",
            hint="`prime model verify` says which files are damaged",
        )
    target.copy_(part)
    planner.commit_tensor(item, target)
