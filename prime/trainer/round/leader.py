"""What the leader of one ballot knows (pure): promises, reports, the seal, the votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from prime.trainer.round.ballot import NONE, Ballot
from prime.trainer.round.messages import Offer, Promise, Report, Seal
from prime.trainer.round.view import Share, Value, View


@attrs.define
class Standing:
    """The sum of one member's reports within a round; a later boot starts it afresh."""

    boot: int
    restarted: bool
    intends: bool
    offer: Offer | None = None
    held: dict[int, set[str]] = attrs.Factory(dict)
    reduced: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)

    def learn(self, report: Report) -> None:
        """Add what a report of the same boot says; holdings only grow, so the order of reports does not matter."""
        self.intends = report.intends
        self.offer = self.offer or report.offer
        for holding in report.held:
            self.held.setdefault(holding.part, set()).update(holding.senders)
        for reduction in report.reduced:
            self.reduced[reduction.part, reduction.seal] = reduction.hash


def learn(standings: dict[str, Standing], report: Report) -> None:
    """Fold a report into the standings; one of an earlier boot is too old to count."""
    known = standings.get(report.sender)
    if known is not None and report.boot < known.boot:
        return
    if known is None or report.boot > known.boot:
        known = standings[report.sender] = Standing(report.boot, report.restarted, report.intends)
    known.learn(report)


@attrs.define
class Lead:
    """One ballot under this member's lead. `free`: phase 1 left the choice of the value to us."""

    view: View
    ballot: Ballot
    owners: tuple[str, ...]
    opened_at: float
    free: bool
    promises: dict[str, Promise] = attrs.Factory(dict)
    seal: Seal | None = None
    sealed_at: float = 0.0
    value: Value | None = None
    digest: bytes = b""
    holders: tuple[str, ...] = ()
    readys: set[str] = attrs.Factory(set)

    def promised(self) -> bool:
        """Tell whether a majority answered phase 1."""
        return len(self.promises) >= self.view.majority()

    def carried(self) -> tuple[Value, tuple[str, ...]] | None:
        """Return the value accepted under the highest ballot among the promises, and who holds its bytes."""
        best, value = NONE, None
        for promise in self.promises.values():
            if promise.accepted is not None and promise.accepted_ballot is not None and best < promise.accepted_ballot:
                best, value = promise.accepted_ballot, promise.accepted
        if value is None:
            return None
        return value, tuple(sorted(p for p, m in self.promises.items() if m.accepted == value))

    def decided(self) -> bool:
        """Tell whether a majority (of heads) is ready for the value."""
        return self.value is not None and len(self.readys) >= self.view.majority()


def complete(standings: Mapping[str, Standing], owners: tuple[str, ...]) -> dict[str, Offer]:
    """Return the members whose contribution lies whole at every owner, with what they offered."""
    found: dict[str, Offer] = {}
    for peer, standing in standings.items():
        if standing.offer is not None and _everywhere(peer, standings, owners):
            found[peer] = standing.offer
    return found


def choose_base(offers: Mapping[str, Offer], own: bytes | None) -> bytes:
    """Return the state hash that most offers start from; a tie goes to the leader's own state, then to the lowest."""
    votes = Counter(offer.base for offer in offers.values())
    if not votes:
        return b""
    return min(votes, key=lambda base: (-votes[base], base != own, base))


def shares_of(offers: Mapping[str, Offer], base: bytes) -> tuple[Share, ...]:
    """Return C for that base, sorted by peer: the order in which owners add."""
    return tuple(Share(peer, offer.weight) for peer, offer in sorted(offers.items()) if offer.base == base)


def reductions(standings: Mapping[str, Standing], owners: tuple[str, ...], seal: bytes) -> dict[int, bytes]:
    """Return the hashes that the owners of this ballot have reported for the seal, by part."""
    found: dict[int, bytes] = {}
    for part, owner in enumerate(owners):
        standing = standings.get(owner)
        if standing is not None and (part, seal) in standing.reduced:
            found[part] = standing.reduced[part, seal]
    return found


def _everywhere(peer: str, standings: Mapping[str, Standing], owners: tuple[str, ...]) -> bool:
    return all(
        (at := standings.get(owner)) is not None and peer in at.held.get(part, ()) for part, owner in enumerate(owners)
    )
