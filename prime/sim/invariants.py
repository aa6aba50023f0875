"""What must hold in a simulated world, for both engines (pure): checks by name, and what is said when one fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

from prime.errors import UsageError, ViolationError

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


def require(holds: object, said: str) -> None:
    """Raise `AssertionError` unless something holds; `python -O` leaves out `assert` statements, and not this."""
    if not holds:
        raise AssertionError(said)


def problem(check: Check) -> str | None:
    """Return what is wrong, for a text after a name; `None` if all is well."""
    try:
        answer = check()
    except AssertionError as error:
        return f": {error}" if str(error) else " (an assertion failed)"
    if inspect.iscoroutine(answer):
        answer.close()
        raise UsageError("a check must not be async", hint="it is called between two steps: let it look, not wait")
    return "" if answer is False or (answer is not None and not answer) else None


def told(error: BaseException) -> BaseException:
    """Return the error that a group is about: what did not hold, else the first of several, with how many there were."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = list(_leaves(error))
    first = next((one for one in inner if isinstance(one, ViolationError)), inner[0])
    if len(inner) > 1:
        first.add_note(f"the first of {len(inner)} errors in one group")
    return first


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def words(detail: dict[str, object]) -> str:
    """Return the details of an event as one text."""
    return " ".join(f"{key}={value}" for key, value in detail.items())
