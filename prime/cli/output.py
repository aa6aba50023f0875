"""Results: standard output has the result and nothing else, as text or as one JSON object; the rest is standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA: Final = 1
"""The version of every JSON object that a command prints; it moves when a field goes away or changes its meaning."""


def emit(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result: `text` for a person, or `result` as one line of JSON with the schema's version."""
    print(json_line(result) if as_json else text, flush=True)  # noqa: T201 - this is where results are printed


def json_line(result: Mapping[str, Any]) -> str:
    """Return one JSON object on one line, `schema` first. Infinity and NaN are a `ValueError`: they are no JSON."""
    return json.dumps({"schema": SCHEMA, **result}, allow_nan=False, ensure_ascii=False)


def say(text: str) -> None:
    """Print a line about what happens, to standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the other place


def console(*, error: bool = False) -> Console:
    """Return a rich console; off a terminal, or under NO_COLOR, it writes neither colour nor live displays."""
    from rich.console import Console

    return Console(stderr=error, highlight=False)
