"""Who is alive, who wants in, who wants out and who wants the end, as one member sees it (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from prime.trainer.round.rhythm import Rhythm
from prime.trainer.round.validity import MEMBERS_MAX
from prime.trainer.round.view import Member, View, next_view

PENDING_MAX = 256
"""Join requests remembered at once; more are not answered until some are admitted or lapse."""


@attrs.define
class Roster:
    """Suspicions, join requests with the time they were last heard, and requests to leave or to end the run.

    `down`: the link broke; `silent`: a leader that was given up, until it is heard again.
    """

    down: set[str] = attrs.Factory(set)
    silent: set[str] = attrs.Factory(set)
    rhythms: dict[str, Rhythm] = attrs.Factory(dict)
    joining: dict[str, tuple[Member, float]] = attrs.Factory(dict)
    leaving: set[str] = attrs.Factory(set)
    ending: set[str] = attrs.Factory(set)

    def hear(self, peer: str, now: float) -> None:
        """Note a sign of life."""
        self.down.discard(peer)
        self.silent.discard(peer)
        self._rhythm(peer, now).heard_at = now

    def beat(self, peer: str, round_: int, now: float) -> None:
        """Note a heartbeat."""
        self._rhythm(peer, now).beat(round_, now)

    def silence_s(self, peer: str, since: float, now: float) -> float:
        """Return how long nothing was heard of a peer, counted from `since` at the earliest."""
        rhythm = self.rhythms.get(peer)
        return now - (since if rhythm is None else max(rhythm.heard_at, since))

    def phi(self, peer: str, silence_s: float, beat_s: float) -> float:
        """Return how strange a silence of this peer is; see `Rhythm.phi`."""
        rhythm = self.rhythms.get(peer)
        return 0.0 if rhythm is None else rhythm.phi(silence_s, beat_s)

    def forgive(self, seconds: float) -> None:
        """Let a time in which nobody listened here count for no silence."""
        for rhythm in self.rhythms.values():
            rhythm.heard_at += seconds

    def _rhythm(self, peer: str, now: float) -> Rhythm:
        return self.rhythms.setdefault(peer, Rhythm(now))

    def want_in(self, member: Member, now: float) -> bool:
        """Remember a join request; `False` if there is no room."""
        if member.peer not in self.joining and len(self.joining) >= PENDING_MAX:
            return False
        self.joining[member.peer] = (member, now)
        return True

    def gone(self, peer: str, view: View) -> bool:
        """Tell whether the life of `peer` that is in the view is certainly over: its successor asks to join."""
        wish = self.joining.get(peer)
        return wish is not None and not view.has(wish[0])

    def lapse(self, view: View, now: float, ttl_s: float) -> None:
        """Forget wishes that were granted, and joiners that fell silent."""
        self.joining = {
            peer: (member, at)
            for peer, (member, at) in self.joining.items()
            if now - at <= ttl_s and not view.has(member)
        }
        self.leaving &= set(view.peers())
        self.ending &= set(view.peers())
        self.rhythms = {p: rhythm for p, rhythm in self.rhythms.items() if p in view.peers()}
        self.down &= set(view.peers())
        self.silent &= set(view.peers())

    def next_view(
        self, view: View, kept: Collection[str], suspected: Collection[str], rates: Mapping[str, int]
    ) -> View:
        """Return the following view: without leavers and without suspects that are not `kept`, and with joiners.

        `rates` are the bandwidths that differ from those of the view now.
        A decision needs a majority of the view, so whoever suspects more than the rest of it is wrong about somebody:
        then no suspect is left out.
        """
        alive = len(view.members) - len(set(suspected))
        out = self.leaving | (set(suspected) - set(kept) if alive >= view.majority() else set())
        return next_view(view, out, self._let_in(view), rates)

    def _let_in(self, view: View) -> dict[str, Member]:
        """Return the joiners that there is room for, those that have asked longest first; a next life takes its old place."""
        known = set(view.peers())
        fresh = [peer for peer in self.joining if peer not in known]
        out = set(fresh[max(MEMBERS_MAX - len(known), 0) :])
        return {peer: member for peer, (member, _) in self.joining.items() if peer not in out}
