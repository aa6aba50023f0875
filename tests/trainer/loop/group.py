"""Starts the ranks of a group of tests, and reads what they found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RANKS = Path(__file__).with_name("ranks.py")


def group(folder: Path, world: int, cases: Sequence[Any], timeout_s: float = 150) -> list[dict[str, Any]]:
    """Return what each rank found of each case, by its name."""
    (folder / "cases.json").write_text(json.dumps(cases))
    started = [
        subprocess.Popen(
            [sys.executable, str(RANKS), str(rank), str(world), str(folder)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=timeout_s)[1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * world, "\n".join(errors)
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(world)]
