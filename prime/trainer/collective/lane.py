"""A thread beside the one that computes, which does one thing after the other: so a reduction overlaps a backward pass.

The codec's engines and gloo both release the interpreter lock. Things are done in the order in which they were handed
in; that order is the same on every rank, because the backward pass is.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Errand:
    """A thing handed to a lane."""

    def __init__(self, work: Callable[[], None], follower: Callable[[], None]) -> None:
        self._work = work
        self._follower = follower
        self._done = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it, on the lane's thread."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            self._error = error
        finally:
            self._follower()
            self._done.set()

    def wait(self) -> None:
        """Return when it is done; raise what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error


class Lane:
    """The thread. It starts with the first errand and ends with `close`.

    It is a daemon: a rank that is blocked by a lost peer can still exit.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._errands: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def hand_in(self, work: Callable[[], None], follower: Callable[[], None]) -> Errand:
        """Have `work` done after all that was handed in before, and then, whether it failed or not, `follower`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        errand = Errand(work, follower)
        self._errands.put(errand)
        return errand

    def close(self) -> None:
        """Let the thread end after what was handed in."""
        if self._thread is not None:
            self._errands.put(None)
            self._thread = None

    def _run(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand.run()
