"""What mypy and pyright make of Prime's users: each line marked `# rejected` is an error to both, and no other line is.

`nox -s types` runs it. Elsewhere it is skipped: libp2p, an extra, installs old type stubs of Trio that hide Trio's own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import prime

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = sorted([*HERE.glob("accepted_*.py"), *HERE.glob("rejected_*.py"), HERE / "kv.py"])
MARK = "# rejected"
RUN_S = 150


def hindrance() -> str:
    missing = [name for name in ("mypy", "basedpyright") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: run `nox -s types`"
    try:
        importlib.metadata.distribution("trio-typing")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return "trio-typing hides Trio's own types here: run `nox -s types`"


pytestmark = pytest.mark.skipif(bool(hindrance()), reason=hindrance())


class Line(NamedTuple):
    file: str
    number: int


class Answer(NamedTuple):
    """What one checker said: its errors and, of `reveal_type`, its information, by line."""

    errors: dict[Line, str]
    revealed: dict[Line, str]


def run(*command: str) -> str:
    """Return what a checker prints; one that fails to run, rather than to find errors, ends the test."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        pytest.fail(f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def gather(found: list[tuple[str, Line, str]]) -> Answer:
    of = {kind: {line: text for each, line, text in found if each == kind} for kind in ("error", "information", "note")}
    return Answer(of["error"], {**of["note"], **of["information"]})


def mypy(files: list[Path]) -> Answer:
    found: list[tuple[str, Line, str]] = []
    for line in run("mypy", "--output", "json", *map(str, files)).splitlines():
        each = json.loads(line)
        found.append((each["severity"], Line(Path(each["file"]).name, each["line"]), each["message"]))
    return gather(found)


def pyright(files: list[Path]) -> Answer:
    told = json.loads(run("basedpyright", "--outputjson", "--pythonpath", sys.executable, *map(str, files)))
    if told["summary"]["filesAnalyzed"] != len(files):
        pytest.fail(f"pyright looked at {told['summary']['filesAnalyzed']} of {len(files)} files")
    return gather(
        [
            (each["severity"], Line(Path(each["file"]).name, each["range"]["start"]["line"] + 1), each["message"])
            for each in told["generalDiagnostics"]
        ]
    )


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that uses each public name once, a line each."""
    lines = ["import prime", *(f"reveal_type(prime.{name})" for name in sorted(prime.__all__))]
    file = tmp_path_factory.mktemp("face") / "face.py"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def answer(request: pytest.FixtureRequest, face: Path) -> Answer:
    checker: Callable[[list[Path]], Answer] = request.param
    return checker([*FILES, face])


def marked(file: Path) -> set[Line]:
    numbered = enumerate(file.read_text().splitlines(), 1)
    return {Line(file.name, number) for number, text in numbered if text.endswith(MARK)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_line_is_rejected_exactly_where_it_is_marked(file: Path, answer: Answer) -> None:
    errors = {line: text for line, text in answer.errors.items() if line.file == file.name}
    wanted = marked(file)
    assert bool(wanted) == file.stem.startswith("rejected")
    too_many = [f"{file.name}:{line.number}: {text}" for line, text in errors.items() if line not in wanted]
    assert not too_many, "\n".join(too_many)
    passed = [file.read_text().splitlines()[line.number - 1].strip() for line in sorted(wanted - set(errors))]
    assert not passed, "these passed:\n" + "\n".join(passed)


def test_each_public_name_has_a_type(face: Path, answer: Answer) -> None:
    """The names load lazily at run time; a type checker must see the real thing and no `Any`."""
    assert not {line: text for line, text in answer.errors.items() if line.file == face.name}
    revealed = {line: text for line, text in answer.revealed.items() if line.file == face.name}
    assert len(revealed) == len(prime.__all__)
    vague = [text for text in revealed.values() if re.search(r'(?:type is|is) "(?:Any|Unknown|object)"$', text)]
    assert not vague


def test_the_wheel_says_that_it_is_typed() -> None:
    try:
        files: Any = importlib.metadata.files("prime-actors")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("prime-actors is not installed here: `nox -s types` installs its wheel")
    assert any(str(file) == "prime/py.typed" for file in files)
