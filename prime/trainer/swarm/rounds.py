"""Which rounds a member holds bytes of, and of which of them a message is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prime.trainer.outer.fragments import Fragments
from prime.trainer.round import messages as msg
from prime.trainer.round.view import View
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.stock import Stock

OfPart = msg.Chunk | msg.Announce | msg.Missing
"""What members say on the bytes of one part."""


class Rounds(Mapping[int, Stock]):
    """The stocks of the member `me`: of the round under way, and of the one before, which others may still ask for.

    `fragments` says how many elements each carries.
    """

    def __init__(self, me: str, numbers: Numbers[Any]) -> None:
        self.fragments = Fragments(1)
        self._me = me
        self._numbers = numbers
        self._stocks: dict[int, Stock] = {}

    def __getitem__(self, round_: int) -> Stock:
        return self._stocks[round_]

    def __iter__(self) -> Iterator[int]:
        return iter(self._stocks)

    def __len__(self) -> int:
        return len(self._stocks)

    def fragment_of(self, round_: int) -> int:
        """Return which fragment a round carries."""
        return self.fragments.of_round(round_)

    def open(self, round_: int, view: View, state_round: int) -> Stock:
        """Begin a round with nothing in stock."""
        elements = self.fragments.elements_of(round_)
        stock = self._stocks[round_] = Stock.of(round_, view, state_round, elements, self._numbers)
        return stock

    def close_before(self, round_: int) -> None:
        """Forget the rounds before this one; nobody waits for anything more of them."""
        for old in [number for number in self._stocks if number < round_]:
            self._stocks.pop(old).close()

    def peers(self) -> frozenset[str]:
        """Return the members of all these rounds."""
        return frozenset(peer for stock in self._stocks.values() for peer in stock.view.peers())

    def of(self, message: msg.Report | msg.Vouch | OfPart, sender: str | None) -> Stock | None:
        """Return the stock that a message from `sender` is for; `None` if it is of no round here, or in another's name."""
        stock = self._stocks.get(message.round)
        if stock is None or (message.run, message.epoch) != (stock.view.run, stock.view.epoch):
            return None
        return stock if message.sender == sender else None

    def of_part(self, message: OfPart, sender: str | None) -> Stock | None:
        """As `of`, for what only another member of the round may say, and of a part that there is."""
        stock = self.of(message, sender)
        if stock is None or message.sender == self._me or stock.view.find(message.sender) is None:
            return None
        return stock if 0 <= message.part < stock.parts else None
