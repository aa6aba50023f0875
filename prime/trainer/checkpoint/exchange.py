"""The model of a checkpoint as one safetensors file, for any program; and a model's parameters out of such a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor, distribute_tensor

from prime.errors import ConfigError, CorruptedError, NotFoundError
from prime.store.files import Files, Work, finish, write_file
from prime.trainer.checkpoint import folders
from prime.trainer.checkpoint.faults import damaged
from prime.trainer.checkpoint.folders import Checkpoint
from prime.trainer.checkpoint.manifest import MODEL, Manifest, StoredTensor
from prime.trainer.checkpoint.shard import Entry, header, write_shard
from prime.trainer.checkpoint.storage import bytes_of, dtype_of

SCHEMA = 1
_NAMES_SHOWN = 3


def export(checkpoint: Checkpoint, path: Path, files: Files) -> Manifest:
    """Write the model to `path`, and what it is of to `path` with the ending .json. See `Checkpoints.export`.

    The files of the checkpoint are verified first. One tensor at a time is in memory. Files that stand there are
    replaced once the new ones are whole.
    """
    manifest = checkpoint.manifest
    damages = finish(lambda: folders.verify(files, checkpoint.path))
    if manifest is None or damages:
        raise damaged(checkpoint.path, damages)
    model = {name: tensor for name, tensor in sorted(manifest.tensors.items()) if name.startswith(f"{MODEL}.")}
    if not model:
        raise NotFoundError(f"{checkpoint.path} has no model in it", hint=f'save the model under "{MODEL}"')
    finish(lambda: _write(files, checkpoint.path, path, manifest, model))
    return manifest


def _write(files: Files, source: Path, path: Path, manifest: Manifest, model: Mapping[str, StoredTensor]) -> Work[None]:
    entries = [_entry(name, tensor) for name, tensor in model.items()]
    notes = {"format": "pt", "step": str(manifest.step), "job": str(manifest.about.job.get("name", ""))}
    draft = path.with_name(path.name + ".new")
    about = path.with_suffix(".json")
    try:
        shard = yield from write_shard(files, draft, header(entries, notes), _assembled(source, model))
        yield from _write_about(files, about, manifest, path.name, shard.sha256)
        files.replace(draft, path)
    finally:
        files.remove(draft)
        files.remove(about.with_name(about.name + ".new"))
    files.sync_folder(path.parent)


def _write_about(files: Files, path: Path, manifest: Manifest, name: str, sha256: str) -> Work[None]:
    content = {
        "schema": SCHEMA,
        "file": name,
        "sha256": sha256,
        "step": manifest.step,
        "loss": manifest.about.loss,
        "job": manifest.about.job,
        "dataset": manifest.about.dataset,
        "versions": manifest.versions,
        "layout": [{"name": one.name, "shape": one.shape, "dtype": one.dtype} for one in manifest.layout()],
    }
    draft = path.with_name(path.name + ".new")
    yield from write_file(files, draft, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    files.replace(draft, path)


def _entry(name: str, tensor: StoredTensor) -> Entry:
    itemsize = dtype_of(tensor.dtype, name).itemsize
    elements = torch.Size(tensor.shape).numel()
    return Entry(name.removeprefix(f"{MODEL}."), tensor.dtype, tensor.shape, elements * itemsize)


def _assembled(source: Path, model: Mapping[str, StoredTensor]) -> Iterator[memoryview]:
    for name, tensor in model.items():
        yield bytes_of(assembled(source, name, tensor))


def assembled(source: Path, name: str, tensor: StoredTensor) -> torch.Tensor:
    """Return a tensor of a checkpoint put together from its boxes."""
    whole = torch.empty(tensor.shape, dtype=dtype_of(tensor.dtype, name))
    for chunk in tensor.chunks:
        try:
            with safe_open(source / chunk.file, framework="pt") as file:
                part = file.get_tensor(chunk.key)
        except (SafetensorError, OSError) as error:
            raise CorruptedError(f"{source / chunk.file}: {error}", hint="`prime model verify` tells more") from error
        box = tuple(slice(at, at + length) for at, length in zip(chunk.offsets, chunk.lengths, strict=True))
        whole[box].copy_(part)
    return whole


def start_from(path: Path, module: torch.nn.Module) -> None:
    """Put the parameters and buffers of a safetensors file into a module, sharded or not; every rank reads the file.

    Raises `NotFoundError`, `CorruptedError` for a file that is no safetensors, and `ConfigError` for another model's.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", hint="`prime model export` writes one")
    wanted = module.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            _check_names(path, set(file.keys()), _names(module, wanted))
            with torch.no_grad():
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    _fill(path, name, wanted[name], file)
    except SafetensorError as error:
        raise CorruptedError(f"{path}: {error}", hint="it must be a safetensors file, whole") from error


def _names(module: torch.nn.Module, wanted: Mapping[str, torch.Tensor]) -> tuple[set[str], set[str]]:
    """Return the names that must be in the file, and those that may: of tensors tied together one is enough."""
    first: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    return set(first.values()), set(wanted)


def _check_names(path: Path, there: set[str], names: tuple[set[str], set[str]]) -> None:
    needed, known = names
    for found, what in ((needed - there, "it lacks"), (there - known, "the model has no")):
        if found:
            shown = ", ".join(sorted(found)[:_NAMES_SHOWN])
            raise ConfigError(
                f"{path} is of another model: {what} {shown}" + (" and more" if len(found) > _NAMES_SHOWN else ""),
                hint="start from a file that was exported from the same model",
            )


def _fill(path: Path, name: str, target: torch.Tensor, file: Any) -> None:
    stored = file.get_tensor(name)
    if stored.shape != target.shape:
        raise ConfigError(
            f"{path}: {name} has the shape {tuple(stored.shape)}, the model's {tuple(target.shape)}",
            hint="compare the model's options with those in the JSON beside the file",
        )
    if isinstance(target, DTensor):
        # Each rank takes its shard out of what it read itself: no rank sends any.
        stored = distribute_tensor(stored.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(stored)
