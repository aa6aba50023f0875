"""What contributors sign: their first offer stands, whatever they or others say afterwards."""

from __future__ import annotations

import pytest

from prime.errors import DecodeError
from prime.trainer.round import messages as msg
from prime.trainer.round.view import Member, View, view_of
from prime.trainer.swarm.offers import Offers, offer_fault, open_offer
from prime.transport.identity import KeyPair
from prime.transport.signing import KeySignatory
from prime.wire import signed_bytes
from prime.wire.message import sign

RUN, ROUND = "offers", 4
KEYS = [KeyPair.from_seed(bytes([i + 1]) * 32) for i in range(3)]
PARTS = (b"1" * 32, b"2" * 32)


@pytest.fixture
def view() -> View:
    """The first two are members, the third is a stranger."""
    return view_of(RUN, 2, [Member(key.peer, (), 1.0, 0) for key in KEYS[:2]])


def signed(key: KeyPair, weight: float = 1.0, *, run: str = RUN, epoch: int = 2, round_: int = ROUND) -> bytes:
    said = msg.SignedOffer(run, epoch, round_, weight, b"b" * 32, PARTS)
    return signed_bytes(sign(said, KeySignatory(key)))


def test_the_first_offer_of_a_member_stands(view: View) -> None:
    offers, peer = Offers(ROUND, view), KEYS[0].peer
    first = signed(KEYS[0])
    assert offers.take(peer, first) == offers.take(peer, first) == ""
    assert "signed another one before" in offers.take(peer, signed(KEYS[0], 2.0))
    assert offers.of_all([KEYS[1].peer, peer]) == (b"", first)


@pytest.mark.parametrize(
    ("signer", "other", "why"),
    [
        (1, {}, "it is signed by"),
        (0, {"round_": 5}, "signed for round 5"),
        (0, {"epoch": 1}, "epoch 1"),
        (0, {"run": "another"}, "of another"),
    ],
    ids=["key", "round", "epoch", "run"],
)
def test_an_offer_to_something_else_is_refused(view: View, signer: int, other: dict[str, object], why: str) -> None:
    offers, peer = Offers(ROUND, view), KEYS[0].peer
    assert why in offers.take(peer, signed(KEYS[signer], **other))  # type: ignore[arg-type]
    assert offers.of(peer) == b""


def test_bytes_that_bear_no_signature_are_no_offer() -> None:
    data = signed(KEYS[0])
    assert offer_fault(data, RUN, 2, ROUND, KEYS[0].peer) == ""
    assert "bears no signature" in offer_fault(data[:-1], RUN, 2, ROUND, KEYS[0].peer)
    with pytest.raises(DecodeError):
        open_offer(b"")


def test_a_stranger_offers_nothing(view: View) -> None:
    offers = Offers(ROUND, view)
    assert "it is no member" in offers.take(KEYS[2].peer, signed(KEYS[2]))


def test_what_a_member_reports_is_what_it_signed(view: View) -> None:
    offers, peer = Offers(ROUND, view), KEYS[0].peer
    good = msg.Offer(1.0, b"b" * 32, PARTS, signed(KEYS[0]))
    assert "bears no signature" in offers.take_reported(peer, msg.Offer(1.0, b"b" * 32, PARTS, b""))
    assert "than it signed" in offers.take_reported(peer, msg.Offer(9.0, b"b" * 32, PARTS, good.signed))
    assert offers.take_reported(peer, good) == offers.take_reported(peer, good) == ""
    again = msg.Offer(2.0, b"b" * 32, PARTS, signed(KEYS[0], 2.0))
    assert "signed another one before" in offers.take_reported(peer, again)
    assert offers.of(peer) == good.signed
