"""`events.jsonl` in the run's folder: every fact, a line each. A resumed run goes on in the same file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from prime.trainer.facts import Fact
from prime.trainer.track.lines import fact_of, line_of

FILE: Final = "events.jsonl"


class Jsonl:
    """The tracker that every run has. Raises `OSError` where its folder cannot be written to."""

    def __init__(self, _job: Any, folder: Path, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torn = _is_torn(folder / FILE)
        self._clock = clock
        self._file = (folder / FILE).open("a", encoding="utf-8", buffering=1)
        if torn:
            self._file.write("\n")  # ends what a crash left half written, so that the next line stands alone

    def event(self, fact: Fact) -> None:
        """Append a line; it is with the operating system when this returns."""
        self._file.write(line_of(fact, self._clock()) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_torn(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            opened.seek(-1, 2)
            return opened.read(1) != b"\n"
    except OSError:  # it is not there, or empty
        return False


def read_events(folder: Path) -> Iterator[tuple[Fact, float]]:
    """Yield the facts of a run and their times (seconds since 1970); lines that are none are passed over.

    There are none where no file can be read: who writes there next is told why.
    """
    try:
        file = (folder / FILE).open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        yield from filter(None, map(fact_of, file))
