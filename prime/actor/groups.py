"""Exception groups with one error are unwrapped where a block promises that very error."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def one_error() -> AsyncIterator[None]:
    """Raise the error of a group of exactly one itself, however deep; a group of several stays whole."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from error.__cause__
