"""Golden bytes stay: no vector of a version was ever changed or dropped, whatever else changed with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from prime.transport.frames import PROTOCOL_VERSION

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "spec" / "vectors").rglob("*.json"))


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def earlier(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what the file held in each commit that touched it, under whatever name it had then."""
    path = str(file.relative_to(ROOT))
    words = git("log", "--follow", "--format=%H", "--name-only", "--", path).split()
    for commit, name in zip(words[::2], words[1::2], strict=True):
        yield commit[:10], json.loads(git("show", f"{commit}:{name}"))


def broken(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the vectors that are other ones now, or gone."""
    return [name for name, data in then.items() if now.get(name) != data]


def test_a_vector_that_changes_or_goes_away_is_seen() -> None:
    assert broken({"a": "00", "b": "01", "c": "02"}, {"a": "00", "b": "ff", "d": "03"}) == ["b", "c"]


def test_each_version_has_its_folder_and_the_last_is_the_protocols() -> None:
    assert sorted({file.parent.name for file in FILES}) == [f"v{number}" for number in range(1, PROTOCOL_VERSION + 1)]
    assert {file.name for file in FILES if file.parent.name == f"v{PROTOCOL_VERSION}"} >= {"link.json", "wire.json"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_no_vector_was_ever_changed(file: Path) -> None:
    if shutil.which("git") is None or not git("rev-parse", "--git-dir"):
        pytest.skip("needs the history of the repository")
    now = json.loads(file.read_text(encoding="utf-8"))
    assert {commit: names for commit, then in earlier(file) if (names := broken(then, now))} == {}, (
        "a vector is a promise to other implementations: leave it, or begin a new version (spec/protocols/versions.md 6)"
    )
