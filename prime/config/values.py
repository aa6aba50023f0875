"""A raw value, from TOML, from the environment or from a flag, into one that fits its key.

Pure. A value that cannot fit raises `ValueError` with the reason; who calls adds the key and the origin.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final

type_names: Final[dict[type | UnionType, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of texts",
    Mapping: "a table of texts, numbers, true and false, and lists and tables of them",
    int | str: "a whole number or a word",
    bool | str: "true, false or a word",
}
"""The types that a key may have, in a reader's words."""

Value = bool | int | float | str | tuple[Any, ...] | Mapping[str, Any]


def parse_text(kind: type | UnionType, text: str) -> object:
    """Read a value from plain text, as the environment and flags give it; raise `ValueError` if it is not of `kind`."""
    if kind is str:
        return text
    if kind is tuple:
        return _parse_list(text)
    try:
        return tomllib.loads(f"value = {text.strip() if kind is Mapping else text.strip().lower()}")["value"]
    except tomllib.TOMLDecodeError:
        if isinstance(kind, UnionType):
            return text.strip()
        raise ValueError(f"{text!r} is not {type_names[kind]}") from None


def parse_entry(text: str) -> object:
    """Read an entry of a table, which may be of any type, from plain text: what is no TOML value is a text."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse_list(text: str) -> list[object]:
    """Read `a,b` or a TOML array."""
    if text.lstrip().startswith("["):
        try:
            return list(tomllib.loads(f"value = {text}")["value"])
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{text!r} is not a list: {error}") from None
    return [part.strip() for part in text.split(",") if part.strip()]


def to_type(kind: type | UnionType, raw: object) -> Value:
    """Return `raw` as `kind`, by no more than a whole number taken as a number; raise `ValueError` otherwise."""
    fitted = _fitters[kind](raw)
    if fitted is None:
        raise ValueError(f"{raw!r} is not {type_names[kind]}")
    return fitted


def _to_bool(raw: object) -> bool | None:
    return raw if isinstance(raw, bool) else None


def _to_int(raw: object) -> int | None:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _to_float(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return None
    return float(raw)


def _to_str(raw: object) -> str | None:
    return raw if isinstance(raw, str) else None


def _to_tuple(raw: object) -> tuple[str, ...] | None:
    if not isinstance(raw, list | tuple) or not all(isinstance(item, str) for item in raw):
        return None
    return tuple(raw)


def _to_table(raw: object) -> Mapping[str, Any] | None:
    """Take what JSON could say as well: a table goes to other processes."""
    return raw if isinstance(raw, Mapping) and _is_plain(raw) else None


def _is_plain(raw: object) -> bool:
    if isinstance(raw, Mapping):
        return all(isinstance(key, str) and _is_plain(value) for key, value in raw.items())
    if isinstance(raw, list | tuple):
        return all(_is_plain(item) for item in raw)
    return isinstance(raw, bool | int | float | str)


def _to_int_or_word(raw: object) -> int | str | None:
    return raw if isinstance(raw, str) else _to_int(raw)


def _to_bool_or_word(raw: object) -> bool | str | None:
    return raw if isinstance(raw, bool | str) else None


_fitters: Final[dict[type | UnionType, Callable[[object], Value | None]]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    tuple: _to_tuple,
    Mapping: _to_table,
    int | str: _to_int_or_word,
    bool | str: _to_bool_or_word,
}


def shown(value: Value) -> str:
    """Write a value as TOML does, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {shown(item)}' for key, item in value.items())}}}"
    return repr(value)


def _quoted(text: str) -> str:
    """Write a TOML basic string; control characters as escapes (TOML 1.0, section String)."""
    escaped = "".join(_escaped(character) for character in text)
    return f'"{escaped}"'


def _escaped(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    if ord(character) < 0x20 or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return character
