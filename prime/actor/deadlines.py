"""One task that fires every timer of a system: ask deadlines and actors' own timers.

A cancel scope for each ask would cost more than the ask itself; one heap and one sleeping task do not.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Protocol

import trio

from prime.errors import ActorUsageError

_STALE_MIN = 512


class Due(Protocol):
    """Something with a time. It is `live` until it fires or says `note_cancelled`, whichever comes first."""

    @property
    def live(self) -> bool:
        """Tell whether it neither fired nor was cancelled."""
        ...

    def fire(self) -> bool:
        """Hear that the time has come, and return whether it was live. It must neither block nor raise."""
        ...


def not_a_time(what: str) -> ActorUsageError:
    """Return the error for a duration or a deadline that is not a number."""
    return ActorUsageError(f"{what} in NaN seconds", hint="give a number; math.inf where there is no limit")


class Timer:
    """One pending call; `cancel` makes it a no-op."""

    __slots__ = ("_call", "_owner", "live")

    def __init__(self, owner: Deadlines, call: Callable[[], Any]) -> None:
        self._owner = owner
        self._call: Callable[[], Any] | None = call
        self.live = True

    def fire(self) -> bool:
        """See `Due.fire`."""
        call, self._call = (
            self._call,
            None,
        )  # what it would call often holds the timer: freed at once, not by collection
        was_live, self.live = self.live, False
        if call is not None:
            call()
        return was_live

    def cancel(self) -> None:
        """Forget the call; harmless if it has already been made."""
        if self.live:
            self.live = False
            self._call = None
            self._owner.note_cancelled()


class Deadlines:
    """A heap of timers on Trio's clock, fired by `run`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Due]] = []
        self._count = 0
        self._stale = 0
        self._scope: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._heap) - self._stale

    def at(self, when: float, call: Callable[[], Any]) -> Timer:
        """Call `call()` at `when` (Trio's clock). It must neither block nor raise."""
        timer = Timer(self, call)
        self.add(when, timer)
        return timer

    def add(self, when: float, due: Due) -> None:
        """Fire `due` at `when`. Whoever ends it before says so with `note_cancelled`."""
        if math.isnan(when):  # it has no place in the order: every timer behind it would be lost
            raise not_a_time("a timer")
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, due))
        scope = self._scope
        if scope is not None and when < scope.deadline:
            scope.deadline = when

    def note_cancelled(self) -> None:
        """Count a cancelled timer and sweep the heap when most of it is cancelled, so memory stays flat."""
        self._stale += 1
        if self._stale > _STALE_MIN and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapq.heapify(self._heap)
            self._stale = 0

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            self._fire(trio.current_time())
            deadline = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=deadline) as self._scope:
                await trio.sleep_forever()

    def _fire(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            if not heapq.heappop(self._heap)[2].fire():
                self._stale -= 1
