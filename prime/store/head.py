"""What an event store has of one key, as numbers: the rules that every store holds to (pure).

Events `deleted + 1` to `last` are there, and the snapshot holds the state after event number `snapshot`.
`deleted <= snapshot <= last`, so snapshot and events together always make the whole state.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from prime.errors import ActorUsageError, ConflictError, NotFoundError

KEY_SIZE_BYTES_MAX = 1024
EVENT_SIZE_BYTES_MAX = 256 << 20
"""What one event or snapshot may take: well below SQLite's own limit of 10^9 bytes."""


@attrs.frozen
class Head:
    """The numbers of one key; a key that nobody has written to has zeros. `name` in each call is for its errors."""

    last: int = 0
    deleted: int = 0
    snapshot: int = 0

    @property
    def is_sound(self) -> bool:
        """Tell whether these numbers can be."""
        return 0 <= self.deleted <= self.snapshot <= self.last

    def appended(self, name: str, expected: int, count: int) -> Head:
        """Return the head after `count` more events; raises `ConflictError` unless `expected` is the last number."""
        if expected != self.last:
            raise ConflictError(
                f"{name}: its last event is number {self.last}, not {expected}: another writer was there",
                hint="read the events after the last one you know, then decide again; one key has one writer",
            )
        return attrs.evolve(self, last=self.last + count)

    def readable(self, name: str, after: int) -> None:
        """Check that the event behind number `after` is not lost: raises `NotFoundError`, `ConflictError`."""
        if after < self.deleted:
            raise NotFoundError(
                f"{name}: the events up to number {self.deleted} were deleted",
                hint="begin with the snapshot, and read the events behind it",
            )
        if after > self.last:
            raise ConflictError(
                f"{name}: its last event is number {self.last}, so nothing can come behind {after}",
                hint="the reader knows more than the store: it read another file, or the key was forgotten",
            )

    def snapshotted(self, name: str, sequence: int) -> Head:
        """Return the head with a snapshot at `sequence`; raises `ConflictError` for one that cannot be the latest."""
        if not max(self.snapshot, 1) <= sequence <= self.last:
            raise ConflictError(
                f"{name}: a snapshot at number {sequence} cannot be the latest: the last event is number {self.last}, "
                f"the last snapshot at {self.snapshot}",
                hint="another writer was there; one key has one writer",
            )
        return attrs.evolve(self, snapshot=sequence)

    def trimmed(self, name: str, up_to: int) -> Head:
        """Return the head without the events up to `up_to`; raises `ActorUsageError` if no snapshot covers them."""
        if up_to > self.snapshot:
            raise ActorUsageError(
                f"{name}: the events up to number {up_to} are in no snapshot (the latest is at {self.snapshot})",
                hint="save a snapshot first",
            )
        return attrs.evolve(self, deleted=max(self.deleted, up_to))


def checked_key(key: str) -> bytes:
    """Return a key's bytes; raises `ActorUsageError` for one that is empty, too long or not text."""
    try:
        data = key.encode()
    except (UnicodeEncodeError, AttributeError):
        data = b""
    if not 0 < len(data) <= KEY_SIZE_BYTES_MAX:
        raise ActorUsageError(f"{key!r} cannot be a key", hint=f"text of 1 to {KEY_SIZE_BYTES_MAX} bytes")
    return data


def checked_bodies(bodies: Sequence[bytes | memoryview]) -> list[bytes]:
    """Return what is to be stored, as bytes of its own; raises `ActorUsageError` for what is too large."""
    for body in bodies:
        if len(body) > EVENT_SIZE_BYTES_MAX:
            raise ActorUsageError(f"{len(body)} bytes in one event", hint=f"{EVENT_SIZE_BYTES_MAX} bytes at most")
    return [bytes(body) for body in bodies]


def page_of(bodies: Sequence[bytes], size_bytes_max: int) -> list[bytes]:
    """Return the first of the bodies: as many as a page may hold by their size, one at least."""
    page: list[bytes] = []
    size_bytes = 0
    for body in bodies:
        size_bytes += len(body)
        if page and size_bytes > size_bytes_max:
            break
        page.append(body)
    return page
