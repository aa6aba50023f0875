"""What of its bytes a member sends: once as they are made, and again only what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import pytest

from prime.sim.exact import Exact, Sum
from prime.trainer.round import messages as msg
from prime.trainer.round.view import Member, View
from prime.trainer.swarm.parts import Assembly, whole
from prime.trainer.swarm.stock import Stock
from prime.trainer.swarm.supply import Supply

VIEW = View("run", 1, tuple(Member(peer, (), 1.0, 1) for peer in "abc"))
NUMBERS = Exact()
SEAL = b"s" * 16


@attrs.define
class Streams:
    """The ways out, as far as a supply uses them: notes what would travel."""

    sent: list[Any] = attrs.Factory(list)
    started: set[tuple[int, bytes, str]] = attrs.Factory(set)

    def send(self, to: str, letter: Any) -> None:
        self.sent.append((to, type(letter).__name__))

    def start(self, stock: Stock, part: int, seal: bytes, assembly: Assembly, to: str) -> bool:
        key = (part, seal, to)
        if not assembly.count or key in self.started:
            return False
        self.started.add(key)
        self.sent.append((to, "all", part))
        return True

    def announce(self, stock: Stock, part: int, seal: bytes, hash_: bytes, to: str) -> None:
        self.sent.append((to, "announce", part, hash_))

    def stream(self, stock: Stock, part: int, seal: bytes, assembly: Assembly, to: str, wanted: Iterable[int]) -> None:
        self.sent.append((to, "some", part, list(wanted)))

    def news(self) -> list[Any]:
        """Return what was sent since this was last asked."""
        news, self.sent = self.sent, []
        return news


@pytest.fixture
def stock() -> Stock:
    return Stock.of(1, VIEW, 0, 90, NUMBERS)


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def supply(streams: Streams) -> Supply:
    return Supply("a", streams)  # type: ignore[arg-type]


def made(stock: Stock, part: int) -> Assembly:
    return whole(NUMBERS.encode(Sum.of("x"), cut) for cut in stock.chunks[part])


def test_a_contribution_goes_once_and_is_then_announced(stock: Stock, streams: Streams, supply: Supply) -> None:
    assert not supply.send_own(stock, 1, "b")  # nothing is made yet
    stock.own[1] = Assembly(len(stock.chunks[1]))
    supply.send_own(stock, 1, "b")
    supply.send_own(stock, 1, "b")  # asked for again while it is being made
    assert streams.news() == [("b", "all", 1)]
    stock.own[1] = made(stock, 1)
    stock.offers.put("a", b"signed")
    supply.send_own(stock, 1, "b")
    assert streams.news() == [("b", "Vouch"), ("b", "announce", 1, stock.own[1].digest())]


def test_what_a_member_owns_itself_does_not_travel(stock: Stock, streams: Streams, supply: Supply) -> None:
    stock.own[0] = Assembly(len(stock.chunks[0]))
    assert not supply.send_own(stock, 0, "a")
    stock.own[0] = made(stock, 0)
    assert supply.send_own(stock, 0, "a")
    assert stock.contributions[0, "a"] is stock.own[0]
    stock.offers.put("a", b"signed")
    supply.vouch(stock, ("c", "a", "b", "b"))
    assert streams.news() == [("b", "Vouch"), ("c", "Vouch")]


def test_a_result_that_is_on_its_way_is_not_sent_twice(stock: Stock, streams: Streams, supply: Supply) -> None:
    result = supply.begin_result(stock, 0, SEAL)
    assert streams.news() == [("b", "all", 0), ("c", "all", 0)]
    for index, data in made(stock, 0).found.items():
        result.add(index, data)
        result.hashes[index] = made(stock, 0).hashes[index]
    supply.send_result(stock, 0, result.digest(), "b")  # not known here yet
    stock.learn(0, SEAL, result.encoded(), result.digest())
    supply.send_result(stock, 0, result.digest(), "b")
    assert streams.news() == []
    supply.send_result(stock, 0, result.digest(), "b")
    assert streams.news() == [("b", "announce", 0, result.digest())]


def test_of_what_is_missing_only_chunks_that_the_part_has_go_again(
    stock: Stock, streams: Streams, supply: Supply
) -> None:
    result = made(stock, 2)
    missing = msg.Missing("run", 1, 1, "b", 2, SEAL, result.digest(), (9, 0, 7))
    supply.send_missing(stock, missing)
    assert streams.news() == []  # it is not here
    stock.learn(2, SEAL, result.encoded(), result.digest())
    supply.send_missing(stock, missing)
    assert streams.news() == [("b", "some", 2, [i for i in (0, 7, 9) if i < result.count])]
    stock.own[2] = Assembly(len(stock.chunks[2]))
    supply.send_missing(stock, attrs.evolve(missing, seal=b""))  # type: ignore[misc]  # a message is an attrs class
    assert streams.news() == []  # it is still being made
