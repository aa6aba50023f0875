"""The rule of change (spec/protocols/versions.md 2): what a release has said is only ever added to, at the end."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "spec" / "wire.cddl"
RULE = re.compile(r"^(\S+) = \[\n(.*?)^\]$", re.MULTILINE | re.DOTALL)
TAG = re.compile(r"\A\s*(\d+)")


def arrays(schema: str) -> dict[str, list[str]]:
    """Return the elements of each array rule: a message under its tag, a record under its name."""
    found: dict[str, list[str]] = {}
    for name, body in RULE.findall(schema):
        elements = [line.strip().rstrip(",") for line in body.splitlines()]
        tag = TAG.match(body)
        found[f"tag {tag[1]}" if tag else name] = [name, *elements]
    return found


def breaks(then: str, now: str) -> list[str]:
    """Return the messages and records that a receiver of then, or a sender of then, no longer understands."""
    new = arrays(now)
    return [what for what, elements in arrays(then).items() if what in new and new[what][: len(elements)] != elements]


OLD = "a.M = [\n  256,\n  x: int,\n  y: R\n]\n\nR = [\n  z: bool\n]\n"


@pytest.mark.parametrize(
    ("now", "broken"),
    [
        (OLD, []),
        (OLD.replace("y: R\n", "y: R,\n  w: tstr\n").replace("z: bool\n", "z: bool,\n  v: int\n"), []),
        (OLD + "\na.N = [\n  257\n]\n", []),
        ("R = [\n  z: bool\n]\n", []),  # a message may go, if its tag is not used again
        (OLD.replace("x: int", "x: tstr"), ["tag 256"]),
        (OLD.replace("  x: int,\n", ""), ["tag 256"]),
        (OLD.replace("  x: int,\n  y: R\n", "  y: R,\n  x: int\n"), ["tag 256"]),
        (OLD.replace("a.M", "a.Other"), ["tag 256"]),  # another message under a tag that was used
        (OLD.replace("z: bool", "z: int"), ["R"]),
    ],
)
def test_what_a_change_breaks(now: str, broken: list[str]) -> None:
    assert breaks(OLD, now) == broken


def test_each_message_of_the_schema_is_read() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    assert len([what for what in arrays(text) if what.startswith("tag ")]) == text.count("; tag 0x")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def test_nothing_is_broken_since_the_last_release() -> None:
    release = git("describe", "--tags", "--abbrev=0").strip()
    if not release:
        pytest.skip("no release yet: nothing was promised")
    then = git("show", f"{release}:spec/wire.cddl")
    assert breaks(then, SCHEMA.read_text(encoding="utf-8")) == [], f"of {release}; take a new tag, or a new version"
