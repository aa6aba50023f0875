"""What a member's journal says: votes with their bytes, and no more than a restart needs once it grew long."""

from __future__ import annotations

import attrs
import pytest

from prime.actor.contract import Entry, StagedRecord
from prime.errors import WorldError
from prime.sim.exact import Exact, Sum
from prime.store.journal import MemoryJournal
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST, Ballot
from prime.trainer.round.records import read_record
from prime.trainer.round.view import Member, Value, View, seal_digest
from prime.trainer.swarm.parts import digest_of
from prime.trainer.swarm.recorder import Recorder
from prime.trainer.swarm.stock import Stock

ME = Member("a", (), 1.0, 1)
VIEW = View("run", 1, (ME, Member("b", (), 1.0, 1)))
NUMBERS = Exact()


def decided_stock() -> tuple[Stock, Value]:
    """Return a round of which both reduced parts are here, and the value that names them."""
    stock = Stock.of(1, VIEW, 0, 60, NUMBERS)
    parts = [tuple(NUMBERS.encode(Sum.of("x"), cut) for cut in cuts) for cuts in stock.chunks]
    value = Value(1, 1, b"base", (), tuple(digest_of(part) for part in parts), VIEW, 1)
    for part, encoded in enumerate(parts):
        stock.learn(part, seal_digest(1, value.base, value.shares), encoded, value.parts[part])
    return stock, value


async def test_what_was_voted_for_is_there_after_a_restart() -> None:
    journal = MemoryJournal()
    stock, value = decided_stock()
    await Recorder(journal, NUMBERS).write(msg.Accepted(1, FIRST, value), {1: stock})
    again = Recorder(journal, NUMBERS)
    assert again.recover() == [msg.Accepted(1, FIRST, value)]
    empty = Stock.of(1, VIEW, 0, 60, NUMBERS)
    again.restore(empty)
    assert {key: seal for key, (seal, _) in empty.known.items()} == {
        key: seal for key, (seal, _) in stock.known.items()
    }
    assert empty.known.keys() == set(enumerate(value.parts))
    other = Stock.of(2, VIEW, 0, 60, NUMBERS)
    again.restore(other)
    assert not other.known


async def test_a_decision_replaces_a_journal_that_grew_long_but_not_the_vote_on_it() -> None:
    journal = MemoryJournal()
    stock, value = decided_stock()
    recorder = Recorder(journal, NUMBERS)
    for record in (msg.Born(ME), msg.Booted(1), msg.Entered(1, VIEW, 0), msg.Promised(1, FIRST)):
        await recorder.write(record, {})
    await recorder.write(msg.Accepted(1, FIRST, value), {1: stock})
    recorder.journal_bytes_max = 0
    await recorder.write(msg.Decided(value), {1: stock})
    kept = [msg.Born(ME), msg.Booted(1), msg.Entered(1, VIEW, 0), msg.Accepted(1, FIRST, value), msg.Decided(value)]
    assert recorder.records() == kept
    payloads = [read_record(data)[1] for data in journal.records()]
    assert [len(each) for each in payloads] == [0, 0, 0, sum(map(len, stock.chunks)), 0]


async def test_who_was_in_no_such_round_keeps_who_it_is_and_the_decision() -> None:
    recorder = Recorder(MemoryJournal(), NUMBERS)
    _, value = decided_stock()
    later = attrs.evolve(value, round=9)
    await recorder.write(msg.Born(ME), {})
    await recorder.write(msg.Promised(1, FIRST), {})
    recorder.journal_bytes_max = 0
    await recorder.write(msg.Decided(later), {})
    assert recorder.records() == [msg.Born(ME), msg.Decided(later)]


class FullOnce(MemoryJournal):
    """A journal whose disk refuses the first vote that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.votes: list[Entry] = []

    async def append(self, record: Entry) -> None:
        self.votes.append(record)
        if len(self.votes) == 1:
            raise WorldError("no space left", hint="free some")
        await super().append(record)


async def test_after_a_refused_vote_each_vote_on_its_round_is_written_in_one_go() -> None:
    journal = FullOnce()
    recorder = Recorder(journal, NUMBERS)
    recorder.spooler.bytes_min = 0
    stock, value = decided_stock()
    with pytest.raises(WorldError):
        await recorder.write(msg.Accepted(1, FIRST, value), {1: stock})
    votes = [msg.Accepted(1, FIRST, value), msg.Accepted(1, Ballot(1, 1), value)]
    for vote in votes:
        await recorder.write(vote, {1: stock})
    assert [isinstance(each, StagedRecord) for each in journal.votes] == [True, False, False]
    assert recorder.records() == votes
