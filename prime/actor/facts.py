"""Facts the runtime emits: plain records of what happened, in the past tense; `observe/` subscribes to them."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class ActorStarted:
    """An actor's `started` returned; `restarts` counts its earlier incarnations."""

    path: str
    restarts: int


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

    def __str__(self) -> str:
        node = f" on node {self.peer}" if self.peer else ""
        return (
            f"{self.path}{node} failed while handling {self.last_message}: {self.error}. Decision: {self.decision}. "
            "Its traceback is in the node's log at level debug."
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
