"""One member's place in one round: what it promised, accepted, holds, follows and leads (pure data)."""

from __future__ import annotations

import attrs

from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST, NONE, Ballot
from prime.trainer.round.leader import Lead, Standing
from prime.trainer.round.partition import owners_of
from prime.trainer.round.view import Value, View

RESULTS_MAX = 64
"""Results of one part that are noted before a value names one: each ballot can have another, and members can lie."""


@attrs.define
class Seat:
    """One member's place in one round: what it promised and accepted, holds, follows and leads."""

    round: int
    view: View
    state_round: int
    order: tuple[str, ...]
    owners: tuple[str, ...]
    restarted: bool = False
    promised: Ballot = NONE
    accepted: tuple[Ballot, Value] | None = None
    following: Ballot = FIRST
    highest: int = 1
    active_since: float | None = None
    doubt_at: float = 0.0
    leader_heard_at: float = 0.0
    leader_lost_at: float | None = None
    leading_since: float = 0.0
    contributing: bool = False
    offer: msg.Offer | None = None
    stored: set[tuple[int, str]] = attrs.Factory(set)
    transferred_at: dict[tuple[int, str], float] = attrs.Factory(dict)
    held: dict[int, dict[str, bytes]] = attrs.Factory(dict)
    results: dict[int, set[bytes]] = attrs.Factory(dict)
    reducing: set[tuple[int, bytes]] = attrs.Factory(set)
    multiplying: set[tuple[int, bytes]] = attrs.Factory(set)
    grams: dict[tuple[int, bytes], tuple[float, ...]] = attrs.Factory(dict)
    reduced: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)
    seal: msg.Seal | None = None
    proposal: msg.Propose | None = None
    proposal_at: float = 0.0
    standings: dict[str, Standing] = attrs.Factory(dict)
    slow: set[str] = attrs.Factory(set)
    blocking: set[str] = attrs.Factory(set)
    refused: set[str] = attrs.Factory(set)
    lead: Lead | None = None
    fetches: int = 0

    @property
    def leader(self) -> str:
        """The peer that leads the ballot followed."""
        return self.order[self.following.rank]

    def starts_from(self, state_round: int) -> bool:
        """Tell whether the state after that round is what this round starts from: all since then was aborted."""
        return self.state_round <= state_round < max(self.round, 1)

    def holds(self, value: Value) -> bool:
        """Tell whether the bytes of all parts of the value are here."""
        return all(hash_ in self.results.get(part, ()) for part, hash_ in enumerate(value.parts))

    def keep(self, part: int, hash_: bytes) -> None:
        """Note that the bytes of a reduced part are here; of more than could be of use only those that are voted on."""
        held = self.results.setdefault(part, set())
        wanted = self.proposal is not None and hash_ in self.proposal.value.parts
        if wanted or len(held) < RESULTS_MAX:
            held.add(hash_)

    def missing(self, value: Value) -> list[int]:
        """Return the parts of the value whose bytes are not here."""
        return [part for part, hash_ in enumerate(value.parts) if hash_ not in self.results.get(part, ())]


def sit(round_: int, view: View, state_round: int) -> Seat:
    """Return a fresh seat: nothing promised, each part owned by its own member."""
    return Seat(round_, view, state_round, view.order(round_), owners_of(view, ()))
