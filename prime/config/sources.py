"""Reading the sources: files and the environment. Only this file of the room touches the disk to read."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prime.config.keys import Schema
from prime.config.layers import Layer, Loaded, Setting, assemble
from prime.config.positions import lines_of_keys
from prime.config.schema import NODE, Config
from prime.errors import ConfigError

SYSTEM_FILE: Final = Path("/etc/prime/config.toml")
LOCAL_FILE: Final = Path("prime.toml")


def load(
    path: Path | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Loaded[Config]:
    """Read every source and return the whole configuration with the origin of each value.

    `path` replaces `./prime.toml` and must exist. `flags` maps dotted keys to values, as text or in the key's own type;
    None means not given. Raises `ConfigError`, whose text names the file and line, the variable or the flag.
    """
    environ = os.environ if environ is None else environ
    files = [file for file in (system_file, user_file(environ)) if file.is_file()]
    if path is not None or LOCAL_FILE.is_file():
        files.append(path or LOCAL_FILE)
    layers = [*(file_layer(file) for file in files), environment_layer(environ), flag_layer(flags or {})]
    return assemble(layers, NODE, files=tuple(str(file) for file in files))


def user_file(environ: Mapping[str, str]) -> Path:
    """Return the user's own configuration file, by the XDG base directory specification."""
    folder = environ.get("XDG_CONFIG_HOME", "")
    root = Path(folder) if folder.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".config"
    return root / "prime" / "config.toml"


def file_layer(file: Path, schema: Schema[Any] = NODE) -> Layer:
    """Read one TOML file; `ConfigError` if it cannot be read or parsed."""
    return text_layer(read_file(file, schema), str(file), schema)


def read_file(file: Path, schema: Schema[Any] = NODE) -> str:
    """Return a configuration file's text; `ConfigError` if it is missing, unreadable or no text."""
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such configuration file", hint=schema.missing) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text ({error.reason})", hint="is it a TOML file?") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})", hint="check its owner and mode") from None


def text_layer(text: str, file: str, schema: Schema[Any] = NODE) -> Layer:
    """Turn a TOML text into a layer whose settings know their line; `ConfigError` if it is no TOML."""
    text = text.replace("\r\n", "\n")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_fault(file, text, error), hint="the format is TOML: `key = value`") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ConfigError(f"{file}: cannot be read ({error})", hint="the format is TOML: `key = value`") from None
    lines = lines_of_keys(text)
    return Layer("file", dict(_settings(tables, lines, file, schema)))


def table_layer(tables: Mapping[str, object], where: str, schema: Schema[Any]) -> Layer:
    """Turn tables that were read already into a layer; all its settings are said to come from `where`."""
    found = _settings(tables, {}, where, schema)
    return Layer("file", {name: Setting(setting.raw, where) for name, setting in found})


def _settings(
    tables: Mapping[str, object], lines: Mapping[tuple[str, ...], int], file: str, schema: Schema[Any]
) -> Iterator[tuple[str, Setting]]:
    for section, table in tables.items():
        section_line = lines.get((section,), 1)
        where = f"{file}:{section_line}"
        if section in schema.keys or (not isinstance(table, dict) and _has_top(schema, section)):
            yield section, Setting(table, where)
            continue
        if not isinstance(table, dict):
            hint = f"keys stand under a section, such as [{next(iter(schema.sections))}]"
            raise ConfigError(f"{where}: {section} is no section", hint=hint)
        if not table and section not in schema.sections:
            yield section, Setting(table, where)
        for key, value in table.items():
            line = lines.get((section, key), section_line)
            yield f"{section}.{key}", Setting(value, f"{file}:{line}")


def _has_top(schema: Schema[Any], name: str) -> bool:
    """Return whether a value may stand at the top of the file, above all sections, under a name that is none's."""
    return name not in schema.sections and bool(schema.section_keys(""))


_AT_LINE: Final = re.compile(r"\s*\(at line (\d+), column \d+\)")


def _syntax_fault(file: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    """Move the line that the parser names to where editors look for it."""
    at = _AT_LINE.search(str(error))
    line = int(at.group(1)) if at else text.count("\n") + 1
    return f"{file}:{line}: {_AT_LINE.sub('', str(error))}"


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Take `PRIME_SECTION__KEY` variables; others that begin with `PRIME_` have no double underscore."""
    settings = {
        name.removeprefix("PRIME_").lower().replace("__", ".", 1): Setting(value, name)
        for name, value in environ.items()
        if name.startswith("PRIME_") and "__" in name
    }
    return Layer("environment", settings, textual=True)


def flag_layer(flags: Mapping[str, object], schema: Schema[Any] = NODE) -> Layer:
    """Take the flags that were given; None means not given. `ConfigError` for a name that is no key, nor an entry of one."""
    settings = {name: Setting(value, schema.flag(name)) for name, value in flags.items() if value is not None}
    return Layer("flag", settings, textual=True)
