"""The points of a round at which a process can be made to die, each named; and the observer that makes it die there.

A point is passed on the loop of the victim itself, so the process ends between two of its own steps and not after some
sleep of the test's: what it had told before is out, what comes after is not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from prime.store.files import SystemFiles
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg

EVENT, BEFORE, AFTER, TOLD, TORN, SYNC = "event", "before", "after", "told", "torn", "sync"
SPOOL_TORN, SPOOL_SYNC = "spool torn", "spool sync"
LEADER, MEMBER, ANY = "leader", "member", "any"


@attrs.frozen
class Point:
    """A place in the protocol: `where` says at what the observer looks, `role` who of the view comes by."""

    where: str
    is_it: Callable[[Any], bool]
    role: str = ANY
    count: int = 1


def _received(kind: type) -> Callable[[Any], bool]:
    return lambda e: isinstance(e, cmd.Received) and isinstance(e.message, kind)


def _sends(kind: type) -> Callable[[Any], bool]:
    return lambda c: isinstance(c, cmd.Send) and isinstance(c.message, kind)


def _persists(kind: type) -> Callable[[Any], bool]:
    return lambda c: isinstance(c, cmd.Persist) and isinstance(c.record, kind)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda thing: isinstance(thing, kinds)


def _of_contribution(m: Any) -> bool:
    return isinstance(m, msg.Chunk) and not m.seal


def _of_result(m: Any) -> bool:
    return isinstance(m, msg.Chunk) and bool(m.seal)


def _others_reduction(e: Any) -> bool:
    return _received(msg.Report)(e) and bool(e.message.reduced)


POINTS = {
    "scatter": Point(TOLD, _of_contribution, count=2),
    "offered": Point(EVENT, _is(cmd.Contributed)),
    "holding": Point(EVENT, _is(cmd.PartHeld)),
    "before seal": Point(BEFORE, _sends(msg.Seal), LEADER),
    "half sealed": Point(TOLD, _is(msg.Seal), LEADER),
    "after seal": Point(EVENT, _others_reduction, LEADER),
    "seal heard": Point(EVENT, _received(msg.Seal), MEMBER),
    "reduce": Point(BEFORE, _is(cmd.Reduce)),
    "reduced": Point(EVENT, _is(cmd.Reduced)),
    "gather": Point(TOLD, _of_result),
    "half gathered": Point(TOLD, _of_result, count=2),
    "before propose": Point(BEFORE, _sends(msg.Propose), LEADER),
    "half proposed": Point(TOLD, _is(msg.Propose), LEADER),
    "propose heard": Point(EVENT, _received(msg.Propose), MEMBER),
    "before vote": Point(BEFORE, _persists(msg.Accepted)),
    "vote torn": Point(TORN, _persists(msg.Accepted)),
    "vote unsynced": Point(SYNC, _persists(msg.Accepted)),
    "vote written": Point(AFTER, _persists(msg.Accepted)),
    "ready": Point(TOLD, _is(msg.Ready), MEMBER),
    "decided, told nobody": Point(BEFORE, _persists(msg.Decided), LEADER),
    "decision torn": Point(TORN, _persists(msg.Decided), LEADER),
    "decision written": Point(AFTER, _persists(msg.Decided), LEADER),
    "half committed": Point(TOLD, _is(msg.Commit), LEADER),
    "outcome heard": Point(BEFORE, _persists(msg.Decided), MEMBER),
    "apply": Point(BEFORE, _is(cmd.Apply)),
}
"""In the order of a round."""

SPOOLED = ("bytes torn", "bytes unsynced")
"""Of a member that stages the bytes of its vote beside its journal (`spooled`), the first while they come."""
POINTS_SPOOLED = {
    **POINTS,
    "bytes torn": Point(SPOOL_TORN, lambda _: True),
    "bytes unsynced": Point(SPOOL_SYNC, lambda _: True),
}


@attrs.define
class Observer:
    """Sees what its aggregator passes; once armed it sends its own process a signal at a point."""

    say: Callable[..., None]
    armed: str = ""
    signal: int = signal.SIGKILL
    round: int = 0
    left: int = 0
    writing: bool = False
    """Whether what the point names is being written just now."""
    deaf: tuple[str, int] = ("", 0)
    """Messages of which kind and round do not arrive."""

    def arm(self, point: str, round_: int, signal_: int) -> None:
        """From now on the point of that round is the end (or, with SIGSTOP, a pause)."""
        self.armed, self.round, self.signal, self.left = point, round_, signal_, POINTS_SPOOLED[point].count

    def disarm(self) -> int:
        """From now on no point is the end; return the round in which one would have been."""
        self.armed = ""
        return self.round

    def is_lost(self, event: Any) -> bool:
        """Tell whether an event is the arrival of a message that gets lost."""
        if not isinstance(event, cmd.Received):
            return False
        return (type(event.message).__name__, _round_of(event)) == self.deaf

    def passes(self, where: str, thing: Any) -> None:
        """Take note of a thing at one of its places; may not return."""
        if self.is_at(where, thing):
            self.left -= 1
            if self.left == 0:
                self.strike()

    def is_at(self, where: str, thing: Any) -> bool:
        """Tell whether a thing is the one of the armed point."""
        point = POINTS_SPOOLED.get(self.armed)
        if point is None or point.where != where or _round_of(thing) not in (self.round, None):
            return False
        return point.is_it(thing)

    def is_writing(self, where: str) -> bool:
        """Tell whether what the armed point names is being written now, and the end is to be there."""
        is_written = self.writing or where in (SPOOL_TORN, SPOOL_SYNC)  # bytes are staged for the round's vote alone
        return is_written and bool(self.armed) and POINTS_SPOOLED[self.armed].where == where

    def strike(self) -> None:
        """Say where it ends, and end."""
        point, self.armed = self.armed, ""
        self.say(kind="point", point=point, round=self.round, struck_at=time.monotonic())
        os.kill(os.getpid(), self.signal)


class MortalFiles(SystemFiles):
    """The disk of a process that may die within a write (its half is there) or before a sync."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._spools: set[int] = set()

    def open(self, path: Path) -> int:
        handle = super().open(path)
        (self._spools.add if path.name.isdecimal() else self._spools.discard)(handle)
        return handle

    def write(self, handle: int, data: bytes | memoryview, at: int) -> int:
        observer = self._observer
        if observer.is_writing(SPOOL_TORN if handle in self._spools else TORN) and len(data) > 16:
            super().write(handle, data[: len(data) // 2], at)
            observer.strike()
        return super().write(handle, data, at)

    def sync(self, handle: int) -> None:
        observer = self._observer
        if observer.is_writing(SPOOL_SYNC if handle in self._spools else SYNC):
            observer.strike()
        super().sync(handle)


def _round_of(thing: Any) -> int | None:
    """Return the round of a message, event or command, if it says one."""
    for holder in (
        thing,
        getattr(thing, "message", None),
        getattr(thing, "record", None),
        getattr(thing, "value", None),
    ):
        round_ = getattr(holder, "round", None)
        if round_ is None:
            round_ = getattr(getattr(holder, "value", None), "round", None)
        if round_ is not None:
            return int(round_)
    return None
