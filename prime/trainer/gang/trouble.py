"""An error that a rank met, in the form in which its gang hears of it. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Final

from prime.errors import ConfigError, DataError, MissingExtraError, PrimeError
from prime.wire import record

TEXT_MAX = 1_000
TRACE_MAX = 8_000
HOPELESS: Final[Mapping[str, type[PrimeError]]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, MissingExtraError)
}
"""Errors that would only come again, by name: they keep their class where the run is told of; all others are a run that failed."""


@record
class Trouble:
    """An error: its class, its text, and the user's line that raised it.

    `of_peer`: it says that another rank went away, so it explains nothing by itself. `hopeless`: it would only come
    again. `loading`: the checkpoint could not be read.
    """

    kind: str
    text: str
    place: str = ""
    trace: str = ""
    hint: str = ""
    of_peer: bool = False
    hopeless: bool = False
    loading: bool = False

    def same_as(self, other: Trouble) -> bool:
        """Tell whether it is the same error again: of one class, from one line; texts may hold addresses and times."""
        return (self.kind, self.place) == (other.kind, other.place)

    def __str__(self) -> str:
        at = f" ({self.place})" if self.place else ""
        return f"{self.kind}: {self.text}{at}"


def trouble_of(error: BaseException, *, of_peer: bool = False, loading: bool = False) -> Trouble:
    """Return an error as a gang may hear it: bounded, and with nothing that UTF-8 cannot say."""
    return Trouble(
        type(error).__name__,
        _text(words_of(error))[:TEXT_MAX],
        place_of(error),
        _text("".join(traceback.format_exception(error)))[-TRACE_MAX:],
        error.hint if isinstance(error, PrimeError) else "",
        of_peer,
        isinstance(error, tuple(HOPELESS.values())),
        loading,
    )


def place_of(error: BaseException) -> str:
    """Return `file:line` of the innermost call in the user's own files; of any file where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    last = (own or frames)[-1:]
    return "".join(_text(f"{frame.filename}:{frame.lineno}") for frame in last)


def _is_library(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    return "site-packages" in parts or "prime" in parts[:-1] or file.startswith("<") or _is_python(parts)


def _is_python(parts: list[str]) -> bool:
    return any(part.startswith("python3.") for part in parts[:-1])


def words_of(error: BaseException) -> str:
    """Return what an error says of itself; a user's class may not be able to."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's method, run while a failure is being handled
        return "(it cannot say why)"


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
