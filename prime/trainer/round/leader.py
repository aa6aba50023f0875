"""What the leader of one ballot knows (pure): promises, reports, the seal, the votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from prime.trainer.robust.gates import capped
from prime.trainer.robust.gram import added, entry_count, square
from prime.trainer.round.ballot import NONE, Ballot
from prime.trainer.round.messages import Offer, Promise, Report, Seal
from prime.trainer.round.view import Share, Value, View

KEPT_MAX = 4096
"""Reductions, and Gram matrices, that are remembered of one member in one round: far more than its parts and ballots."""

GRAM_MAX = 1e100
"""Inner products are below it: of 2^40 pairs of finite float32 the sum is. What a rule makes of such ones is finite too."""


@attrs.define
class Standing:
    """The sum of one member's reports within a round; a later boot starts it afresh."""

    boot: int
    restarted: bool
    intends: bool
    offer: Offer | None = None
    held: dict[int, dict[str, bytes]] = attrs.Factory(dict)
    grams: dict[tuple[int, bytes], tuple[float, ...]] = attrs.Factory(dict)
    reduced: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)
    rate_bytes_s: int | None = None

    def learn(self, report: Report) -> None:
        """Add what a report of the same boot says; holdings only grow, so the order of reports does not matter."""
        self.intends = report.intends
        self.offer = self.offer or report.offer
        self.rate_bytes_s = report.rate_bytes_s
        for holding in report.held:
            self.held.setdefault(holding.part, {}).update(zip(holding.senders, holding.hashes, strict=False))
        for gram in report.grams:
            if all(abs(entry) <= GRAM_MAX for entry in gram.entries):
                self.grams[gram.part, gram.seal] = gram.entries
            _forget(self.grams, KEPT_MAX)
        for reduction in report.reduced:
            self.reduced[reduction.part, reduction.seal] = reduction.hash
            _forget(self.reduced, KEPT_MAX)


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
    """One ballot under this member's lead. `free`: phase 1 left the choice of the value to us.

    `enough_at`: since when a seal was possible; `arrived_at`: when each contribution was whole.
    """

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
    enough_at: float | None = None
    arrived_at: dict[str, float] = attrs.Factory(dict)

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
        if standing.offer is not None and _everywhere(peer, standing.offer, standings, owners):
            found[peer] = standing.offer
    return found


def choose_base(offers: Mapping[str, Offer], own: bytes | None) -> bytes:
    """Return the state hash that most offers start from; a tie goes to the leader's own state, then to the lowest."""
    votes = Counter(offer.base for offer in offers.values())
    if not votes:
        return b""
    return min(votes, key=lambda base: (-votes[base], base != own, base))


def shares_of(offers: Mapping[str, Offer], base: bytes) -> tuple[Share, ...]:
    """Return the candidates for that base, sorted by peer: the order in which owners add.

    A weight is its member's own word, so none counts for more than a multiple of the median one (`gates.WEIGHT_CAP`).
    """
    weights = {peer: offer.weight for peer, offer in sorted(offers.items()) if offer.base == base}
    counts = capped(list(weights.values())) if weights else []
    return tuple(
        Share(peer, weight, None if count == weight else count)
        for (peer, weight), count in zip(weights.items(), counts, strict=True)
    )


def gram_of(
    standings: Mapping[str, Standing], owners: tuple[str, ...], seal: bytes, candidates: int
) -> tuple[list[list[float]], set[int]]:
    """Return the Gram matrix that the owners have reported for the seal, summed in part order, and the parts missing."""
    found: list[Sequence[float]] = []
    missing: set[int] = set()
    for part, owner in enumerate(owners):
        standing = standings.get(owner)
        entries = standing.grams.get((part, seal), ()) if standing is not None else ()
        if len(entries) != entry_count(candidates):
            missing.add(part)
        else:
            found.append(entries)
    return square(candidates, added(candidates, found)), missing


def reductions(standings: Mapping[str, Standing], owners: tuple[str, ...], seal: bytes) -> dict[int, bytes]:
    """Return the hashes that the owners of this ballot have reported for the seal, by part."""
    found: dict[int, bytes] = {}
    for part, owner in enumerate(owners):
        standing = standings.get(owner)
        if standing is not None and (part, seal) in standing.reduced:
            found[part] = standing.reduced[part, seal]
    return found


def blocking(standings: Mapping[str, Standing], owners: tuple[str, ...], view: View, needed: float) -> set[str]:
    """Return the owners that hold too little for any seal, though members that weigh `needed` say that they contribute.

    Empty if that is so of all of them: then it is those who contribute that do not get through.
    """
    offering = {peer for peer, standing in standings.items() if standing.offer is not None}
    if not offering or view.weight(offering) < needed:
        return set()
    found = set()
    for part, owner in enumerate(owners):
        held = set(standings[owner].held.get(part, ())) if owner in standings else set()
        if not held & offering or view.weight(held & offering) < needed:
            found.add(owner)
    return found if found != set(owners) else set()


def _forget(kept: dict[tuple[int, bytes], Any], most: int) -> None:
    """Keep the latest: a seal's digest is any bytes that its owner says, so their number is not bounded by itself."""
    while len(kept) > most:
        del kept[next(iter(kept))]


def _everywhere(peer: str, offer: Offer, standings: Mapping[str, Standing], owners: tuple[str, ...]) -> bool:
    """Tell whether each owner holds what was offered of its part; other bytes than those do not count."""
    if len(offer.parts) != len(owners):
        return all(peer in _held(standings, owner, part) for part, owner in enumerate(owners))  # refused by name
    return all(_held(standings, owner, part).get(peer) == offer.parts[part] for part, owner in enumerate(owners))


def _held(standings: Mapping[str, Standing], owner: str, part: int) -> Mapping[str, bytes]:
    standing = standings.get(owner)
    return standing.held.get(part, {}) if standing is not None else {}
