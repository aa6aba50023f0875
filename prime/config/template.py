"""A fresh `prime.toml`, and one value changed in an existing one with its comments kept. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from prime.config.keys import Key, Schema
from prime.config.layers import assemble
from prime.config.schema import NODE
from prime.config.sources import text_layer
from prime.config.values import Value, parse_text, shown
from prime.errors import ConfigError

_HEAD = """\
# Configuration of a Prime node. Each line shows a default: take the # away to change it.
# `prime config explain KEY` says more; `prime config show` shows what is in force and where it came from.
"""


def template(schema: Schema[Any] = NODE, head: str = _HEAD, given: Mapping[str, Value] | None = None) -> str:
    """Return a file of a schema in which every key stands as a comment with its default, meaning and range.

    Keys that are `given` a value, by dotted name, have it and are no comment.
    """
    texts = (_section_text(schema, section, given or {}) for section in ("", *schema.sections))
    return "\n".join([head, *filter(None, texts)])


def _section_text(schema: Schema[Any], section: str, given: Mapping[str, Value]) -> str:
    keys = "\n".join(_key_text(key, given) for key in schema.section_keys(section))
    if not keys:
        return ""
    return f"[{section}]\n{keys}\n" if section else f"{keys}\n"


def _key_text(key: Key, given: Mapping[str, Value]) -> str:
    rule = key.rule
    note = f"{rule.doc} ({key.range})" if key.range else rule.doc
    comment = textwrap.fill(note, 100, initial_indent="# ", subsequent_indent="# ")
    off = "" if key.name in given else "# "
    return f"{comment}\n{off}{key.field} = {shown(given.get(key.name, key.default))}"


def set_value(text: str, name: str, value: str, *, file: str = "prime.toml") -> str:
    """Return a TOML text with one dotted key set to a value given as text; everything else stays as it is.

    The new text is checked as `load` would; raises `ConfigError` if the key is unknown, the value does not fit, or the
    file as a whole would not load.
    """
    key = NODE.find(name)
    try:
        fitted = key.fit(parse_text(key.type, value))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}", hint=key.rule.doc) from None
    text_layer(text, file)
    changed = _changed(text, key, fitted, file)
    assemble([text_layer(changed, file)], NODE)
    return changed


def _changed(text: str, key: Key, value: Value, file: str) -> str:
    try:
        document = tomlkit.parse(text)
        if key.section not in document:
            document[key.section] = tomlkit.table()
        document[key.section][key.field] = list(value) if isinstance(value, tuple) else value
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise ConfigError(f"{file}: {error}", hint="set it by hand") from None
