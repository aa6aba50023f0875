"""Whose turn it is: what keeps a peer that sends without pause from making others wait.

All links of a node share one loop, which goes round its tasks; so what one of them does in its turn, every other waits for,
a few times in each ask. A reader alone takes long turns, as each costs something. While others read too, turns are short.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

import trio

from prime.transport.rates import Bucket

SHARED_S: Final = 0.1
"""How long turns stay short after bytes came for two different readers."""
TURN_S: Final = 50e-6
"""The length of a short turn; the frame that is being handled then is handled to its end."""
SHARED_READ_BYTES: Final = 32 * 1024
"""What is read, and decrypted, at once in a short turn."""
ROUNDS_MAX: Final = 4
"""Rounds of the others' turns for one that took too long, as a frame can."""
SHARE: Final = 0.2
"""The share of the time that the proofs of strangers may take."""
SAVED_S: Final = 0.05
"""How much of such work may be done in a row."""
WORK_S_MAX: Final = 0.02
"""What a block of work counts as at most: it may have been the machine that stood still."""


class Turns:
    """The readers of one node's links."""

    __slots__ = ("_last", "_shared_until")

    def __init__(self) -> None:
        self._last: object = None
        self._shared_until = 0.0

    def shared(self, reader: object, now: float) -> bool:
        """Note that bytes came for `reader`; tell whether its turn must be a short one."""
        if reader is not self._last:
            if self._last is not None:
                self._shared_until = now + SHARED_S
            self._last = reader
        return now < self._shared_until


async def give_way(spent_s: float) -> None:
    """Let the others have their turns, once for each short turn's length that this one took."""
    for _ in range(1 + min(int(spent_s / TURN_S), ROUNDS_MAX - 1)):
        await trio.lowlevel.checkpoint()


class Rested:
    """A block of work that no two tasks do at once, and which takes at most a `share` of the loop's time.

    So much is saved up for a while that a few in a row need not wait. Nothing in the block may wait.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._lock = trio.Lock()
        self._spent = Bucket(share, SAVED_S / share)
        self._due = self._began = 0.0

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            if trio.current_time() < self._due:
                await trio.sleep_until(self._due)
        except BaseException:
            self._lock.release()
            raise
        self._began = trio.current_time()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = trio.current_time()
        self._due = self._spent.owe(now, min(now - self._began, WORK_S_MAX))
        self._lock.release()
