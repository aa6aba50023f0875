"""Reply slots: where the one answer to an ask goes. A parked task instead of a channel."""

from __future__ import annotations

import math
from typing import Any

import trio

from prime.actor.deadlines import Deadlines, Timer


class Slot:
    """The place where one task waits for one answer; later answers are reported to `late`."""

    __slots__ = ("_done", "_error", "_task", "_timer", "_value")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._timer: Timer | None = None
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Tell whether the answer came or the asker gave up."""
        return self._done

    def reply(self, value: Any) -> None:
        """Answer with a value; only the first answer counts."""
        if not self._done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Answer with an error; only the first answer counts."""
        if not self._done:
            self._error = error
            self._finish()

    def arm(self, deadlines: Deadlines, deadline: float, error: BaseException) -> None:
        """Fail with `error` at `deadline` unless an answer comes first."""
        if deadline != math.inf:
            self._timer = deadlines.at(deadline, lambda: self.fail(error))

    async def wait(self) -> Any:
        """Return the answer or raise its error. Cancelling gives the slot up."""
        if self._done:
            try:
                await trio.lowlevel.checkpoint()
            finally:
                self.close()
        else:
            self._task = trio.lowlevel.current_task()
            try:
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            finally:
                self.close()
        if self._error is not None:
            raise self._error
        return self._value

    def close(self) -> None:
        """Give up: a later answer is ignored and the timer is gone."""
        self._done = True
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _abort(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._done = True
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self) -> None:
        self._done = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
