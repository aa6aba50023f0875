"""News on their way from torch's thread to the event loop's: in order, bounded, and a full box holds torch up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from prime.trainer.gang.messages import Item

ITEMS_MAX = 1024
BATCH_MAX = 256
"""Items in one answer."""


class Outbox:
    """`wake` is called after each item, from the thread that put it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._items: deque[Item] = deque()
        self._room = threading.Condition()
        self._wake = wake

    def put(self, item: Item) -> None:
        """Put an item in; waits while the box is full, as the gang has fallen behind. Torch's thread."""
        with self._room:
            while len(self._items) >= ITEMS_MAX:
                self._room.wait()
            self._items.append(item)
        self._wake()

    def put_now(self, item: Item) -> None:
        """Put an item in without waiting: for the event loop's own few. Wakes nobody."""
        with self._room:
            self._items.append(item)

    def take(self) -> tuple[Item, ...]:
        """Take out what there is, at most `BATCH_MAX`."""
        with self._room:
            taken = tuple(self._items.popleft() for _ in range(min(BATCH_MAX, len(self._items))))
            self._room.notify_all()
        return taken
