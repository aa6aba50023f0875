"""Facts the runtime emits: plain records of what happened, in the past tense; `observe/` subscribes to them."""

from __future__ import annotations

from typing import Any

import attrs

from prime.errors import ActorCrashedError

_CAUSES_MAX = 8


@attrs.frozen
class ActorStarted:
    """An actor's `started` returned; `restarts` counts its earlier incarnations."""

    path: str
    restarts: int


@attrs.frozen
class ActorPassivated:
    """An idle actor's incarnation ended; its next message starts another."""

    path: str


@attrs.frozen
class ActorStopped:
    """An actor ended for good and in order."""

    path: str
    reason: str


@attrs.frozen
class ActorFailed:
    """The death notice: who failed, on what, why, and what the supervisor decided."""

    path: str
    peer: str
    last_message: str
    error: str
    traceback: str
    decision: str
    causes: tuple[str, ...] = ()
    """What the error was raised from, outermost first."""

    def __str__(self) -> str:
        node = f" on node {self.peer}" if self.peer else ""
        chain = "".join(f", caused by {cause}" for cause in self.causes)
        return (
            f"{self.path}{node} failed while handling {self.last_message}: {self.error}{chain}. "
            f"Decision: {self.decision}."
        )


@attrs.frozen
class SupervisorGaveUp:
    """More failures than the restart intensity allows: the supervisor stopped its children and failed itself."""

    path: str
    error: str


@attrs.frozen
class DeadLetter:
    """A message that nobody will handle; `kind` is its class name, never its content."""

    path: str
    kind: str
    reason: str


def kind_of(message: Any) -> str:
    """Return the class name of a message: what logs may show of it."""
    return type(message).__name__


def words_of(error: BaseException) -> str:
    """Return an error in words, also one whose own `__str__` fails: whoever reports a failure must not fail of it."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a user's method, run while a failure is being handled
        return f"{type(error).__name__}, which cannot say why"


def causes_of(error: BaseException) -> tuple[str, ...]:
    """Return the chain of what an error was raised from, in words; at most eight links, and no loop.

    A crash in another process brings the words of its own chain.
    """
    chain: list[str] = list(error.causes) if isinstance(error, ActorCrashedError) else []
    seen = {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and id(cause) not in seen and len(chain) < _CAUSES_MAX:
        seen.add(id(cause))
        chain.append(words_of(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return tuple(chain)
