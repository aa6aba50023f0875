"""Views and the value that a round decides (pure).

A view is the set of members that decide one round together. It is fixed by the round before, so two views never
run side by side. Joining and leaving are therefore values decided like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from prime.errors import UsageError
from prime.wire import dumps, encode_value, record


@record
class Member:
    """One member of a view.

    `weight` is its voice in the seal's quorum (not in the majority, which counts heads). `incarnation` names one
    life of its disk: a member that lost its journal comes back under another one, and so can never speak for
    promises that it has forgotten.
    """

    peer: str
    addresses: tuple[str, ...]
    weight: float
    incarnation: int


@record
class Share:
    """A contributor and the weight of its contribution (tokens, samples: whatever the run counts)."""

    peer: str
    weight: float


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


@record
class Value:
    """What one round decides. An empty `shares` is an abort (⊥): the state stays, everything is kept.

    `base` is the hash of the state that the contributions start from; `parts` are the hashes of the reduced parts'
    bytes in part order; `next_view` decides the following round. `state_round` is the last round that changed the
    state, this one included: an abort leaves it as it was, so a node knows which state is the present one.
    """

    round: int
    epoch: int
    base: bytes
    shares: tuple[Share, ...]
    parts: tuple[bytes, ...]
    next_view: View
    state_round: int

    def digest(self) -> bytes:
        """Return the 32 byte hash that stands for this value."""
        return hashlib.sha256(dumps(encode_value(Value, self, []))).digest()

    @property
    def aborted(self) -> bool:
        """True for ⊥: no contribution was applied."""
        return not self.shares

    def contributors(self) -> tuple[str, ...]:
        """Return C, the peers whose contribution is in the aggregate, sorted."""
        return tuple(s.peer for s in self.shares)


def seal_digest(round_: int, base: bytes, shares: tuple[Share, ...]) -> bytes:
    """Return the hash of everything that a part's reduction depends on, whatever the ballot (16 bytes).

    The same seal under a later ballot gives the same bytes, so a reduction that is done stays good.
    """
    text = repr((round_, base, [(s.peer, s.weight) for s in shares]))
    return hashlib.sha256(text.encode()).digest()[:16]


def view_of(run: str, epoch: int, members: Iterable[Member]) -> View:
    """Return the view of these members, sorted by peer id. Raises `UsageError` for none or for twins."""
    ordered = tuple(sorted(members, key=lambda m: m.peer))
    if not ordered:
        raise UsageError("a view needs at least one member", hint="name this node as the first member")
    if len({m.peer for m in ordered}) != len(ordered):
        raise UsageError("a peer stands twice in one view", hint="give every node its own key file")
    return View(run, epoch, ordered)


def next_view(view: View, leaving: Collection[str], joining: Mapping[str, Member]) -> View:
    """Return the view after `leaving` went and `joining` came; the epoch grows only if something changed.

    A joiner replaces an older life of the same peer. The members cannot all leave at once, as the state would leave
    with them: then nobody does.
    """
    staying = {m.peer: m for m in view.members if m.peer not in leaving} or {m.peer: m for m in view.members}
    members = tuple(m for _, m in sorted({**staying, **joining}.items()))
    if members == view.members:
        return view
    return View(view.run, view.epoch + 1, members)


def owners_of(view: View, unfit: Collection[str]) -> tuple[str, ...]:
    """Return the owner of each part: its own member, or the next fit member in sorted order if that one is unfit.

    With nobody fit the parts stay where they were.
    """
    peers = view.peers()
    return tuple(_next_fit(peers, part, unfit) for part in range(len(peers)))


def recovered(view: View, survivors: Iterable[Member]) -> View:
    """Return the operator's way out of a lost majority: a view of `survivors` alone under a new run id.

    Members of the old run refuse the new id until they join as new, so the two can never mix.
    """
    name, _, generation = view.run.partition("~")
    return view_of(f"{name}~{int(generation or 0) + 1}", view.epoch + 1, survivors)


def _next_fit(peers: tuple[str, ...], part: int, unfit: Collection[str]) -> str:
    turned = peers[part:] + peers[:part]
    return next((peer for peer in turned if peer not in unfit), peers[part])


def _rendezvous(run: str, round_: int, peer: str) -> bytes:
    return hashlib.sha256(f"{run}\n{round_}\n{peer}".encode()).digest()
