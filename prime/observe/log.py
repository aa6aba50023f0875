"""Facts become log lines: the bridge from the runtime's plain records to structlog."""

from __future__ import annotations

import re
from typing import Any

import attrs
import structlog

from prime.actor import ActorFailed, SupervisorGaveUp

_QUIET = frozenset(
    {"ActorStarted", "ActorStopped", "ContactAdded", "DeadLetter", "LookupEnded", "RecordHeld", "StateRecovered"}
)
"""Facts that a node at rest would still produce: shown at level debug."""


SHOWS_TRACEBACKS = "PRIME_LOG__LEVEL=debug prime node start"
"""The command under which the traceback of a death notice is in the log too."""


class FactLog:
    """An observer for `System.subscribe`: one line for each fact, named by its class."""

    def __init__(self, logger: Any = None) -> None:
        self._logger = logger if logger is not None else structlog.get_logger("prime")

    def __call__(self, fact: Any) -> None:
        """Write one fact. The message of a death notice is its whole sentence; a traceback goes to debug."""
        name = _words(type(fact).__name__)
        if isinstance(fact, ActorFailed):
            self._logger.error(str(fact), traceback_with=SHOWS_TRACEBACKS)
            self._logger.debug(name, traceback=fact.traceback)
        elif isinstance(fact, SupervisorGaveUp):
            self._logger.error(name, path=fact.path, error=fact.error)
        elif type(fact).__name__ in _QUIET:
            self._logger.debug(name, **_fields(fact))
        else:
            self._logger.info(name, **_fields(fact))


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _fields(fact: Any) -> dict[str, Any]:
    return attrs.asdict(fact, recurse=False) if attrs.has(type(fact)) else {"fact": str(fact)}
