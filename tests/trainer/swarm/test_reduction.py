"""What an owner makes of its part, and what nobody can make anything of."""

from __future__ import annotations

import itertools

import pytest

from prime.errors import DecodeError
from prime.sim.exact import Exact, Sum
from prime.trainer.robust.rules import MEAN
from prime.trainer.round import commands as cmd
from prime.trainer.round.view import Member, Share, Value, View
from prime.trainer.swarm.gather import gather, later
from prime.trainer.swarm.parts import Assembly, whole
from prime.trainer.swarm.reduction import Reduction
from prime.trainer.swarm.stock import Key, Stock

VIEW = View("run", 1, tuple(Member(peer, (), 1.0, 1) for peer in "ab"))
NUMBERS = Exact()
SEAL = b"s" * 16
SHARES = (Share("a", 1.0), Share("b", 3.0))


def full_stock() -> Stock:
    """Return a round to which both members have contributed, every chunk of it here."""
    stock = Stock.of(1, VIEW, 0, 60, NUMBERS)
    for (part, cuts), peer in itertools.product(enumerate(stock.chunks), "ab"):
        stock.contributions[part, peer] = whole(NUMBERS.encode(Sum.of(peer), cut) for cut in cuts)
    return stock


async def reduced(stock: Stock, part: int) -> tuple[cmd.Reduced, Assembly, list[tuple[Key, bytes]]]:
    heard: list[tuple[Key, bytes]] = []
    reduction = Reduction(NUMBERS, MEAN, lambda _stock, key, _data, hash_: heard.append((key, hash_)))
    key = (part, SEAL, "a")
    result = stock.results[key] = Assembly(len(stock.chunks[part]))
    done = await reduction.reduce(stock, cmd.Reduce(1, part, SEAL, SHARES), key, result)
    return done, result, heard


async def test_a_part_is_reduced_by_what_each_share_counts() -> None:
    stock = full_stock()
    hashes = []
    for part in range(stock.parts):
        done, result, heard = await reduced(stock, part)
        assert done == cmd.Reduced(1, part, SEAL, result.digest())
        assert (part, done.hash) in stock.known
        assert [hash_ for _, hash_ in heard] == [result.hashes[index] for index in range(result.count)]
        hashes.append(done.hash)
    value = Value(1, 1, b"base", SHARES, tuple(hashes), VIEW, 1)
    join = later(stock, value, NUMBERS)
    mean = (Sum.of("a") * 0.25) + (Sum.of("b") * 0.75)
    assert await gather(stock, value, NUMBERS) == mean
    assert join is not None and join() == mean  # also when the round is over


async def test_a_decision_of_which_bytes_are_missing_is_not_brought_forward() -> None:
    stock = full_stock()
    done, _, _ = await reduced(stock, 0)
    assert later(stock, Value(1, 1, b"base", SHARES, (done.hash, b"?" * 32), VIEW, 1), NUMBERS) is None


async def test_a_contribution_that_cannot_be_read_ends_the_reduction_and_the_wait_for_it() -> None:
    stock = full_stock()
    part = next(part for part, cuts in enumerate(stock.chunks) if cuts)
    stock.contributions[part, "b"] = whole([memoryview(b"?")] * len(stock.chunks[part]))
    with pytest.raises(DecodeError):
        await reduced(stock, part)
    (result,) = stock.results.values()
    assert result.refused and not result.is_whole
    assert not stock.known
