"""Virtual time: a test of an hour takes milliseconds, and takes the same ones each time.

On the virtual clock no second passes while a task can run; when all wait, time jumps to the next deadline. What runs in
a worker thread (`@on(..., thread=True)`, `trio.to_thread`) does not count as a task that can run: give such a test
`virtual_clock(idle_s=0.5)`, so that the clock jumps only after so many real seconds without news.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from prime.errors import ActorUsageError


def virtual_clock(*, jumps: bool = True, idle_s: float = 0.0) -> MockClock:
    """Return a clock that starts at 0 for `trio.run(..., clock=virtual_clock())`.

    It jumps by itself when every task waits and has waited for `idle_s` real seconds; with `jumps=False` time stands
    still until `advance`.
    """
    return MockClock(autojump_threshold=idle_s if jumps else math.inf)


async def settle() -> None:
    """Let every task run until all wait. No time passes."""
    with _at_most(math.inf):
        await wait_all_tasks_blocked()


async def advance(seconds: float) -> None:
    """Let the virtual clock go on by `seconds`, and return when all that was due by then has run.

    What can run now runs first; then each deadline on the way is met at its own time, in order: two timers of one
    second and of two do not fire together. Raises `ActorUsageError` where the clock is not virtual.
    """
    if seconds < 0:
        raise ActorUsageError(f"time does not go back by {-seconds:g} s", hint="advance by 0 seconds or more")
    with _at_most(0.0):
        await wait_all_tasks_blocked()
        await trio.sleep(seconds)
        await wait_all_tasks_blocked()


@contextlib.contextmanager
def _at_most(idle_s: float) -> Iterator[None]:
    """Make the running clock jump after `idle_s`, or sooner if it would anyway, for the length of the block."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        raise ActorUsageError(
            "this runs on the real clock, which nobody moves",
            hint="take the fixture `system` or `virtual_clock`, or trio.run(..., clock=virtual_clock())",
        )
    threshold_s = clock.autojump_threshold
    clock.autojump_threshold = min(threshold_s, idle_s)
    try:
        yield
    finally:
        clock.autojump_threshold = threshold_s
