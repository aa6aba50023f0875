"""Misuse of signed messages that both type checkers must reject: exactly the lines that are marked, no other."""

from __future__ import annotations

from accepted_signed import Buy, Receipt, Vote

import prime
from prime import Ref, System, open_signed, signed


async def use(system: System, box: Ref[Vote | Buy]) -> None:
    vote: Vote = open_signed(b"", Receipt)  # rejected
    number: int = signed(vote).signer  # rejected
    receipt: Receipt = system.sign(vote)  # rejected
    await box.tell(system.sign(Receipt(1)))  # rejected
    system.sign(vote, "peer")  # rejected
    Vote("a", seal=None)  # rejected
    signed(vote).seq = number  # rejected
    print(receipt)


prime.message(signed=True)  # rejected
