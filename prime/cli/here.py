"""Modules in the current folder: users name their own there, and a script's `sys.path` lacks it."""

from __future__ import annotations

import sys
from pathlib import Path


def look_here() -> None:
    """Have modules in the current folder found, before all others."""
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
