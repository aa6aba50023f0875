"""Errors across a link: a code from a fixed table, and texts. No class of the sender's is ever resolved. Pure."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from prime import errors
from prime.errors import ActorCrashedError, PrimeError
from prime.transport.frames import TRACEBACK_CHARS_MAX, Fail, clipped

_KNOWN: Final = (
    errors.ActorUsageError,
    errors.AskCycleError,
    errors.ConfigError,
    errors.DataError,
    errors.LocalProtocolError,
    errors.WorldError,
    errors.RemoteProtocolError,
    errors.DecodeError,
    errors.SignatureError,
    errors.UnreachableError,
    errors.RefusedError,
    errors.WrongPeerError,
    errors.ReplayError,
    errors.MailboxFullError,
    errors.NotFoundError,
    errors.NoSuchActorError,
    errors.DeadlineError,
    errors.LinkLostError,
    errors.ActorCrashedError,
    errors.RestartLimitError,
    errors.ConflictError,
    errors.CorruptedError,
    errors.RunFailedError,
)

CODES: Final[Mapping[str, type[PrimeError]]] = MappingProxyType({known.__name__: known for known in _KNOWN})
"""The whole table: what a FAIL may name."""
CHAIN_MAX: Final = 8
"""Of a longer chain of causes that does not fit, the first and the last few."""
_BETWEEN_CHARS: Final = 96


def _code(error: BaseException) -> str:
    """Return the nearest known ancestor's name; any other exception is a crash of the actor."""
    names = (cls.__name__ for cls in type(error).__mro__ if CODES.get(cls.__name__) is cls)
    return next(names, ActorCrashedError.__name__)


def _traceback(error: BaseException) -> str:
    """Return the traceback as text, with those of what the error was raised from; of a known error, only these."""
    if isinstance(error, ActorCrashedError):
        return error.remote_traceback
    if not isinstance(error, PrimeError):
        return "".join(traceback.format_exception(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    causes = "" if cause is None else "".join(traceback.format_exception(cause))
    return "\n".join(filter(None, (causes, *getattr(error, "__notes__", ()))))


_LINK: Final = re.compile(
    r"(\n(?:The above exception was the direct cause of|During handling of the above exception,)[^\n]*\n\n)"
)
"""What Python writes between two exceptions of a chain."""


def bounded_chain(text: str, chars_max: int = TRACEBACK_CHARS_MAX) -> str:
    """Shorten a traceback so that each exception of its chain keeps its last lines, where it says what happened."""
    if len(text) <= chars_max:
        return text
    parts = _LINK.split(text)
    if len(parts) > 2 * CHAIN_MAX:
        parts = [*parts[:CHAIN_MAX], f"… {len(parts) // 2 + 1 - CHAIN_MAX} more …", *parts[-CHAIN_MAX:]]
    room = (chars_max - len(parts) * _BETWEEN_CHARS) // len(parts)
    return clipped("".join(part if len(part) <= _BETWEEN_CHARS else clipped(part, room) for part in parts), chars_max)


def _words(error: BaseException) -> str:
    """Return what an error says, also where its own `__str__` fails."""
    try:
        return str(error) if isinstance(error, PrimeError) else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - whatever a handler raised must reach its asker
        return f"{type(error).__name__}, which cannot say why"


def _sendable(text: str) -> str:
    """Make text of any text: a lone surrogate has no wire form."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_frame(correlation: int, error: BaseException) -> Fail:
    """Describe an error for the other side; texts are cut to what a frame may carry."""
    hint = error.hint if isinstance(error, PrimeError) else ""
    return Fail(
        correlation,
        _code(error),
        clipped(_sendable(_words(error))),
        clipped(_sendable(hint)),
        bounded_chain(_sendable(_traceback(error))),
    )


def from_frame(frame: Fail) -> PrimeError:
    """Build this side's error; a code outside the table reads as a crash that names it.

    What a known error was raised from on the other side is a note of it (PEP 678): text, shown with its traceback.
    """
    known = CODES.get(frame.code)
    if known is None:
        text = f"{frame.code}: {frame.text}"
        return ActorCrashedError(text, hint=frame.hint, remote_traceback=frame.traceback)
    if issubclass(known, ActorCrashedError):
        return known(frame.text, hint=frame.hint, remote_traceback=frame.traceback)
    error = known(frame.text, hint=frame.hint)
    if frame.traceback:
        error.add_note(frame.traceback if frame.traceback.startswith(_NOTE) else _NOTE + frame.traceback)
    return error


_NOTE: Final = "On the other node it was raised from:\n"
