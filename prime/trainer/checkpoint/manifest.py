"""The about file: what a checkpoint is of, and where each tensor lies (pure).

It is JSON in one fixed form (keys sorted, one space of indent), with a SHA-256 over that form without the hash itself.
So any byte that changes is found: the text no longer parses, or is not the fixed form, or has another hash. It is no
pickle: a file from a stranger is data, and what does not fit is refused with its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

import attrs

from prime.errors import CorruptedError
from prime.trainer.checkpoint.names import ABOUT_NAME, STEP_MAX
from prime.trainer.metadata import ELEMENTS_MAX, TensorLayout

SCHEMA: Final = 1
MODEL: Final = "model"
"""The part of the state whose tensors are the model's parameters and buffers."""
_SHARD_NAME = re.compile(r"rank-\d{5}\.safetensors")
_HASH = re.compile(r"[0-9a-f]{64}")
_DIMENSIONS_MAX = 64
_TIME_MAX_S = 253_402_300_799  # the end of the year 9999
_NO_NUMBERS = [{"float": "nan"}, {"float": "inf"}, {"float": "-inf"}]


def shard_name(rank: int) -> str:
    """Return the name of the file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


@attrs.frozen(kw_only=True)
class About:
    """What the caller knows of a checkpoint: all of it is told again by `prime model list`.

    `job` is the job as plain JSON values, `loss` the last step's (the model's own unit), `dataset` a fingerprint of
    the data, `generation` that of the gang.
    """

    job: Mapping[str, Any] = attrs.field(factory=dict)
    loss: float | None = None
    dataset: str = ""
    generation: int = 0


@attrs.frozen
class Shard:
    """One file of a checkpoint: its name, its length, and its SHA-256 (hex)."""

    name: str
    size_bytes: int
    sha256: str


@attrs.frozen
class Chunk:
    """A box of a tensor: where it begins, how long it is in each dimension, and under which key of which file."""

    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    file: str
    key: str


@attrs.frozen
class StoredTensor:
    """A tensor of the state: its type as torch names it (`float32`), its shape, and the boxes that it lies in."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@attrs.frozen(kw_only=True)
class Manifest:
    """All that the about file says. `values` are the numbers and words of the state, by their path in it."""

    step: int
    world: int
    saved_at_s: float
    """Seconds since 1970."""
    about: About
    versions: Mapping[str, str]
    files: tuple[Shard, ...]
    tensors: Mapping[str, StoredTensor]
    values: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        """Return how much the files take."""
        return sum(file.size_bytes for file in self.files)

    def layout(self) -> tuple[TensorLayout, ...]:
        """Return the model's tensors, sorted by name."""
        prefix = f"{MODEL}."
        return tuple(
            TensorLayout(name=name.removeprefix(prefix), shape=tensor.shape, dtype=tensor.dtype)
            for name, tensor in sorted(self.tensors.items())
            if name.startswith(prefix)
        )


def encoded(manifest: Manifest) -> bytes:
    """Return the about file's bytes."""
    content = {
        "schema": SCHEMA,
        "step": manifest.step,
        "world": manifest.world,
        "saved_at_s": manifest.saved_at_s,
        "about": attrs.asdict(attrs.evolve(manifest.about, loss=_finite(manifest.about.loss))),
        "versions": dict(manifest.versions),
        "files": [attrs.asdict(file) for file in manifest.files],
        "tensors": {name: attrs.asdict(tensor) for name, tensor in manifest.tensors.items()},
        "values": dict(manifest.values),
    }
    return _text({**content, "sha256": _digest(content)})


