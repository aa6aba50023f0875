"""The preset data `fashion-mnist`: 70 000 pictures of clothes, 28 x 28 pixels, 10 classes (Xiao et al., 2017).

Read from the four files that its authors give out, as Debian's package `dataset-fashion-mnist` installs them; the
option `path` names another folder that holds them. Its 10 000 test pictures are what is held out.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from prime.errors import DataError
from prime.trainer.data.arrays import Array, ArrayDataset, Samples
from prime.trainer.data.contract import Request
from prime.trainer.data.fingerprint import fingerprint
from prime.trainer.data.options import Options

FOLDER: Final = "/usr/share/datasets/fashion-mnist"
MEAN: Final = 72.94
DEVIATION: Final = 90.02
"""Of the 47 million pixels to train on, 0 to 255."""

_UNSIGNED_BYTE: Final = 0x08
_HINT: Final = (
    "on Debian and Ubuntu `apt-get install dataset-fashion-mnist`; elsewhere set data_options.path to a folder with the "
    "four files of github.com/zalandoresearch/fashion-mnist"
)


def open_data(request: Request) -> ArrayDataset:
    """Read the pictures. Raises `DataError` where a file is missing or damaged."""
    options = Options(request.data_options, "data_options", "fashion-mnist")
    folder = Path(options.text("path", FOLDER)).expanduser()
    options.end()
    training, reserved = _part(folder, "train"), _part(folder, "t10k")
    found = fingerprint([*training.arrays(), *reserved.arrays()])
    return ArrayDataset(training, reserved, found, offset=MEAN, scale=DEVIATION)


def read_idx(path: Path) -> Array:
    """Read an IDX file of bytes, packed by gzip or not: uint8 of the shape that it names. Raises `DataError`."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged: {error}", hint=_HINT) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise DataError(f"{path} is no IDX file of bytes", hint=_HINT)
    head = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:head]) if len(content) >= head else (-1,)
    if len(content) - head != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} is damaged: {len(content)} bytes for the shape {shape}", hint=_HINT)
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _part(folder: Path, name: str) -> Samples:
    pictures = read_idx(_file(folder, f"{name}-images-idx3-ubyte"))
    labels = read_idx(_file(folder, f"{name}-labels-idx1-ubyte")).astype(np.int64)
    if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
        raise DataError(f"{folder}: {name} has {pictures.shape} pictures and {labels.shape} labels", hint=_HINT)
    return Samples(pictures, labels)


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise DataError(f"{folder}: there is no {name}.gz", hint=_HINT)
