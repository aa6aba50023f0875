"""The project's checks. `nox` alone runs lint, types, contracts, sim, interop and tests; `nox -s tests -- dht` tests one room.

Each session makes its own virtual environment and keeps it for the next run (`nox --no-reuse-existing-virtualenvs`
starts afresh). What each one installs stands in pyproject.toml, under `dependency-groups`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False  # `sim` runs on those that are installed
nox.options.sessions = ["lint", "types", "contracts", "sim", "interop", "tests"]

ROOT = Path(__file__).parent
PYTHONS = sorted({"3.11", "3.12", "3.13", f"3.{sys.version_info.minor}"})
SIMULATED = ["tests/sim/test_determinism.py", "tests/sim/test_traps.py"]
"""What the session `sim` runs on each Python, and the session `tests` leaves to it."""
BY_FILE = ["--dist=loadfile", "--no-loadscope-reorder"]
"""How tests are dealt out where several processes run them: a file's tests share what its fixtures started."""
TRIO = "trio<0.36"
PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> list[str]:
    """Return the requirements of one dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def compile_package(session: nox.Session) -> None:
    """Compile the package where it lies: hundreds of processes import it from there, on machines that keep no bytecode too."""
    session.run("python", "-m", "compileall", "-q", "prime")


def paths_of_rooms(arguments: list[str]) -> list[str]:
    """Turn names of rooms into their test folders, and leave every other argument to pytest."""
    return [f"tests/{word}" if (ROOT / "tests" / word).exists() else word for word in arguments]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, the ban on pickle, and the format; add `-- --fix` to mend what can be mended."""
    session.install(*group("lint"))
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
        return
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", "--diff", ".")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, strictly, and what mypy and pyright make of Prime's users. The heavy extras are not needed."""
    session.install(".", *group("types"))
    session.run("mypy", *session.posargs)
    session.run("mypy", "noxfile.py")
    session.run("pytest", "tests/typing")


@nox.session
def contracts(session: nox.Session) -> None:
    """Check that each room imports only from rooms below it."""
    session.install(*group("contracts"))
    session.run("lint-imports", "--no-cache", *session.posargs, env={"PYTHONPATH": str(ROOT)})


@nox.session
def tests(session: nox.Session) -> None:
    """Run unit, property and integration tests; a room's name selects its folder, `-- -n 2` runs two files at a time."""
    session.install(".[all]", *group("test"))
    compile_package(session)
    chosen = paths_of_rooms(session.posargs)
    rest = [f"--ignore={path}" for path in SIMULATED]  # those of the session `sim`
    session.run("pytest", *BY_FILE, *chosen, *([] if any((ROOT / word).exists() for word in chosen) else rest))


@nox.session(python=PYTHONS)
def sim(session: nox.Session) -> None:
    """On each Python there is, with the base install: a seed gives one trace, and what is outside is trapped."""
    session.install(".[testing]", "pytest-timeout>=2.3", TRIO)
    compile_package(session)
    session.run("pytest", *(session.posargs or SIMULATED))


@nox.session
def oldest(session: nox.Session) -> None:
    """Try the simulator on the oldest Trio that it says it works with."""
    session.install(".[testing]", "pytest-timeout>=2.3", "trio==0.31")
    session.run("pytest", *(session.posargs or [*SIMULATED, "tests/sim/test_run.py"]))


@nox.session
def nightly(session: nox.Session) -> None:
    """Run every test, the long ones too, with many more examples that differ each time; interop where Node is."""
    session.install(".[all]", *group("test"))
    marks = "" if shutil.which("npm") else "not interop"  # an empty selection is everything
    wanted = ["-m", marks, "--timeout=3600", *paths_of_rooms(session.posargs)]
    session.run("pytest", *wanted, env={"HYPOTHESIS_PROFILE": "nightly"})


@nox.session
def interop(session: nox.Session) -> None:
    """Talk with js-libp2p (from npm) and go-libp2p (out of a wheel); needs Node."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    if missing:
        session.skip(f"{' and '.join(missing)} not found: on Debian `apt-get install nodejs npm`")
    session.install(".[libp2p,testing]", "pytest-timeout>=2.3", TRIO)
    wanted = ["-m", "interop and not nightly", "tests/interop", *session.posargs]
    session.run("pytest", *wanted, env={"INTEROP_REQUIRED": "1"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Search for bytes that break a decoder: every fuzz target for a minute, or `-- TARGET [SECONDS]`; needs atheris."""
    session.install(".", *group("fuzz"))
    names = session.posargs[:1] or (session.run("python", "tests/fuzz/search.py", silent=True) or "").split()
    for name in names:
        session.run("python", "tests/fuzz/search.py", name, *(session.posargs[1:] or ["60"]))


@nox.session
def model(session: nox.Session) -> None:
    """Explore the Promela model of the round's decision, the long searches too (`spec/model/README.md`); needs Spin."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        session.error(f"{' and '.join(missing)} not found: install them first, on Debian `apt-get install spin gcc`")
    session.install(".", *group("test"))
    session.run("pytest", "-m", "model or not model", "tests/sim/test_model.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run each bench, or the named ones (`nox -s bench -- round`)."""
    session.install(".[all]", *group("bench"))
    names = session.posargs or sorted(path.stem for path in (ROOT / "tests" / "bench").glob("[!_]*.py"))
    if not names:
        session.log("there is no bench yet")
    for name in names:
        session.run("python", f"tests/bench/{name}.py", "--json")


@nox.session
def soak(session: nox.Session) -> None:
    """Let eight nodes come and go for two minutes, or `-- --minutes 30`: what grows, what hangs, whether they learn."""
    session.install(".[all]", *group("test"))
    session.run("python", "tests/node/soak.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages with warnings as errors, and run the examples that stand in them."""
    session.install(".[testing]", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "doctest", "docs", "docs/_build/doctest")


@nox.session
def examples(session: nox.Session) -> None:
    """Run each example as its first lines say."""
    session.install(".[all]", *group("test"))
    for path in sorted((ROOT / "examples").rglob("*.py")):
        session.run("python", str(path.relative_to(ROOT)))


@nox.session
def dist(session: nox.Session) -> None:
    """Build the wheel and the source archive, check them, and start the wheel where nothing else is installed."""
    session.install(*group("dist"))
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", ".")
    built = [str(path) for path in sorted((ROOT / "dist").iterdir())]
    session.run("twine", "check", "--strict", *built)
    fresh = Path(session.create_tmp()) / "fresh"
    session.run("python", "-m", "venv", "--clear", str(fresh))
    session.run(
        str(fresh / "bin" / "pip"), "install", "--quiet", *(p for p in built if p.endswith(".whl")), external=True
    )
    session.run(str(fresh / "bin" / "prime"), "version", external=True)


if __name__ == "__main__":
    sys.exit("run `nox`, or `nox --list` for the sessions")
