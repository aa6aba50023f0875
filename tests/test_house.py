"""The house's own rules that no linter of another project holds: what an import loads, and what never stands in the tree."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prime import errors

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "libp2p", "numba", "multiaddr", "matplotlib")


def loaded_by(code: str, suspects: tuple[str, ...] = HEAVY) -> list[str]:
    """Run code in a fresh interpreter and return those of the suspects that it loaded."""
    report = f"{code}\nimport json, sys\nprint(json.dumps([m for m in {suspects!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def rooms() -> list[str]:
    return sorted(folder.name for folder in (ROOT / "prime").iterdir() if (folder / "__init__.py").exists())


def test_the_check_itself_sees_what_is_loaded() -> None:
    assert loaded_by("import json.tool", ("json.tool", "torch")) == ["json.tool"]


def test_the_public_face_loads_nothing_heavy() -> None:
    assert loaded_by("import prime", (*HEAVY, "trio", "numpy")) == []


@pytest.mark.parametrize("room", rooms())
def test_no_room_loads_anything_heavy(room: str) -> None:
    assert loaded_by(f"import prime.{room}") == []


def test_the_round_and_its_actor_load_without_numpy() -> None:
    blocked = "import sys; sys.modules['numpy'] = None; import prime.trainer.swarm.aggregator, prime.store"
    assert loaded_by(blocked, (*HEAVY, "prime.trainer.codec.vectors")) == []


def test_pickle_is_banned_by_lint(tmp_path: Path) -> None:
    sinner = tmp_path / "sinner.py"
    sinner.write_text('"""A module."""\n\nimport pickle\n\npickle.loads(b"")\n')
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(sinner)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TID251" in ruff.stdout


def sources() -> list[Path]:
    return sorted((ROOT / "prime").rglob("*.py"))


def test_no_module_has_a_name_that_says_nothing() -> None:
    meaningless = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
    assert [str(path) for path in sources() if path.stem in meaningless] == []


OTHERS_TO_MEND = ("PrimeInternalError", "RemoteProtocolError", "DecodeError", "ViolationError")
"""What names no next step: our bug, what another node sent, and what a simulation found, which its outcome replays."""


def without_hint(source: str) -> list[int]:
    """Return the lines on which an error of Prime's is made that names no next step."""
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)} - {*OTHERS_TO_MEND}
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in kinds
        and not any(keyword.arg in ("hint", None) for keyword in node.keywords)
    ]


def test_the_check_for_hints_sees_what_has_none() -> None:
    assert without_hint('raise DeadlineError("late")\nraise DeadlineError("late", hint="wait")') == [1]


def test_each_error_names_the_next_step() -> None:
    found = {str(path.relative_to(ROOT)): without_hint(path.read_text(encoding="utf-8")) for path in sources()}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_folders_are_at_most_three_deep() -> None:
    assert [str(path) for path in sources() if len(path.relative_to(ROOT).parts) > 4] == []


def test_each_lint_ignore_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("[tool.ruff.lint]")
    end = next(i for i, line in enumerate(lines) if line.startswith("[tool.ruff.lint.flake8-tidy-imports"))
    ignores = [line for line in lines[start:end] if line.startswith('    "')]
    assert len(ignores) > 20
    assert [line for line in ignores if "#" not in line] == []


def test_every_room_has_its_floor() -> None:
    contract = (ROOT / ".importlinter").read_text()
    assert [room for room in rooms() if f"({room})" not in contract and f"    {room}\n" not in contract] == []


def test_the_base_install_needs_no_heavy_part() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [need for need in project["dependencies"] if any(need.startswith(heavy) for heavy in HEAVY)] == []
