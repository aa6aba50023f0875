"""Errors across a link: a code from a fixed table, and texts. No class of the sender's is ever resolved. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from prime import errors
from prime.errors import ActorCrashedError, PrimeError
from prime.transport.frames import TRACEBACK_CHARS_MAX, Fail, clipped

_KNOWN: Final = (
    errors.ActorUsageError,
    errors.LocalProtocolError,
    errors.WorldError,
    errors.RemoteProtocolError,
    errors.DecodeError,
    errors.UnreachableError,
    errors.RefusedError,
    errors.WrongPeerError,
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


def _code(error: BaseException) -> str:
    """Return the nearest known ancestor's name; any other exception is a crash of the actor."""
    names = (cls.__name__ for cls in type(error).__mro__ if CODES.get(cls.__name__) is cls)
    return next(names, ActorCrashedError.__name__)


def _traceback(error: BaseException) -> str:
    if isinstance(error, ActorCrashedError):
        return error.remote_traceback
    if isinstance(error, PrimeError):
        return ""
    return "".join(traceback.format_exception(error))


def to_frame(correlation: int, error: BaseException) -> Fail:
    """Describe an error for the other side; texts are cut to what a frame may carry."""
    known = isinstance(error, PrimeError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, PrimeError) else ""
    trace = clipped(_traceback(error), TRACEBACK_CHARS_MAX)
    return Fail(correlation, _code(error), clipped(text), clipped(hint), trace)


def from_frame(frame: Fail) -> PrimeError:
    """Build this side's error; a code outside the table reads as a crash that names it."""
    known = CODES.get(frame.code)
    if known is None:
        text = f"{frame.code}: {frame.text}"
        return ActorCrashedError(text, hint=frame.hint, remote_traceback=frame.traceback)
    if issubclass(known, ActorCrashedError):
        return known(frame.text, hint=frame.hint, remote_traceback=frame.traceback)
    return known(frame.text, hint=frame.hint)
