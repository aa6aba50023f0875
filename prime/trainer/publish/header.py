"""What a safetensors file says of its tensors, read from its header alone; no tensor is loaded.

The form is that of https://huggingface.co/docs/safetensors; `prime.trainer.checkpoint.shard` writes it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any, Final

from prime.errors import ConfigError, DataError, NotFoundError
from prime.store.files import disk_errors
from prime.trainer.checkpoint.shard import DTYPES
from prime.trainer.metadata import ModelMetadata, TensorLayout

HEADER_BYTES_MAX: Final = 100 << 20
"""As the library that defined the form has it."""
NOTES: Final = "__metadata__"
_LENGTH: Final = struct.Struct("<Q")
_TORCH: Final = {stored: name for name, stored in DTYPES.items()}
_HINT: Final = "`prime model export RUN --to FILE.safetensors` writes such a file"


def read_layout(path: Path, name: str) -> ModelMetadata:
    """Return how the tensors of a safetensors file are laid out; blocks. Raises `NotFoundError`, `DataError`, `WorldError`."""
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file", hint="name a safetensors file, a run, or a folder of checkpoints")
    with disk_errors(path), path.open("rb") as file:
        head, size_bytes = file.read(_LENGTH.size), path.stat().st_size
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if not 2 <= length <= min(HEADER_BYTES_MAX, size_bytes - _LENGTH.size):
            raise _no_safetensors(path, "it has no header")
        text = file.read(length)
    tensors = _tensors(path, text)
    ends = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if _LENGTH.size + length + ends != size_bytes:
        raise _no_safetensors(path, f"its tensors end at byte {_LENGTH.size + length + ends:,} of {size_bytes:,}")
    layout = tuple(TensorLayout(key, tuple(one["shape"]), _dtype(one["dtype"])) for key, one in tensors.items())
    try:
        return ModelMetadata(name, sum(math.prod(one.shape) for one in layout), layout)
    except ConfigError as error:
        raise _no_safetensors(path, "it has no tensors, or too many") from error


def _tensors(path: Path, text: bytes) -> dict[str, Any]:
    """Return the entries of a header, by name, in the order of their bytes."""
    try:
        found = json.loads(text)
        found.pop(NOTES, None)
        tensors = dict(sorted(found.items(), key=lambda item: item[1]["data_offsets"]))
        if all(_is_entry(one) for one in tensors.values()):
            return tensors
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        pass
    raise _no_safetensors(path, "its header cannot be read")


def _is_entry(entry: Any) -> bool:
    """Tell whether a tensor has the bytes that its shape and type need; of an unknown type, a bit an element at least."""
    begin, end = entry["data_offsets"]
    if not all(type(each) is int and 0 <= each < 2**63 for each in (*entry["shape"], begin, end)):
        return False
    elements, bits = 1, _bits(entry["dtype"])
    for size in entry["shape"]:
        elements *= size
        if elements > 8 * (end - begin):
            return False
    return bits == 0 or elements * bits == 8 * (end - begin)


def _bits(stored: str) -> int:
    """Return the bits of an element of a type, 0 where it is not known."""
    found = re.match(r"[A-Z]+(\d+)", stored)
    return (int(found[1]) if found is not None else 8) if stored in _TORCH else 0


def _dtype(stored: str) -> str:
    return _TORCH.get(stored, str(stored).lower())


def dtypes(metadata: ModelMetadata) -> str:
    """Return the types of a model's tensors, those with most elements first."""
    counts: Counter[str] = Counter()
    for tensor in metadata.layout:
        counts[tensor.dtype] += math.prod(tensor.shape)
    return ", ".join(name for name, _ in counts.most_common())


def _no_safetensors(path: Path, why: str) -> DataError:
    return DataError(f"{path} is no whole safetensors file: {why}", hint=_HINT)
