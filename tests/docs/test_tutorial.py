"""The program of the tutorial about actors runs by itself too, with its pool in processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_program_counts_what_it_was_given() -> None:
    command = [sys.executable, str(ROOT / "docs" / "words.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    assert done.stdout.splitlines() == ["atlas 3", "poem 8"]
