"""One key in words: its value, where that came from, and what may stand there. Pure."""

from __future__ import annotations

from attrs import asdict, frozen

from prime.config.derived import FORMULAS, derive
from prime.config.layers import Loaded
from prime.config.schema import Config
from prime.config.values import Value, shown


@frozen
class Explanation:
    """All there is to say about one key of a loaded configuration."""

    key: str
    value: Value
    origin: str
    overruled: tuple[str, ...]
    default: Value
    type: str
    unit: str
    range: str
    doc: str
    variable: str
    derived: dict[str, float]

    def text(self) -> str:
        """Return it as lines for a person."""
        rows = [
            ("value", f"{shown(self.value)}{f' {self.unit}' if self.unit else ''}"),
            ("origin", self.origin),
            ("overruled", ", ".join(self.overruled)),
            ("default", shown(self.default)),
            ("range", self.range),
            ("meaning", self.doc),
            ("variable", self.variable),
            *((name, f"{value:.3g} s, {FORMULAS[name][1]}") for name, value in self.derived.items()),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.key, *(f"  {name:<{width}}  {text}" for name, text in rows if text)])


def explain(loaded: Loaded[Config], name: str) -> Explanation:
    """Explain a dotted key; `ConfigError` with a suggestion if there is none of that name."""
    key = loaded.schema.find(name)
    waits = asdict(derive(loaded.config))
    return Explanation(
        key=name,
        value=loaded.value(name),
        origin=str(loaded.origins[name]),
        overruled=tuple(str(origin) for origin in loaded.shadowed.get(name, ()) if origin.kind != "default"),
        default=key.default,
        type="list" if key.type is tuple else getattr(key.type, "__name__", str(key.type)),
        unit=key.rule.unit,
        range=key.range,
        doc=key.rule.doc,
        variable=key.variable,
        derived={wait: waits[wait] for wait, (source, _) in FORMULAS.items() if source == name},
    )
