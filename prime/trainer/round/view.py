"""Views and the value that a round decides (pure).

A view is the set of members that decide one round together. It is fixed by the round before, so two views never
run side by side. Joining and leaving are therefore values decided like any other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from prime.errors import UsageError
from prime.trainer.round.names import successor
from prime.wire import dumps, encode_value, record


@record
class Member:
    """One member of a view.

    `weight` is its voice in the seal's quorum (not in the majority, which counts heads). `incarnation` names one
    life of its disk: a member that lost its journal comes back under another one, and so can never speak for
    promises that it has forgotten. `rate_bytes_s` is how fast it can send, as it measured: its part of the vector is
    cut after it (`partition.py`). 0: it owns nothing (a client that others cannot reach, or one that was too slow);
    `None`: not measured yet, which counts as the median of the others.
    """

    peer: str
    addresses: tuple[str, ...]
    weight: float
    incarnation: int
    rate_bytes_s: int | None = None


@record
class Share:
    """A contributor, the weight of its contribution (tokens, samples: whatever the run counts), and how it was judged.

    `coefficient` is its weight in the mean that is carried out, where a rule gave it another one (`robust.rules`): 0 leaves
    it out. `score` says how far it lies from the others, 1 being as far as usual (0: nobody looked); `reason` why it is
    left out.
    """

    peer: str
    weight: float
    coefficient: float | None = None
    score: float = 0.0
    reason: str = ""

    @property
    def counts(self) -> float:
        """Its weight in the mean that is carried out: `sum(counts_i y_i) / sum(counts_i)`."""
        return self.weight if self.coefficient is None else self.coefficient


@record
class View:
    """Who decides: the members sorted by peer id, the run they train, and the number of the view."""

    run: str
    epoch: int
    members: tuple[Member, ...]

    def peers(self) -> tuple[str, ...]:
        """Return the peer ids, sorted; a member's place here is the number of its part."""
        return tuple(m.peer for m in self.members)

    def majority(self) -> int:
        """Return how many members decide (heads, not weight)."""
        return len(self.members) // 2 + 1

    def weight(self, peers: Collection[str]) -> float:
        """Return the summed weight of those `peers` that are members."""
        return sum(m.weight for m in self.members if m.peer in peers)

    def find(self, peer: str) -> Member | None:
        """Return the member with that peer id, if any."""
        return next((m for m in self.members if m.peer == peer), None)

    def has(self, member: Member) -> bool:
        """Tell whether this very life of the member (same incarnation) is in the view."""
        found = self.find(member.peer)
        return found is not None and found.incarnation == member.incarnation

    def order(self, round_: int) -> tuple[str, ...]:
        """Return the peers in the order in which they lead `round_`: by rendezvous hash, lowest first.

        Source: Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
        """
        return tuple(sorted(self.peers(), key=lambda peer: _rendezvous(self.run, round_, peer)))

    def chosen(self, round_: int, participation: float) -> frozenset[str]:
        """Return who is asked to contribute to `round_`: this fraction of the members, rounded up, at least one.

        Everyone votes and owns parts all the same. The choice is another hash than that of the leaders.
        """
        count = min(max(math.ceil(participation * len(self.members)), 1), len(self.members))
        ranked = sorted(self.peers(), key=lambda peer: _rendezvous(f"{self.run}\nchosen", round_, peer))
        return frozenset(ranked[:count])


@record
class Value:
    """What one round decides. An empty `shares` is an abort (⊥): the state stays, everything is kept.

    `base` is the hash of the state that the contributions start from; `parts` are the hashes of the reduced parts'
    bytes in part order; `next_view` decides the following round. `state_round` is the last round that changed the
    state, this one included: an abort leaves it as it was, so a node knows which state is the present one. `last`: the
    run ends with this round, because a member asked for its end.
    """

    round: int
    epoch: int
    base: bytes
    shares: tuple[Share, ...]
    parts: tuple[bytes, ...]
    next_view: View
    state_round: int
    last: bool = False

    def digest(self) -> bytes:
        """Return the 32 byte hash that stands for this value."""
        return hashlib.sha256(dumps(encode_value(Value, self, []))).digest()

    @property
    def aborted(self) -> bool:
        """True for ⊥: no contribution was applied."""
        return not self.shares

    def contributors(self) -> tuple[str, ...]:
        """Return C, the peers whose contribution was taken into the aggregate, or judged not to count, sorted."""
        return tuple(s.peer for s in self.shares)


def seal_digest(round_: int, base: bytes, shares: tuple[Share, ...]) -> bytes:
    """Return the hash of everything that a part's reduction depends on, whatever the ballot (16 bytes).

    The same seal under a later ballot gives the same bytes, so a reduction that is done stays good.
    """
    text = repr((round_, base, [(s.peer, s.counts) for s in shares]))
    return hashlib.sha256(text.encode()).digest()[:16]


def counted(shares: Iterable[Share]) -> tuple[Share, ...]:
    """Return the shares that count: those that a part's owner reads, in the order in which it adds."""
    return tuple(share for share in shares if share.counts > 0)


def view_of(run: str, epoch: int, members: Iterable[Member]) -> View:
    """Return the view of these members, sorted by peer id. Raises `UsageError` for none or for twins."""
    ordered = tuple(sorted(members, key=lambda m: m.peer))
    if not ordered:
        raise UsageError("a view needs at least one member", hint="name this node as the first member")
    if len({m.peer for m in ordered}) != len(ordered):
        raise UsageError("a peer stands twice in one view", hint="give every node its own key file")
    return View(run, epoch, ordered)


def next_view(
    view: View, leaving: Collection[str], joining: Mapping[str, Member], rates: Mapping[str, int] = MappingProxyType({})
) -> View:
    """Return the view after `leaving` went, `joining` came and `rates` changed; its epoch grows only if something did.

    A joiner replaces an older life of the same peer. The members cannot all leave at once, as the state would leave
    with them: then nobody does.
    """
    staying = {m.peer: m for m in view.members if m.peer not in leaving} or {m.peer: m for m in view.members}
    rated = {
        m.peer: Member(m.peer, m.addresses, m.weight, m.incarnation, rates.get(m.peer, m.rate_bytes_s))
        for m in staying.values()
    }
    members = tuple(m for _, m in sorted({**rated, **joining}.items()))
    if members == view.members:
        return view
    return View(view.run, view.epoch + 1, members)


def recovered(view: View, survivors: Iterable[Member]) -> View:
    """Return the operator's way out of a lost majority: a view of `survivors` alone, of the run's successor.

    Members of the old run refuse the new one until they join it as new, so the two can never mix.
    """
    members = tuple(survivors)
    founders = (f"{member.peer} {member.incarnation}" for member in members)
    return view_of(successor(view.run, founders), view.epoch + 1, members)


def _rendezvous(run: str, round_: int, peer: str) -> bytes:
    return hashlib.sha256(f"{run}\n{round_}\n{peer}".encode()).digest()
