"""What the programs of `child.py` write, so that their killer knows what has to be there.

Write number n has three changes: `turn` becomes n, an entry of its own comes, and the entry of write n - 50 goes.
"""

from __future__ import annotations

from prime.dht.backend import Entry, Removal

KEPT = 50


def changes_of(number: int) -> list[Entry | Removal]:
    """Return what a write does."""
    body = b"%d:" % number + b"." * (number * 37 % 4096)
    return [
        Entry("turn", b"", b"%d" % number),
        Entry("record", b"%d" % number, body),
        Removal("record", b"%d" % (number - KEPT)),
    ]


def bodies_after(number: int) -> dict[tuple[str, bytes], bytes]:
    """Return what is in the store after so many writes."""
    found = {}
    for each in range(max(number - KEPT, 0) + 1, number + 1):
        turn, record, _ = changes_of(each)
        found["turn", b""] = turn.body  # type: ignore[union-attr]
        found["record", record.name] = record.body  # type: ignore[union-attr]
    return found
