"""What contributors sign of what they send in a round: their offers, one of each member (pure).

Two that differ are a lie, and both are evidence of it. What is kept here holds against its signer after the round too.
"""

from __future__ import annotations

from collections.abc import Iterable

from prime.errors import DecodeError
from prime.trainer.round import messages as msg
from prime.trainer.round.view import View
from prime.wire import open_signed, signed


def open_offer(data: bytes) -> msg.SignedOffer:
    """Verify the bytes of a signed offer. Raises `DecodeError`."""
    return open_signed(data, msg.SignedOffer)


def offer_fault(data: bytes, run: str, epoch: int, round_: int, peer: str) -> str:
    """Say why these bytes are no offer to that round under the signature of `peer`; empty: they are."""
    try:
        offer = open_offer(data)
    except DecodeError as error:
        return f"it bears no signature that holds ({error})"
    if signed(offer).signer != peer:
        return f"it is signed by {signed(offer).signer}"
    if (offer.run, offer.epoch, offer.round) != (run, epoch, round_):
        return f"it was signed for round {offer.round} of {offer.run}, epoch {offer.epoch}"
    return ""


class Offers:
    """The signed offers to one round, as one member has them."""

    def __init__(self, round_: int, view: View) -> None:
        self._round = round_
        self._view = view
        self._signed: dict[str, bytes] = {}
        self._reported: dict[str, msg.Offer] = {}

    def put(self, peer: str, signed_offer: bytes) -> None:
        """Keep an offer that was signed here."""
        self._signed[peer] = signed_offer

    def take(self, peer: str, signed_offer: bytes) -> str:
        """Keep a member's offer, once; say why it is refused, if it is no evidence against that member."""
        if self._signed.get(peer) == signed_offer:
            return ""
        fault = self._fault(peer, signed_offer)
        if fault:
            return f"the offer of {peer} to round {self._round} is refused: {fault}"
        self._signed[peer] = signed_offer
        return ""

    def _fault(self, peer: str, signed_offer: bytes) -> str:
        fault = offer_fault(signed_offer, self._view.run, self._view.epoch, self._round, peer)
        if not fault and self._view.find(peer) is None:
            fault = "it is no member"
        if not fault and peer in self._signed:
            fault = "it signed another one before: both are evidence against it"
        return fault

    def take_reported(self, peer: str, offer: msg.Offer) -> str:
        """Keep what a member reports as its offer; say why it is ignored, unless it is the one that it signed first.

        Every report says it again: a signature is verified once.
        """
        if self._reported.get(peer) == offer:
            return ""
        if fault := self.take(peer, offer.signed):
            return fault
        said = open_offer(offer.signed)
        if (said.weight, said.base, said.parts) != (offer.weight, offer.base, offer.parts):
            return f"{peer} offers something else to round {self._round} than it signed: ignored"
        self._reported[peer] = offer
        return ""

    def of(self, peer: str) -> bytes:
        """Return what a member signed; nothing, if that never came here."""
        return self._signed.get(peer, b"")

    def of_all(self, peers: Iterable[str]) -> tuple[bytes, ...]:
        """Return what each of these members signed, in their order."""
        return tuple(map(self.of, peers))
