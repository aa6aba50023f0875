"""What of its rounds a member writes to its journal, and what it reads from it when it is started again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from prime.actor.contract import Entry, Journal
from prime.errors import WorldError
from prime.trainer.round import messages as msg
from prime.trainer.round.journal import compacted
from prime.trainer.round.records import read_record, write_record
from prime.trainer.round.view import seal_digest
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.spooler import Spooler
from prime.trainer.swarm.stock import Key, Stock

JOURNAL_BYTES_MAX = 64 << 20
"""Beyond this the next decision replaces the journal: it says all that a restart needs."""


class Recorder:
    """One node's records: a vote with the bytes that it is for, and the journal never longer than it has to be."""

    def __init__(self, journal: Journal, numbers: Numbers[Any]) -> None:
        self.spooler = Spooler(journal)
        self.journal_bytes_max = JOURNAL_BYTES_MAX
        self._journal = journal
        self._numbers = numbers
        self._birth: dict[type, msg.Record] = {}
        self._recovered: dict[int, tuple[msg.Accepted, list[memoryview]]] = {}
        self._vote: tuple[msg.Accepted | None, Entry] = (None, b"")

    def recover(self) -> list[msg.Record]:
        """Read the journal, in its order; the bytes of its votes are kept for `restore`."""
        records = []
        for data in self._journal.records():
            record, payloads = read_record(data)
            records.append(record)
            if isinstance(record, msg.Born):
                self._birth[msg.Born] = record
            if isinstance(record, msg.Accepted):
                self._recovered[record.round] = (record, payloads)
        return records

    def restore(self, stock: Stock) -> None:
        """Put the bytes that this member voted for into the stock of a round that begins again."""
        vote, payloads = self._recovered.pop(stock.round, (None, []))
        if vote is None:
            return
        self._vote = (vote, write_record(vote, payloads))
        value, rest = vote.value, iter(payloads)
        seal = seal_digest(stock.round, value.base, value.shares)
        for part, hash_ in enumerate(value.parts):
            stock.learn(part, seal, tuple(itertools.islice(rest, len(stock.chunks[part]))), hash_)

    def records(self) -> list[msg.Record]:
        """Return what the journal says now, without the bytes."""
        return [read_record(data)[0] for data in self._journal.records()]

    def spool(self, stock: Stock, key: Key, data: memoryview, hash_: bytes) -> None:
        """Put a reduced chunk beside the journal early, where a vote on the round would have many."""
        if self._numbers.size_bytes(stock.elements) >= self.spooler.bytes_min:
            self.spooler.add(stock, key, data, hash_)

    async def write(self, record: msg.Record, rounds: Mapping[int, Stock]) -> None:
        """Put a record on the disk: it is there when this returns. Its bytes are in the stock of its round.

        Raises `WorldError` where the disk refuses it; then it may be written again.
        """
        entry = await self._entry(record, rounds)
        if isinstance(record, msg.Decided) and self._journal.size_bytes > self.journal_bytes_max:
            await self._journal.replace(self._compacted(record, rounds.get(record.value.round)))
            return
        if isinstance(record, msg.Born | msg.Booted):
            self._birth[type(record)] = record
        try:
            await self._journal.append(entry)
        except WorldError:
            if isinstance(record, msg.Accepted):
                self.spooler.give_up(record.round)
            raise

    async def _entry(self, record: msg.Record, rounds: Mapping[int, Stock]) -> Entry:
        if not isinstance(record, msg.Accepted):
            return write_record(record, [])
        stock = rounds[record.round]
        parts = enumerate(record.value.parts)
        payloads = [chunk for part, hash_ in parts for chunk in stock.known[part, hash_][1]]
        entry = await self.spooler.entry(stock, record, payloads)
        self._vote = (record, entry)
        return entry

    def _compacted(self, decided: msg.Decided, stock: Stock | None) -> list[Entry]:
        """Return all that a restart still needs, with the bytes that this member voted for."""
        birth, (vote, entry) = tuple(self._birth.values()), self._vote
        if stock is None:  # it jumped: it was in no such round
            return [write_record(record, []) for record in (*birth, decided)]
        records = compacted(birth, msg.Entered(stock.round, stock.view, stock.state_round), vote, decided)
        return [entry if record is vote else write_record(record, []) for record in records]
