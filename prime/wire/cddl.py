"""The messages written as CDDL (RFC 8610). `python -m prime.wire.cddl` prints what `spec/wire.cddl` must hold.

With the word `tags` behind it the command prints the ranges of tags, as `spec/README.md` shows them.

Rules are named by room and class (`trainer.Contribute`), a reply type by its ask (`trainer.FetchChunk.reply`), and other
types by what they are made of (`list-of-tstr`). Every choice and every nested array has a rule of its own, because the
validator that the tests use checks named rules only.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from prime.wire.codec import compile_codec, rule_name
from prime.wire.message import Ask, messages, reply_type, tag_of
from prime.wire.tags import table

_PREAMBLE = """\
; The messages of Prime: what actors on different nodes say to each other is one of these arrays (spec/README.md).
; Generated from the message classes by `python -m prime.wire.cddl`; a test compares. Do not edit.
;
; Encoding is deterministic (RFC 8949 section 4.2.1); semantic tags and indefinite lengths are refused.
; A receiver ignores elements after the last one listed here, and takes defaults for elements missing at
; the end where the class has them. Floats are written in the shortest form that keeps their value.
"""
_PRELUDE = frozenset({"any", "bool", "bstr", "float", "int", "null", "tstr", "uint"})


class _Schema:
    """Rules by name, in the order in which they were first needed."""

    def __init__(self) -> None:
        self.bodies: dict[str, str] = {}

    def define(self, name: str, body: Callable[[], str]) -> str:
        if name not in _PRELUDE and name not in self.bodies:
            self.bodies[name] = ""  # known from here on: a record may hold itself
            self.bodies[name] = body()
        return name


def generate(classes: Iterable[type]) -> str:
    """Return the schema of these message classes, ordered by tag, and of everything they are made of.

    Raises `LocalProtocolError` for a class without a tag and `MessageError` for a type without a wire form.
    """
    ordered = sorted(classes, key=tag_of)
    schema = _Schema()
    parts = [_section(cls, schema) for cls in ordered]
    shown = {name for cls in ordered for name in (rule_name(cls), f"{rule_name(cls)}.reply")}
    rest = [f"{name} = {body}" for name, body in sorted(schema.bodies.items()) if name not in shown]
    root = "message = " + "\n        / ".join(rule_name(cls) for cls in ordered)
    return "\n\n".join([_PREAMBLE.rstrip(), *([root] if ordered else []), *parts, *rest]) + "\n"


def _section(cls: type, schema: _Schema) -> str:
    """Return the rule of one message, what its docstring opens with, and the rule of its reply."""
    name = compile_codec(cls).rule(schema)
    lines = [*_comment(cls), f"; tag {tag_of(cls):#05x}", f"{name} = {schema.bodies[name]}"]
    if issubclass(cls, Ask):
        body = compile_codec(reply_type(cls)).rule(schema)
        lines.append(f"{schema.define(f'{name}.reply', lambda: body)} = {body}")
    return "\n".join(lines)


def _comment(cls: type) -> list[str]:
    opening = (inspect.getdoc(cls) or "").partition("\n\n")[0] if cls.__doc__ else ""
    return [f"; {line}" for line in textwrap.wrap(" ".join(opening.split()), 110)]


def room_messages() -> tuple[type, ...]:
    """Import each `messages.py` of every room and return the tagged messages defined there, by tag."""
    home = Path(__file__).parents[1]
    found = set()
    for path in home.rglob("messages.py"):
        name = ".".join(("prime", *path.relative_to(home).with_suffix("").parts))
        found.add(importlib.import_module(name).__name__)
    return tuple(cls for cls in messages() if cls.__module__ in found)


if __name__ == "__main__":
    classes = room_messages()
    sys.stdout.write(table(map(tag_of, classes)) if sys.argv[1:] == ["tags"] else generate(classes))
