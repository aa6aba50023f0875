"""When a supervisor restarts a child, how long it waits, and when it gives up. Pure: the clock reading comes in."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

import attrs

from prime.errors import ActorUsageError

if TYPE_CHECKING:
    from random import Random

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted with a failed child: itself; every child; itself and those started after it (OTP's names)."""

ChildKind = Literal["permanent", "transient", "temporary"]
"""When a child is restarted: always; only after a failure; never (OTP's names)."""

STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")
CHILD_KINDS: tuple[ChildKind, ...] = ("permanent", "transient", "temporary")


@attrs.frozen
class Restart:
    """Restart intensity: at most `max` restarts in any `within` seconds, spaced by exponential backoff.

    `backoff` is (first delay, longest delay) in seconds; each delay is shortened by a random share of up to a half,
    so that children that failed together do not return together.

    A failure of one of the classes in `hopeless` would only come again, such as data that is not there: the
    supervisor does not restart the child then, but gives up at once and fails with that very error.
    """

    max: int = 5
    within: float = 10.0
    backoff: tuple[float, float] = (0.1, 5.0)
    hopeless: tuple[type[Exception], ...] = ()

    def __attrs_post_init__(self) -> None:
        first, longest = self.backoff
        if not self.max >= 0 or not self.within > 0 or not 0 <= first <= longest:
            raise ActorUsageError(
                f"impossible restart intensity: {self}",
                hint="max must be >= 0, within > 0, and backoff (first, longest) with 0 <= first <= longest",
            )


class RestartWindow:
    """The restarts of one supervisor within the sliding window of its `Restart`."""

    def __init__(self, restart: Restart, random: Random) -> None:
        self._restart = restart
        self._random = random
        self._times: deque[float] = deque()

    def left(self, now: float) -> int:
        """Return how many restarts there is room for at `now`."""
        while self._times and self._times[0] <= now - self._restart.within:
            self._times.popleft()
        return self._restart.max - len(self._times)

    def next_delay_s(self, now: float) -> float | None:
        """Record one failure at `now`; return how long to wait before the restart, or `None` to give up."""
        if self.left(now) <= 0:
            return None
        self._times.append(now)
        first, longest = self._restart.backoff
        delay_s = min(first * 2.0 ** min(len(self._times) - 1, 64), longest)
        return delay_s * (1.0 - 0.5 * self._random.random())


def should_restart(kind: ChildKind, *, failed: bool) -> bool:
    """Tell whether a child of this kind comes back after it ended."""
    return kind == "permanent" or (kind == "transient" and failed)


def group_of(strategy: Strategy, index: int, count: int) -> range:
    """Return the positions, in start order, of the children that restart when the child at `index` failed."""
    if strategy == "one_for_one":
        return range(index, index + 1)
    if strategy == "one_for_all":
        return range(count)
    return range(index, count)
