"""The house's own rules that no linter of another project holds: what an import loads, and what never stands in the tree."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
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


def test_no_room_loads_anything_heavy() -> None:
    """In one process: what none of them loads, each does not."""
    assert loaded_by("\n".join(f"import prime.{room}" for room in rooms())) == []


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


def test_the_map_of_the_dht_names_each_of_its_files_and_folders() -> None:
    room = ROOT / "prime" / "dht"
    there = {f"{one.stem}/" if one.is_dir() else one.stem for one in room.iterdir() if not one.name.startswith("__")}
    told = (room / "__init__.py").read_text(encoding="utf-8")
    assert {name for name in there if f"`{name}`" not in told} == set()


def test_each_lint_ignore_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("[tool.ruff.lint]")
    end = next(i for i, line in enumerate(lines) if line.startswith("[tool.ruff.lint.flake8-tidy-imports"))
    ignores = [line for line in lines[start:end] if line.startswith('    "')]
    assert len(ignores) > 20
    assert [line for line in ignores if "#" not in line] == []


def test_every_room_has_its_floor() -> None:
    contract = contracts()["importlinter:contract:floors"]
    floors = {*contract["layers"].split(), *contract["exhaustive_ignores"].split()}
    assert [room for room in rooms() if room not in floors and f"({room})" not in floors] == []


def contracts() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / ".importlinter", encoding="utf-8")
    return found


def modules() -> dict[str, Path]:
    """Return each module's file by its dotted name."""
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in sources()}
    return {".".join(part for part in parts[path] if part != "__init__"): path for path in parts}


def modules_named(contract: Mapping[str, str]) -> list[str]:
    """Return the names of Prime's modules in a contract, in full; a layer in parentheses may be absent."""
    layers = re.sub(r"[|:]", " ", contract.get("layers", "")).split()
    named = [f"{contract['containers']}.{layer}" for layer in layers if not layer.startswith("(")]
    for key in ("containers", "source_modules", "forbidden_modules", "protected_modules", "allowed_importers"):
        named += contract.get(key, "").split()
    named += contract.get("ignore_imports", "").replace("->", " ").split()
    return [name for name in named if name.split(".")[0] == "prime"]


def absent(names: list[str]) -> list[str]:
    """Return the names that no module of Prime's has; `*` stands for one part of a name, `**` for one or more."""
    known = modules()
    patterns = {name: re.escape(name).replace(r"\*\*", ".+").replace(r"\*", r"[^.]+") for name in names}
    return [name for name, pattern in patterns.items() if not any(re.fullmatch(pattern, module) for module in known)]


def test_the_check_of_names_sees_what_is_absent() -> None:
    contract = {"containers": "prime", "layers": "wire | moved\n(later)", "ignore_imports": "prime.gone.* -> torch"}
    assert absent(modules_named(contract)) == ["prime.moved", "prime.gone.*"]


@pytest.mark.parametrize("contract", [name for name in contracts().sections() if name != "importlinter"])
def test_a_contract_names_modules_that_there_are(contract: str) -> None:
    assert absent(modules_named(contracts()[contract])) == []


def test_what_says_that_it_is_pure_is_held_to_it() -> None:
    """By the first lines of its docstring: `Pure.` or `(pure)`."""
    held: set[str] = set()
    for contract in ("pure-cores", "simulated-cores"):
        held |= set(contracts()[f"importlinter:contract:{contract}"]["source_modules"].split())
    pure = {name for name, path in modules().items() if says_pure(path)}
    assert len(pure) > 40
    assert sorted(name for name in pure if not any(name == room or name.startswith(f"{room}.") for room in held)) == []


def says_pure(path: Path) -> bool:
    opening = path.read_text(encoding="utf-8").partition("\n\n")[0]
    return re.search(r"\bPure[.,;]|\(pure\)", opening) is not None


def test_the_base_install_needs_no_heavy_part() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [need for need in project["dependencies"] if any(need.startswith(heavy) for heavy in HEAVY)] == []
