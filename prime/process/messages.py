"""What a process actor's parent and its child process say to each other beside the actor's own messages."""

from __future__ import annotations

from prime.wire import Ask, Payload, message, record

CONTROL_PATH = "/process"
"""Where each side of the pair hears these messages; no supervisor can have the actor of this path."""


@record
class Failed:
    """Why the child's actor failed: the name of the error's class, and texts."""

    code: str
    text: str
    hint: str
    trace: str
    last_message: str
    causes: tuple[str, ...] = ()


@record
class Arrived:
    """What has come to the child's actor: so many tells, and the asks up to this correlation.

    Of these, `waiting_tells` (by number, from 1) and `waiting_asks` (by correlation) were not begun; `aside` of them
    are stashed.
    """

    tells: int = 0
    ask: int = 0
    waiting_tells: tuple[int, ...] = ()
    waiting_asks: tuple[int, ...] = ()
    aside: int = 0


@message(tag=0x050)
class StartActor(Ask[Failed | None]):
    """Import `module` (or run the script), call `factory` in it with `args`, and let the actor live at `path`.

    Answered when its `started` has returned, with `None`, or when it has failed.
    """

    module: str
    factory: str
    script: str
    path: str
    args: bytes
    buffers: tuple[Payload, ...]
    shutdown_s: float


@message(tag=0x051)
class StopActor(Ask[Arrived]):
    """Stop the actor in order; answered when its `stopping` has returned."""


@message(tag=0x052)
class ActorEnded(Ask[None]):
    """The child's actor ended, in order if nothing failed; the process ends when this is answered."""

    failed: Failed | None
    arrived: Arrived


@message(tag=0x053)
class Progress:
    """The actor has begun more of what came."""

    arrived: Arrived


@message(tag=0x054)
class Undelivered:
    """A message became a dead letter in the child; `kind` is its class name, never its content."""

    path: str
    kind: str
    reason: str
