"""What a run's folder has at the end: the figures as `report.json`, the curves as `curves.png`."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Final

from prime.errors import MissingExtraError
from prime.trainer.track.course import Course
from prime.trainer.track.jsonl import FILE as EVENTS
from prime.trainer.track.report import report

REPORT: Final = "report.json"
CURVES: Final = "curves.png"


def write_report(course: Course, folder: Path) -> None:
    """Write `report.json` and `curves.png` into the run's folder; what cannot be written is left out, events say all.

    Without matplotlib there are no curves.
    """
    found = report(course)
    found["files"] = {"events": EVENTS, "report": REPORT}
    if _draw(course, folder):
        found["files"]["curves"] = CURVES
    # Where there is none, the figures are on the screen, and those of an earlier session are not taken for them.
    with contextlib.suppress(OSError):
        (folder / REPORT).unlink(missing_ok=True)
        _replace(folder / REPORT, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _draw(course: Course, folder: Path) -> bool:
    from prime.trainer.track.plot import draw

    try:
        draw(course, folder / CURVES)
    except (MissingExtraError, OSError):
        return False
    return True


def _replace(file: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, whole."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
