"""The pages about guarantees and about hostile peers name tests that exist, and each of their rows names one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "explanation" / name for name in ("guarantees.md", "hostile-peers.md")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
HEADS = ("| promise |", "| a peer |", "| a peer sends |", "| a stranger |")
ROWS = [
    line
    for page in PAGES
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(HEADS)
]


@cache
def defined(file: Path) -> frozenset[str]:
    """Return the names of the tests at the top of a file: functions, and test cases that are assigned or classes."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(name for name in names if re.match(r"test|Test", name))


def test_the_pages_have_rows() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_each_promise_names_tests_that_exist(row: str) -> None:
    named = NAMED.findall(row)
    assert named, "a promise without a test"
    missing = [
        f"{file}::{name}" for file, name in named if not (ROOT / file).exists() or name not in defined(ROOT / file)
    ]
    assert missing == []
