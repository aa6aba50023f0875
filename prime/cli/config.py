"""`prime config`: what is set, where it came from, and how to change it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from prime.cli.options import AsJson, ConfigFile
from prime.cli.output import emit
from prime.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from prime.config import Config, Loaded

app = typer.Typer(help="What is set, where it came from, and how to change it.", no_args_is_help=True)

LOCAL_FILE: Final = Path("prime.toml")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = LOCAL_FILE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a configuration file in which every key stands with its default and its meaning."""
    from prime.config import template

    if file.exists() and not force:
        raise UsageError(f"{file} exists", hint="`--force` overwrites it; `prime config set` changes one key")
    write(file, template())
    emit({"file": str(file)}, f"wrote {file}", as_json=as_json)


@app.command()
def show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print every key's value in force and its origin; fail if the configuration cannot be used."""
    from prime.config import all_keys, load

    loaded = load(config)
    keys = {name: {"value": loaded.value(name), "origin": str(loaded.origins[name])} for name in all_keys()}
    emit({"files": list(loaded.files), "keys": keys}, "\n".join(_shown(loaded)), as_json=as_json)


def _shown(loaded: Loaded[Config]) -> Iterator[str]:
    """Yield the configuration as TOML, each value's origin behind it as a comment."""
    from prime.config import all_keys
    from prime.config.values import shown

    section = ""
    for name, key in all_keys().items():
        if key.section != section:
            yield f"\n[{key.section}]" if section else f"[{key.section}]"
            section = key.section
        yield f"{f'{key.field} = {shown(loaded.value(name))}':<48}  # {loaded.origins[name]}"


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="A key, such as transport.deadline_s.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print a key's value, origin, unit, range and meaning, and the waits that follow from it."""
    from attrs import asdict

    from prime.config import explain as explain_key
    from prime.config import load

    told = explain_key(load(config), key)
    emit(asdict(told), told.text(), as_json=as_json)


@app.command("set")
def set_key(
    key: Annotated[str, typer.Argument(help="A key, such as train.rounds.")],
    value: Annotated[str, typer.Argument(help="Its new value; of a list, the items with commas between.")],
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The file to change.")] = LOCAL_FILE,
    as_json: AsJson = False,
) -> None:
    """Set one key in a configuration file; its comments stay."""
    from prime.config import set_value
    from prime.config.sources import read_file

    before = read_file(config) if config.exists() else ""
    write(config, set_value(before, key, value, file=str(config)))
    emit({"file": str(config), "key": key, "value": value}, f"{config}: {key} = {value}", as_json=as_json)


def write(file: Path, text: str) -> None:
    """Replace a file whole or not at all, and keep its mode; `ConfigError` if it cannot be written."""
    target = file.resolve()  # a link stays a link
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
        descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(draft).chmod(mode)
        Path(draft).replace(target)
    except OSError as error:
        hint = "name a file in a folder that you may write to"
        raise ConfigError(f"{file}: cannot be written ({error.strerror})", hint=hint) from None
