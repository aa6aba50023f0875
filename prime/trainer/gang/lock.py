"""One trainer in a run's folder: two would train the same run side by side and save over each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from prime.errors import ConfigError, ConflictError

LOCK_NAME = "trainer.lock"


@contextlib.contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Make the run's folder and hold its lock; the kernel lets go of it when the process ends, however.

    Raises `ConflictError` if another trainer holds it, `ConfigError` for a folder that cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be used as the run's folder ({error.strerror})",
            hint="set `folder` to one that you may write to",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                f"another trainer trains the run in {folder}", hint="stop it first, or give this run another name"
            ) from error
        yield
    finally:
        os.close(handle)
