"""What to tell of bytes that are not as they were written, and of a disk that says no."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from prime.errors import CorruptedError, WorldError
from prime.trainer.checkpoint.folders import Damage


def damaged(path: Path, damages: Sequence[Damage]) -> CorruptedError:
    """Return the error for a checkpoint with these damages."""
    return CorruptedError(
        f"{path}: " + "; ".join(f"{damage.file}: {damage.complaint}" for damage in damages),
        hint="the disk damaged it: take another one (`prime model verify` says which are sound), and look at the disk",
    )


def refused(folder: Path, error: OSError) -> WorldError:
    """Return the error for what the disk refused below a folder."""
    hints = {
        errno.ENOSPC: "free space on that disk; the last good checkpoint is still there",
        errno.EDQUOT: "free space within this user's quota; the last good checkpoint is still there",
        errno.ENOENT: "make that folder first",
        errno.EACCES: "let this user write there, or choose another folder",
        errno.EROFS: "that disk is read-only: choose another folder",
    }
    hint = hints.get(error.errno or 0, "look at the disk: the system's log says what failed")
    return WorldError(f"{error.filename or folder}: {error.strerror or error}", hint=hint)
