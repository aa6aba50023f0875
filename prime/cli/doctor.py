"""`prime doctor`: what of this machine would be in the way, and how to mend it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import typer

from prime.cli.options import AsJson, ConfigFile
from prime.cli.output import console, emit

if TYPE_CHECKING:
    from prime.cli.checks import Finding

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Look for what would be in the way: Python, extras, key, port, memory, codec, scripts. Each finding has its fix."""
    from attrs import asdict

    from prime.cli.checks import examine

    findings = list(examine(config, os.environ))
    status = next((finding.exit_code for finding in findings if finding.status == "fail"), 0)
    if as_json:
        emit({"ok": status == 0, "findings": [asdict(finding) for finding in findings]}, "", as_json=True)
    else:
        _print(findings)
    raise typer.Exit(status)


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    screen = console()
    for finding in findings:
        screen.print(
            Text.assemble((f"{finding.status:<5}", _STYLES[finding.status]), f"{finding.check:<14}", finding.text)
        )
        if finding.fix:
            screen.print(Text(f"     {'':<14}fix: {finding.fix}"), style="dim", soft_wrap=True)
