"""Reply slots: where the one answer to an ask goes. A parked task instead of a channel."""

from __future__ import annotations

import math
from typing import Any, Final

import trio

from prime.actor.deadlines import Deadlines
from prime.errors import DeadlineError, PrimeError

SLOW: Final = "`system.tree()` shows what waits in its mailbox and whom it waits for; or allow a longer timeout"
"""The hint for whoever got no answer in time."""


def expired(path: str) -> DeadlineError:
    """Return what whoever asked hears of an ask that was not run, because its deadline had passed."""
    return DeadlineError(f"the ask waited in the mailbox of {path} past its deadline", hint=SLOW)


class Slot:
    """The place where one task waits for one answer; later answers are ignored."""

    __slots__ = ("_error", "_owner", "_task", "_value", "_what", "done")

    def __init__(self) -> None:
        self.done = False
        """Whether the answer came or the asker gave up."""
        self._task: trio.lowlevel.Task | None = None
        self._owner: Deadlines | None = None
        self._what: tuple[str, str, float] = ("", "", 0.0)
        self._value: Any = None
        self._error: BaseException | None = None

    def reply(self, value: Any) -> None:
        """Answer with a value; only the first answer counts."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Answer with an error; only the first answer counts."""
        if not self.done:
            self._error = error
            self._finish()

    def arm(self, deadlines: Deadlines, deadline: float, path: str, kind: str, timeout_s: float) -> None:
        """Fail at `deadline` unless an answer comes first; the rest is for the words of that failure."""
        if deadline != math.inf:
            self._owner = deadlines
            self._what = (path, kind, timeout_s)
            deadlines.add(deadline, self)

    @property
    def live(self) -> bool:
        """See `Due.live`."""
        return self._owner is not None

    def fire(self) -> bool:
        """See `Due.fire`: the time is up."""
        if self._owner is None:
            return False
        self._owner = None
        if not self.done:
            path, kind, timeout_s = self._what
            self.fail(DeadlineError(f"no answer from {path} to {kind} within {timeout_s:g} s", hint=SLOW))
        return True

    async def wait(self) -> Any:
        """Return the answer or raise its error. Cancelling gives the slot up."""
        try:
            if self.done:
                await trio.lowlevel.checkpoint()
            else:
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            self.close()
        return self.answer()

    def answer(self) -> Any:
        """Return the answer that came, or raise its error."""
        error, value = self._error, self._value
        self._error = self._value = None
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Give up: a later answer is ignored and the deadline is gone."""
        self.done = True
        self._task = None
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.note_cancelled()

    def _abort(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self.done = True
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self) -> None:
        self.done = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)


class Later:
    """The answer to an ask whose handler has returned: reply, or fail, once and from anywhere.

    An incarnation that ends without having answered fails the ask with `ActorCrashedError`.
    """

    __slots__ = ("_disown", "_slot")

    def __init__(self, slot: Any) -> None:
        self._slot = slot
        self._disown: Any = None

    def bind(self, disown: Any) -> None:
        """Call `disown(self)` when it has been answered."""
        self._disown = disown

    def reply(self, value: Any) -> None:
        """Answer; only the first answer counts, and one that comes past the deadline is dropped."""
        self._settle().reply(value)

    def fail(self, error: PrimeError) -> None:
        """Answer with an error."""
        self._settle().fail(error)

    def _settle(self) -> Any:
        disown, self._disown = self._disown, None
        if disown is not None:
            disown(self)
        return self._slot
