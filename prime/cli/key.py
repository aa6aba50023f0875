"""`prime key`: the node's identity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prime.cli.options import AsJson, ConfigFile
from prime.cli.output import emit
from prime.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from prime.transport.identity import KeyPair

app = typer.Typer(help="The node's key, which is its identity on every transport.", no_args_is_help=True)

KeyFile = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The key file; else the configured one.")]


@app.command()
def new(file: KeyFile = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make a new key, readable by you alone, and print its peer id."""
    from prime.transport.identity import KeyPair

    path = file or _configured(config)
    if os.path.lexists(path):
        raise UsageError(f"{path} exists; a key is never overwritten", hint="name another file, or move that one away")
    _emit(KeyPair.load_or_create(path), path, as_json=as_json)


@app.command()
def show(file: KeyFile = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print the peer id of a key."""
    from prime.transport.identity import KeyPair

    path = file or _configured(config)
    if not os.path.lexists(path):
        raise NotFoundError(f"there is no key file {path}", hint="`prime key new` makes one")
    _emit(KeyPair.load(path), path, as_json=as_json)


def _configured(config: Path | None) -> Path:
    from prime.config import load, places

    return places(load(config).config.node, os.environ).key_file


def _emit(key: KeyPair, path: Path, *, as_json: bool) -> None:
    emit({"peer": key.peer, "file": str(path)}, key.peer, as_json=as_json)