def decoded(data: bytes, where: str) -> Manifest:
    """Return what an about file says; raises `CorruptedError`, which names `where`, for anything that is not one."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or _text(content) != data:
            _refuse(where, "its bytes are not in the form in which it was written")
        if content.pop("sha256", None) != _digest(content):
            _refuse(where, "its hash is another")
        if content["schema"] != SCHEMA:
            _refuse(where, f"its schema is {content['schema']!r}, and this program knows {SCHEMA}")
        manifest = _manifest(content)
    except CorruptedError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _refuse(where, f"it cannot be read ({type(error).__name__}: {error})")
    for complaint in _complaints(manifest):
        _refuse(where, complaint)
    return manifest


def _text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(content)).hexdigest()


def _finite(loss: float | None) -> float | None:
    """Return a loss if it is a number: what is none has no form in JSON, and says nothing."""
    return loss if loss is not None and math.isfinite(loss) else None


def _manifest(content: Mapping[str, Any]) -> Manifest:
    return Manifest(
        step=content["step"],
        world=content["world"],
        saved_at_s=content["saved_at_s"],
        about=About(**content["about"]),
        versions=content["versions"],
        files=tuple(Shard(**file) for file in content["files"]),
        tensors={name: _tensor(tensor) for name, tensor in content["tensors"].items()},
        values=content["values"],
    )


def _tensor(content: Mapping[str, Any]) -> StoredTensor:
    chunks = tuple(
        Chunk(tuple(chunk["offsets"]), tuple(chunk["lengths"]), chunk["file"], chunk["key"])
        for chunk in content["chunks"]
    )
    return StoredTensor(content["dtype"], tuple(content["shape"]), chunks)


def _complaints(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with a manifest whose JSON was sound: a stranger may have written it."""
    if not (_is_count(manifest.step) and manifest.step <= STEP_MAX and _is_count(manifest.world) and manifest.world):
        yield "its step or its world is no count"
    if not (type(manifest.saved_at_s) is float and isinstance(manifest.values, dict)):
        yield "its time or its values have the wrong type"
    elif not (0 <= manifest.saved_at_s <= _TIME_MAX_S and all(map(_is_value, manifest.values.values()))):
        yield "its time or a value of its state cannot be"
    if not _is_about(manifest.about):
        yield "what it says of the run has the wrong type"
    files = {file.name for file in manifest.files}
    for file in manifest.files:
        if not (_SHARD_NAME.fullmatch(file.name) and _is_count(file.size_bytes) and _HASH.fullmatch(file.sha256)):
            yield f"it names a file that cannot be one of its own: {file.name!r}"
    for name, tensor in manifest.tensors.items():
        if not _is_sound(tensor, files):
            yield f"tensor {name!r} does not lie within its shape and its files"


def _is_about(about: Any) -> bool:
    is_loss = about.loss is None or (isinstance(about.loss, int | float) and not isinstance(about.loss, bool))
    return is_loss and isinstance(about.job, dict) and isinstance(about.dataset, str) and _is_count(about.generation)


def _is_value(value: object) -> bool:
    """Tell whether a value is one that `state.plain` makes."""
    if isinstance(value, dict):
        parts = value.get("tuple")
        return value in _NO_NUMBERS or (len(value) == 1 and isinstance(parts, list) and all(map(_is_value, parts)))
    return value is None or isinstance(value, bool | int | float | str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_sound(tensor: StoredTensor, files: set[str]) -> bool:
    shape = tensor.shape
    if len(shape) > _DIMENSIONS_MAX or not all(map(_is_count, shape)) or math.prod(shape) > ELEMENTS_MAX:
        return False
    held = 0
    for chunk in tensor.chunks:
        boxes = list(zip(chunk.offsets, chunk.lengths, shape, strict=False))
        fits = len(chunk.offsets) == len(chunk.lengths) == len(shape) and chunk.file in files
        fits = fits and isinstance(chunk.key, str)
        if not fits or not all(_is_count(at) and _is_count(size) and at + size <= all_ for at, size, all_ in boxes):
            return False
        held += math.prod(chunk.lengths)
    return held == math.prod(shape) and isinstance(tensor.dtype, str)


def _refuse(where: str, why: str) -> NoReturn:
    raise CorruptedError(
        f"{where}: {why}",
        hint=f"the disk damaged {ABOUT_NAME}, or another program wrote to it: `prime model list` shows which are whole",
    )
