"""The cores against script tests that people can read; `script.py` says how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dht.script import difference, played

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_core_says_what_the_script_says(path: Path) -> None:
    assert difference(path) == ""


def test_there_are_scripts_and_each_says_something() -> None:
    assert len(SCRIPTS) >= 8
    assert all("\n> " in path.read_text(encoding="utf-8") for path in SCRIPTS)


def test_a_script_that_expects_something_else_is_found_out(tmp_path: Path) -> None:
    script = tmp_path / "wrong.txt"
    script.write_text("settings k=2\ntable\nanswered 8\nclosest 8 1\n> nobody\n")
    assert "-> nobody\n+> 8" in difference(script)
    assert played(script.read_text()).endswith("> 8\n")
