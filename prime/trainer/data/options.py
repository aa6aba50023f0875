"""The table `[data_options]` of a run, read key by key: a wrong value or a key that nobody reads is an error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from prime.errors import ConfigError


class Options:
    """One table of options. `name` is what the table is called, `owner` what reads it, both for the errors.

    Each `take` names a key once; `end` refuses the keys that none named. All raise `ConfigError`.
    """

    def __init__(self, table: Mapping[str, Any], name: str, owner: str) -> None:
        self._table, self._name, self._owner = dict(table), name, owner
        self._known: list[str] = []

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        return str(self._take(key, default, (str,), "text"))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, none by default; one string stands for a list of one."""
        found = self._take(key, (), (str, list, tuple), "a name or a list of names")
        names = (found,) if isinstance(found, str) else tuple(found)
        if not all(isinstance(name, str) and name for name in names):
            raise self._wrong(key, found, "a name or a list of names")
        return names

    def integer(self, key: str, default: int, at_least: int) -> int:
        """Return an integer of at least that."""
        found = self._take(key, default, (int,), f"an integer of at least {at_least}")
        if isinstance(found, bool) or found < at_least:
            raise self._wrong(key, found, f"an integer of at least {at_least}")
        return int(found)

    def positive(self, key: str, default: float) -> float:
        """Return a number above 0."""
        found = self._take(key, default, (int, float), "a number above 0")
        if isinstance(found, bool) or not 0 < found < float("inf"):
            raise self._wrong(key, found, "a number above 0")
        return float(found)

    def one_of(self, key: str, choices: Sequence[str]) -> str:
        """Return one of the choices; the first by default."""
        found = self.text(key, choices[0])
        if found not in choices:
            raise self._wrong(key, found, f"one of {', '.join(choices)}")
        return found

    def end(self) -> None:
        """Refuse what was not asked for."""
        for key in self._table.keys() - set(self._known):
            near = difflib.get_close_matches(key, self._known, 1)
            known = f"{self._owner} takes {', '.join(sorted(self._known))}" if self._known else "it takes none"
            raise ConfigError(
                f"{self._name}.{key}: {self._owner} has no such option",
                hint=f"did you mean {near[0]}?" if near else known,
            )

    def _take(self, key: str, default: Any, kinds: tuple[type, ...], wanted: str) -> Any:
        self._known.append(key)
        found = self._table.get(key, default)
        if not isinstance(found, kinds):
            raise self._wrong(key, found, wanted)
        return found

    def _wrong(self, key: str, found: object, wanted: str) -> ConfigError:
        return ConfigError(f"{self._name}.{key} is {found!r}, not {wanted}", hint=f"set {key} under [{self._name}]")
