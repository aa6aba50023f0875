"""The program: every command, in the panel of `--help` where a reader looks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from prime.cli import bench, config, demo, dht, doctor, key, model, node, publish, sim, status, swarm, train, version
from prime.cli.border import guarded
from prime.cli.output import say

PANELS: Final = ("START", "NODE", "RUN", "NETWORK", "GOVERN", "WATCH", "TOOLS")
"""The panels of `--help`, in the order in which a user needs them."""

START, NODE, RUN, NETWORK, GOVERN, WATCH, TOOLS = PANELS


class InPanels(TyperGroup):
    """Lists commands panel by panel; in a panel, groups come before single commands."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the option parser's signature
        """Return the names in the order of `--help`."""
        return sorted(self.commands, key=self._place)

    def _place(self, name: str) -> tuple[int, bool]:
        command = self.commands[name]
        return PANELS.index(getattr(command, "rich_help_panel", None) or TOOLS), not isinstance(command, TyperGroup)


def build() -> typer.Typer:
    """Return the whole program. A new command is one line here, under its panel."""
    app = typer.Typer(
        name="prime",
        cls=InPanels,
        help="Supervised actors on Trio, a peer-to-peer network under them, and a training swarm on top.",
        epilog="The words used here (peer, node, actor, worker, rank) are in the glossary of the documentation.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)

    app.command("demo", rich_help_panel=START)(demo.demo)
    app.command("doctor", rich_help_panel=START)(doctor.doctor)

    app.add_typer(node.app, name="node", rich_help_panel=NODE)
    app.command("status", rich_help_panel=NODE)(status.status)
    app.command("bootstrap", rich_help_panel=NODE)(node.bootstrap)

    app.add_typer(swarm.beside(train.app), name="train", rich_help_panel=RUN)
    app.add_typer(publish.beside(model.app), name="model", rich_help_panel=RUN)

    app.add_typer(dht.app, name="dht", rich_help_panel=NETWORK)

    app.add_typer(config.app, name="config", rich_help_panel=TOOLS)
    app.add_typer(key.app, name="key", rich_help_panel=TOOLS)
    app.add_typer(sim.app, name="sim", rich_help_panel=TOOLS)
    app.add_typer(bench.app, name="bench", rich_help_panel=TOOLS)
    app.command("version", rich_help_panel=TOOLS)(version.version)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        version.version(as_json=False)
        raise typer.Exit


def _program(
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["PRIME_DEBUG"] = "1"  # also for the processes that a command starts


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status. `arguments` are those after the program's name."""
    if sys.platform == "win32":
        say("Prime runs on Linux and macOS; on Windows, run it inside WSL.")
        return 2
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: build()(given or ["--help"], prog_name="prime", standalone_mode=False))
