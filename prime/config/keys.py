"""What a key is, and a schema of them: the machinery that every file of settings is read with. Pure.

A section is an attrs class and a key is one of its fields, so the same rules hold for a value from a file and for one
given in a program. A whole file is an attrs class too: its fields are sections, or keys that stand at the top.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import UnionType
from typing import Any, Final, Generic, TypeVar

import attrs
from attrs import frozen

from prime.config.values import Value, shown, to_type
from prime.errors import ConfigError

T = TypeVar("T")

_META: Final = "prime"
Check = Callable[[Any], str]
"""A rule beyond type and range: returns what is wrong, or nothing."""


@frozen
class Rule:
    """What a key's value must be, beyond its type."""

    doc: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Check | None = None
    flag: str = ""
    """The command line's option for it, where that is not the key's own name."""

    row: type | None = None
    """The class of a list's items, where they are tables of their own."""

    def fit(self, kind: type | UnionType, raw: object) -> Value:
        """Return `raw` as a value of that type; raise `ValueError` with the reason if it cannot be."""
        value = _to_rows(self.row, raw) if self.row is not None else to_type(kind, raw)
        if fault := self._fault(kind, value):
            raise ValueError(fault)
        return value

    def _fault(self, kind: type | UnionType, value: Value) -> str:
        """Return what is wrong with a value of the right type, or an empty text."""
        if isinstance(value, int | float) and not isinstance(value, bool) and not self._in_range(value):
            return f"{shown(value)} is out of range: {self.range_text(kind)}"
        chosen = value if isinstance(value, tuple) else (value,)
        strangers = [item for item in chosen if self.choices and isinstance(item, str) and item not in self.choices]
        if strangers:
            names = (
                f"none of {', '.join(self.choices)}" if kind is str or kind is tuple else f"not {self.range_text(kind)}"
            )
            return f"{shown(strangers[0])} is {names}"
        return self.check(value) if self.check is not None else ""

    def _in_range(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def range_text(self, kind: type | UnionType) -> str:
        """Return in words what a value of a type can be: `0.1 to 60 s`, `1 to 4, or auto`, `one of …`; or an empty text."""
        words = ", ".join(self.choices)
        words = f"one of {words}" if len(self.choices) > 1 else words
        figures = "true, false" if words and bool in typing.get_args(kind) else self._figures()
        return ", or ".join(part for part in (figures, words) if part)

    def _figures(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.low is not None and self.high is not None:
            return f"{_figure(self.low)} to {_figure(self.high)}{unit}"
        if self.low is not None:
            return f"at least {_figure(self.low)}{unit}"
        return f"at most {_figure(self.high)}{unit}" if self.high is not None else ""


def _figure(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@frozen
class Key:
    """One key of the schema, as loading, explaining and the docs page see it."""

    section: str
    field: str
    type: type | UnionType
    default: Value
    rule: Rule

    @property
    def name(self) -> str:
        """The key as it is written after a dot: `train.seed`."""
        return f"{self.section}.{self.field}" if self.section else self.field

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"PRIME_{self.section}__{self.field}".upper()

    @property
    def range(self) -> str:
        """What its value can be, in words: `1 to 4096, or auto`, `true, false, or auto`; empty where its type says all."""
        return self.rule.range_text(self.type)

    def fit(self, raw: object) -> Value:
        """Return `raw` as this key's value; raise `ValueError` with the reason if it cannot be."""
        return self.rule.fit(self.type, raw)


def key(
    default: Value, doc: str, *, converter: Callable[[Any], Any] | None = None, **rule: Any
) -> Any:  # the type of an attrs field is that of its annotation
    """Declare a key: its default, its meaning, and what else holds for its value."""
    made = Rule(doc, **rule)
    return attrs.field(default=default, converter=converter, validator=_validate, kw_only=True, metadata={_META: made})


def _validate(section: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Hold a section that is built in a program to the rules of one that is read from a file."""
    rule: Rule = attribute.metadata[_META]
    try:
        rule.fit(_plain_type(type(section), attribute.name), value)
    except ValueError as error:
        raise ConfigError(f"{type(section).__name__}.{attribute.name}: {error}", hint=rule.doc) from None


def _to_rows(row: type, raw: object) -> Value:
    if not isinstance(raw, list | tuple):
        raise ValueError(f"{raw!r} is not a list of tables")  # noqa: TRY004 - the fault of a value, whatever its type
    return tuple(item if isinstance(item, row) else _row(row, item) for item in raw)


def _row(row: type, item: object) -> Any:
    known = [attribute.name for attribute in attrs.fields(row)]
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} is not a table of {', '.join(known)}")  # noqa: TRY004 - as above
    if strangers := [name for name in item if name not in known]:
        raise ValueError(f"there is no key {strangers[0]}: a table has {', '.join(known)}")
    try:
        return row(**item)
    except ConfigError as error:
        raise ValueError(str(error)) from None


Order = tuple[tuple[str, ...], str, str]
"""The keys whose values cannot be together, what is wrong with them, and what to do."""


class OrderError(ConfigError):
    """Values that are each right and cannot be together."""

    def __init__(self, message: str, *, hint: str = "", orders: tuple[Order, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.orders = orders


def refuse_orders(orders: Iterable[Order]) -> None:
    """Raise `OrderError` if there are any of these orders."""
    if broken := tuple(orders):
        texts, hints = [text for _, text, _ in broken], dict.fromkeys(hint for *_, hint in broken)
        raise OrderError("\n".join(texts), hint="; ".join(hints), orders=broken)


def _plain_type(section: type, field: str) -> type | UnionType:
    """Return the run-time type of a field: `tuple` for `tuple[str, ...]`; a union of types as it is."""
    hint = typing.get_type_hints(section)[field]
    if isinstance(hint, UnionType):
        return hint
    plain: type = typing.get_origin(hint) or hint
    return plain


def _default(field: attrs.Attribute[Any]) -> Value:
    made: Any = field.default
    value: Value = made.factory() if hasattr(made, "factory") else made
    return value


_CLOSE: Final = 0.6
"""How alike two names must be for one to be suggested (difflib's ratio)."""


@frozen
class Schema(Generic[T]):
    """Everything that one file of settings can hold."""

    whole: type[T]
    """The class of a whole file."""
    listing: str
    """Where a person finds every key, as a hint."""
    missing: str
    """What to do where there is no such file, as a hint."""
    setter: str = ""
    """The option of the command line that sets any key, where keys have no options of their own."""

    @cached_property
    def sections(self) -> dict[str, type]:
        """Return the class of each section by its name, in the order of the file."""
        hints = typing.get_type_hints(self.whole)
        return {f.name: hints[f.name] for f in self._fields() if attrs.has(hints[f.name])}

    @cached_property
    def keys(self) -> dict[str, Key]:
        """Return every key by its dotted name, in the order of the file: those at the top first."""
        return {key.name: key for section in ("", *self.sections) for key in self.section_keys(section)}

    def section_keys(self, section: str) -> tuple[Key, ...]:
        """Return the keys of one section, or (empty) those at the top; `KeyError` if there is no such section."""
        owner = self.sections[section] if section else self.whole
        return tuple(
            Key(section, field.name, _plain_type(owner, field.name), _default(field), field.metadata[_META])
            for field in _fields_of(owner)
            if _META in field.metadata
        )

    def find(self, name: str) -> Key:
        """Return the key of that dotted name; `ConfigError` with a suggestion if there is none."""
        if name not in self.keys:
            raise ConfigError(self.unknown(name), hint=self.suggestion(name))
        return self.keys[name]

    def entry(self, name: str) -> tuple[Key, str] | None:
        """Return the key whose value is a table, and the name in that table, of `model_options.width`; None if it is none."""
        parts = name.split(".")
        heads = (".".join(parts[:count]) for count in range(1, len(parts)))
        found = next((self.keys[head] for head in heads if head in self.keys and self.keys[head].type is Mapping), None)
        return None if found is None else (found, name.removeprefix(f"{found.name}."))

    def flag(self, name: str) -> str:
        """Return the command line's option for a key, or for an entry of one that is a table; `ConfigError` if it is none."""
        entry = self.entry(name)
        key = self.find(name) if entry is None else entry[0]
        return key.rule.flag or self.setter or f"--{key.field.replace('_', '-')}"

    def unknown(self, name: str) -> str:
        """Say that a key, or the section before its dot, is not in the schema."""
        section, dot, _ = name.partition(".")
        is_key = section in self.sections or (not dot and self.section_keys(""))
        return f"there is no key {name}" if is_key else f"there is no section [{section}]"

    def suggestion(self, name: str) -> str:
        """Return the hint for a name that is not in the schema: the key that was probably meant, or where to look."""
        section, _, field = name.partition(".")
        for near in difflib.get_close_matches(section, self.sections, n=1, cutoff=_CLOSE):
            if f"{near}.{field}" in self.keys:
                return f"did you mean {near}.{field}?"
        by_field: dict[str, str] = {}
        for known in self.keys:
            by_field.setdefault(known.rpartition(".")[2], known)
        field_name = name.rpartition(".")[2]
        same_field = [by_field[field_name]] if field_name in by_field else []
        alike = same_field or difflib.get_close_matches(name, self.keys, n=1, cutoff=_CLOSE)
        if not alike:
            alike = [by_field[match] for match in difflib.get_close_matches(field_name, by_field, n=1, cutoff=_CLOSE)]
        if not alike:
            alike = difflib.get_close_matches(name, self.sections, n=1, cutoff=_CLOSE)
        return f"did you mean {alike[0]}?" if alike else self.listing

    def build(self, values: Mapping[str, Value]) -> T:
        """Return the whole of fitted values by dotted key; `OrderError` where they cannot be together."""
        top = {name: value for name, value in values.items() if "." not in name}
        sections = {
            section: owner(**{n.partition(".")[2]: v for n, v in values.items() if n.startswith(f"{section}.")})
            for section, owner in self.sections.items()
        }
        return self.whole(**top, **sections)

    def value(self, whole: T, name: str) -> Value:
        """Return the value of a dotted key; `ConfigError` with a suggestion if there is none of that name."""
        key = self.find(name)
        value: Value = getattr(getattr(whole, key.section) if key.section else whole, key.field)
        return value

    def _fields(self) -> tuple[attrs.Attribute[Any], ...]:
        return _fields_of(self.whole)


def _fields_of(owner: type) -> tuple[attrs.Attribute[Any], ...]:
    found: tuple[attrs.Attribute[Any], ...] = attrs.fields(owner)
    return found
