"""A mailbox: how many messages may wait for an actor, in which order, and what happens to the next one. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import attrs

from prime.errors import ActorUsageError

Full = Literal["wait", "reject", "drop_oldest", "drop_newest"]
FULL_POLICIES: tuple[Full, ...] = ("wait", "reject", "drop_oldest", "drop_newest")

OnRestart = Literal["keep", "clear"]


@attrs.frozen
class Mailbox:
    """Room for `capacity` messages; `full` says what a sender meets when there is none.

    `wait`: the sender waits (`tell`) or is refused (`tell_nowait`). `reject`: `MailboxFullError`.
    `drop_oldest`, `drop_newest`: one message becomes a dead letter. System messages (stop, `Down`) never count
    and are never dropped.

    `lanes` names message classes that overtake: those of the first lane go first, then those of the second, and last
    whatever no lane names. Within a lane the order of sending is kept. A lane of its own never gives room of its own.

    `on_restart` says whether what waits (stashed messages too) is kept for the next incarnation or becomes dead
    letters. `stash` bounds how many messages the actor may put aside.
    """

    capacity: int = 1024
    full: Full = "wait"
    lanes: tuple[tuple[type, ...], ...] = ()
    on_restart: OnRestart = "keep"
    stash: int = 1024

    def __attrs_post_init__(self) -> None:
        kinds = [kind for lane in self.lanes for kind in lane]
        if (
            not self.capacity >= 1
            or not self.stash >= 0
            or self.full not in FULL_POLICIES
            or self.on_restart not in ("keep", "clear")
            or len(kinds) != len(set(kinds))
        ):
            raise ActorUsageError(
                f"impossible mailbox: {self}",
                hint=f"capacity >= 1, stash >= 0, full one of {', '.join(FULL_POLICIES)}, on_restart keep or clear, "
                "and no class in two lanes",
            )

    def queue(self) -> deque[Any] | LaneQueue:
        """Return an empty queue of this shape."""
        return LaneQueue(self.lanes) if self.lanes else deque()


@attrs.define(slots=True, eq=False)
class Envelope:
    """A message in a mailbox that carries more than itself; a bare message needs none.

    `deadline` is on the system's clock: an ask whose deadline has passed is not run. `sender` is the far node, or
    an empty string for a local one. `trace` is the context of whoever traces. `chain` is, of an ask, who waits for its
    answer: the cell of a local actor, or the ask chain that came from another node, the first who asked first.
    """

    message: Any
    slot: Any = None
    deadline: float | None = None
    sender: str = ""
    trace: str | None = None
    chain: Any = None


class LaneQueue:
    """A queue in which some classes overtake: as a deque, but `popleft` takes from the first lane that has any."""

    __slots__ = ("_lane_of", "_lanes", "_last", "_size")

    def __init__(self, lanes: tuple[tuple[type, ...], ...]) -> None:
        self._last = len(lanes)
        self._lane_of = {kind: number for number, lane in enumerate(lanes) for kind in lane}
        self._lanes: tuple[deque[Any], ...] = tuple(deque() for _ in range(len(lanes) + 1))
        self._size = 0

    def _of(self, entry: Any) -> deque[Any]:
        kind = type(entry.message) if type(entry) is Envelope else type(entry)
        return self._lanes[self._lane_of.get(kind, self._last)]

    def append(self, entry: Any) -> None:
        """Put an entry last in its lane."""
        self._of(entry).append(entry)
        self._size += 1

    def popleft(self) -> Any:
        """Take the next entry. Raises `IndexError` when there is none."""
        for lane in self._lanes:
            if lane:
                self._size -= 1
                return lane.popleft()
        raise IndexError("the mailbox is empty")

    def pop_victim(self) -> Any:
        """Take the oldest entry of the last lane that has any: what `drop_oldest` gives up first."""
        for lane in reversed(self._lanes):
            if lane:
                self._size -= 1
                return lane.popleft()
        raise IndexError("the mailbox is empty")

    def extendleft(self, entries: Iterable[Any]) -> None:
        """Put entries first in their lanes, each before the one before it, as `deque.extendleft` does."""
        for entry in entries:
            self._of(entry).appendleft(entry)
            self._size += 1

    def clear(self) -> None:
        """Forget every entry."""
        for lane in self._lanes:
            lane.clear()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Any:
        for lane in self._lanes:
            yield from lane
