"""Starts all groups of ranks of this folder once, in one process that imports torch and forks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GROUPS = ("plain-1", "plain-2", "plain-3", "plain-4", "plain-7", "hooks-2", "hooks-4", "lost-3")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[dict[str, Any]]]:
    """Return a function from a kind of group and its world to what each rank found, by case; a killed rank is left out."""
    folder = tmp_path_factory.mktemp("ranks")
    program = [sys.executable, "-W", "error", str(Path(__file__).with_name("ranks.py")), str(folder), *GROUPS]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        program, capture_output=True, text=True, timeout=170, check=False, env={**os.environ, "PYTHONPATH": path}
    )

    def found(kind: str, world: int) -> list[dict[str, Any]]:
        files = [folder / f"{kind}-{world}-{rank}.json" for rank in range(world - (kind == "lost"))]
        assert all(file.exists() for file in files), ended.stderr
        return [json.loads(file.read_text()) for file in files]

    return found
