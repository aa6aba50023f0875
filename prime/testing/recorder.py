"""The facts of a system, kept for a test to look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import trio

from prime.actor import System

F = TypeVar("F")
FACTS_MAX = 10_000


class Facts:
    """What happened in a system since the recorder was made: the last `capacity` facts, oldest first.

    It may also stand beside a system that runs: `Facts(system)` records from now on, until `close`.
    """

    def __init__(self, system: System, capacity: int = FACTS_MAX) -> None:
        self.forgotten = 0
        self._facts: deque[Any] = deque(maxlen=capacity)
        self._news = trio.Event()
        self.close: Callable[[], None] = system.subscribe(self._record)

    def _record(self, fact: Any) -> None:
        self.forgotten += len(self._facts) == self._facts.maxlen
        self._facts.append(fact)
        self._news.set()

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one class, oldest first."""
        return [fact for fact in self._facts if isinstance(fact, kind)]

    async def wait_for(self, kind: type[F], *, within: float = 1.0, where: Callable[[F], bool] | None = None) -> F:
        """Return the first fact of a class (for which `where` is true), past or to come within so many seconds.

        Raises `AssertionError` with the classes of the facts that there were instead.
        """
        with trio.move_on_after(within):
            while True:
                for fact in self.of(kind):
                    if where is None or where(fact):
                        await trio.lowlevel.checkpoint()
                        return fact
                self._news = trio.Event()
                await self._news.wait()
        told = ", ".join(type(fact).__name__ for fact in list(self._facts)[-20:]) or "none"
        raise AssertionError(f"no fact {kind.__name__} within {within:g} s; the last facts: {told}")

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._facts))

    def __len__(self) -> int:
        return len(self._facts)

    def __repr__(self) -> str:
        return f"<Facts {[type(fact).__name__ for fact in self._facts]}>"
