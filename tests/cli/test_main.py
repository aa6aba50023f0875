"""The program as a whole: its tree of commands, its speed, and what it does with errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import typer
from typer.core import TyperGroup

from prime.cli import border
from prime.cli.main import PANELS, build, run
from prime.errors import (
    ConfigError,
    DeadlineError,
    NotFoundError,
    PrimeInternalError,
    RefusedError,
    RunFailedError,
    UnreachableError,
    UsageError,
)

# The one tree, as the people who use it know it. Commands arrive over time; none stands outside it.
TREE: dict[str, dict[str, str]] = {
    "START": {"demo": "", "new": "", "doctor": ""},
    "NODE": {"node": "start stop status check peers", "status": "", "bootstrap": ""},
    "RUN": {
        "train": "run init presets submit status watch stop logs recover audit",
        "model": "push pull shared withdraw list verify roll-back export",
    },
    "NETWORK": {"dht": "get put remove find providers provide stats name", "peer": "ping ban"},
    "GOVERN": {"gov": "propose vote list members tasks ledger rules audit explain"},
    "WATCH": {"tree": "", "top": "", "events": "", "metrics": ""},
    "TOOLS": {
        "config": "init show explain set",
        "key": "new show",
        "wire": "decode schema",
        "sim": "run search replay timeline shrink list",
        "bench": "link allreduce",
        "version": "",
    },
}


def group() -> TyperGroup:
    found = typer.main.get_command(build())
    assert isinstance(found, TyperGroup)
    return found


def shown() -> list[tuple[str, str]]:
    """Return (panel, command) in the order of `--help`."""
    root = group()
    names = root.list_commands(root.make_context("prime", [], resilient_parsing=True))
    return [(str(root.commands[name].rich_help_panel), name) for name in names]


def test_commands_stand_in_the_tree_and_in_its_order() -> None:
    planned = [(panel, name) for panel, names in TREE.items() for name in names]
    assert list(TREE) == list(PANELS)
    found = shown()
    assert [place for place in planned if place in found] == found


def test_subcommands_stand_in_the_tree_and_in_its_order() -> None:
    commands = group().commands
    for panel, name in shown():
        command = commands[name]
        subcommands = list(command.commands) if isinstance(command, TyperGroup) else []
        assert subcommands == [word for word in TREE[panel][name].split() if word in subcommands]


def test_a_program_that_is_built_again_is_as_large_as_the_first() -> None:
    def commands() -> list[int]:
        return [len(one.typer_instance.registered_commands) for one in build().registered_groups if one.typer_instance]

    assert commands() == commands()


def test_every_command_offers_json() -> None:
    found = dict(leaves(group(), "prime"))
    assert found
    for name, command in found.items():
        assert any("--json" in parameter.opts for parameter in command.params), f"{name} has no --json"


def leaves(parent: TyperGroup, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands below a group, however deep, by their words."""
    for word, command in parent.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def test_help_shows_the_panels_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    text = capsys.readouterr().out
    places = [text.index(f" {panel} ") for panel in dict.fromkeys(panel for panel, _ in shown())]
    assert places == sorted(places)


HEAVY = "torch", "libp2p", "numba", "numpy", "trio"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from prime.cli.main import run; status = run(['--help']); "
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout  # how quick that makes it, tests/bench/startup.py measures
    assert "doctor" in done.stdout


def test_the_module_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prime", "version", "--json"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith('{"schema": 1, "prime": "')


def test_wrong_usage_is_status_2_and_names_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["confg"]) == 2
    assert "config" in capsys.readouterr().err
    assert run(["config", "show", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import os; from prime.cli.main import run; "
        "r, w = os.pipe(); os.close(r); os.dup2(w, 1); raise SystemExit(run(['config', 'explain', 'train.seed']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return border.guarded(command)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), 2),
        (ConfigError("x"), 3),
        (UnreachableError("x"), 4),
        (RefusedError("x"), 5),
        (NotFoundError("x"), 6),
        (DeadlineError("x"), 7),
        (RunFailedError("x"), 8),
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("x")]), 130),
        (SystemExit(5), 5),
        (SystemExit(), 0),
        (typer.Abort(), 130),
    ],
)
def test_each_error_has_its_status(error: BaseException, status: int) -> None:
    assert raising(error) == status


def test_cause_and_hint_are_said_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(ExceptionGroup("nursery", [ExceptionGroup("inner", [ConfigError("no file", hint="make one")])])) == 3
    assert capsys.readouterr().err == "error: no file\nhint: make one\n"


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIME_DEBUG", "1")
    assert raising(ConfigError("no file")) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oh"), PrimeInternalError("oh"), ExceptionGroup("g", [ValueError("oh")])]
)
def test_our_bug_writes_a_report_and_says_where(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["prime", "no UTF-8: \udcff"])
    assert raising(error) == 1
    (report,) = (tmp_path / "prime" / "crashes").iterdir()
    told = capsys.readouterr().err
    assert str(report) in told
    assert "Traceback" not in told
    assert "Traceback" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


def test_a_report_that_cannot_be_written_where_it_belongs_goes_to_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prime").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert raising(ZeroDivisionError("oh")) == 1
    assert len(list(tmp_path.glob("crash-*.txt"))) == 1


def test_an_interrupt_under_trio_is_130() -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    assert border.guarded(lambda: trio.run(interrupted)) == 130


def test_windows_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert run(["version"]) == 2
    told = capsys.readouterr()
    assert "WSL" in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_no_colour_off_a_terminal_or_when_told() -> None:
    environ = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-m", "prime", "--help"], env=environ, capture_output=True, check=True)
    assert b"\x1b[" not in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_an_output_that_is_full_is_no_bug() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "prime", "version"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 8
    assert b"error: the output: No space left on device" in done.stderr
