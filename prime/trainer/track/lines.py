"""Facts as JSON and back: one object for each, the same in `events.jsonl` and on the command line. Pure.

`{"schema": 1, "event": "train.step_made", "time": 1767225600.25, "step": 1, "loss": 4.57, …}`: `time` is the seconds
since 1970 at which the fact came; the other fields are those of the fact. A number that JSON has none of, such as a loss
that is no number, is null.
"""

from __future__ import annotations

import json
import math
import re
import typing
from collections.abc import Mapping
from typing import Any, Final

import attrs

from prime.trainer.facts import Fact

SCHEMA: Final = 1
_PREFIX: Final = "train."


def event_name(kind: type) -> str:
    """Return what events of a class of facts are called: `train.step_made`."""
    return _PREFIX + re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


_KINDS: Final[Mapping[str, type]] = {event_name(kind): kind for kind in typing.get_args(Fact)}


def event_of(fact: Fact, at_s: float) -> dict[str, Any]:
    """Return a fact as an object for JSON."""
    fields = {name: _plain(value) for name, value in attrs.asdict(fact).items()}
    return {"schema": SCHEMA, "event": event_name(type(fact)), "time": round(at_s, 3), **fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line_of(fact: Fact, at_s: float) -> str:
    """Return a fact as one line of JSON."""
    return json.dumps(event_of(fact, at_s), allow_nan=False, ensure_ascii=False)


def fact_of(line: str) -> tuple[Fact, float] | None:
    """Return the fact of a line and its time, or None if it is none: a torn line, or an event of another version."""
    try:
        event = json.loads(line)
        kind = _KINDS[event["event"]]
        return kind(**_fields(kind, event)), float(event["time"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _fields(kind: type, event: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name: field for field in attrs.fields(kind) if field.name in event}
    return {name: _number(field.type, event[name]) for name, field in known.items()}


def _number(kind: Any, value: Any) -> Any:
    """Return a null in the place of a number as what it was: no number."""
    if isinstance(value, dict):
        return {name: _number(float, one) for name, one in value.items()}
    return math.nan if value is None and kind in ("float", float) else value
