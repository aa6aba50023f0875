"""Which line of a TOML text sets which key.

The standard parser gives values without their lines. It does say whether a piece of text is whole, though: so the text
is cut into statements by adding line after line until the piece parses. Pure.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

Path = tuple[str, ...]
"""A key as TOML nests it: `("train", "seed")`."""


def lines_of_keys(text: str) -> dict[Path, int]:
    """Return the line (from 1) on which each key and each table of a valid TOML text is first set."""
    found: dict[Path, int] = {}
    table: Path = ()
    for line, statement, parsed in _statements(text):
        if statement.lstrip().startswith("["):
            table = _leaf(parsed)
            found.setdefault(table, line)
            continue
        for path in _paths(parsed):
            found.setdefault((*table, *path), line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Cut a valid TOML text into its statements, each with its first line and its own parse."""
    pending: list[str] = []
    start = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not pending:
            start = number
        pending.append(line)
        statement = "\n".join(pending)
        parsed = _parse(statement)
        if parsed is None:
            continue
        pending = []
        if parsed:
            yield start, statement, parsed


def _parse(statement: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return None


def _leaf(parsed: object) -> Path:
    """Return the path of a header: the one chain of keys in its parse."""
    path: list[str] = []
    while isinstance(parsed, list) or (isinstance(parsed, dict) and parsed):
        if isinstance(parsed, list):
            parsed = parsed[0]
            continue
        key = next(iter(parsed))
        path.append(key)
        parsed = parsed[key]
    return tuple(path)


def _paths(parsed: Mapping[str, object]) -> Iterator[Path]:
    """Return the path of every key in one statement, the outer tables first."""
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _paths(value))
