"""Cancellation at every await: run a piece of code again and again, each time cancelled at another of its waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class _Steps(trio.abc.Instrument):
    """Counts how often one task waits, and cancels a scope the so-manieth time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int, *, late: bool) -> None:
        self.count = 0
        self._task = task
        self._scope = scope
        self._step = step
        self._late = late

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.count += 1
            if self.count == self._step and not self._late:
                self._scope.cancel()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and self.count == self._step and self._late:
            self._scope.cancel()


async def cancelled_at(step: int, function: Callable[..., Awaitable[Any]], *args: Any, late: bool = False) -> int:
    """Run `function(*args)` and cancel it while it waits for the `step`-th time, counted from 1; 0 cancels nothing.

    With `late` what it waits for has already come when it is cancelled, so the next wait is what is cut short. Returns
    how often it waited: run it with 0 first, then with each number up to that, and look each time whether it left
    anything behind. The waits of tasks that it starts do not count.
    """
    with trio.CancelScope() as scope:
        steps = _Steps(trio.lowlevel.current_task(), scope, step, late=late)
        trio.lowlevel.add_instrument(steps)
        try:
            await function(*args)
        finally:
            trio.lowlevel.remove_instrument(steps)
    return steps.count
