"""What an aggregator sends to one peer: short messages that overtake, and bulk bytes in the order they were asked for.

One task each, so that a peer that does not answer keeps nobody waiting but itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from prime.actor import Ref
from prime.errors import LocalProtocolError, WorldError

LETTERS_MAX = 1024
"""Short messages that may wait for one peer; beyond it the oldest goes (each is sent again while it matters)."""

OFFERED_MAX = 4096
"""Parts remembered as sent once."""

RETRY_S = 0.25
"""After a peer could not be reached, how long until the next try."""


@attrs.frozen
class Job:
    """Bulk to send: `key` keeps the same bytes from being queued twice; `send` sends them."""

    key: tuple[Any, ...]
    send: Callable[[Ref[Any]], Awaitable[None]]


class Outlet:
    """The way out to one peer."""

    def __init__(self, ref: Ref[Any], on_fault: Callable[[str], None]) -> None:
        self.ref = ref
        self._on_fault = on_fault
        self._letters: deque[Any] = deque(maxlen=LETTERS_MAX)
        self._jobs: dict[tuple[Any, ...], Job] = {}
        self._offered: dict[tuple[Any, ...], None] = {}
        self._news = trio.Event()
        self._bulk_news = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._letters and not self._jobs

    @property
    def has_bulk(self) -> bool:
        """Whether bulk waits, or is being sent."""
        return bool(self._jobs)

    def send(self, message: Any) -> None:
        """Queue a short message."""
        self._letters.append(message)
        self._news.set()

    def first_time(self, key: tuple[Any, ...]) -> bool:
        """Tell whether these bytes go to this peer for the first time (remembered for the last few rounds)."""
        if key in self._offered:
            return False
        self._offered[key] = None
        while len(self._offered) > OFFERED_MAX:
            del self._offered[next(iter(self._offered))]
        return True

    def send_bulk(self, job: Job) -> None:
        """Queue bulk, unless the same is queued or under way."""
        if job.key not in self._jobs:
            self._jobs[job.key] = job
            self._bulk_news.set()

    def drop_bulk(self) -> None:
        """Forget queued bulk: the peer is gone, and the round asks again for what it still needs."""
        self._jobs.clear()

    async def run(self) -> None:
        """Send until `close`, or cancelled."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.run_letters)
                nursery.start_soon(self.run_bulk)

    def close(self) -> None:
        """Send nothing more."""
        self._scope.cancel()

    async def run_letters(self) -> None:
        """Send short messages until cancelled; those that cannot be delivered are lost, as the round expects."""
        while True:
            while self._letters:
                await self._try(self.ref.tell, self._letters.popleft())
            self._news = trio.Event()
            await self._news.wait()

    async def run_bulk(self) -> None:
        """Send bulk until cancelled."""
        while True:
            while self._jobs:
                key, job = next(iter(self._jobs.items()))
                await self._try(job.send, self.ref)
                self._jobs.pop(key, None)
            self._bulk_news = trio.Event()
            await self._bulk_news.wait()

    async def _try(self, send: Callable[[Any], Awaitable[None]], what: Any) -> None:
        try:
            await send(what)
        except WorldError:
            self._letters.clear()
            await trio.sleep(RETRY_S)
        except LocalProtocolError as error:  # what does not fit a frame will not fit the next time either
            self._on_fault(f"to {self.ref.peer}: {error}")
