"""A persistent actor as a child process imports it; its messages have tags, since they cross to it."""

from __future__ import annotations

import os
from pathlib import Path

import prime
from prime import Ask, Persistent, SqliteEventStore, applies, on


@prime.message(tag=0x7C11)
class Entered:
    number: int


@prime.message(tag=0x7C12)
class Enter(Ask[tuple[int, int]]):
    """Answered with how many entries there are, and the process that said so."""

    number: int


class Ledger(Persistent[Enter, Entered]):
    def __init__(self, path: str) -> None:
        super().__init__(SqliteEventStore(Path(path)), "ledger")
        self.entries: list[int] = []

    @on(Enter)
    async def enter(self, m: Enter) -> tuple[int, int]:
        await self.persist(Entered(m.number))
        return len(self.entries), os.getpid()

    @applies(Entered)
    def entered(self, event: Entered) -> None:
        self.entries.append(event.number)
