"""The sources of configuration, merged from the lowest to the highest. Pure.

A layer is what one source sets, raw; `assemble` fits every value to its key, remembers where the winning one came from,
and reports everything that is wrong in one `ConfigError`, a line each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

from attrs import field, frozen

from prime.config.keys import Key, OrderError, Schema
from prime.config.values import Value, parse_entry, parse_text
from prime.errors import ConfigError

T = TypeVar("T")
Kind = Literal["default", "file", "environment", "flag"]


@frozen
class Origin:
    """Where a value came from: the kind of source, and the place in it (`prime.toml:12`, a variable, a flag)."""

    kind: Kind
    where: str = ""

    def __str__(self) -> str:
        """Return it in words: `default`, `prime.toml:12`, `PRIME_TRAIN__SEED (environment)`, `--listen (flag)`."""
        if self.kind == "default":
            return "default"
        return self.where if self.kind == "file" else f"{self.where} ({self.kind})"


@frozen
class Setting:
    """One raw value, and the place that set it."""

    raw: object
    where: str


@frozen
class Layer:
    """What one source sets, by dotted key. `textual` values are plain text, to be read by their key's type."""

    kind: Kind
    settings: Mapping[str, Setting]
    textual: bool = False


@frozen
class Loaded(Generic[T]):
    """A whole configuration, and where each of its values came from."""

    config: T
    schema: Schema[T]
    origins: Mapping[str, Origin]
    shadowed: Mapping[str, tuple[Origin, ...]] = field(factory=dict)
    """Where else a key was set, by sources that a higher one overruled; the lowest first."""
    files: tuple[str, ...] = ()
    """The files that were read, the lowest first."""

    def value(self, name: str) -> Value:
        """Return the value of a dotted key; `ConfigError` with a suggestion if there is none of that name."""
        return self.schema.value(self.config, name)

    def sets(self, section: str) -> bool:
        """Tell whether any source sets a key of that section."""
        return any(origin.kind != "default" for name, origin in self.origins.items() if name.startswith(f"{section}."))


def assemble(layers: Iterable[Layer], schema: Schema[T], *, files: tuple[str, ...] = ()) -> Loaded[T]:
    """Merge layers, the lowest first, over the defaults. Raise `ConfigError` with every fault, one a line."""
    values: dict[str, Value] = {}
    seen: dict[str, list[Origin]] = {}
    faults: list[Fault] = []
    for layer in layers:
        for given, setting in layer.settings.items():
            try:
                name, value = _entered(schema, values, given, setting, textual=layer.textual)
            except _FaultError as error:
                faults.append(error.fault)
                continue
            values[name] = value
            seen.setdefault(name, [Origin("default")]).append(Origin(layer.kind, setting.where))
    _raise(faults)
    origins = {name: seen[name][-1] if name in seen else Origin("default") for name in schema.keys}
    config = _built(schema, values, origins)
    return Loaded(config, schema, origins, {name: tuple(found[:-1]) for name, found in seen.items()}, files)


@frozen
class Fault:
    """One thing wrong with a configuration, with its place, and what to do."""

    text: str
    hint: str


class _FaultError(Exception):
    """Carries a fault to the loop that collects them; never leaves this module."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.fault = Fault(text, hint)


def _raise(faults: list[Fault]) -> None:
    if faults:
        hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
        raise ConfigError("\n".join(fault.text for fault in faults), hint="; ".join(hints))


def _entered(
    schema: Schema[T], values: Mapping[str, Value], name: str, setting: Setting, *, textual: bool
) -> tuple[str, Value]:
    """Return a key and its value; for one entry of a table, that of the whole table with it."""
    entry = schema.entry(name)
    if entry is None:
        return name, _fitted(schema, name, setting, textual=textual)
    key, inner = entry
    raw = parse_entry(setting.raw) if textual and isinstance(setting.raw, str) else setting.raw
    table: Any = values.get(key.name, key.default)
    return key.name, _fitted(schema, key.name, Setting({**table, inner: raw}, setting.where), textual=False)


def _fitted(schema: Schema[T], name: str, setting: Setting, *, textual: bool) -> Value:
    key: Key | None = schema.keys.get(name)
    if key is None:
        raise _FaultError(f"{setting.where}: {schema.unknown(name)}", schema.suggestion(name))
    try:
        raw = parse_text(key.type, setting.raw) if textual and isinstance(setting.raw, str) else setting.raw
        return key.fit(raw)
    except ValueError as error:
        raise _FaultError(f"{setting.where}: {name}: {error}", f"{name}: {key.rule.doc}") from None


def _built(schema: Schema[T], values: Mapping[str, Value], origins: Mapping[str, Origin]) -> T:
    try:
        return schema.build(values)
    except OrderError as error:
        faults = [Fault(f"{_places(origins, names)}{text}", hint) for names, text, hint in error.orders]
    _raise(faults)
    raise AssertionError("an order error without orders")


def _places(origins: Mapping[str, Origin], names: Iterable[str]) -> str:
    """Return where the keys of a broken order were set, as a prefix; nothing for defaults."""
    set_at = dict.fromkeys(str(origins[name]) for name in names if origins[name].kind != "default")
    return f"{', '.join(set_at)}: " if set_at else ""
