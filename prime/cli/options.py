"""The options that several commands share, so that each reads the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Read FILE in the place of ./prime.toml."),
]
Node = Annotated[
    str | None, typer.Option("--node", metavar="NAME", help="The node on this machine to ask, by its name.")
]
AskedNode = Annotated[
    str | None, typer.Option("--node", "--name", metavar="NAME", help="The node on this machine to ask, by its name.")
]
Kind = Annotated[
    str | None, typer.Option("--transport", metavar="NAME", help="memory, unix, tcp, libp2p, a package's own, or auto.")
]
