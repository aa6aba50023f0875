"""What happened in a run, in order, and its hash: the trace (pure).

Two runs are the same when their traces are. An event is plain text, without addresses of objects, paths of files or
signatures, so that a trace depends on nothing but the seed, the program and the version of Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

import attrs

EVENTS_MAX = 1_000_000
"""How many events are kept; all are in the hash."""
_BATCH = 512

# The verbs of the world itself: who records an event and who draws it takes them from here.
STARTS: Final = "starts"
CRASHES: Final = "crashes"
PAUSES: Final = "pauses"
GOES_ON: Final = "goes on"
SKEWS: Final = "skews"
CUT_OFF: Final = "cut off from"
REACHES: Final = "reaches"
PARTS: Final = "parts"
JOINS: Final = "joins"
LOSES: Final = "loses"
READS_SLOWLY: Final = "reads slowly"
DISK_FULL: Final = "disk is full"
DISK_GONE: Final = "disk is gone"
DISK_NOT_FULL: Final = "disk is full no more"
DISK_NOT_GONE: Final = "disk is gone no more"
FLIPS: Final = "flips a bit"
CALMS: Final = "calms down"
REPORTS: Final = "reports"
SENDS: Final = "sends"
HANDLES: Final = "handles"
VIOLATES: Final = "violates"

FAULTS: Final = frozenset(
    {CRASHES, PAUSES, SKEWS, CUT_OFF, PARTS, LOSES, READS_SLOWLY, DISK_FULL, DISK_GONE, FLIPS, VIOLATES}
)
"""What goes wrong, and the verdict: `violates`, which no note can be."""


@attrs.frozen(slots=True)
class Event:
    """One thing that happened at `at_s` (virtual seconds) on `node` (empty: in the world).

    `kind` is a verb in the present (`sends`, `handles`, `crashes`), `subject` who or what it is about, e.g. an actor's
    path, and `detail` the rest.
    """

    at_s: float
    node: str
    kind: str
    subject: str = ""
    detail: str = ""


class History:
    """Events as they come; `notice` hears each of them."""

    def __init__(self, notice: Callable[[Event], None] | None = None) -> None:
        self.count = 0
        self.is_closed = False
        """Whether the run is over: what its end undoes is not part of it."""
        self._notice = notice
        self._events: list[Event] = []
        self._unhashed: list[str] = []
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, at_s: float, node: str, kind: str, subject: str = "", detail: str = "") -> None:
        """Append an event."""
        if self.is_closed:
            return
        event = Event(at_s, node, kind, subject, detail)
        if self.count < EVENTS_MAX:
            self._events.append(event)
        self.count += 1
        self._write(f"{at_s!r}\x1f{node}\x1f{kind}\x1f{subject}\x1f{detail}")
        if self._notice is not None:
            self._notice(event)

    def add_bytes(self, at_s: float, source: str, target: str, size_bytes: int, checksum: int) -> None:
        """Put bytes that crossed the network into the hash alone: they are too many to keep."""
        if self.is_closed:
            return
        self._write(f"{at_s!r}\x1f{source}\x1f{target}\x1f{size_bytes}\x1f{checksum}")

    def _write(self, text: str) -> None:
        self._unhashed.append(text)
        if len(self._unhashed) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._unhashed:
            self._hash.update(("\x1e".join(self._unhashed) + "\x1e").encode("utf-8", "backslashreplace"))
            self._unhashed.clear()

    @property
    def trace(self) -> str:
        """Return the hash of all events so far, in hexadecimal digits."""
        self._flush()
        return self._hash.copy().hexdigest()

    @property
    def last_at_s(self) -> float:
        """Return when the last event happened that was kept."""
        return self._events[-1].at_s if self._events else 0.0

    @property
    def events(self) -> tuple[Event, ...]:
        """Return the events that were kept, the first to happen first."""
        return tuple(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return self.count
