"""A wish for the end of a run, on the disk until the run has ended.

Below a majority nobody can decide the end, and the node that was asked for it may be started again before there is one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from prime.store.files import disk_errors, put_text

WISH: Final = "ending"
"""The file in a run's folder that names the run whose end is wished."""


def keep_wish(folder: Path, run: str) -> None:
    """Note that the end of a run is wished; blocks. Raises `WorldError` where the disk refuses."""
    with disk_errors(folder):
        put_text(folder / WISH, run)


def is_wished(folder: Path, run: str) -> bool:
    """Tell whether the end of this very run is wished; blocks."""
    try:
        return (folder / WISH).read_text(encoding="utf-8").strip() == run
    except (OSError, ValueError):
        return False


def drop_wish(folder: Path) -> None:
    """Forget the wish, as the run has ended; blocks."""
    with contextlib.suppress(OSError):
        (folder / WISH).unlink(missing_ok=True)
