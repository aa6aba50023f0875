"""Who is told of a run: its trackers, each error of theirs kept from it, and at the end its report.

`events.jsonl` is written where the facts come, so that it has a fact before anything follows from it. Every other tracker
has a thread and a bounded queue of its own: it may block, and holds up nobody.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import trio

from prime.errors import ConfigError, RunFailedError
from prime.trainer.facts import Fact, TrackerDropped
from prime.trainer.track.contract import Tracker, TrackerFactory
from prime.trainer.track.course import Course
from prime.trainer.track.files import write_report
from prime.trainer.track.jsonl import Jsonl, read_events

WAITING_MAX: Final = 10_000
"""A tracker that so many facts wait for is dropped."""
CLOSE_S: Final = 10.0
"""The longest that all trackers together may take to close."""
REPORT_S: Final = 60.0
"""The longest that the report may take; drawing the curves is most of it."""

Observer = Callable[[Fact], None]


class Tracking:
    """One run's trackers and observers. `tell` is called in the event loop's thread."""

    def __init__(self, trackers: dict[str, Tracker], clock: Callable[[], float] = time.time) -> None:
        self.course = Course()
        self._trackers = trackers
        self._clock = clock

    def tell(self, fact: Fact) -> None:
        """Tell everybody a fact; never raises what a tracker raised."""
        self.course.take(fact, self._clock())
        for name, tracker in tuple(self._trackers.items()):
            try:
                tracker.event(fact)
            except Exception as error:  # noqa: BLE001 - the border to what others wrote: a run ends over no tracker
                self._drop(name, error)

    def close(self) -> None:
        """Close all trackers, the last first, so that the events have what the others failed with; at most `CLOSE_S`."""
        until_s = time.monotonic() + CLOSE_S
        while self._trackers:
            name, tracker = self._trackers.popitem()
            try:
                if isinstance(tracker, Beside):
                    tracker.close_within(max(0.0, until_s - time.monotonic()))
                else:
                    tracker.close()
            except Exception as error:  # noqa: BLE001 - the same border
                self.tell(_dropped(name, error))

    def _drop(self, name: str, error: Exception) -> None:
        if (tracker := self._trackers.pop(name, None)) is not None:
            with contextlib.suppress(Exception):  # it has failed already
                tracker.close()
            self.tell(_dropped(name, error))


def _dropped(name: str, error: Exception) -> TrackerDropped:
    return TrackerDropped(tracker=name, error=f"{type(error).__name__}: {error}")


class Beside:
    """A tracker in a thread of its own: it is made, told and closed there. Its error is raised at the next call."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._make = make
        self._waiting: queue.SimpleQueue[Fact | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def event(self, fact: Fact) -> None:
        """Hand a fact over."""
        self._raise()
        if self._waiting.qsize() >= WAITING_MAX:
            raise RunFailedError(f"{WAITING_MAX} facts wait for it", hint="let it take them faster")
        self._waiting.put(fact)

    def close_within(self, timeout_s: float) -> None:
        """Let it take what waits, close, and end; `RunFailedError` if that takes longer."""
        self._raise()
        self._waiting.put(None)
        self._thread.join(timeout_s)
        self._raise()
        if self._thread.is_alive():
            raise RunFailedError(f"it did not close within {timeout_s:.0f} s", hint="let close() return sooner")

    def close(self) -> None:
        """Ask it to end, and do not wait."""
        self._waiting.put(None)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            tracker = self._make()
            while (fact := self._waiting.get()) is not None:
                tracker.event(fact)
            tracker.close()
        except Exception as error:  # noqa: BLE001 - told by the loop's thread
            self._error = error
        except BaseException as error:  # noqa: BLE001 - a SystemExit of somebody's library ends its thread, not the run
            self._error = RunFailedError(f"{type(error).__name__}: {error}", hint="a tracker must not end the program")


@contextlib.asynccontextmanager
async def open_tracking(job: Any, folder: Path, observers: Iterable[Observer] = ()) -> AsyncIterator[Tracking]:
    """Open what `job.tracking` names; at the end close it, and write the report of a run that has ended.

    Earlier sessions' facts are read first, so that course and report are those of the whole run. `observers` are
    called with each fact after the trackers, in the event loop's thread.

    Raises `ConfigError` for a tracker that cannot be imported or a folder that cannot be written to, `MissingExtraError` for TensorBoard without its
    package: before anything is trained.
    """
    makers = await trio.to_thread.run_sync(_makers, job.tracking)
    trackers: dict[str, Tracker] = {Jsonl.__name__: _events(job, folder)}
    tracking = Tracking(trackers)
    for fact, at_s in await trio.to_thread.run_sync(lambda: list(read_events(folder))):
        tracking.course.take(fact, at_s)
    trackers |= {name: Beside(name, _making(make, job, folder)) for name, make in makers.items()}
    trackers |= {f"observer {number}": _Watched(observer) for number, observer in enumerate(observers, 1)}
    try:
        yield tracking
    finally:
        await _finish(tracking, folder)


def _events(job: Any, folder: Path) -> Jsonl:
    try:
        return Jsonl(job, folder)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: the run's events cannot be written ({error.strerror})",
            hint="set `folder` to one that you may write to",
        ) from error


def _making(make: TrackerFactory, job: Any, folder: Path) -> Callable[[], Tracker]:
    return lambda: make(job, folder)


class _Watched:
    def __init__(self, observer: Observer) -> None:
        self.event = observer

    def close(self) -> None:
        pass


def _makers(tracking: Any) -> dict[str, TrackerFactory]:
    from prime.trainer.task import resolve

    makers: dict[str, TrackerFactory] = {name: resolve(name, "tracking.trackers") for name in tracking.trackers}
    if tracking.tensorboard:
        from prime.trainer.track.tensorboard import TensorBoard, check_installed

        check_installed()
        makers["TensorBoard"] = TensorBoard
    return makers


async def _finish(tracking: Tracking, folder: Path) -> None:
    """Close and report in a thread, also when cancelled, but then not for long."""
    with trio.CancelScope(shield=True) as scope:
        scope.deadline = trio.current_time() + CLOSE_S + 1
        await trio.to_thread.run_sync(tracking.close, abandon_on_cancel=True)
    if tracking.course.ended is not None and trio.current_effective_deadline() > trio.current_time():
        with trio.move_on_after(REPORT_S):
            await trio.to_thread.run_sync(write_report, tracking.course, folder, abandon_on_cancel=True)
