"""Signed messages as users type them: both type checkers accept all."""

from __future__ import annotations

from typing import assert_type

import prime
from prime import Actor, Ask, Ref, Signed, System, on, open_signed, signed, signed_bytes


@prime.message(tag=0x7D51, signed=True)
class Vote:
    proposal: str
    weight: int = 1


@prime.message(tag=0x7D52, signed=True)
class Receipt:
    number: int


@prime.message(tag=0x7D53, signed=True)
class Buy(Ask[Receipt]):
    number: int


class Box(Actor[Vote | Buy]):
    @on(Vote)
    def vote(self, m: Vote) -> None:
        what = self.ctx.signed(m)
        assert_type(what, Signed)
        assert_type(what.signer, str)
        assert_type(what.seq, int)
        assert_type(what.sent_at_ms, int)
        assert_type(what.audience, str | None)

    @on(Buy)
    def buy(self, m: Buy) -> Receipt:
        return Receipt(m.number)


async def use(system: System, box: Ref[Vote | Buy], peer: str) -> None:
    await box.tell(Vote("a"))
    vote = system.sign(Vote("a", weight=2), audience=peer)
    assert_type(vote, Vote)
    await box.tell(vote)
    assert_type(await box.ask(Buy(1), timeout=1), Receipt)
    assert_type(await box.ask(system.sign(Buy(1)), timeout=1), Receipt)
    assert_type(signed_bytes(vote), bytes)
    assert_type(open_signed(b"", Vote), Vote)
    assert_type(signed(vote), Signed)
    assert_type(system.signed(vote).signature, bytes)
