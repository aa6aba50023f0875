"""The tutorial on simulation does what it says: the race is found, replayed, drawn and shrunk, and the mending holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "tutorial-simulation.md").read_text(encoding="utf-8")


def prime(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prime", "sim", *words, "--scenario", "tickets:one_each"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=120)


def last(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def mended() -> str:
    """Return the program with the class of the page in the place of the other."""
    office = re.search(r"^```python\n(class BoxOffice.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert office is not None
    program = (DOCS / "tickets.py").read_text(encoding="utf-8")
    return re.sub(r"^class BoxOffice.*?(?=^async def)", office[1] + "\n\n", program, flags=re.DOTALL | re.MULTILINE)


def test_the_page_shows_commands_as_they_are() -> None:
    commands = re.findall(r"^\$ prime sim (\w+)", PAGE, re.MULTILINE)
    assert commands == ["search", "replay", "timeline", "shrink", "search"]


def test_the_race_is_found_replayed_drawn_shrunk_and_mended(tmp_path: Path) -> None:
    first = last(prime(DOCS, "search", "--seeds", "50", "--first", "--jobs", "1", "--json"))
    assert first["violated"] == {"one ticket each": 1}
    seed = str(first["failed"][0]["seed"])
    replayed = last(prime(DOCS, "replay", seed, "--json"))
    assert (replayed["ok"], replayed["violated"], replayed["repeatable"]) == (False, "one ticket each", True)
    assert "violates one ticket each" in prime(DOCS, "timeline", seed).stdout
    shrunk = prime(DOCS, "shrink", seed)
    assert shrunk.returncode == 0
    (tmp_path / "test_tickets.py").write_text(shrunk.stdout, encoding="utf-8")
    for program, passes in (((DOCS / "tickets.py").read_text(encoding="utf-8"), False), (mended(), True)):
        (tmp_path / "tickets.py").write_text(program, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tickets.py"]
        tested = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
        assert (tested.returncode == 0) is passes, tested.stdout
    done = last(prime(tmp_path, "search", "--seeds", "20", "--json"))
    assert (done["seeds"], done["failures"]) == (20, 0)
