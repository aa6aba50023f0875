"""What must hold in a simulated world, for both engines (pure): checks by name, and what is said when one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Check = Callable[[], Any]
"""Finds nothing wrong, or returns `False` (anything false but `None`), or raises `AssertionError`."""


class Spell:
    """A condition that may hold for one spell."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition
        self._state: Literal["before", "during", "after"] = "before"

    def check(self) -> bool:
        """Tell whether it has not come a second time."""
        holds = self._condition()
        if holds and self._state == "after":
            return False
        if holds:
            self._state = "during"
        elif self._state == "during":
            self._state = "after"
        return True


def problem(check: Check) -> str | None:
    """Return what is wrong, for a text after a name; `None` if all is well."""
    try:
        answer = check()
    except AssertionError as error:
        return f": {error}" if str(error) else " (an assertion failed)"
    return "" if answer is False or (answer is not None and not answer) else None


def words(detail: dict[str, object]) -> str:
    """Return the details of an event as one text."""
    return " ".join(f"{key}={value}" for key, value in detail.items())
