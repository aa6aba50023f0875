"""The sources of configuration, merged from the lowest to the highest. Pure.

A layer is what one source sets, raw; `assemble` fits every value to its key, remembers where the winning one came from,
and reports everything that is wrong in one `ConfigError`, a line each.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from attrs import field, frozen

from prime.config.derived import order_faults
from prime.config.schema import SECTIONS, Config, Key, all_keys
from prime.config.values import Value, parse_text
from prime.errors import ConfigError

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
class Loaded:
    """A whole configuration, and where each of its values came from."""

    config: Config
    origins: Mapping[str, Origin]
    shadowed: Mapping[str, tuple[Origin, ...]] = field(factory=dict)
    """Where else a key was set, by sources that a higher one overruled; the lowest first."""
    files: tuple[str, ...] = ()
    """The files that were read, the lowest first."""

    def value(self, name: str) -> Value:
        """Return the value of a dotted key; `ConfigError` with a suggestion if there is none of that name."""
        key = find_key(name)
        value: Value = getattr(getattr(self.config, key.section), key.field)
        return value


def assemble(layers: Iterable[Layer], *, files: tuple[str, ...] = ()) -> Loaded:
    """Merge layers, the lowest first, over the defaults. Raise `ConfigError` with every fault, one a line."""
    keys = all_keys()
    values: dict[str, Value] = {}
    seen: dict[str, list[Origin]] = {}
    faults: list[Fault] = []
    for layer in layers:
        for name, setting in layer.settings.items():
            try:
                values[name] = _fitted(keys, name, setting, textual=layer.textual)
            except _FaultError as error:
                faults.append(error.fault)
                continue
            seen.setdefault(name, [Origin("default")]).append(Origin(layer.kind, setting.where))
    _raise(faults)
    origins = {name: seen[name][-1] if name in seen else Origin("default") for name in keys}
    config = _built(values)
    _raise([Fault(f"{_places(origins, names)}{text}", hint) for names, text, hint in order_faults(config)])
    return Loaded(config, origins, {name: tuple(found[:-1]) for name, found in seen.items()}, files)


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


def _fitted(keys: Mapping[str, Key], name: str, setting: Setting, *, textual: bool) -> Value:
    if name not in keys:
        raise _FaultError(f"{setting.where}: {unknown(name)}", suggestion(name))
    key = keys[name]
    try:
        raw = parse_text(key.type, setting.raw) if textual and isinstance(setting.raw, str) else setting.raw
        return key.fit(raw)
    except ValueError as error:
        raise _FaultError(f"{setting.where}: {name}: {error}", f"{name}: {key.rule.doc}") from None


def _built(values: Mapping[str, Value]) -> Config:
    sections = {
        section: owner(
            **{name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{section}.")}
        )
        for section, owner in SECTIONS.items()
    }
    return Config(**sections)


def _places(origins: Mapping[str, Origin], names: Iterable[str]) -> str:
    """Return where the keys of a broken order were set, as a prefix; nothing for defaults."""
    set_at = dict.fromkeys(str(origins[name]) for name in names if origins[name].kind != "default")
    return f"{', '.join(set_at)}: " if set_at else ""


_CLOSE: Final = 0.6
"""How alike two names must be for one to be suggested (difflib's ratio)."""


def unknown(name: str) -> str:
    """Say that a key, or the section before its dot, is not in the schema."""
    section = name.partition(".")[0]
    return f"there is no section [{section}]" if section not in SECTIONS else f"there is no key {name}"


def suggestion(name: str) -> str:
    """Return the hint for a name that is not in the schema: the key that was probably meant, or where to look."""
    keys = all_keys()
    field_name = name.rpartition(".")[2]
    same_field = [known for known in keys if known.endswith(f".{field_name}")]
    alike = same_field or difflib.get_close_matches(name, keys, n=1, cutoff=_CLOSE)
    if not alike:
        by_field = {known.partition(".")[2]: known for known in keys}
        alike = [by_field[match] for match in difflib.get_close_matches(field_name, by_field, n=1, cutoff=_CLOSE)]
    if not alike:
        alike = difflib.get_close_matches(name, SECTIONS, n=1, cutoff=_CLOSE)
    return f"did you mean {alike[0]}?" if alike else "`prime config show` lists every key"


def find_key(name: str) -> Key:
    """Return the key of that dotted name; `ConfigError` with a suggestion if there is none."""
    keys = all_keys()
    if name not in keys:
        raise ConfigError(unknown(name), hint=suggestion(name))
    return keys[name]
