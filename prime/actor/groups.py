"""Exception groups with one error are unwrapped where a block promises that very error."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def one_error() -> AsyncIterator[None]:
    """Raise the error of a group of exactly one itself; a group of several stays whole."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__
