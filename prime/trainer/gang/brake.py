"""Where a rank halts: two threads agree on it, torch's, which makes steps, and the event loop's, which hears the gang."""

from __future__ import annotations

import threading


class Brake:
    """The agreed end of one rank's generation. A step that was begun is never taken back."""

    def __init__(self, step: int) -> None:
        self._changed = threading.Condition()
        self._begun = step
        """The newest step that was begun, or is made."""
        self._limit: int | None = None
        self._settled = False
        self._released = False

    def begin(self, step: int) -> bool:
        """Tell whether `step` may be made, and wait as long as that is open; from then on it is begun. Torch's thread."""
        with self._changed:
            while self._limit is not None and step > self._limit and not self._settled and not self._released:
                self._changed.wait()
            if self._released or (self._settled and self._limit is not None and step > self._limit):
                return False
            self._begun = step
            return True

    def halt_after(self, step: int) -> bool:
        """Halt at the end of a step, if none after it was begun; tell whether that is so. A later word counts."""
        with self._changed:
            agreed = self._begun <= step and not self._settled
            if agreed:
                self._limit = step
            self._changed.notify_all()
            return agreed

    def settle(self, step: int) -> None:
        """Make the step that was agreed on the last."""
        with self._changed:
            self._settled = self._limit == step
            self._changed.notify_all()

    def release(self) -> None:
        """Let the thread go: its generation is over."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    @property
    def is_released(self) -> bool:
        """Tell whether the thread was let go."""
        return self._released
