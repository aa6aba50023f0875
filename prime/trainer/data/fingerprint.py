"""What tells whether two ranks, or a run and its checkpoint, have the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prime.errors import DataError

WHOLE_BYTES: Final = 64 * 2**20
"""What of an array is read for its fingerprint: all of a smaller one, and of a bigger one so much, evenly spread."""
BLOCKS: Final = 64

_HINT: Final = "give each rank the same data; to train on new data start a new run, in a folder of its own"


def fingerprint(arrays: Sequence[npt.NDArray[Any]], *words: object) -> str:
    """Return a hash (BLAKE2b, 128 bits, hex) of the arrays' types, shapes and content, and of the words.

    Of an array over 64 MiB 64 blocks are read, both its ends among them: a file that grew, shrank or was replaced is
    noticed, but an edit between the blocks is not.
    """
    digest = hashlib.blake2b(repr(words).encode(), digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        for block in spread(np.ascontiguousarray(array).reshape(-1)):
            digest.update(block.view(np.uint8).data)
    return digest.hexdigest()


def spread(flat: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return a flat array as blocks: all of it, or of a big one 64 blocks of 1 MiB from its first to its last."""
    if flat.nbytes <= WHOLE_BYTES:
        return [flat]
    size = WHOLE_BYTES // BLOCKS // flat.itemsize
    return [flat[start : start + size] for start in np.linspace(0, flat.size - size, BLOCKS).astype(np.int64)]


def require_same(now: str, before: str, whose: str) -> None:
    """Refuse data with another fingerprint than `whose` has, such as "the checkpoint of step 300". Raises `DataError`.

    An empty fingerprint is one that nobody knows: it is not compared.
    """
    if now and before and now != before:
        raise DataError(f"the data is not that of {whose} (fingerprint {now[:8]}, not {before[:8]})", hint=_HINT)
