"""`prime doctor`: what of this machine would be in the way, and how to mend it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson, ConfigFile, Kind, Node
from prime.cli.output import console, emit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prime.cli.checks import Finding
    from prime.node.probe import NetworkView

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}

Network = Annotated[bool, typer.Option("--network", help="Find out whether others can dial a node here, and why not.")]
Join = Annotated[
    list[str] | None,
    typer.Option("--join", metavar="MULTIADDR", help="With --network: ask this node to dial back; may be given again."),
]


def doctor(
    config: ConfigFile = None,
    network: Network = False,
    join: Join = None,
    transport: Kind = None,
    node: Node = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would be in the way: Python, extras, key, port, memory, codec, scripts. Each finding has its fix."""
    if network or join:
        _network(config, join or (), transport, node, as_json=as_json)
        return
    from prime.cli.checks import examine

    _tell(list(examine(config, os.environ, transport, node)), {}, (), as_json=as_json)


def _network(
    config: Path | None, join: Sequence[str], transport: str | None, node: str | None, *, as_json: bool
) -> None:
    from attrs import asdict

    from prime.cli.network import network_findings

    view = _view(config, join, transport, node)
    found = {
        "reachability": view.outcome.value,
        "why": view.why,
        "listening": list(view.listening),
        "seen": list(view.seen),
        "slots": list(view.slots),
        "dht": [{"address": sight.address, "peers": sorted(sight.peers)} for sight in view.dht],
        "evidence": [asdict(each) for each in view.evidence],
    }
    lines = [str(each) for each in view.evidence]
    _tell(list(network_findings(view)), found, lines, as_json=as_json)


def _view(file: Path | None, join: Sequence[str], transport: str | None, node: str | None) -> NetworkView:
    import trio

    from prime.config import load, places
    from prime.node.probe import view_network

    config = load(file, flags={"transport.kind": transport, "node.name": node}).config
    contacts = tuple(join) or config.transport.join
    return trio.run(view_network, config, places(config.node, os.environ), contacts)


def _tell(findings: list[Finding], found: dict[str, Any], evidence: Sequence[str], *, as_json: bool) -> None:
    from attrs import asdict

    status = next((finding.exit_code for finding in findings if finding.status == "fail"), 0)
    if as_json:
        emit({"ok": status == 0, **found, "findings": [asdict(finding) for finding in findings]}, "", as_json=True)
    else:
        _print(findings, evidence)
    raise typer.Exit(status)


def _print(findings: list[Finding], evidence: Sequence[str]) -> None:
    from rich.text import Text

    screen = console()
    for finding in findings:
        screen.print(
            Text.assemble((f"{finding.status:<5}", _STYLES[finding.status]), f"{finding.check:<14}", finding.text),
            soft_wrap=True,
        )
        if finding.fix:
            screen.print(Text(f"     {'':<14}fix: {finding.fix}"), style="dim", soft_wrap=True)
    for line in evidence:
        screen.print(Text(f"     {'':<14}evidence: {line}"), style="dim", soft_wrap=True)
